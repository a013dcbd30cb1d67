"""What our HTML pages have in common: one file that asks nothing of the network and runs no script.

Whatever comes from data or from a model is escaped, and a page's own content policy forbids scripts and requests
besides. Pictures stand in it as data addresses.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from stcr_plugin.registry import picture_store

# A larger picture is shrunk for a page (its true size is told): 48 rows of camera frames would be 50 MB.
LONGEST_SIDE = 512


def text(value: object) -> str:
    """`value` as HTML text. Half a surrogate pair, which no file can hold, is spelt out."""
    return html.escape(str(value).encode("utf-8", "backslashreplace").decode("utf-8"))


def page(title: str, style: str, body: str) -> str:
    """A whole page: `style` is CSS after that of all pages, `body` what stands in its body, escaped already."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{text(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table of texts that are not escaped yet."""
    return cells(map(text, head), (tuple(f"<td>{text(cell)}</td>" for cell in row) for row in body))


def cells(head: Iterable[str], body: Iterable[Sequence[str]], about: str = "Table") -> str:
    """A table of headings that are escaped, and of rows of whole cells ("<td>...</td>"); it scrolls where too wide.

    about: what the table is of, for who does not see it; escaped.
    """
    first = "".join(f"<th scope='col'>{cell}</th>" for cell in head)
    rest = "".join(f"<tr>{''.join(row)}</tr>" for row in body)
    return (
        f"<div class='wide' tabindex='0' role='group' aria-label='{about}'><table><tr>{first}</tr>{rest}</table></div>"
    )


def address(data: bytes, kind: str) -> str:
    """`data` of the media type `kind` as a data address."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def embedded(registry: Path, name: str, longest: int = LONGEST_SIDE, quality: int = 88) -> tuple[str, str, bool]:
    """A picture as a data address, its true size in words, and whether it is so small that its pixels may show.

    As it is stored, unless a side is longer than `longest` pixels. Raises DataError for one that cannot be read or
    decoded.
    """
    from PIL import Image

    data = picture_store.read(registry, name)
    picture = picture_store.decode(data, name)
    size = f"{picture.width}×{picture.height}"
    kind = Image.MIME.get(picture.format or "", "")
    if max(picture.size) > longest or kind not in ("image/png", "image/jpeg"):
        shrunk = picture.convert("RGB")
        shrunk.thumbnail((longest, longest))
        file = io.BytesIO()
        shrunk.save(file, "jpeg", quality=quality)
        data, kind, size = file.getvalue(), "image/jpeg", f"{size}, shrunk for this page"
    return address(data, kind), size, max(picture.size) < longest // 4


_STYLE = """
:root { --page: #f6f5f2; --card: #fff; --ink: #1f2328; --soft: #656b73; --line: #dfdcd5; --mark: #0b6e63;
  --tint: #eef4f2; --bad: #a32318; --badtint: #fbeae7 }
@media (prefers-color-scheme: dark) { :root { --page: #15181b; --card: #1e2226; --ink: #e6e4df; --soft: #9aa1a9;
  --line: #343a40; --mark: #6fcbbb; --tint: #22302e; --bad: #ff9d90; --badtint: #3a2220 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem clamp(1rem, 3vw, 3rem); max-width: 110rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", sans-serif;
  overflow-wrap: anywhere }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 }
h2 { font-size: 1rem; margin: 1.6rem 0 .4rem }
h3 { font-size: 1.05rem; line-height: 1.35; margin: .9rem 0 0 }
h4 { font-size: .72rem; letter-spacing: .06em; text-transform: uppercase; color: var(--soft); margin: .9rem 0 .2rem }
header > p { max-width: 75ch }
.lead { color: var(--soft); margin: .3rem 0 1.2rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; margin: 0 }
dt { color: var(--soft) } dd { margin: 0 }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; vertical-align: top; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: normal }
th { font-weight: 600 } tr:first-child th { color: var(--soft); font-weight: 500 }
details { margin: .8rem 0 } summary { cursor: pointer; color: var(--mark) }
pre { white-space: pre-wrap; font-size: .82rem; background: var(--card); padding: 1rem; border-radius: .5rem }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); gap: 1.25rem;
  align-items: start }
article { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1rem 1.1rem;
  break-inside: avoid }
.tags { display: flex; flex-wrap: wrap; gap: .35rem; margin: 0 0 .8rem; font-size: .8rem }
.tags span { padding: .1rem .55rem; border-radius: 1rem; border: 1px solid var(--line) }
.tags .label { background: var(--tint); color: var(--mark); border-color: transparent; font-weight: 600 }
.fault, .missing { background: var(--badtint); color: var(--bad); border-radius: .4rem; padding: .5rem .7rem;
  font-size: .88rem; margin: 0 0 .6rem }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: .6rem }
figure { margin: 0; min-width: 0 }
img { display: block; width: 100%; height: auto; border-radius: .4rem; background: var(--page) }
img.small { image-rendering: pixelated }
.missing { display: grid; place-items: center; min-height: 8rem; margin: 0; text-align: center }
figcaption { font-size: .8rem; color: var(--soft); margin-top: .25rem } figcaption b { color: var(--ink) }
.words { margin: 0; white-space: pre-wrap; font-size: .93rem }
article footer { margin-top: .9rem; padding-top: .6rem; border-top: 1px solid var(--line); font-size: .78rem;
  color: var(--soft) }
@media print { body { background: none; font-size: 11px } }
"""
