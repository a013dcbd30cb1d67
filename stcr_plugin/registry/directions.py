"""Splits with `balance: direction`: as many pairs whose earlier frame is closer as pairs whose later frame is.

A clock, a judge that always says the frame recorded later, is right in half of such pairs, whatever it sees. An episode
gives as many of both kinds as it can (`pairs.draw_pairs`). What it has too many of is its surplus: that of one episode
is matched with the other kind's of another, and what is left over of the split is dropped.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError
from stcr_plugin.pairs import evenly
from stcr_plugin.registry.data_config import DataConfig
from stcr_plugin.registry.receipts import Directions, Staged
from stcr_plugin.types import Pair

KINDS = ("earlier", "later")


def count(pairs: Sequence[Pair], seed: int) -> Directions:
    """The pairs of a shard by which frame is closer."""
    closer = Counter(str(pair.closer) for pair in pairs)
    surplus = _surplus(pairs, seed)
    return Directions({kind: closer[kind] for kind in KINDS}, {kind: len(surplus[kind]) for kind in KINDS})


def drops(config: DataConfig, staged: Staged) -> dict[int, dict[str, int]]:
    """Shard number -> closer frame -> how many of its surplus pairs are dropped, a uniform draw over the split's.

    Raises DataError for a split with pairs of one kind alone, of which none would be left.
    """
    found: dict[int, dict[str, int]] = {shard.number: {} for shard in staged.shards}
    for split, rule in config.splits.items():
        own = {
            shard.number: drawn.directions
            for shard, drawn in zip(staged.shards, staged.drawn, strict=True)
            if shard.split == split and drawn.directions is not None
        }
        if rule.balance is None or not own:
            continue
        pairs, surplus = (
            {kind: sum(getattr(one, part)[kind] for one in own.values()) for kind in KINDS}
            for part in ("pairs", "surplus")
        )
        fewer, more = sorted(KINDS, key=lambda kind: pairs[kind])
        if not pairs[fewer] and pairs[more]:
            raise DataError(
                f"splits.{split}.balance",
                f"in none of its {pairs[more]} pairs the {fewer} frame is closer",
                "give the split episodes that fail or go back, or remove `balance`",
            )
        rng = artefacts.rng(config.seed, "balance", split)
        sizes = [one.surplus[more] for one in own.values()]
        takes = rng.multivariate_hypergeometric(sizes, surplus[more] - surplus[fewer], method="marginals")
        for number, take in zip(own, takes.tolist(), strict=True):
            found[number] = {more: take} if take else {}
    return found


def thinned(pairs: Sequence[Pair], drop: Mapping[str, int], seed: int) -> list[Pair]:
    """The pairs of a shard without `drop[closer frame]` of its surplus, taken as evenly over episodes as it goes."""
    surplus = _surplus(pairs, seed)
    gone: set[str] = set()
    for kind, number in drop.items():
        keep = len(surplus[kind]) - number
        kept = {pair.pair_id for pair in evenly(surplus[kind], keep, seed)} if keep else set()
        gone |= {pair.pair_id for pair in surplus[kind]} - kept
    return [pair for pair in pairs if pair.pair_id not in gone]


def _surplus(pairs: Sequence[Pair], seed: int) -> dict[str, list[Pair]]:
    """Closer frame -> the pairs of that kind that their episode has too many of, drawn and ordered at random."""
    episodes: dict[str, dict[str, list[Pair]]] = defaultdict(lambda: {kind: [] for kind in (*KINDS, "neither")})
    for pair in sorted(pairs, key=lambda pair: artefacts.digest([seed, pair.pair_id])):
        episodes[pair.episode_id][pair.closer].append(pair)
    found: dict[str, list[Pair]] = {kind: [] for kind in KINDS}
    for own in episodes.values():
        fewer, more = sorted(KINDS, key=lambda kind: len(own[kind]))
        found[more] += own[more][len(own[fewer]) :]
    return found
