"""The steps of a build for one shard, some episodes of one split: pairs, then pictures, then training samples.

A step depends on the configuration and the shard alone. It writes its files whole into the staging folder and returns
a receipt. So steps may run in any process, on any machine that sees the registry, in any order, and write the same
bytes; a step with a receipt on disk is done.

    drawn/00003.parquet         the shard's pairs, before a picture is read
    pairs/00003.parquet         its pairs with the names of their pictures, without episodes that cannot be read
    frames/00003.parquet        its pictures: size, checksum, perceptual hash
    <dataset>/00-00003.parquet  its training samples
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.pairs import draw_pairs, take_given
from stcr_plugin.registry import directions, parquet, picture_store
from stcr_plugin.registry.annotated_texts import count_described, match_pictures
from stcr_plugin.registry.contradictions import Decision
from stcr_plugin.registry.data_config import DESCRIBING, DataConfig
from stcr_plugin.registry.manifest import count_pairs, dataset_name, pair_of
from stcr_plugin.registry.published_texts import bad_text, published
from stcr_plugin.registry.receipts import Choice, Context, Drawn, Pictured, Sampled, Shard
from stcr_plugin.registry.refined_pairs import Refined, refine
from stcr_plugin.registry.same_pictures import almost_same, without_same
from stcr_plugin.registry.sample_rows import phrases_of, samples, why_mute
from stcr_plugin.samples.frame_texts import NO_STAGE, FrameTexts
from stcr_plugin.samples.reflections import UNDECIDED, why_undecided
from stcr_plugin.types import (
    Episode,
    Exclusion,
    GivenPair,
    Omission,
    Pair,
    PairSource,
)

if TYPE_CHECKING:
    from stcr_plugin.registry.picture_store import Cells
    from stcr_plugin.types import Picture

_MUTE = "published without a description of each picture; only kind: weak can use it"
_AHEAD = 4  # pictures that wait to be encoded, so that a slow encoder does not fill the memory


def draw(context: Context, shard: Shard) -> Drawn:
    """Draw the shard's pairs. No picture is decoded."""
    config, source = context.config, context.source
    own = {key: rule.kind for key, rule in config.datasets.items() if rule.split == shard.split}
    worded = {key: kind for key, kind in own.items() if kind in DESCRIBING and key not in context.texts}
    pairs: list[Pair] = []
    excluded: list[Exclusion] = []
    tied = unlabelled = mute = undecided = pictures = 0
    by_language = phrases_of(config, source)
    languages = {language for key in worded for language in config.datasets[key].languages}
    balanced = config.splits[shard.split].balance is not None
    frames = FrameTexts(source, {name: by_language[name] for name in sorted(languages & by_language.keys())})
    for episode in shard.episodes:
        bad: dict[GivenPair, str] = {}
        try:
            states = source.states(episode)
            if isinstance(source, PairSource):
                given = source.given_pairs(episode)
                bad = {one: reason for one in given if (reason := bad_text(one))}
                sound = [one for one in given if one not in bad]
                drawn = take_given(episode, states, sound, rules=config.pairs, split=shard.split)
            else:
                drawn = draw_pairs(
                    episode, states, config.pairs, split=shard.split, seed=config.seed, balanced=balanced
                )
        except DataError as error:
            excluded.append(skipped(Exclusion("episode", episode.episode_id, str(error)), config))
            continue
        for one, reason in bad.items():
            where = f"episode {episode.episode_id}, frames {one.earlier}-{one.later}"
            excluded.append(skipped(Exclusion("pair", where, reason), config))
        if worded and isinstance(source, PairSource):
            texts = published(source, {episode.episode_id: episode}, drawn.pairs)
            for pair in drawn.pairs:
                if pair.pair_id not in texts:
                    where = f"episode {episode.episode_id}, frames {pair.earlier}-{pair.later}"
                    excluded.append(skipped(Exclusion("description", where, _MUTE), config))
                    mute += 1
        elif worded and drawn.pairs:
            if states is None or (
                "stage" not in states[0] and any(not source.claims(states[pair.earlier]) for pair in drawn.pairs)
            ):
                raise ConfigError(
                    f"datasets.{next(iter(worded))}.kind",
                    f"the source gives nothing to describe of episode {episode.episode_id}",
                    "use kind: weak, complete `source`, or have it described by `stcr annotate` (`texts`)",
                )
            reasons = Counter(reason for pair in drawn.pairs if (reason := why_mute(frames, states, pair)))
            mute += reasons.total()
            pictures += sum(not frames.why_not(states[frame]) for frame in _frames(drawn.pairs))
            for reason, count in sorted(reasons.items()):
                kind = Omission if reason == NO_STAGE else Exclusion
                kinds = " and ".join(sorted(set(worded.values())))
                where = f"episode {episode.episode_id}, {count} of its {len(drawn.pairs)} pairs, for kind: {kinds}"
                excluded.append(skipped(kind("description", where, reason), config))
            if "reflect" in worded.values():
                described = [pair for pair in drawn.pairs if not why_mute(frames, states, pair)]
                count = sum(bool(why_undecided(source, pair, states)) for pair in described)
                undecided += count
                where = f"episode {episode.episode_id}, {count} of its {len(drawn.pairs)} pairs, for kind: reflect"
                excluded += [Omission("reason", where, UNDECIDED)] if count else []
        pairs += drawn.pairs
        excluded += drawn.excluded
        tied, unlabelled = tied + drawn.tied, unlabelled + drawn.unlabelled
    parquet.write(context.place.staging / "drawn" / shard.file, [vars(pair) for pair in pairs], parquet.PAIRS)
    annotated, wordless = count_described(context, shard.split, pairs)
    usable = {"describe": pictures, "reflect": len(pairs) - mute - undecided}
    return Drawn(
        pairs=len(pairs),
        described={key: usable.get(kind, len(pairs) - mute) for key, kind in worded.items()} | annotated,
        tied=tied,
        unlabelled=unlabelled,
        excluded=excluded,
        wordless=dict(wordless),
        directions=directions.count(pairs, config.seed) if balanced else None,
    )


