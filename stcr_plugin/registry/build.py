"""Sample -> dataset files that LLaMA-Factory loads, their pictures, and the manifest that accounts for them.

    <registry>/dataset_info.json                            LLaMA-Factory's list of datasets
    <registry>/<name>/manifest.json                         written last: it stands for a finished build
    <registry>/<name>/pairs.jsonl                           every pair of every split
    <registry>/<name>/<name>_<key>.json                     one training set, a row a line
    <registry>/<name>/frames-<digest>/<episode>/<frame>.png named by what decides a picture's content

A killed build goes on where it stopped, since pictures are written whole, one by one, and kept.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stcr_plugin import artefacts
from stcr_plugin.config import load, nearest, settings
from stcr_plugin.episodes import SourceConfig, open_source
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.pairs import PairRules, SplitRule, assign_splits, draw_pairs
from stcr_plugin.registry import manifest as manifests
from stcr_plugin.samples.cot import Wording, check_target, claims_file, cot_sample, load_wordings
from stcr_plugin.samples.questions import PROMPTS, questions, unusable
from stcr_plugin.samples.weak import weak_sample
from stcr_plugin.types import ORDERS, Episode, EpisodeSource, Exclusion, Order, Pair, Query, Sample, State

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

_NAME = re.compile(r"[a-z0-9_]+")
_SUFFIX = {"png": ".png", "jpeg": ".jpg"}
_ORDERS: dict[str, tuple[Order, ...]] = {"both": ORDERS, "forward": ("forward",), "backward": ("backward",)}


@settings
class FrameRules:
    """How a picture is written: cut to `crop`, resized (bicubic) to `width` x `height` pixels, encoded.

    crop: left, top, right and bottom edge as shares of the picture's width and height, so [0, 0, 1, 1] is all
    of it. width and height null: as the crop leaves it. JPEG is written at quality 95 without subsampling.
    """

    width: int | None = None
    height: int | None = None
    crop: tuple[float, float, float, float] | None = None
    format: Literal["png", "jpeg"] = "png"

    def __post_init__(self) -> None:
        if (self.width is None) != (self.height is None):
            raise ValueError("give both `width` and `height`, or neither")
        if any(side is not None and side < 1 for side in (self.width, self.height)):
            raise ValueError("`width` and `height` must be at least 1 pixel")
        if self.crop is not None:
            left, top, right, bottom = self.crop
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise ValueError(f"`crop` reads [left, top, right, bottom] as shares from 0 to 1, got {self.crop}")


@settings
class DatasetRule:
    """One training set: `pairs` pairs of `split` (all where None), each in the given orders and in one language."""

    split: str
    kind: Literal["cot", "weak"]
    pairs: int | None = None
    languages: tuple[str, ...] = ("en",)
    orders: Literal["both", "forward", "backward"] = "both"

    def __post_init__(self) -> None:
        if self.pairs is not None and self.pairs < 1:
            raise ValueError(f"`pairs` must be at least 1, or null for all, got {self.pairs}")
        unknown = [language for language in self.languages if language not in questions()]
        if unknown or not self.languages:
            raise ValueError(f"`languages` must name some of {sorted(questions())}, got {list(self.languages)}")


@settings
class DataConfig:
    """Everything that decides a build.

    on_bad_data: what cannot be used (an unreadable picture, a task text with a chat marker) is set aside and
    counted in the manifest (exclude), or stops the build (error). A segment too short for a pair is no bad data
    and always set aside. A dataset that asked for no more pairs than were drawn, but lost some to bad pictures,
    takes what is left and the manifest says `short_by`.
    """

    name: str
    source: SourceConfig
    splits: dict[str, SplitRule]
    datasets: dict[str, DatasetRule] = field(default_factory=dict)
    frames: FrameRules = FrameRules()
    pairs: PairRules = PairRules()
    seed: int = 0
    on_bad_data: Literal["exclude", "error"] = "exclude"

    def __post_init__(self) -> None:
        for text in (self.name, *self.splits, *self.datasets):
            if not _NAME.fullmatch(text):
                raise ValueError(f"names of builds, splits and datasets are made of a-z, 0-9 and _, got {text!r}")
        if not self.splits:
            raise ValueError("`splits` must name at least one split")
        for key, rule in self.datasets.items():
            if rule.split not in self.splits:
                raise ValueError(f"datasets.{key}: no split {rule.split!r}, {nearest(rule.split, list(self.splits))}")


def load_data_config(path: str | Path, overrides: Sequence[str] = ()) -> DataConfig:
    """Read a data configuration, with `key=value` strings laid over it. Raises ConfigError."""
    return load(DataConfig, path, overrides)


def build(config: DataConfig, registry: str | Path) -> Path:
    """Make or finish the build that `config` describes under `registry`; the path of its manifest.

    A finished build of the same configuration is left as it is, to the byte. One of another configuration is
    replaced: its manifest goes first, its pictures last, so a reader never meets a mixture. Raises ConfigError
    for a configuration that the source cannot serve, DataError for bad data and for a full disk.
    """
    registry = Path(registry)
    path = registry / config.name / manifests.MANIFEST
    # A second build in the same place waits here, then finds the first one's work done.
    with artefacts.locked(registry / f".{config.name}.lock"):
        if not _finished(config, registry):
            wordings = _wordings(config)
            _with_entries(config, registry)
            source = open_source(config.source, config.seed)
            plan = _plan(config, source)
            _write_frames(config, source, plan, registry)
            _write_datasets(config, source, wordings, plan, registry)
            _prune(config, plan, registry)
    return path


def _wordings(config: DataConfig) -> dict[str, Wording]:
    """Language -> wording of the source's claims, for the CoT datasets; empty where there are none."""
    described = {key: rule for key, rule in config.datasets.items() if rule.kind == "cot"}
    wordings = load_wordings(config.source.kind) if described else {}
    for key, rule in described.items():
        for language in rule.languages:
            if language not in wordings:
                near = nearest(language, list(wordings))
                raise ConfigError(f"datasets.{key}.languages: no claims are worded in {language!r}, {near}")
    return wordings


