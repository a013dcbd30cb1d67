"""HTML pages: one file each, made from the templates in `templates/`, without a script and without a network request.

Jinja2 escapes every text from data or from a model, and a content policy in the page forbids scripts and requests.
Pictures are embedded as data addresses.
"""

from __future__ import annotations

import base64
import io
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin.errors import StcrError
from stcr_plugin.registry import picture_store
from stcr_plugin.report.document import Document, Frame

if TYPE_CHECKING:
    from jinja2 import Environment

# A larger picture is shrunk for a page, which names its true size: 48 rows of camera frames would be 50 MB.
LONGEST_SIDE = 512
_SIGNS = {"holds": ("good", "✓"), "fails": ("wrong", "✗"), "not shown": ("open", "?"), "not applicable": ("none", "–")}


def page(document: Document) -> str:
    """A report as one HTML file."""
    return render("report.html.j2", title=document.title, intro=document.intro, sections=document.sections)


def render(template: str, **values: Any) -> str:
    """Fill a template of `templates/`.

    Args:
        template: File name in the folder.
        **values: Variables of the template; a missing one is an error.

    Returns:
        The page. Half a surrogate pair, which no file can hold, is written as its escape sequence.
    """
    text: str = _environment().get_template(template).render(values)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    def marked(text: str) -> Markup:
        """Escaped first; then `...` is code and **...** is strong, and nothing else is markup."""
        code = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
        return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", code))

    found = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "anchor": lambda title: re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-"),
        "kind": lambda block: type(block).__name__,
        "marked": marked,
        "png_address": lambda file: address(file.read_bytes(), "image/png"),
        "sign": lambda verdict: _SIGNS[verdict][1],
        "verdict_class": lambda verdict: _SIGNS[verdict][0],
    }
    return found


def address(data: bytes, media_type: str) -> str:
    """`data` as a data address."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def frame(
    registry: Path, image: str, caption: str, *, closer: bool = False, longest: int = LONGEST_SIDE, quality: int = 88
) -> Frame:
    """A picture of the registry with its true size, or with the reason why it cannot be shown.

    Args:
        registry: Folder of the registry.
        image: The picture's path in it.
        caption: The text below it.
        closer: Whether it is the frame that is closer to completion.
        longest: Longest side in pixels; a larger picture is shrunk to it, any other is embedded as stored.
        quality: JPEG quality of a shrunk picture.
    """
    from PIL import Image

    try:
        data = picture_store.read(registry, image)
        picture = picture_store.decode(data, image)
    except StcrError as error:
        return Frame(caption, closer, missing=str(error))
    size, media_type = f"{picture.width}×{picture.height}", Image.MIME.get(picture.format or "", "")
    if max(picture.size) > longest or media_type not in ("image/png", "image/jpeg"):
        shrunk = picture.convert("RGB")
        shrunk.thumbnail((longest, longest))
        file = io.BytesIO()
        shrunk.save(file, "jpeg", quality=quality)
        data, media_type, size = file.getvalue(), "image/jpeg", f"{size}, shrunk for this page"
    small = max(picture.size) < longest // 4
    return Frame(caption, closer, address(data, media_type), size=size, small=small)