def picture(context: Context, shard: Shard, drop: Mapping[str, int]) -> Pictured:
    """Write every picture that a pair of the shard uses, once; skip episodes that cannot be read.

    drop: Closer frame -> how many surplus pairs of it are left out, see `directions.drops`.
    """
    config, place = context.config, context.place
    by_episode: dict[str, list[Pair]] = {}
    drawn = list(shard_pairs(place.staging / "drawn" / shard.file))
    balanced = directions.thinned(drawn, drop, config.seed) if drop else drawn
    for pair in balanced:
        by_episode.setdefault(pair.episode_id, []).append(pair)
    tar_file = f"{place.pictures}/{shard.number:05d}.tar"
    tar = picture_store.TarWriter(place.registry, tar_file) if in_tar(config) else None
    pairs: list[Pair] = []
    index: list[dict[str, Any]] = []
    kept: list[str] = []
    excluded: list[Exclusion] = []
    almost = 0
    decided: dict[str, Decision] = {}
    for episode in shard.episodes:
        try:
            refined, shown, bad = _shown_pairs(context, episode, by_episode.get(episode.episode_id, []), tar=tar)
        except UnreadableError as error:
            refined, shown, bad = Refined([], {}), {}, [Exclusion("episode", episode.episode_id, str(error))]
        except BaseException:
            if tar is not None:
                tar.abandon()
            raise
        excluded += [skipped(item, config) for item in bad]
        if any(item.what == "episode" for item in bad):
            shutil.rmtree(place.registry / place.pictures / episode.episode_id, ignore_errors=True)
            continue
        kept.append(episode.episode_id)
        used = refined.pairs
        decided |= refined.decided
        cells = {frame: one.cells for frame, (_, one) in shown.items() if one.cells is not None}
        almost += almost_same(used, cells) if cells else 0
        index += [_indexed(name, one, episode, frame=frame) for frame, (name, one) in shown.items()]
        pairs += [
            dataclasses.replace(pair, earlier_image=shown[pair.earlier][0], later_image=shown[pair.later][0])
            for pair in used
        ]
    if tar is not None:
        tar.close()
    elif config.frames.format != "none":
        os.sync()  # a receipt must not outlive its pictures; flushed one by one they would take 30 times as long
    parquet.write(place.staging / "frames" / shard.file, index, parquet.FRAMES)
    annotated, other = match_pictures(context, shard, pairs, prints={row["image"]: row["fingerprint"] for row in index})
    # Texts describe pairs as they were labelled, so ties are made after these were matched.
    pairs = [
        dataclasses.replace(pair, closer="neither") if decided.get(pair.pair_id) == "tie" else pair for pair in pairs
    ]
    parquet.write(place.staging / "pairs" / shard.file, [vars(pair) for pair in pairs], parquet.PAIRS)
    return Pictured(
        episodes=kept,
        frames=len(index),
        counts=count_pairs(pairs, kept),
        excluded=excluded + [skipped(item, config) for item in other],
        almost_same=almost,
        described=annotated,
        unbalanced=len(drawn) - len(balanced),
        refined=dict(sorted(Counter(decided.values()).items())),
    )


def sample(context: Context, shard: Shard, choices: Sequence[Choice]) -> Sampled:
    """Write the shard's training samples, one Parquet file per choice."""
    pairs = list(shard_pairs(context.place.staging / "pairs" / shard.file))
    files = {}
    for choice in choices:
        rows, made = samples(context, shard, pairs, choice=choice)
        file = part_file(context.config, choice, shard)
        parquet.write(context.place.staging / file, rows, parquet.SAMPLES)
        files[file] = made
    return Sampled(files)


def part_file(config: DataConfig, choice: Choice, shard: Shard) -> str:
    """The file of a choice from a shard, relative to the build's folder. Parts of a curriculum come in their order."""
    return f"{dataset_name(config.name, choice.key)}/{choice.part:02d}-{shard.file}"


def in_tar(config: DataConfig) -> bool:
    return config.frames.store == "tar" and config.frames.format != "none"


class UnreadableError(DataError):
    """A picture that the source cannot give; a full disk, which is not the episode's fault, is another error."""


