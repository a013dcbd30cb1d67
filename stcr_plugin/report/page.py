"""A Document -> one HTML file, which asks nothing of the network and runs no script."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import singledispatch

from stcr_plugin.report import html
from stcr_plugin.report.document import (
    Block,
    Bullets,
    Card,
    Cell,
    Code,
    Document,
    Finding,
    Fold,
    Frame,
    Gallery,
    Heading,
    Heat,
    Judged,
    Plot,
    Section,
    Share,
    Spoken,
    Table,
    Words,
)
from stcr_plugin.scoring.verdicts import Verdict

# A sign beside each colour, for who does not tell colours apart: class and sign.
_SIGNS: dict[Verdict, tuple[str, str]] = {
    "holds": ("good", "✓"),
    "fails": ("wrong", "✗"),
    "not shown": ("open", "?"),
    "not applicable": ("none", "–"),
}


_LONG = 40  # a text of more signs than this gets a column that is wide enough to read it in


def page(document: Document) -> str:
    links = "".join(f"<a href='#{_anchor(section)}'>{html.text(section.title)}</a>" for section in document.sections)
    sections = "\n".join(_section(section) for section in document.sections)
    body = f"<header><h1>{html.text(document.title)}</h1><nav aria-label='Contents'>{links}</nav></header>\n"
    return html.page(document.title, _STYLE, f"{body}<main>\n{sections}\n</main>")


def _section(section: Section) -> str:
    return f"<section id='{_anchor(section)}'>\n<h2>{html.text(section.title)}</h2>\n{_all(section.blocks)}\n</section>"


def _anchor(section: Section) -> str:
    return re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-")


def _all(blocks: Iterable[Block]) -> str:
    return "\n".join(_html(block) for block in blocks)


def _marked(text: str) -> str:
    """Escaped first; then `...` is code and **...** is strong, and nothing else is markup."""
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.text(text))
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escaped)


@singledispatch
def _html(block: Block) -> str:
    raise TypeError(type(block))


@_html.register
def _(block: Words) -> str:
    return f"<p dir='auto'>{_marked(block.text)}</p>"


@_html.register
def _(block: Heading) -> str:
    return f"<h3>{_marked(block.text)}</h3>"


@_html.register
def _(block: Bullets) -> str:
    return f"<ul>{''.join(f'<li>{_marked(item)}</li>' for item in block.items)}</ul>"


@_html.register
def _(block: Finding) -> str:
    kind, sign = _SIGNS[block.verdict]
    return f"<p class='finding {kind}'><span aria-hidden='true'>{sign}</span> {_marked(block.text)}</p>"


@_html.register
def _(block: Table) -> str:
    rows = [
        (f"<th scope='row'>{html.text(row[0] if isinstance(row[0], str) else '')}</th>", *map(_cell, row[1:]))
        for row in block.rows
    ]
    return html.cells(map(html.text, block.heads), rows, html.text(block.about))


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<td{' class=long' * (len(cell) > _LONG)}>{html.text(cell)}</td>"
    if isinstance(cell, Heat):
        share = f"{cell.percent:.1f}"
        return f"<td class='heat' style='--share: {share}%'>{share}<small>{html.text(cell.of)}</small></td>"
    if isinstance(cell, Judged):
        kind, sign = _SIGNS[cell.verdict]
        kind = "none" if cell.informative else kind
        return f"<td>{_badge(kind, sign, cell.text)}</td>"
    return f"<td class='share'>{html.text(cell.text)}{_bar(cell)}</td>"


def _badge(kind: str, sign: str, words: str) -> str:
    return f"<span class='judged {kind}'><span aria-hidden='true'>{sign}</span> {html.text(words)}</span>"


def _bar(share: Share) -> str:
    """0 to 100 %, the interval as a band, the figure as a line, and 50 % as a tick."""
    low, high = share.bounds or (share.percent, share.percent)
    band = f"<i style='left: {low:.1f}%; width: {high - low:.1f}%'></i>"
    return f"<span class='bar' aria-hidden='true'>{band}<b style='left: {share.percent:.1f}%'></b></span>"


@_html.register
def _(block: Plot) -> str:
    address = html.address(block.file.read_bytes(), "image/png")
    width = f"style='min-width: {28 * block.panels}rem'"
    return (
        f"<div class='wide' tabindex='0' role='group' aria-label='Plot'>"
        f"<img class='plot' {width} src='{address}' alt='{html.text(block.alt)}'></div>"
    )


@_html.register
def _(block: Code) -> str:
    return f"<pre>{html.text(block.text)}</pre>"


@_html.register
def _(block: Fold) -> str:
    return f"<details><summary>{html.text(block.title)}</summary>\n{_all(block.blocks)}\n</details>"


@_html.register
def _(block: Gallery) -> str:
    """Chosen by radio buttons and CSS alone; where neither works, all cards are shown."""
    shown = {kind: sum(card.kind == kind for card in block.cards) for kind in block.kinds}
    choices = [("all", f"all ({len(block.cards)})")]
    choices += [(kind, f"{name} ({shown[kind]} of {count})") for kind, (name, count) in block.kinds.items()]
    group = html.text(block.name)
    buttons = "".join(
        f"<input type='radio' name='{group}' id='{group}-{kind}' class='pick-{kind}'{' checked' * (kind == 'all')}>"
        f"<label for='{group}-{kind}'>{html.text(label)}</label>"
        for kind, label in choices
    )
    cards = "\n".join(_card(card, block.kinds[card.kind][0]) for card in block.cards)
    return (
        f"<div class='gallery' role='group' aria-label='Pairs to show'>{buttons}\n"
        f"<div class='cards'>\n{cards}\n</div></div>"
    )


def _card(card: Card, verdict: str) -> str:
    tags = f"<span class='label'>{html.text(verdict)}</span>" + "".join(
        f"<span>{html.text(fact)}</span>" for fact in card.facts
    )
    frames = "".join(map(_frame, card.frames))
    return (
        f"<article class='{card.kind}'><p class='tags'>{tags}</p>"
        f"<h4 class='task' dir='auto'>{html.text(card.task)}</h4>"
        f"<div class='pictures'>{frames}</div>{''.join(map(_spoken, card.spoken))}"
        f"<footer>{html.text(card.where)}</footer></article>"
    )


def _frame(frame: Frame) -> str:
    caption = html.text(frame.caption) + (" <b>closer to completion</b>" if frame.closer else "")
    size = "small" if frame.small else "large"
    shown = (
        f"<img class='{size}' src='{frame.address}' alt='{html.text(frame.caption)}'>"
        if frame.address
        else f"<div class='missing'>{html.text(frame.missing)}</div>"
    )
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def _spoken(spoken: Spoken) -> str:
    badge = _badge("good", "✓", "right") if spoken.right else _badge("wrong", "✗", "wrong")
    return (
        f"<h4>{html.text(spoken.shown)}</h4><p class='said'>{badge} {html.text(spoken.chosen)}</p>"
        f"<p class='words' dir='auto'>{html.text(spoken.words)}</p>"
    )


_STYLE = """
body { max-width: 78rem }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin: .8rem 0 0; font-size: .9rem }
a { color: var(--mark) }
h2 { font-size: 1.35rem; margin: 2.6rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line) }
h3 { margin: 1.6rem 0 .4rem }
p, li { max-width: 78ch }
code { font-size: .92em; background: var(--tint); padding: .05em .3em; border-radius: .25em }
.wide { margin: .6rem 0 1rem; padding-bottom: .2rem }
th[scope=row] { white-space: nowrap; max-width: 20rem; overflow: hidden; text-overflow: ellipsis;
  position: sticky; left: 0; z-index: 1; background: var(--page) }
