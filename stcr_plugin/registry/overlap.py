"""What two datasets share: episodes, pictures and prompt variants, and how near their pictures are to each other.

A model that is evaluated on what it was trained on is not evaluated. Three kinds of things are compared:

- Shared episodes and identical pictures. These are facts, and no split should have them.
- Shared prompt variants. Mostly wanted: the question is the same in training and in use.
- Near pictures. This is a hint. Recordings of one static scene all look alike, so no fixed distance separates a copy
  from the next demonstration on the same table. The data are the measure: a picture is near where its nearest training
  picture is nearer than two neighbouring frames of one training episode typically are. Beside that share is the same
  share among the training episodes themselves, each compared with the others. An evaluated share far above it means
  that the evaluated pictures are closer to the training than a new demonstration would be. Where both are high the
  scene hardly changes, and a copy cannot be seen by its looks. A low share does not prove that nothing is shared: a
  copy that was cropped, mirrored or filmed from another camera has another fingerprint, and a small picture that was
  resized may differ by more than neighbouring frames do. So the two medians are given too: the nearest training
  picture should not be nearer than the training episodes are to one another.

Not seen: one recording under two roots, or read by two kinds of source with differently encoded pictures (its episodes
count as two; its pictures are near), and what a base model was trained on elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stcr_plugin import artefacts
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.figures import Nearness, Shared
from stcr_plugin.progress_bar import progress
from stcr_plugin.registry import manifest as manifests
from stcr_plugin.registry import parquet, picture_store
from stcr_plugin.registry.group_rows import group_of, shots_of
from stcr_plugin.registry.manifest import Manifest
from stcr_plugin.results import Overlap
from stcr_plugin.types import Pair

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Whole = npt.NDArray[np.int64]
    Prints = npt.NDArray[np.uint64]

BITS = picture_store.HASH_SIDE**2
SAMPLED = 1000  # pictures of a side that are compared with the other; a share is then known to about 3 points
REACH = 47  # the greatest distance (bits) that the search finds for certain, see `nearest`
_BANDS, _FLIPS = 16, 2
_SCANNED = 20_000  # up to this many pictures are compared one by one
_NAMED = 10
_PICTURES = ("frames", "sums", "prints")


@dataclass(frozen=True)
class Side:
    """One side of a comparison, all builds and datasets that it consists of.

    The arrays have one row per picture, each once, ordered by episode and frame; builds without pictures
    (frames.format none) have none.

    Attributes:
        episodes: (recording, episode id); no recording twice, while ids may be.
        questions: Prompt variants with {task} for the task.
        owners: Index into `episodes`, [n].
        frames: Native frame, [n].
        sums: The first 64 bits of the SHA-256, [n].
        prints: The fingerprint, [n, 4] of 64 bits.
    """

    name: str
    episodes: tuple[tuple[str, str], ...]
    tasks: frozenset[str]
    questions: frozenset[str]
    owners: Whole
    frames: Whole
    sums: Prints
    prints: Prints


# ---- what a side consists of ----


def side(name: str, registry: str | Path) -> Side:
    """All of a build, its split (`build:split`) or a dataset of it, by `name`.

    Questions are those of the datasets in it; a split that nothing is trained on has none. Raises ConfigError for an
    unknown name, DataError for files that cannot be read.
    """
    build, _, split = name.partition(":")
    manifest = manifests.read_manifest(registry, build)
    if split and split not in manifest.splits:
        raise manifests.unknown_split(manifest, split)
    if build != manifest.name:
        if split:
            raise ConfigError(
                name, f"{build} is a dataset, which has no splits", f"name it alone, or a split of {manifest.name}"
            )
        return _dataset_side(name, registry, manifest)
    splits = [split] if split else list(manifest.splits)
    tasks = _tasks(registry, manifest, splits)
    questions = {
        prompt_variant(row["messages"][0]["content"], task)
        for dataset, rule in manifest.rules.items()
        if rule.split in splits
        for row, task in _dataset_rows(registry, dataset, tasks)
    }
    ids = [episode_id for own in splits for episode_id in manifest.splits[own]]
    return _side(name, _Parts(registry, manifest, splits, ids, None), frozenset(tasks.values()), questions=questions)


def _dataset_side(name: str, registry: str | Path, manifest: Manifest) -> Side:
    split = manifest.rules[name].split
    shown, found, tasks, questions = set[str](), set[str](), set[str](), set[str]()
    for row, task in _dataset_rows(registry, name, _tasks(registry, manifest, [split])):
        shown.update(row["images"])
        found.add(row["episode_id"])
        tasks.add(task)
        questions.add(prompt_variant(row["messages"][0]["content"], task))
    parts = _Parts(registry, manifest, [split], sorted(found), shown)
    return _side(name, parts, tasks, questions=questions)


def evaluated_side(
    registry: str | Path, name: str, split: str, pairs: Sequence[Pair], questions: Iterable[str]
) -> Side:
    """The side that an evaluation is: `pairs` of one split, with the prompt variants of the `questions` about them."""
    manifest = manifests.read_manifest(registry, name)
    shown = {image for pair in pairs for image in (pair.earlier_image, pair.later_image)}
    ids = sorted({pair.episode_id for pair in pairs})
    title = f"{manifest.name}:{split}"
    tasks = frozenset(pair.task for pair in pairs)
    return _side(title, _Parts(registry, manifest, [split], ids, shown), tasks, questions=questions)


def prompt_variant(question: str, task: str) -> str:
    """A question without its `<image>` markers and with {task} in place of the task's text."""
    filled = task.strip().rstrip(".。")
    text = question.replace("<image>", "")
    return text.replace(filled, "{task}") if filled else text