@dataclass
class _Plan:
    """What the build will write, and what it has set aside so far."""

    episodes: dict[str, list[Episode]]
    pairs: dict[str, list[Pair]]
    states: dict[tuple[str, int], State]
    excluded: list[Exclusion]

    @property
    def images(self) -> set[str]:
        return {image for pairs in self.pairs.values() for pair in pairs for image in Query(pair, "forward").images}


# ---- planning: no picture is decoded ----


def _plan(config: DataConfig, source: EpisodeSource) -> _Plan:
    from tqdm import tqdm

    excluded: list[Exclusion] = []
    usable: list[Episode] = []
    for item in source.episodes():
        for found in _usable_parts(item):
            if isinstance(found, Episode):
                usable.append(found)
            else:
                _set_aside(found, config, excluded)
    names = [episode.episode_id for episode in usable]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(f"the source gives two episodes the same id {twice[0]!r}; give each its own")

    plan = _Plan(assign_splits(usable, config.splits), {name: [] for name in config.splits}, {}, excluded)
    described = {rule.split: key for key, rule in config.datasets.items() if rule.kind == "cot"}
    folder = _frames_folder(config)
    suffix = _SUFFIX[config.frames.format]
    for split, episodes in plan.episodes.items():
        for episode in tqdm(list(episodes), desc=f"{config.name}: pairs of {split}", unit="episode"):
            try:
                states = source.states(episode)
                drawn = draw_pairs(episode, states, config.pairs, split, config.seed)
            except DataError as error:
                _set_aside(Exclusion("episode", episode.episode_id, str(error)), config, excluded)
                episodes.remove(episode)
                continue
            excluded += drawn.excluded
            for pair in drawn.pairs:
                earlier, later = (
                    f"{folder}/{episode.episode_id}/{index:06d}{suffix}" for index in (pair.earlier, pair.later)
                )
                plan.pairs[split].append(dataclasses.replace(pair, earlier_image=earlier, later_image=later))
                if split in described:
                    if states is None or not source.claims(states[pair.earlier]):
                        raise ConfigError(
                            f"datasets.{described[split]}.kind: the source says nothing of episode "
                            f"{episode.episode_id} that could be described; use kind: weak, or complete `source`"
                        )
                    plan.states |= {(pair.episode_id, index): states[index] for index in (pair.earlier, pair.later)}
    for key, rule in config.datasets.items():
        have = len(plan.pairs[rule.split])
        if have < (rule.pairs or 1):
            raise ConfigError(
                f"datasets.{key}.pairs: asks for {rule.pairs or 'all'} pairs and split {rule.split!r} has {have}; ask "
                "for fewer, raise pairs.per_episode, widen the allowed distances or give the split more episodes"
            )
    return plan


