"""A report as blocks, which are written as Markdown here and as HTML by the templates.

Texts are plain, as data and models gave them; whatever writes them escapes them. Only in Words, Heading, Bullets,
Finding and Marked is `...` code and **...** strong.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stcr_plugin.figures import Bounds, Verdict
from stcr_plugin.report import tables
from stcr_plugin.report.tables import HasFigures, Labelled


@dataclass(frozen=True)
class Share:
    """A cell that HTML draws as a bar too: `text`, the percentage and its interval."""

    text: str
    percent: float
    bounds: Bounds | None = None


@dataclass(frozen=True)
class Heat:
    """A cell of a heat table: a percentage, and what it is a share of."""

    percent: float
    of: str


@dataclass(frozen=True)
class Judged:
    """A cell with a verdict; none of the outcomes of an `informative` one is a fault."""

    verdict: Verdict
    informative: bool = False

    @property
    def text(self) -> str:
        return f"{self.verdict} (informative)" if self.informative else self.verdict


@dataclass(frozen=True)
class Marked:
    """A cell whose text has code and strong parts."""

    text: str


Cell = str | Share | Heat | Judged | Marked


@dataclass(frozen=True)
class Words:
    text: str


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """The main sentence of a section, with its verdict."""

    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Table:
    """`about` says what the table shows, for screen readers."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    about: str


@dataclass(frozen=True)
class Plot:
    """A PNG beside the report, with `panels` side by side."""

    file: Path
    alt: str
    panels: int = 1


@dataclass(frozen=True)
class Code:
    """Lines of code; with a `language`, Markdown has a fence around them."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class Fold:
    """Details, which HTML shows closed at first."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Frame:
    """A picture of a card: its data address, or `missing`, the reason why there is none.

    Attributes:
        closer: It is the frame that is closer to completion.
        size: Its true size, in words.
        small: Its pixels may show.
    """

    caption: str
    closer: bool = False
    address: str = ""
    missing: str = ""
    size: str = ""
    small: bool = False


@dataclass(frozen=True)
class Response:
    """A model's response to one order: which frame is which image, its answer, and its text."""

    shown: str
    chosen: str
    right: bool
    words: str


@dataclass(frozen=True)
class Card:
    """One pair: `kind` is a key of the gallery's `kinds`."""

    kind: str
    where: str
    task: str = ""
    facts: Sequence[str] = ()
    frames: Sequence[Frame] = ()
    responses: Sequence[Response] = ()


@dataclass(frozen=True)
class Gallery:
    """Cards by kind.

    Attributes:
        name: Letters and digits, unique in a document.
        kinds: Key -> (name of the kind, how many pairs it has).
    """

    name: str
    kinds: Mapping[str, tuple[str, int]]
    cards: Sequence[Card]


Block = Words | Heading | Bullets | Finding | Table | Plot | Code | Fold | Gallery


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """`intro` stands before the first section."""

    title: str
    sections: Sequence[Section]
    intro: Sequence[Block] = ()


def code(name: object) -> str:
    """`name` as code in Words; no character of it can end the code."""
    return f"`{' '.join(str(name).split()).replace('`', chr(39))}`"


def figures(heads: Sequence[str], rows: Sequence[Labelled], about: str) -> Table:
    """The table of tables.figures_cells, with bars of pair accuracy."""
    heads, lines = tables.figures_cells(heads, rows)
    column = heads.index(tables.COLUMNS["pair_accuracy"].heading)
    cells = [[*line[:column], share(found), *line[column + 1 :]] for (_, found), line in zip(rows, lines, strict=True)]
    return Table(heads, cells, about)


def share(found: HasFigures, name: str = "pair_accuracy", *, clusters: str = "episodes") -> Cell:
    """A figure of a result as a cell; see tables.with_interval."""
    percent = getattr(found.figures, name)
    if percent is None:
        return "-"
    return Share(tables.with_interval(found, name, clusters), percent, (found.intervals or {}).get(name))


# ---- Markdown ----

LINK = "[arXiv 2604.10506](https://arxiv.org/abs/2604.10506)"
"""The only link that a text may hold: the paper of the method."""
_KEPT = re.compile(rf"({re.escape(LINK)}|`[^`]+`)")

_LISTED = 3  # cards per kind in Markdown, which has no pictures of them


def markdown(document: Document) -> str:
    """A document as Markdown in which no text of data or of a model is markup."""
    parts = [f"# {_escaped(document.title)}", *map(written, document.intro)]
    for section in document.sections:
        parts += [f"## {_escaped(section.title)}", *map(written, section.blocks)]
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    """Without markup, but for the code in it and for LINK."""
    parts = _KEPT.split(" ".join(text.split()))  # every second one is kept
    return "".join(
        part if part == LINK else html.escape(part, quote=False) if place % 2 else tables.inert(part)
        for place, part in enumerate(parts)
    )


def written(block: Block) -> str:
    """A block as Markdown."""
    match block:
        case Words():
            return _escaped(block.text)
        case Heading():
            return f"### {_escaped(block.text)}"
        case Bullets():
            return "\n".join(f"- {_escaped(item)}" for item in block.items)
        case Finding():
            return f"**{_escaped(block.text)}**"
        case Table():
            heads = [tables.cell(head) for head in block.heads]
            return tables.markdown(heads, [list(map(_cell, row)) for row in block.rows])
        case Plot():
            return f"![{_escaped(block.alt)}]({block.file.name})"
        case Code(language=""):
            return "\n".join(f"    {line}" for line in block.text.splitlines())
        case Code():
            runs = [len(run) for run in re.findall(r"`{3,}", block.text)]
            fence = "`" * (max(runs, default=2) + 1)
            return f"{fence}{block.language}\n{block.text}\n{fence}"
        case Fold():
            return "\n\n".join([f"#### {_escaped(block.title)}", *map(written, block.blocks)])
        case Gallery():
            return _gallery(block)


def _cell(cell: Cell) -> str:
    match cell:
        case Heat():
            return f"{cell.percent:.1f} ({tables.cell(cell.of)})"
        case Judged():
            return f"**{cell.verdict}**" + (" (informative)" if cell.informative else "")
        case Marked():
            return _escaped(cell.text).replace("|", "\\|")
        case Share():
            return tables.cell(cell.text)
    return tables.cell(cell)


def _gallery(block: Gallery) -> str:
    rows = [
        [name, card.task, card.where, *(f"{one.chosen}: {one.words}" for one in card.responses)]
        for kind, (name, _) in block.kinds.items()
        for card in [card for card in block.cards if card.kind == kind][:_LISTED]
    ]
    heads = ["verdict", "task", "pair", "response forward", "response backward"]
    return tables.markdown(heads, [[tables.cell(text) for text in row] for row in rows])