def merged(sides: Sequence[Side]) -> Side:
    """Several sides as one, each episode and picture once; named by all of them. Needs at least one."""
    import numpy as np

    episodes = {recording: (recording, name) for one in sides for recording, name in one.episodes}
    position = {recording: number for number, recording in enumerate(episodes)}
    owners = [np.array([position[known] for known, _ in one.episodes], dtype=np.int64)[one.owners] for one in sides]
    return Side(
        name=", ".join(one.name for one in sides),
        episodes=tuple(episodes.values()),
        tasks=frozenset[str]().union(*(one.tasks for one in sides)),
        questions=frozenset[str]().union(*(one.questions for one in sides)),
        **_ordered(owners=owners, **{part: [getattr(one, part) for one in sides] for part in _PICTURES}),
    )


class _Parts(NamedTuple):
    """The episodes `ids` of some splits of a build, and their pictures: `shown`, or all where None."""

    registry: str | Path
    manifest: Manifest
    splits: Sequence[str]
    ids: Sequence[str]
    shown: set[str] | None


def _side(name: str, parts: _Parts, tasks: Iterable[str], *, questions: Iterable[str]) -> Side:
    import numpy as np

    manifest, shown = parts.manifest, parts.shown
    position = {episode_id: number for number, episode_id in enumerate(parts.ids)}
    owners, frames, sums, prints = [], [], [], []
    files = [shard.frames for shard in manifest.shards if shard.split in parts.splits]
    for file in progress(files, f"overlap: reading {name}", "shards"):
        rows = [
            row
            for row in parquet.read(Path(parts.registry) / manifest.name / file)
            if row["fingerprint"] and row["episode_id"] in position and (shown is None or row["image"] in shown)
        ]
        owners.append(np.array([position[row["episode_id"]] for row in rows], dtype=np.int64))
        frames.append(np.array([row["frame"] for row in rows], dtype=np.int64))
        sums.append(_words_of([row["sha256"][:16] for row in rows], 1)[:, 0])
        prints.append(_words_of([row["fingerprint"] for row in rows], BITS // 64))
    return Side(
        name=name,
        episodes=_recordings(manifest, parts.ids),
        tasks=frozenset(tasks),
        questions=frozenset(questions),
        **_ordered(owners=owners, frames=frames, sums=sums, prints=prints),
    )


def _words_of(texts: Sequence[str], words: int) -> Prints:
    """[n, words] of 64 bits, from hexadecimal texts of one length."""
    import numpy as np

    return np.frombuffer(bytes.fromhex("".join(texts)), dtype=np.uint64).reshape(-1, words)


def _ordered(**parts: Sequence[Any]) -> dict[str, Any]:
    """Owners, frames, sums and prints, each joined, by episode and frame, without a picture that is there twice."""
    import numpy as np

    if not parts["owners"]:
        whole, empty = np.zeros(0, dtype=np.int64), np.zeros((0, BITS // 64), dtype=np.uint64)
        return {"owners": whole, "frames": whole, "sums": empty[:, 0], "prints": empty}
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    keys = [joined[name] for name in ("sums", "frames", "owners")]
    order = np.lexsort(keys)
    new = np.ones(len(order), dtype=bool)
    new[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    return {name: array[order][new] for name, array in joined.items()}


def _recordings(manifest: Manifest, ids: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Each episode's recording, named alike in every build that reads it, and its id.

    Kind, root and id, or kind, seed and id if simulated; of a table, where ids are free, kind and resolved path. A
    relative root is taken from the working folder, as the build takes it.
    """
    source = manifest.config["source"]
    if (paths := manifest.paths) is not None:
        return tuple((f"{source['kind']} {Path(source['root'], paths[name]).resolve()}", name) for name in ids)
    place = Path(source["root"]).resolve() if "root" in source else f"seed {manifest.seed}"
    return tuple((f"{source['kind']} {place} {name}", name) for name in ids)


def _tasks(registry: str | Path, manifest: Manifest, splits: Sequence[str]) -> dict[str, str]:
    """Pair id -> task text, of all pairs of the splits."""
    files = [Path(registry) / file for split in splits for file in manifests.pair_files(manifest, split)]
    return {row["pair_id"]: row["task"] for file in files for row in parquet.read(file)}


def _dataset_rows(registry: str | Path, dataset: str, tasks: Mapping[str, str]) -> Iterator[tuple[dict[str, Any], str]]:
    """The rows of a dataset, each with the task of its pair or group."""
    rule = manifests.read_manifest(registry, dataset).rules[dataset]
    if rule.kind == "group":
        shots = shots_of(manifests.read_pairs(registry, dataset, rule.split))
        yield from ((row, group_of(row, shots).task) for row in manifests.dataset_rows(registry, dataset))
        return
    for number, row in enumerate(manifests.dataset_rows(registry, dataset), 1):
        if row["pair_id"] not in tasks:
            problem = f"its pair {row['pair_id']!r} is not in its build"
            raise DataError(f"{dataset}, row {number}", problem, "build again")
        yield row, tasks[row["pair_id"]]


# ---- the comparison ----


def overlap(trained: str, evaluated: str, registry: str | Path, seed: int = 0) -> Overlap:
    """Compare two builds, splits or datasets by name, see `side` and `compare`."""
    return compare(side(trained, registry), side(evaluated, registry), seed)


def compare(trained: Side, evaluated: Side, seed: int = 0) -> Overlap:
    """What `trained` and `evaluated` share. The seed draws which pictures are compared for near ones."""
    recordings = {recording for recording, _ in trained.episodes}
    episodes = [name for recording, name in sorted(evaluated.episodes) if recording in recordings]
    return Overlap(
        trained=trained.name,
        evaluated=evaluated.name,
        episodes=_shared(episodes, len(trained.episodes), len(evaluated.episodes)),
        pictures=_shared_pictures(trained, evaluated),
        questions=_shared_texts(trained.questions, evaluated.questions),
        tasks=_shared_texts(trained.tasks, evaluated.tasks),
        near=_nearness(trained, evaluated, seed),
    )


def _shared(both: Sequence[str], trained: int, evaluated: int) -> Shared:
    return Shared(shared=len(both), trained=trained, evaluated=evaluated, named=tuple(both[:_NAMED]))


def _shared_texts(trained: frozenset[str], evaluated: frozenset[str]) -> Shared:
    return _shared(sorted(trained & evaluated), len(trained), len(evaluated))


def _shared_pictures(trained: Side, evaluated: Side) -> Shared:
    """Of 10 million pictures per side, two are taken for identical at random with a probability of 5 in a million."""
    import numpy as np

    sums, first = np.unique(evaluated.sums, return_index=True)
    rows = np.sort(first[np.isin(sums, trained.sums)])
    first_rows = rows[:_NAMED].tolist()
    named = [f"{evaluated.episodes[evaluated.owners[row]][1]} frame {evaluated.frames[row]}" for row in first_rows]
    return Shared(shared=len(rows), trained=len(np.unique(trained.sums)), evaluated=len(sums), named=tuple(named))


def _nearness(trained: Side, evaluated: Side, seed: int) -> Nearness | None:
    import numpy as np

    if not len(trained.prints) or not len(evaluated.prints):
        return None
    neighbours, gap = _neighbours(trained)
    drawn = _drawn(len(evaluated.prints), seed, "evaluated")
    found = nearest(trained.prints, trained.owners, evaluated.prints[drawn], own=np.full(len(drawn), -1))
    within = None
    if len(np.unique(trained.owners)) > 1:
        rows = _drawn(len(trained.prints), seed, "trained")
        within = nearest(trained.prints, trained.owners, trained.prints[rows], own=trained.owners[rows])
    return Nearness(
        sampled=len(drawn),
        evaluated=len(evaluated.prints),
        trained=len(trained.prints),
        neighbours=neighbours,
        gap=gap,
        share=_share(found, neighbours),
        median=float(np.median(found)),
        share_within=None if within is None else _share(within, neighbours),
        median_within=None if within is None else float(np.median(within)),
        reach=REACH,
    )


def _share(distances: Whole, neighbours: float | None) -> float | None:
    """Percent of `distances` below `neighbours`, or below what the search can tell."""
    return None if neighbours is None else 100 * float((distances < min(neighbours, REACH + 1)).mean())


def _drawn(count: int, seed: int, what: str) -> Whole:
    """Which of `count` pictures are compared, ascending."""
    import numpy as np

    return np.sort(artefacts.rng(seed, "overlap", what).choice(count, min(count, SAMPLED), replace=False))


def _neighbours(side: Side) -> tuple[float | None, float | None]:
    """Median distance (bits) between each frame and the next one of its episode, and median frames between them."""
    import numpy as np

    gaps = np.diff(side.frames)
    pairs = np.flatnonzero((np.diff(side.owners) == 0) & (gaps > 0))
    if not len(pairs):
        return None, None
    bits = np.bitwise_count(side.prints[pairs] ^ side.prints[pairs + 1]).sum(axis=1)
    return float(np.median(bits)), float(np.median(gaps[pairs]))


def nearest(prints: Prints, owners: Whole, queries: Prints, *, own: Whole, scanned: int = _SCANNED) -> Whole:
    """Distance (bits) of every query to its nearest print of another episode, REACH + 1 if greater.

    More than `scanned` prints are not all compared: a fingerprint is cut into 16 bands of 16 bits, and two that differ
    in up to 47 bits differ in at most 2 in one of them (else 3 times 16, 48). So looking up each band with up to 2 bits
    flipped meets every print within reach. After k bands nothing unmet is nearer than 3 k, so a query whose nearest is
    within that is done; one that would meet more prints than there are is compared with all. (Multi-index hashing:
    Norouzi, Punjani, Fleet, "Fast Search in Hamming Space with Multi-Index Hashing", CVPR 2012.)

    Args:
        prints: [n, 4] of 64 bits.
        owners: Episode of each print, [n].
        queries: [m, 4] of 64 bits.
        own: Episode of each query, [m], -1 for none.

    Returns:
        Distances, [m], exact up to REACH.
    """
    import numpy as np

    columns = np.ascontiguousarray(prints.T)
    best = np.full(len(queries), BITS + 1, dtype=np.int64)

    def meet(number: int, rows: Whole | None) -> None:
        """Compare a query with the prints in `rows`, all where None."""
        shown, owner = (columns, owners) if rows is None else (columns[:, rows], owners[rows])
        bits = np.bitwise_count(shown ^ queries[number][:, None]).sum(axis=0, dtype=np.int64)
        best[number] = min(best[number], bits[owner != own[number]].min(initial=BITS + 1))

    if len(prints) <= scanned:
        for number in range(len(queries)):
            meet(number, None)
        return np.minimum(best, REACH + 1)
    bands, wanted = _bands(prints), _bands(queries)
    flips = np.array([word for word in range(2**16) if word.bit_count() <= _FLIPS], dtype=np.uint16)
    met = np.zeros(len(queries), dtype=np.int64)
    left = np.arange(len(queries))
    for band in progress(range(_BANDS), "overlap: comparing pictures", "bands"):
        order = np.argsort(bands[:, band], kind="stable")
        starts = np.searchsorted(bands[order, band], np.arange(2**16 + 1))
        for number in left.tolist():
            words = (wanted[number, band] ^ flips).astype(np.int64)
            sizes = starts[words + 1] - starts[words]
            met[number] += sizes.sum()
            if met[number] > len(prints):
                meet(number, None)
            else:
                # All positions of the words in the sorted band, run after run.
                runs = np.repeat(starts[words] - np.cumsum(sizes) + sizes, sizes)
                meet(number, order[runs + np.arange(len(runs))])
        left = left[(met[left] <= len(prints)) & (best[left] > (_FLIPS + 1) * (band + 1))]
    return np.minimum(best, REACH + 1)


def _bands(prints: Prints) -> npt.NDArray[np.uint16]:
    """[n, 16] of 16 bits: a byte of the picture's upper half with one of the lower, since neighbours vary together."""
    import numpy as np

    halves = prints.view(np.uint8).reshape(len(prints), 2, _BANDS)
    return np.ascontiguousarray(halves.transpose(0, 2, 1)).view(np.uint16)[:, :, 0]