def _usable_parts(item: Episode | Exclusion) -> Iterator[Episode | Exclusion]:
    """An episode without the segments that cannot be used, and those."""
    if isinstance(item, Exclusion):
        yield item
        return
    if not re.fullmatch(r"[\w.+=@-]+", item.episode_id) or item.episode_id.startswith("."):
        yield Exclusion("episode", repr(item.episode_id), "the episode's id is not safe as a file name")
        return
    good = []
    for segment in item.segments:
        where = f"episode {item.episode_id}, frames {segment.start}-{segment.end}"
        if reason := unusable(segment.task):
            yield Exclusion("segment", where, reason)
        elif not 0 <= segment.start <= segment.end <= item.n_frames:
            yield Exclusion("segment", where, "the segment leaves its episode")
        else:
            good.append(segment)
    if good:
        yield dataclasses.replace(item, segments=tuple(good))


def _set_aside(item: Exclusion, config: DataConfig, excluded: list[Exclusion]) -> None:
    if config.on_bad_data == "error":
        raise DataError(f"{item.what} {item.where}: {item.reason}; mend it, or set on_bad_data: exclude")
    excluded.append(item)


# ---- pictures ----


def _write_frames(config: DataConfig, source: EpisodeSource, plan: _Plan, registry: Path) -> None:
    """Write every picture that a pair uses and that is not there yet; set episodes aside that cannot be read."""
    from tqdm import tqdm

    wanted: dict[str, dict[int, str]] = {}
    for pairs in plan.pairs.values():
        for pair in pairs:
            wanted.setdefault(pair.episode_id, {}).update(
                {pair.earlier: pair.earlier_image, pair.later: pair.later_image}
            )
    episodes = [(split, episode) for split, listed in plan.episodes.items() for episode in listed]
    for split, episode in tqdm(episodes, desc=f"{config.name}: pictures", unit="episode"):
        images = wanted.get(episode.episode_id, {})
        missing = [index for index in sorted(images) if not (registry / images[index]).is_file()]
        pictures = source.frames(episode, missing) if missing else iter(())
        for index in missing:
            # Only the reading stands in the try: a disk that is full is no fault of the episode.
            try:
                picture = next(pictures, None)
                if picture is None:
                    raise DataError(f"the source gave no picture for frame {index}")
            except DataError as error:
                _set_aside(Exclusion("episode", episode.episode_id, str(error)), config, plan.excluded)
                shutil.rmtree(registry / _frames_folder(config) / episode.episode_id, ignore_errors=True)
                plan.episodes[split].remove(episode)
                plan.pairs[split] = [pair for pair in plan.pairs[split] if pair.episode_id != episode.episode_id]
                break
            artefacts.write_bytes(registry / images[index], _encode(picture, config.frames))


