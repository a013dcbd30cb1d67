"""Pairs of every verdict, drawn fairly, with their pictures and the responses of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from stcr_plugin import artefacts
from stcr_plugin.errors import StcrError
from stcr_plugin.evaluation.evaluate import digest_of_data
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.report import html
from stcr_plugin.report.chain import Chain
from stcr_plugin.report.document import Block, Card, Gallery, Heading, Response, Table, Words, code
from stcr_plugin.report.runs import Measured, answers_of
from stcr_plugin.scoring.metrics import by_pair, untied
from stcr_plugin.types import Answer, Pair

KINDS = {
    (True, True): ("both", "right in both orders"),
    (True, False): ("forward", "right forward only"),
    (False, True): ("backward", "right backward only"),
    (False, False): ("none", "wrong in both orders"),
}
"""(forward right, backward right) -> its key in a Gallery, and its name."""
EACH = 12
_SIDE, _QUALITY = 320, 80  # of a thumbnail: its longest side in pixels, and JPEG's quality
_WORDS = 2000  # characters of a response that are shown

Both = tuple[Answer, Answer]


def counts(measured: Sequence[Measured]) -> list[Block]:
    """How many pairs of each verdict every run with answers has; without ties, as for pair accuracy."""
    rows = []
    for one in measured:
        try:
            both = list(untied(by_pair(answers_of(one))).values())
        except StcrError:
            continue
        kinds = [_kind(answers) for answers in both]
        shares = [f"{kinds.count(kind)} ({100 * kinds.count(kind) / len(kinds):.1f} %)" for kind, _ in KINDS.values()]
        rows.append([one.name, one.title, *shares])
    heads = ["name", "data", *(name for _, name in KINDS.values())]
    return [Table(heads, rows, "Pairs of each verdict")] if rows else []


def gallery(chain: Chain, registry: Path, *, seed: int, room: int, name: str) -> list[Block]:
    """Up to EACH pairs of every verdict of the chain's end.

    Args:
        chain: The chain.
        registry: Folder of the registry. Without it, or with other data in it, the responses have no pictures.
        seed: Draws the pairs.
        room: Bytes that they may take.
        name: Of the Gallery.
    """
    heading = Heading(f"{chain.title}: {code(chain.after.name)}")
    try:
        answered = by_pair(answers_of(chain.after))
        both = untied(answered)
    except StcrError as error:
        return [heading, Words(f"No pairs can be shown: {error}.")]
    pairs, missing = _pairs(chain.after, answered, registry)
    drawn: dict[str, list[str]] = {kind: [] for kind, _ in KINDS.values()}
    for pair_id in sorted(both, key=lambda one: artefacts.digest([seed, one])):
        drawn[_kind(both[pair_id])].append(pair_id)
    kinds = {kind: (words, len(drawn[kind])) for kind, words in KINDS.values()}
    cards: list[Card] = []
    # One of each verdict in turn, so that none is left out where room is short.
    wanted = [one for rank in zip_longest(*(ids[:EACH] for ids in drawn.values())) for one in rank if one is not None]
    for pair_id in wanted:
        one = card(both[pair_id], pairs.get(pair_id), registry)
        room -= size(one)
        if room < 0:
            break
        cards.append(one)
    cards.sort(key=lambda one: list(drawn).index(one.kind))
    note = f"Up to {EACH} pairs of each verdict, drawn with seed {seed} from all of them"
    if left_out := len(wanted) - len(cards):
        note += f"; {left_out} drawn pairs are left out to keep the file small"
    if ties := len(answered) - len(both):
        note += f"; {ties} ties are left out"
    if missing:
        note += f". Pictures are not shown: {missing}"
    note += f". The model was evaluated in mode {code(chain.after.of.mode)}."
    return [heading, Words(note), *([Gallery(name, kinds, cards)] if cards else [])]


def _pairs(measured: Measured, both: Mapping[str, Both], registry: Path) -> tuple[dict[str, Pair], str]:
    """The evaluated pairs, by id; or why they are not known."""
    of = measured.of
    try:
        pairs = [pair for pair in read_pairs(registry, of.dataset, of.split) if pair.pair_id in both]
        if of.data_digest != digest_of_data(pairs, registry):
            return {}, f"{registry} does not hold the pairs and pictures that were used"
    except StcrError as error:
        return {}, f"{error} (--registry)"
    return {pair.pair_id: pair for pair in pairs}, ""


def _kind(both: Both) -> str:
    return KINDS[both[0].right, both[1].right][0]


def card(both: Both, pair: Pair | None, registry: Path) -> Card:
    """The card of a pair with its responses, forward and backward; `pair` is None where its pictures are not known."""
    where = f"episode {both[0].episode_id}, pair {both[0].pair_id}"
    plain = Card(_kind(both), where, responses=[_response(answer) for answer in both])
    if pair is None:
        return plain
    facts = [pair.phase] if pair.phase else []
    facts.append(f"{pair.distance} frames, {pair.seconds:.1f} s apart")
    frames = [
        html.frame(
            registry, image, f"{side}, frame {frame}", closer=pair.closer == side, longest=_SIDE, quality=_QUALITY
        )
        for side, image, frame in (
            ("earlier", pair.earlier_image, pair.earlier),
            ("later", pair.later_image, pair.later),
        )
    ]
    return replace(plain, task=pair.task, facts=facts, frames=frames)


def _response(answer: Answer) -> Response:
    first, second = ("earlier", "later") if answer.order == "forward" else ("later", "earlier")
    words = answer.text if len(answer.text) <= _WORDS else f"{answer.text[:_WORDS]} ... ({len(answer.text)} characters)"
    chosen = f"{answer.chosen or 'no answer that can be read'}{_probability(answer)}"
    shown = f"{answer.order}: img1 is the {first} frame, img2 the {second}"
    return Response(shown, chosen, right=answer.right, words=words)


def _probability(answer: Answer) -> str:
    """Of the chosen answer, where the answers were compared."""
    scores = {"img1": answer.logprob_img1, "img2": answer.logprob_img2, "neither": answer.logprob_neither}
    given = {name: score for name, score in scores.items() if score is not None}
    if answer.chosen not in given:
        return ""
    top = max(given.values())
    weights = {name: math.exp(score - top) for name, score in given.items()}
    return f", probability {100 * weights[answer.chosen] / sum(weights.values()):.1f} %"


def size(of: Card) -> int:
    """About its bytes in a page."""
    return 1500 + sum(len(frame.address) for frame in of.frames) + sum(2 * len(one.words) for one in of.responses)
