"""An audit of progress labels in a few lines, and as a page: the most suspicious episodes with pictures and curve."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stcr_plugin import artefacts
from stcr_plugin.errors import StcrError
from stcr_plugin.report import html
from stcr_plugin.report.document import Frame
from stcr_plugin.scoring.suspicion import MEASURES, RULE, AuditedEpisode, Curve

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

    Pictures = Callable[[str, Sequence[int]], Iterable[Picture]]

PAGE = "audit.html"
SHOWN, STRIP = 24, 8
"""Episodes with pictures, and pictures of each."""
_WIDTH, _HEIGHT, _EDGE = 640, 120, 8  # of a curve, in units of its drawing
_HEADS = {name: name.replace("_", " ") for name in MEASURES}


@dataclass(frozen=True)
class Labels:
    """What a page says of the labels.

    Attributes:
        title: The dataset.
        facts: (what, its value).
        notes: Sentences, such as why there are no pictures.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Drawing:
    """A curve as SVG: a line per part, and (x, y, whether the two orders contradict in half of its pairs) per frame."""

    lines: tuple[str, ...]
    dots: tuple[tuple[str, str, bool], ...]
    about: str
    width: int = _WIDTH
    height: int = _HEIGHT


def delete_line(dropped: Sequence[int]) -> str:
    """How LeRobot's dataset editing is told to leave these episodes out of a copy.

    The form is that of LeRobot's documentation: "Using Dataset Tools", huggingface.co/docs/lerobot/using_dataset_tools.
    """
    return (
        "lerobot-edit-dataset --repo_id DATASET --new_repo_id COPY --operation.type delete_episodes "
        f'--operation.episode_indices "{json.dumps(list(dropped))}"'
    )


def audit_words(rows: Sequence[AuditedEpisode], dropped: Sequence[int]) -> str:
    """The most suspicious episodes, a line each, and what to leave out."""
    lines = [f"{row.place}. episode {row.episode_id}: {_why(row)}" for row in rows[:5]]
    if not dropped:
        return "\n".join([*lines, "no episode is above the rule of --drop"])
    note = "labels belong to the numbers before: label the copy again" if len(dropped) < len(rows) else "none is left"
    return "\n".join([*lines, f"{len(dropped)} of {len(rows)} episodes to drop ({note}):", delete_line(dropped)])


def write_audit_page(
    out: Path,
    rows: Sequence[AuditedEpisode],
    *,
    curves: Mapping[str, Sequence[Curve]],
    labels: Labels,
    pictures: Pictures,
) -> Path:
    """Write audit.html into the folder `out`; its path.

    Args:
        out: The folder.
        rows: The most suspicious episode first.
        curves: Episode id -> the curves of its parts.
        labels: What the page says of them all.
        pictures: Of an episode, at ascending frames.
    """
    dropped = sorted({row.episode_index for row in rows if row.drop})
    cards = [(row, _why(row), drawing(curves[row.episode_id]), _strip(row, curves, pictures)) for row in rows[:SHOWN]]
    text = html.render(
        "audit.html.j2",
        title=f"Audit of {labels.title}",
        labels=labels,
        rule=RULE,
        measures=[(_HEADS[name], measure.meaning) for name, measure in MEASURES.items()],
        heads=["place", "episode", "number", "because of", "excess", *_HEADS.values(), "judged frames", "drop"],
        rows=[_cells(row) for row in rows],
        cards=cards,
        command=delete_line(dropped) if dropped else "",
    )
    artefacts.write_text(out / PAGE, text)
    return out / PAGE


def drawing(curves: Sequence[Curve]) -> Drawing:
    """The curves of an episode's parts on one axis of frames; 0 is at the bottom."""
    frames = [frame for curve in curves for frame in curve.frames]
    first, length = min(frames), max(1, max(frames) - min(frames))
    lines, dots = [], []
    for curve in curves:
        xs = [f"{_EDGE + (_WIDTH - 2 * _EDGE) * (frame - first) / length:.1f}" for frame in curve.frames]
        ys = [f"{_EDGE + (_HEIGHT - 2 * _EDGE) * (1 - value):.1f}" for value in curve.progress]
        lines.append(" ".join(f"{x},{y}" for x, y in zip(xs, ys, strict=True)))
        dots += [(x, y, share >= 0.5) for x, y, share in zip(xs, ys, curve.disagreement, strict=True)]
    ends = f"from {curves[0].progress[0]:.2f} to {curves[-1].progress[-1]:.2f}"
    return Drawing(tuple(lines), tuple(dots), f"progress of {len(frames)} judged frames, {ends}")


def _strip(row: AuditedEpisode, curves: Mapping[str, Sequence[Curve]], pictures: Pictures) -> list[Frame]:
    """Up to STRIP of the judged frames, evenly from the first to the last, with their progress."""
    known = {
        frame: value
        for curve in curves[row.episode_id]
        for frame, value in zip(curve.frames, curve.progress, strict=True)
    }
    frames = sorted(known)
    count = min(STRIP, len(frames))
    chosen = [frames[place * (len(frames) - 1) // max(1, count - 1)] for place in range(count)]
    captions = [f"frame {frame}, progress {known[frame]:.2f}" for frame in chosen]
    try:
        shown = [_address(picture) for picture in pictures(row.episode_id, chosen)]
    except StcrError as error:
        return [Frame("no pictures", missing=str(error))]
    return [Frame(caption, address=one) for caption, one in zip(captions, shown, strict=True)]


def _address(picture: Picture) -> str:
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((192, 192))
    data = io.BytesIO()
    image.save(data, "jpeg", quality=80)
    return html.address(data.getvalue(), "image/jpeg")


def _why(row: AuditedEpisode) -> str:
    """What its place is due to."""
    if not row.reason:
        return f"too few judged frames ({row.anchors}) to say anything"
    value = getattr(row.figures, row.reason)
    return f"{_HEADS[row.reason]} {_number(value)}, {row.excess:+.1f} spreads from the median"


def _cells(row: AuditedEpisode) -> list[str]:
    figures = [_number(getattr(row.figures, name)) for name in MEASURES]
    why = _HEADS.get(row.reason, "too few frames")
    about = [str(row.place), row.episode_id, str(row.episode_index), why, f"{row.excess:+.1f}"]
    return [*about, *figures, str(row.anchors), "yes" if row.drop else ""]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
