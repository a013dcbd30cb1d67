"""Annotated texts for a person to review: the page of `stcr annotate review`, a static one, and figures in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.annotation.decisions import ReviewedRows
from stcr_plugin.annotation.strata import ACCEPTED, REJECTED, Agreement, Stratum, agreement, failed
from stcr_plugin.report import html
from stcr_plugin.report.document import Frame
from stcr_plugin.samples.annotations import CHECKS, PASSED, UNCHECKED, VERDICTS, Annotation, fails

HEADS = ("rows", "how many", "sample", "reviewed", "a person accepts", "accepted after an edit")
_LABELS = {
    "later": "the later picture is closer to completion",
    "earlier": "the earlier picture is closer to completion",
    "neither": "tie: neither picture is closer to completion",
}
_LARGE, _SMALL = (1024, 90), (320, 80)  # longest side in pixels and JPEG quality, of the served and the static page
_SHARES = {ACCEPTED: "precision of acceptance", REJECTED: "false rejections"}
_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Side:
    """One picture with its text.

    Attributes:
        name: earlier or later.
        letter: A or B, as shown: which of them is the earlier one is drawn for each pair.
        original: The text as the model wrote it, where a person changed it; "" elsewhere.
    """

    name: str
    letter: str
    frame: Frame
    text: str
    original: str


@dataclass(frozen=True)
class ReviewCard:
    """One row on a page.

    Attributes:
        verdicts: Check, what it found of text A, and of text B; None where it judges the pair as a whole.
    """

    number: int
    row: Annotation
    sides: tuple[Side, Side]
    label: str
    outcome: str
    verdicts: Sequence[tuple[str, str, str | None]]


def card(reviewed: ReviewedRows, position: int, registry: Path, *, small: bool = False) -> ReviewCard:
    """The row at `position` with its pictures, or with the reason why one cannot be shown."""
    row = reviewed.rows[position]
    originals = dict(zip(("earlier", "later"), reviewed.originals.get(position, ("", "")), strict=True))
    names = ("earlier", "later") if int(artefacts.digest(row.pair_id)[0], 16) % 2 else ("later", "earlier")
    longest, quality = _SMALL if small else _LARGE
    sides = []
    for name, letter in zip(names, "AB", strict=True):
        text = getattr(row, f"{name}_text")
        image = getattr(row, f"{name}_image")
        frame = html.frame(registry, image, f"picture {letter}", longest=longest, quality=quality)
        original = originals[name] if originals[name] != text else ""
        sides.append(Side(name, letter, frame, text, original))
    return ReviewCard(
        position + 1,
        row,
        sides=(sides[0], sides[1]),
        label=_LABELS[row.closer],
        outcome="accepted by the checks" if row.accepted else f"rejected by {', '.join(failed(row)) or 'the checks'}",
        verdicts=[(check, *_verdicts(row, check, names)) for check in CHECKS],
    )


def _verdicts(row: Annotation, check: str, names: tuple[str, str]) -> tuple[str, str | None]:
    def words(column: str) -> str:
        found: str = getattr(row, column)
        if not fails(found):
            return "✓ passed" if found == PASSED else f"– not checked{found.removeprefix(UNCHECKED)}"
        return f"✗ {found}"

    if check in VERDICTS:
        return words(check), None
    return words(f"{names[0]}_{check}"), words(f"{names[1]}_{check}")


def summary(found: dict[str, Stratum], reviewed: ReviewedRows) -> list[str]:
    """What a person decided, as lines of a terminal."""
    decided = sum(bool(row.review) for row in reviewed.rows)
    lines = [f"reviewed: {decided:,} of {len(reviewed.rows):,} rows"]
    for one in (agreement(stratum, reviewed) for stratum in found.values()):
        if one.reviewed or one.stratum in _SHARES:
            lines.append(f"{one.stratum}: {_words(one)}")
    if reviewed.stale:
        lines.append(f"{reviewed.stale:,} decisions are about texts that are no longer in the file and have no effect")
    return lines


def _words(one: Agreement) -> str:
    sample = f"{one.reviewed:,} of a random sample of {one.sampled:,} reviewed ({one.rows:,} rows)"
    meaning = _SHARES.get(one.stratum, "share that a person accepts")
    return f"{sample}, {meaning} {_share(one)}" if one.reviewed else sample


def _share(one: Agreement) -> str:
    if one.share is None or one.interval is None:
        return "–"
    return f"{one.share:.1f} % ({one.interval[0]:.1f} to {one.interval[1]:.1f})"


def _table(found: dict[str, Stratum], reviewed: ReviewedRows) -> list[list[str]]:
    return [
        [
            f"{one.stratum} ({_SHARES[one.stratum]})" if one.stratum in _SHARES else one.stratum,
            f"{one.rows:,}",
            f"{one.sampled:,}",
            f"{one.reviewed:,}",
            _share(one),
            f"{one.edited:,}",
        ]
        for one in (agreement(stratum, reviewed) for stratum in found.values())
    ]


# ---- the served page, in parts


def review_page(found: dict[str, Stratum], reviewed: ReviewedRows) -> str:
    """The page without a row; its script asks for them."""
    lists = [(name, f"{name} ({len(of.rows):,})") for name, of in found.items()]
    return html.render("review.html.j2", name=reviewed.path.name, lists=lists, figures=figures(found, reviewed))


def card_part(reviewed: ReviewedRows, position: int, registry: Path) -> str:
    """One row as a part of the page."""
    return html.render("review_card.html.j2", card=card(reviewed, position, registry), editable=True)


def figures(found: dict[str, Stratum], reviewed: ReviewedRows) -> str:
    """The table of figures as a part of the page."""
    return html.render("review_figures.html.j2", heads=HEADS, rows=_table(found, reviewed))


def style() -> str:
    """The style sheet of the served page."""
    return "".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("base.css", "review.css"))


def script() -> str:
    """The script of the served page."""
    return (_TEMPLATES / "review.js").read_text(encoding="utf-8")


# ---- the static page


def static_page(stratum: Stratum, found: dict[str, Stratum], reviewed: ReviewedRows, *, registry: Path) -> str:
    """The sample of `stratum` as one HTML file with its pictures, without a script."""
    return html.render(
        "review_static.html.j2",
        title=f"{reviewed.path.name}: review",
        total=len(stratum.rows),
        cards=[card(reviewed, position, registry, small=True) for position in stratum.sample],
        heads=HEADS,
        rows=_table(found, reviewed),
    )
