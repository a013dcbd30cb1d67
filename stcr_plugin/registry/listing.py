"""First steps of a build: list the episodes of the source, deal them to the splits, and cut those into shards."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from stcr_plugin import artefacts
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry.data_config import DataConfig
from stcr_plugin.registry.manifest import count_excluded
from stcr_plugin.registry.receipts import Shard
from stcr_plugin.registry.shards import skipped
from stcr_plugin.samples.questions import why_unusable
from stcr_plugin.splits import assign_splits, held_out_twice
from stcr_plugin.types import Episode, EpisodeSource, Exclusion

_REASONS_NAMED = 5
_ID_BYTES = {"tar": 155, "folder": 255}  # of a folder in a tar (its prefix), and of one on the usual disks


def list_episodes(config: DataConfig, source: EpisodeSource) -> tuple[list[Episode], list[Exclusion]]:
    """The usable episodes in recorded order, and what was skipped.

    Raises:
        DataError: for two episodes of one id, and where no episode is usable.
    """
    excluded: list[Exclusion] = []
    usable: list[Episode] = []
    for item in source.episodes():
        for found in _usable_parts(item, config):
            if isinstance(found, Episode):
                usable.append(found)
            else:
                excluded.append(skipped(found, config))
    twice = [name for name, count in Counter(episode.episode_id for episode in usable).items() if count > 1]
    if twice:
        raise DataError("source", f"two episodes have the same id {min(twice)!r}", "give each its own")
    if excluded and not usable:
        raise DataError(config.name, f"not one episode of the source can be used{why(excluded)}")
    return usable, excluded


def deal(
    config: DataConfig, usable: Sequence[Episode], excluded: Sequence[Exclusion]
) -> tuple[dict[str, list[Episode]], list[Exclusion]]:
    """Split -> its episodes in recorded order, and the segments that no split takes.

    Raises:
        ConfigError: for a split that asks for more episodes than there are; it names why others were `excluded`.
    """
    try:
        return assign_splits(usable, config.splits), [*held_out_twice(usable, config.splits)]
    except ConfigError as error:
        raise ConfigError(error.where, f"{error.problem}{why(excluded)}", error.fix) from None


def cut(config: DataConfig, splits: Mapping[str, Sequence[Episode]]) -> list[Shard]:
    """Shards of `shard_episodes` random episodes of one split, so that a reader of the shards meets all tasks early."""
    shards: list[Shard] = []
    for split, episodes in splits.items():
        order = artefacts.rng(config.seed, "shards", split).permutation(len(episodes)).tolist()
        for start in range(0, len(order), config.shard_episodes):
            positions = sorted(order[start : start + config.shard_episodes])
            shards.append(Shard(len(shards), split, tuple(episodes[position] for position in positions)))
    return shards


def why(excluded: Iterable[Exclusion]) -> str:
    """The most frequent reasons why things were skipped, to end a sentence with; "" where nothing was."""
    counts = Counter(count_excluded(item.reason for item in excluded)).most_common()
    named = "".join(f"; skipped {number} times: {reason}" for reason, number in counts[:_REASONS_NAMED])
    more = len(counts) - _REASONS_NAMED
    return named + (f"; and for {more} other reasons" if more > 0 else "")


def _usable_parts(item: Episode | Exclusion, config: DataConfig) -> Iterator[Episode | Exclusion]:
    """An episode without the segments that cannot be used, and those."""
    if isinstance(item, Exclusion):
        yield item
        return
    if not re.fullmatch(r"[\w.+=@-]+", item.episode_id) or item.episode_id.startswith("."):
        yield Exclusion("episode", repr(item.episode_id), "the episode's id is not safe as a file name")
        return
    limit, length = _ID_BYTES[config.frames.store], len(item.episode_id.encode())
    if length > limit:
        too_long = f"the episode's id is too long for a folder's name, {length} bytes of at most {limit}"
        yield Exclusion("episode", repr(item.episode_id), too_long)
        return
    good = []
    for segment in item.segments:
        where = f"episode {item.episode_id}, frames {segment.start}-{segment.end}"
        if reason := why_unusable(segment.task):
            yield Exclusion("segment", where, reason)
        elif not 0 <= segment.start <= segment.end <= item.n_frames:
            yield Exclusion("segment", where, "the segment leaves its episode")
        else:
            good.append(segment)
    if good:
        yield dataclasses.replace(item, segments=tuple(good))