def _frames(pairs: Sequence[Pair]) -> list[int]:
    return sorted({frame for pair in pairs for frame in (pair.earlier, pair.later)})


def _name(context: Context, episode: Episode, frame: int) -> str:
    """The name of a picture that is a file of its own."""
    suffix = picture_store.SUFFIX[context.config.frames.format]
    return f"{context.place.pictures}/{episode.episode_id}/{frame:06d}{suffix}"


@dataclasses.dataclass(frozen=True)
class _Encoded:
    """A picture as it is stored, and `picture_store.cells` of it; nothing of either with format none."""

    data: bytes = b""
    cells: Cells | None = None

    @classmethod
    def of(cls, data: bytes) -> _Encoded:
        return cls(data, picture_store.cells(data))

    @property
    def fingerprint(self) -> str:
        return "" if self.cells is None else picture_store.hashed(self.cells)


def _pictures(context: Context, episode: Episode, frames: Sequence[int]) -> tuple[dict[int, _Encoded], frozenset[int]]:
    """Frame -> its picture, and the frames whose pictures are on the disk."""
    config = context.config
    if config.frames.format == "none":
        return dict.fromkeys(frames, _Encoded()), frozenset()
    known: dict[int, _Encoded] = {}
    if not in_tar(config):  # pictures that a killed or former build wrote whole are not written again
        for frame in frames:
            if (data := _read_back(context.place.registry, _name(context, episode, frame))) is not None:
                known[frame] = _Encoded.of(data)
    made = dict(_encoded(context, episode, [frame for frame in frames if frame not in known]))
    return {frame: known[frame] if frame in known else made[frame] for frame in frames}, frozenset(known)


def _shown_pairs(
    context: Context, episode: Episode, pairs: Sequence[Pair], *, tar: picture_store.TarWriter | None
) -> tuple[Refined, dict[int, tuple[str, _Encoded]], list[Exclusion]]:
    """Write the pictures of an episode's pairs.

    Returns the pairs that show two pictures and are not left out, frame -> its picture's name and the picture, and what
    is skipped. Raises UnreadableError.
    """
    encoded, on_disk = _pictures(context, episode, _frames(pairs))
    contents = {frame: one.data for frame, one in encoded.items()}
    used, bad = without_same(pairs, contents) if any(contents.values()) else (list(pairs), [])
    refined = refine(context, used, {frame: one.fingerprint for frame, one in encoded.items()})
    shown: dict[int, tuple[str, _Encoded]] = {}
    for frame in _frames(refined.pairs):
        name, data = _name(context, episode, frame), contents[frame]
        if tar is not None:
            name = tar.add(
                f"{episode.episode_id}/{frame:06d}{picture_store.SUFFIX[context.config.frames.format]}", data
            )
        elif data and frame not in on_disk:
            artefacts.write_bytes(context.place.registry / name, data, durable=False)
        shown[frame] = (name, encoded[frame])
    return refined, shown, [*bad, *refined.excluded]


def _encoded(context: Context, episode: Episode, frames: Sequence[int]) -> Iterator[tuple[int, _Encoded]]:
    """Each frame with its encoded picture; one is encoded while the next ones are decoded."""
    waiting: deque[tuple[int, Future[_Encoded]]] = deque()

    def encode(array: Picture) -> _Encoded:
        return _Encoded.of(picture_store.encode(array, context.config.frames))

    shown = context.source.frames(episode, frames) if frames else iter(())
    with ThreadPoolExecutor(1) as encoder:
        for frame in frames:
            try:
                array = next(shown, None)
            except DataError as error:
                raise UnreadableError(error.where, error.problem, error.fix) from None
            if array is None:
                raise UnreadableError(f"the source gave no picture for frame {frame}")
            waiting.append((frame, encoder.submit(encode, array)))
            if len(waiting) > _AHEAD:
                done, encoded = waiting.popleft()
                yield done, encoded.result()
        for done, encoded in waiting:
            yield done, encoded.result()


def _read_back(registry: Path, name: str) -> bytes | None:
    """The bytes of a picture that is whole on the disk, else None: a lost machine leaves empty and cut ones."""
    try:
        data = picture_store.read(registry, name)
    except DataError:
        return None
    return data if picture_store.is_whole(data) else None


def _indexed(name: str, one: _Encoded, episode: Episode, *, frame: int) -> dict[str, Any]:
    return {
        "image": name,
        "episode_id": episode.episode_id,
        "frame": frame,
        "bytes": len(one.data),
        "sha256": artefacts.sha256_of(one.data),
        "fingerprint": one.fingerprint,
    }


def skipped(item: Exclusion, config: DataConfig) -> Exclusion:
    """`item`, to be counted in the manifest. Raises DataError where bad data shall stop the build."""
    if config.on_bad_data == "error" and not isinstance(item, Omission):
        raise DataError(f"{item.what} {item.where}", item.reason, "fix it, or set on_bad_data: exclude")
    return item


def shard_pairs(path: Path) -> Iterator[Pair]:
    """The pairs of a file that this build wrote itself, which are not checked again."""
    for row in parquet.read(path):
        yield pair_of(row)
