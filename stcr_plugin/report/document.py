"""What a report says, said once: blocks that are written as Markdown here and as HTML in `page`.

Texts are plain, as data and models gave them; whoever writes them out escapes. In Words, Heading and Bullets alone
`...` marks code and **...** what is strong.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

from stcr_plugin.report import tables
from stcr_plugin.results import Verdict

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Share:
    """A cell of a table that HTML draws too: `text`, and the percentage and interval of its bar."""

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
    """A cell with a verdict; one that is `informative` is no fault whatever it is."""

    verdict: Verdict
    informative: bool = False

    @property
    def text(self) -> str:
        return f"{self.verdict} (informative)" if self.informative else self.verdict


Cell = str | Share | Heat | Judged


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
    """The sentence that matters most, with its verdict."""

    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Table:
    """`about` says what the table is of, for who does not see it."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    about: str


@dataclass(frozen=True)
class Plot:
    """A PNG that was written beside the report, of `panels` side by side."""

    file: Path
    alt: str
    panels: int = 1


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Fold:
    """What only some readers want: closed in HTML at first."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Frame:
    """A picture of a card: its data address, or `missing`, why there is none."""

    caption: str
    closer: bool
    address: str = ""
    missing: str = ""
    small: bool = False


@dataclass(frozen=True)
class Spoken:
    """What a model said to one order: how the pictures stood, what counts as its answer, and its words."""

    shown: str
    chosen: str
    right: bool
    words: str


@dataclass(frozen=True)
class Card:
    """One pair: `kind` is a key of the gallery's `kinds`."""

    kind: str
    task: str
    facts: Sequence[str]
    where: str
    frames: Sequence[Frame]
    spoken: Sequence[Spoken]


@dataclass(frozen=True)
class Gallery:
    """Cards by kind. name: letters and figures, one of its own in a document.

    kinds: key -> (what it is called, how many pairs are of it).
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
    title: str
    sections: Sequence[Section]


def code(name: object) -> str:
    """`name` as code inside Words, which it cannot end."""
    return f"`{' '.join(str(name).split()).replace('`', chr(39))}`"


def figures(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], about: str) -> Table:
    """The table of tables.figures_cells, with bars of pair accuracy; `rows` are as in results.json."""
    heads, lines = tables.figures_cells(rows, keys)
    column = heads.index(tables.COLUMNS["pair_accuracy"].heading)
    return Table(
        heads,
        [[*line[:column], share(row), *line[column + 1 :]] for row, line in zip(rows, lines, strict=True)],
        about,
    )


def share(row: Mapping[str, Any], name: str = "pair_accuracy") -> Cell:
    """The figure `name` of a row of results.json as a cell."""
    if row.get(name) is None:
        return "-"
    low, high = (row.get("intervals") or {}).get(name) or (None, None)
    bounds = None if low is None or high is None else (low, high)
    return Share(tables.with_interval(row, name), row[name], bounds)


# ---- Markdown ----

_LISTED = 3  # cards of a kind that Markdown, which has no pictures of them, lists


def markdown(document: Document) -> str:
    parts = [f"# {_escaped(document.title)}"]
    for section in document.sections:
        parts += [f"## {_escaped(section.title)}", *_written(section.blocks)]
    return "\n\n".join(parts) + "\n"


def _written(blocks: Iterable[Block]) -> list[str]:
    return [_markdown(block) for block in blocks]


def _escaped(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False)


@singledispatch
def _markdown(block: Block) -> str:
    raise TypeError(type(block))


@_markdown.register
def _(block: Words) -> str:
    return _escaped(block.text)


@_markdown.register
def _(block: Heading) -> str:
    return f"### {_escaped(block.text)}"


@_markdown.register
def _(block: Bullets) -> str:
    return "\n".join(f"- {_escaped(item)}" for item in block.items)


@_markdown.register
def _(block: Finding) -> str:
    return f"**{_escaped(block.text)}**"


@_markdown.register
def _(block: Table) -> str:
    return tables.markdown([tables.cell(head) for head in block.heads], [list(map(_cell, row)) for row in block.rows])


def _cell(cell: Cell) -> str:
    if isinstance(cell, Heat):
        return f"{cell.percent:.1f} ({tables.cell(cell.of)})"
    if isinstance(cell, Judged):
        return f"**{cell.verdict}**" + (" (informative)" if cell.informative else "")
    return tables.cell(cell if isinstance(cell, str) else cell.text)


@_markdown.register
def _(block: Plot) -> str:
    return f"![{_escaped(block.alt)}]({block.file.name})"


@_markdown.register
def _(block: Code) -> str:
    return "\n".join(f"    {line}" for line in block.text.splitlines())


@_markdown.register
def _(block: Fold) -> str:
    return "\n\n".join([f"#### {_escaped(block.title)}", *_written(block.blocks)])


@_markdown.register
def _(block: Gallery) -> str:
    rows = [
        [name, card.task, card.where, *(f"{spoken.chosen}: {spoken.words}" for spoken in card.spoken)]
        for kind, (name, _) in block.kinds.items()
        for card in [card for card in block.cards if card.kind == kind][:_LISTED]
    ]
    heads = ["verdict", "task", "pair", "said forward", "said backward"]
    return tables.markdown(heads, [[tables.cell(text) for text in row] for row in rows])