def _encode(picture: Picture, rules: FrameRules) -> bytes:
    """One picture, [height, width, 3] uint8, as the bytes of its file."""
    from PIL import Image

    image = Image.fromarray(picture)
    if rules.crop is not None:
        edges = (image.width, image.height, image.width, image.height)
        left, top, right, bottom = (round(share * edge) for share, edge in zip(rules.crop, edges, strict=True))
        image = image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    if rules.width and rules.height and image.size != (rules.width, rules.height):
        image = image.resize((rules.width, rules.height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if rules.format == "jpeg" else {}
    image.save(file, rules.format, **options)
    return file.getvalue()


def _frames_folder(config: DataConfig) -> str:
    """Where the pictures stand in the registry; the digest is of all that decides what a picture shows.

    Training frameworks cache by path, so a path must never come to show something else.
    """
    decides = [
        _plain(config)["source"],
        _plain(config)["frames"],
        config.seed,
        artefacts.code_digest("episodes", "registry"),
    ]
    return f"{config.name}/frames-{artefacts.digest(decides)[:8]}"


# ---- dataset files and manifest ----


def _write_datasets(
    config: DataConfig, source: EpisodeSource, wordings: Mapping[str, Wording], plan: _Plan, registry: Path
) -> None:
    folder = registry / config.name
    claims_checked = 0
    rows: dict[str, list[dict[str, Any]]] = {}
    short: dict[str, int] = {}
    for key, rule in config.datasets.items():
        pairs = _chosen(plan.pairs[rule.split], rule.pairs, [config.seed, "dataset", key])
        short[key] = 0 if rule.pairs is None else rule.pairs - len(pairs)
        rows[key] = []
        for position, pair in enumerate(pairs):
            language = rule.languages[position % len(rule.languages)]
            for order in _ORDERS[rule.orders]:
                query = Query(pair, order)
                if rule.kind == "weak":
                    sample = weak_sample(query, language, config.seed)
                else:
                    wording, states = wordings[language], _states_shown(query, plan)
                    sample = cot_sample(query, states, source, wording, language, config.seed)
                    claims_checked += check_target(sample.target, query, states, source, wording)
                rows[key].append(_row(sample, language))

    # From here on the files of a former build are replaced, so its manifest must not vouch for them.
    (folder / manifests.MANIFEST).unlink(missing_ok=True)
    every_pair = [dataclasses.asdict(pair) for pairs in plan.pairs.values() for pair in pairs]
    artefacts.write_jsonl(folder / manifests.PAIRS, every_pair)
    for key, listed in rows.items():
        lines = ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in listed)
        artefacts.write_text(registry / _dataset_file(config, key), f"[\n{lines}\n]\n")
    with artefacts.locked(registry / f".{manifests.DATASET_INFO}.lock"):
        artefacts.write_json(registry / manifests.DATASET_INFO, _with_entries(config, registry))

    images = plan.images
    ids = {split: [episode.episode_id for episode in episodes] for split, episodes in plan.episodes.items()}
    files = [f"{config.name}/{manifests.PAIRS}", *(_dataset_file(config, key) for key in rows)]
    account = {
        "name": config.name,
        "config": _plain(config),
        "config_digest": _config_digest(config),
        "seed": config.seed,
        "counts": {
            "splits": {split: manifests.count_pairs(plan.pairs[split], ids[split]) for split in config.splits},
            "datasets": {
                manifests.dataset_name(config.name, key): manifests.count_rows(rows[key]) | {"short_by": short[key]}
                for key in rows
            },
            "excluded": manifests.count_excluded(item.reason for item in plan.excluded),
        },
        "claims_checked": claims_checked,
        "frames": {"folder": _frames_folder(config), "count": len(images)},
        "splits": ids,
        "checksums": {
            "files": {file: artefacts.sha256(registry / file) for file in files},
            "frames": manifests.frames_digest(registry, images),
        },
        "excluded": [dataclasses.asdict(item) for item in plan.excluded],
        "provenance": artefacts.provenance(),
    }
    artefacts.write_json(folder / manifests.MANIFEST, account)


def _chosen(pairs: Sequence[Pair], count: int | None, seed: list[Any]) -> list[Pair]:
    """`count` of the pairs (all where None or too few) in random order, so that any first part is a fair sample."""
    import numpy as np

    order = np.random.default_rng(int(artefacts.digest(seed)[:16], 16)).permutation(len(pairs))
    return [pairs[position] for position in order[:count].tolist()]


def _states_shown(query: Query, plan: _Plan) -> tuple[State, State]:
    """The states of img1 and img2."""
    pair = query.pair
    earlier, later = plan.states[pair.episode_id, pair.earlier], plan.states[pair.episode_id, pair.later]
    return (earlier, later) if query.order == "forward" else (later, earlier)


def _row(sample: Sample, language: str) -> dict[str, Any]:
    """One row in LLaMA-Factory's sharegpt format, with what we need to check it beside."""
    query = sample.query
    return {
        "messages": [
            {"role": "user", "content": sample.prompt},
            {"role": "assistant", "content": sample.target},
        ],
        "images": list(query.images),
        "pair_id": query.pair.pair_id,
        "episode_id": query.pair.episode_id,
        "order": query.order,
        "answer": query.answer,
        "kind": sample.kind,
        "language": language,
    }


def _with_entries(config: DataConfig, registry: Path) -> dict[str, Any]:
    """dataset_info.json as it shall be: our entries new, those of others as they are.

    Raises ConfigError where a dataset of another's has a name of ours.
    """
    path = registry / manifests.DATASET_INFO
    known = artefacts.read_json(path) if path.exists() else {}
    if not isinstance(known, dict):
        raise DataError(f"{path}: expected a mapping of datasets; mend or delete it")
    others = {name: entry for name, entry in known.items() if not _ours(entry, config)}
    ours = {manifests.dataset_name(config.name, key): _dataset_entry(config, key) for key in config.datasets}
    for name in ours.keys() & others.keys():
        raise ConfigError(f"{path}: already has another dataset {name!r}; choose another `name`")
    return others | ours


def _ours(entry: Any, config: DataConfig) -> bool:
    return isinstance(entry, dict) and str(entry.get("file_name", "")).startswith(f"{config.name}/")


def _dataset_entry(config: DataConfig, key: str) -> dict[str, Any]:
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    return {
        "file_name": _dataset_file(config, key),
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": tags,
    }


def _dataset_file(config: DataConfig, key: str) -> str:
    return f"{config.name}/{manifests.dataset_name(config.name, key)}.json"


# ---- is it done, and what is left over ----


def _finished(config: DataConfig, registry: Path) -> bool:
    """Whether a manifest of this very configuration stands there, with all its files and no picture more."""
    path = registry / config.name / manifests.MANIFEST
    if not path.is_file():
        return False
    try:
        manifest = manifests.read_manifest(registry, config.name)
        if manifest["config_digest"] != _config_digest(config):
            return False
        info = artefacts.read_json(registry / manifests.DATASET_INFO)
    except DataError:
        return False
    suffix = _SUFFIX[config.frames.format]
    there = sum(1 for _ in (registry / manifest["frames"]["folder"]).glob(f"*/[!.]*{suffix}"))
    return (
        there == manifest["frames"]["count"]
        and all((registry / file).is_file() for file in manifest["checksums"]["files"])
        and info == _with_entries(config, registry)
    )


def _prune(config: DataConfig, plan: _Plan, registry: Path) -> None:
    """Delete what a former or killed build left in our folder."""
    folder = registry / config.name
    frames = registry / _frames_folder(config)
    for other in folder.glob("frames-*"):
        if other != frames:
            shutil.rmtree(other)
    keep = {registry / image for image in plan.images}
    keep |= {registry / _dataset_file(config, key) for key in config.datasets}
    for pattern in ("frames-*/*/*", f"{config.name}_*.json", ".*.part"):
        for path in folder.glob(pattern):
            if path not in keep:
                path.unlink()
    for path in frames.glob("*/"):
        if not any(path.iterdir()):
            path.rmdir()


def _plain(config: DataConfig) -> dict[str, Any]:
    """The configuration as JSON-like values, defaults filled in."""
    import pydantic

    plain: dict[str, Any] = pydantic.TypeAdapter(DataConfig).dump_python(config, mode="json")
    return plain


def _config_digest(config: DataConfig) -> str:
    """Of all that decides the build's bytes: the configuration, the wordings and the version of the code."""
    wordings = (PROMPTS / "questions.yaml", claims_file(config.source.kind))
    prompts = {path.name: artefacts.sha256(path) for path in wordings if path.is_file()}
    return artefacts.digest(
        [_plain(config), prompts, artefacts.code_digest("episodes", "samples", "registry", "pairs.py")]
    )