td { min-width: 3.2rem } td.share { min-width: 10.5rem } td.long { min-width: 14rem }
.finding { font-size: 1.1rem; font-weight: 600; padding: .7rem 1rem; border-left: .35rem solid; border-radius: .3rem;
  background: var(--card) }
.good { color: var(--mark) } .wrong { color: var(--bad) } .open, .none { color: var(--soft) }
.judged { font-weight: 600; white-space: nowrap }
.bar { display: block; position: relative; height: .5rem; width: 8rem; margin-top: .2rem; background: linear-gradient(
  var(--soft), var(--soft)) 50% 0 / 1px 100% no-repeat var(--line); border-radius: .15rem }
.bar i { position: absolute; top: 0; bottom: 0; background: var(--mark); opacity: .45 }
.bar b { position: absolute; top: -.1rem; bottom: -.1rem; width: 3px; margin-left: -1.5px; background: var(--ink) }
.heat { background: color-mix(in srgb, var(--mark) calc(var(--share) * .45), transparent); padding: .3rem .6rem }
.heat small { display: block; color: inherit }
img.plot { width: auto; max-width: 100%; background: #fff; padding: .4rem }
.gallery input { position: absolute; opacity: 0 }
.gallery label { display: inline-block; margin: 0 .4rem .6rem 0; padding: .2rem .8rem; border-radius: 1rem;
  border: 1px solid var(--line); cursor: pointer; font-size: .9rem }
.gallery input:checked + label { border-color: var(--mark); background: var(--tint); color: var(--mark);
  font-weight: 600; text-decoration: underline }
.gallery input:focus-visible + label { outline: 2px solid var(--mark); outline-offset: 2px }
.pick-both:checked ~ .cards article:not(.both), .pick-forward:checked ~ .cards article:not(.forward),
.pick-backward:checked ~ .cards article:not(.backward), .pick-none:checked ~ .cards article:not(.none)
  { display: none }
article.none { color: inherit }
article:not(.both) .label { background: var(--badtint); color: var(--bad) }
article h4 { letter-spacing: 0; text-transform: none; font-size: .8rem }
.cards { grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)) }
article .task { font-size: 1rem; color: inherit; margin: 0 0 .5rem }
.said { margin: 0; font-size: .93rem }
.words { color: var(--soft) }
"""
