"""What a model contradicts of a split's labels: in a line or two, and as a page with both pictures of each pair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.evaluation.evaluate import ANSWERS, read_answers
from stcr_plugin.evaluation.refinement import LabelTruth, Refinement
from stcr_plugin.registry.contradictions import Contradiction, read_contradictions
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.report import gallery, html
from stcr_plugin.report.document import Block, Card, Document, Gallery, Section, Table, Words, code
from stcr_plugin.report.tables import number
from stcr_plugin.scoring.metrics import by_pair

PAGE = "refine.html"
LARGEST = 6_000_000
"""Bytes of the page's pictures and responses, about."""


def refinement_words(found: Refinement) -> str:
    """How much is contradicted, by how many episodes, and how right that is where the truth is known."""
    lines = [
        f"{found.contradicted} of {found.pairs} pairs of {found.dataset}, {found.split} are contradicted in both "
        f"orders, in {len(found.by_episode)} episodes"
    ]
    if found.decisions:
        lines.append(f"decisions: {', '.join(f'{name} {count}' for name, count in found.decisions.items())}")
    return "\n".join([*lines, truth_words(found.truth)])


def truth_words(truth: LabelTruth) -> str:
    """Precision and recall with their counts, or why they are not known."""
    of = truth.found
    if of is None:
        return f"how many of these labels are wrong is not known: {truth.unknown}"
    unrecorded = f"; {of.unrecorded} pairs have no recorded progress" if of.unrecorded else ""
    return (
        f"by the recorded progress {of.wrong} of {of.pairs} labels are wrong: {of.found} of the {of.listed} listed "
        f"(precision {_percent(of.precision)}), {of.found} of all {of.wrong} (recall {_percent(of.recall)}){unrecorded}"
    )


def write_refinement_page(out: Path, registry: Path, found: Refinement) -> Path:
    """Write refine.html into the folder `out`, which holds the rows and the answers of `found`; its path."""
    rows = list(read_contradictions(out / Contradiction.file))
    answered = by_pair(read_answers(out / ANSWERS))
    listed = {row.pair_id for row in rows}
    pairs = {
        pair.pair_id: pair
        for pair in (read_pairs(registry, found.dataset, found.split) if rows else ())
        if pair.pair_id in listed
    }
    cards: list[Card] = []
    room = LARGEST
    for place, row in enumerate(rows, 1):
        card = gallery.card(answered[row.pair_id], pairs.get(row.pair_id), registry)
        room -= gallery.size(card)
        if room < 0:
            break
        sure = [] if row.confidence is None else [f"confidence {row.confidence:.2f}"]
        facts = [f"row {place}", f"decision {row.decision}", *sure, *card.facts]
        cards.append(replace(card, kind=row.decision, facts=facts))
    heads, lines = ["episode", "pairs", "contradicted"], found.by_episode.items()
    by_episode = [[name, str(count.pairs), str(count.contradicted)] for name, count in lines]
    blocks: list[Block] = [Words(_note(len(cards), rows))]
    if cards:
        kinds = {name: (f"decision: {name}", count) for name, count in found.decisions.items()}
        blocks.append(Gallery("pairs", kinds, cards))
    document = Document(
        f"Contradicted labels of {found.dataset}, {found.split}",
        [
            Section("By episode", [Table(heads, by_episode, "Contradicted pairs by episode")]),
            Section("Pairs", blocks),
        ],
        intro=[
            Words(f"Model {code(found.name)}, mode {code(found.mode)}. {refinement_words(found)}."),
            Words(
                "The model may be wrong as well as the label: look at the pictures, and write drop, tie or keep into "
                f"the column decision of {code(Contradiction.file)}. A row is wrong below where the answer is not the "
                "label's."
            ),
        ],
    )
    artefacts.write_text(out / PAGE, html.page(document))
    return out / PAGE


def _note(shown: int, rows: list[Contradiction]) -> str:
    if not rows:
        return "No pair is contradicted in both orders."
    order = "the most confident first" if all(row.confidence is not None for row in rows) else "by pair id"
    return f"{shown} of {len(rows)} pairs, {order}; a row's number is its line in {code(Contradiction.file)}."


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{number(share)} %"
