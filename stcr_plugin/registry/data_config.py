"""What a data configuration may say: sources, splits, pairs, pictures and training sets, as typed settings."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, get_args

from stcr_plugin import artefacts
from stcr_plugin.config import load, nearest, settings, type_adapter
from stcr_plugin.episodes.inverse_tasks import InverseTasks
from stcr_plugin.episodes.source_table import SourceConfig, find_kind, installed_code
from stcr_plugin.errors import DataError
from stcr_plugin.groups import GroupRule
from stcr_plugin.pairs import PairRules
from stcr_plugin.samples.cot import claims_digest
from stcr_plugin.samples.general import YESNO_FILE
from stcr_plugin.samples.group_texts import GROUPS_FILE
from stcr_plugin.samples.preferences import Against
from stcr_plugin.samples.questions import PROMPTS, questions
from stcr_plugin.samples.reflections import REFLECT_FILE
from stcr_plugin.splits import SplitRule
from stcr_plugin.types import ORDERS

SINGLE = ("general", "describe")
"""Kinds of datasets whose samples show one picture."""
DESCRIBING = ("cot", "describe", "reflect", "prefer")
"""Kinds whose targets always describe pictures."""
_NAME = re.compile(r"[a-z0-9_]+")
# Our own code that decides what a build writes, and what a picture shows.
_DECIDE_PICTURES = ("episodes", "registry/picture_store.py", "registry/shards.py")
_DECIDE = (
    *_DECIDE_PICTURES,
    "samples",
    "groups.py",
    "pairs.py",
    "splits.py",
    *(
        f"registry/{name}.py"
        for name in ("annotated_texts", "build", "data_config", "directions", "listing", "parquet")
    ),
    *(f"registry/{name}.py" for name in ("contradictions", "group_rows", "preference_rows", "refined_pairs")),
    *(f"registry/{name}.py" for name in ("published_texts", "publishing", "sample_rows", "training_sets")),
)


@settings
class FrameRules:
    """How a picture is written: cropped, resized (bicubic) and encoded.

    Attributes:
        width: Pixels; null: as the crop leaves it. Goes with `height`.
        height: As `width`.
        crop: Left, top, right and bottom edge as shares of the picture's width and height; [0, 0, 1, 1] is all of it.
        max_pixels: A larger picture is shrunk to at most this, its shape kept and both sides multiples of
            `multiple_of`, so that it is stored as the model will see it.
        multiple_of: Pixels; Qwen2.5-VL: 28 (patches of 14 merged in twos), Qwen3-VL: 32.
        format: JPEG is written at quality 95 without subsampling. none writes no picture, to count and plan before
            terabytes are decoded; nothing can be trained on it.
        store: One file per picture (folder), or one tar file per shard (tar), which copies and lists faster by the
            million.
    """

    width: int | None = None
    height: int | None = None
    crop: tuple[float, float, float, float] | None = None
    max_pixels: int | None = None
    multiple_of: int = 28
    format: Literal["png", "jpeg", "none"] = "png"
    store: Literal["folder", "tar"] = "folder"

    def __post_init__(self) -> None:
        if (self.width is None) != (self.height is None):
            raise ValueError("give both `width` and `height`, or neither")
        if self.width is not None and self.max_pixels is not None:
            raise ValueError("give `width` and `height`, or `max_pixels`")
        if any(side is not None and side < 1 for side in (self.width, self.height, self.multiple_of)):
            raise ValueError("`width`, `height` and `multiple_of` must be at least 1 pixel")
        if self.max_pixels is not None and self.max_pixels < self.multiple_of**2:
            raise ValueError(f"`max_pixels` must be at least multiple_of squared, {self.multiple_of**2}")
        if self.crop is not None:
            left, top, right, bottom = self.crop
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise ValueError(f"`crop` reads [left, top, right, bottom] as shares from 0 to 1, got {self.crop}")


@settings
class Curriculum:
    """Rows in an order of difficulty. Train with `disable_shuffling: true`, or the framework mixes them again.

    Attributes:
        bins: Number of equally large parts by distance.
        first: Which part comes first.
    """

    bins: int = 4
    first: Literal["far", "near"] = "far"

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ValueError(f"`bins` must be at least 2, got {self.bins}")


@settings
class DatasetRule:
    """One training set.

    Attributes:
        kind: general: yes/no questions about the pictures of the pairs, one at a time, in one JSON file, such as
            `stcr guard` asks of other scenes; replay them in a stage against forgetting (source kind tabletop only).
            describe: the state of one picture of the pairs, in the words of cot, in one JSON file; each picture once.
            group: groups of frames that the split's pairs show, see `groups`.
            reflect: a proposed answer is judged, with the claims that decide as the reason. Each pair in both orders,
            each with both proposals; pairs of which no claim tells the closer frame are left out.
            prefer: ranking rows, in one JSON file: the target of cot, and a worse one `against` it; for `stage: dpo`.
        pairs: How many pairs of the split; null for all.
        pictures: Of kind describe: how many pictures, spread evenly over episodes; null for all that can be described.
        languages: Each pair is in one of them, in turn.
        orders: given: as the pair was published, where its source says so, else both.
        format: sharegpt JSON in one file, or Parquet in shards; auto takes JSON up to 100,000 samples.
        draw: A name; datasets of one split and one `draw` take their pairs from one random order, so that all pairs of
            a smaller set are in a larger one. Without it each draws by its own name. With `format: json`, without a
            curriculum.
        texts: Of kind cot, reflect or prefer: a file that `stcr annotate` wrote. Its accepted texts describe the
            pictures, which then need no recorded state, and `pairs` are drawn from those that have some. They are
            annotated, not true. `{seed}` in its name is the seed of the configuration.
        groups: Of kind group: how many pictures, which question, how many groups per episode, and which target. All
            groups are taken, each in every rotation. Frames are ordered as the pairs are labelled, by time or progress.
        against: Of kind prefer, what the rejected answer is. order: the true text of the swapped order. frame: one
            description is that of another frame, and the same two answers are asked for the other way round with that
            frame shown, so that no text tells which is preferred. verdict: the same description, the other judgment.
            sampled: another candidate for the same pictures in `texts` that was refuted (false claim, not confirmed,
            rejected by a person), such as a stage's own of `stcr annotate --samples`. A tie gives no row of order and
            verdict.
    """

    split: str
    kind: Literal["cot", "weak", "general", "describe", "group", "reflect", "prefer"]
    pairs: int | None = None
    pictures: int | None = None
    languages: tuple[str, ...] = ("en",)
    orders: Literal["both", "forward", "backward", "given"] = "both"
    format: Literal["auto", "json", "parquet"] = "auto"
    curriculum: Curriculum | None = None
    draw: str | None = None
    texts: str | None = None
    groups: GroupRule | None = None
    against: Against | None = None

    @property
    def says_claims(self) -> bool:
        """Whether its targets describe pictures by claims of the source."""
        described = self.groups is not None and self.groups.target == "cot"
        return (self.kind in DESCRIBING and self.texts is None) or (self.kind == "group" and described)

    def __post_init__(self) -> None:
        if self.groups is not None and self.kind != "group":
            raise ValueError("`groups` is for kind: group; remove it, or change kind")
        if self.kind == "group" and (self.pairs or self.orders != "both" or self.curriculum or self.draw):
            raise ValueError(
                "kind: group takes all groups, each in every rotation; set groups.per_episode, and remove pairs, "
                "orders, curriculum and draw"
            )
        if self.kind == "reflect" and self.orders != "both":
            raise ValueError("kind: reflect shows every pair in both orders; remove `orders`, or change kind")
        if self.texts is not None and (self.kind not in ("cot", "reflect", "prefer") or not self.texts.strip()):
            raise ValueError(
                "`texts` names a file of annotated texts for kind: cot, reflect or prefer; remove it, or change kind"
            )
        self._check_against()
        if self.draw is not None and (self.format != "json" or self.curriculum or self.single):
            raise ValueError(
                "`draw` orders the pairs of one file: set format: json, and remove curriculum; not general or describe"
            )
        for name in ("pairs", "pictures"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, or null for all, got {value}")
        if (self.pairs if self.kind == "describe" else self.pictures) is not None:
            raise ValueError("kind: describe counts `pictures`, every other kind `pairs`")
        unknown = [language for language in self.languages if language not in questions()]
        if unknown or not self.languages:
            raise ValueError(f"`languages` must name some of {sorted(questions())}, got {list(self.languages)}")
        if self.single and (self.orders != "both" or self.format == "parquet" or self.curriculum):
            raise ValueError(
                f"kind: {self.kind} shows single pictures, in one JSON file; remove orders, format, curriculum"
            )

    def _check_against(self) -> None:
        if (self.against is None) == (self.kind == "prefer"):
            raise ValueError(
                f"`against`, one of {', '.join(get_args(Against))}, goes with kind: prefer, and only with it"
            )
        if self.kind == "prefer" and (self.orders != "both" or self.format == "parquet"):
            raise ValueError(
                "kind: prefer shows both orders (else the text alone tells the preferred answer), in one JSON file; "
                "remove orders and format"
            )
        if self.against == "sampled" and self.texts is None:
            raise ValueError("against: sampled takes both answers from a file of annotated texts; set `texts`")
        if self.against == "frame" and self.texts is not None:
            raise ValueError(
                "against: frame needs what the source records, to know that the text about another frame is false of "
                "this one; remove `texts`, or set against: order"
            )

    @property
    def single(self) -> bool:
        """Whether a sample shows one picture."""
        return self.kind in SINGLE

    @property
    def rows_of_pair(self) -> int:
        """How many samples a pair has that was published in both orders."""
        return (1 if self.orders in ORDERS else 2) * (2 if self.kind == "reflect" else 1)

    @property
    def wanted(self) -> int | None:
        """How many pairs or pictures are asked for; None for all."""
        return self.pictures if self.kind == "describe" else self.pairs


@settings
class DataConfig:
    """Everything that decides a build.

    Attributes:
        pairs: Of source kind spatiallogic, whose pairs are given, only `ties` and `refine` may be set.
        on_bad_data: Data that cannot be used (an unreadable picture, a task text with a chat marker) is skipped and
            counted in the manifest (exclude), or stops the build (error). A segment too short for a pair is not bad
            data and always skipped, as is a draw that a simulator repeats or cannot undo. A dataset that asks for no
            more pairs than were drawn, but lost some to bad pictures (or, in Parquet, to published pairs without a
            description), takes what is left, and the manifest says `short_by`; where nothing is left of a dataset or a
            split, the build stops.
        shard_episodes: How many episodes, drawn at random from a split, are one piece of work and one Parquet file.
        inverse_tasks: Task text -> text of the task that undoes it, for the control `inverse_task`; looked up before
            what the source knows. `{name}` is a part that both have: `"open the {thing}": "close the {thing}"`.
    """

    name: str
    source: SourceConfig
    splits: dict[str, SplitRule]
    datasets: dict[str, DatasetRule] = field(default_factory=dict)
    frames: FrameRules = FrameRules()
    pairs: PairRules = PairRules()
    seed: int = 0
    on_bad_data: Literal["exclude", "error"] = "exclude"
    shard_episodes: int = 64
    inverse_tasks: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        InverseTasks(self.inverse_tasks)
        for text in (self.name, *self.splits, *self.datasets):
            if not _NAME.fullmatch(text):
                raise ValueError(f"names of builds, splits and datasets are made of a-z, 0-9 and _, got {text!r}")
        if not self.splits:
            raise ValueError("`splits` must name at least one split")
        if self.shard_episodes < 1:
            raise ValueError(f"`shard_episodes` must be at least 1, got {self.shard_episodes}")
        plain_rules = PairRules(ties=self.pairs.ties, refine=self.pairs.refine)
        changed = [
            rule.name
            for rule in dataclasses.fields(PairRules)
            if getattr(self.pairs, rule.name) != getattr(plain_rules, rule.name)
        ]
        if changed and find_kind(self.source.kind).gives_pairs:
            raise ValueError(
                f"`pairs` has {', '.join(changed)}, but the pairs of source kind {self.source.kind} are given and all "
                "are taken; remove it, and take rows out of source.file instead"
            )
        for name, split in self.splits.items():
            if split.balance and self.pairs.label != "progress" and not find_kind(self.source.kind).gives_pairs:
                raise ValueError(
                    f"splits.{name}: `balance` needs pairs whose earlier frame is closer, which `pairs.label: order` "
                    "never has; set pairs.label: progress, or remove it"
                )
            if split.balance and self.pairs.within_phase is not None:
                raise ValueError(f"splits.{name}: `balance` and `pairs.within_phase` exclude each other; remove one")
        for key, rule in self.datasets.items():
            if rule.split not in self.splits:
                raise ValueError(f"datasets.{key}: no split {rule.split!r}, {nearest(rule.split, list(self.splits))}")
            if rule.kind == "group" and rule.says_claims and find_kind(self.source.kind).gives_pairs:
                raise ValueError(
                    f"datasets.{key}: groups.target cot needs claims, and the texts of source kind {self.source.kind} "
                    "are published with its pairs; set groups.target: weak"
                )
            if rule.against == "frame" and find_kind(self.source.kind).gives_pairs:
                raise ValueError(
                    f"datasets.{key}: against: frame needs claims, and the texts of source kind {self.source.kind} are "
                    "published with its pairs; set against: order"
                )
            if rule.kind == "general" and self.source.kind != "tabletop":
                raise ValueError(
                    f"datasets.{key}: kind general needs the objects in a picture, which only source kind tabletop "
                    "knows; mix in your own general data (recipes/stage2_mixed.yaml)"
                )
            if rule.kind == "describe" and find_kind(self.source.kind).gives_pairs:
                raise ValueError(
                    f"datasets.{key}: kind describe needs what a source records of each frame, which source kind "
                    f"{self.source.kind} does not"
                )


def load_data_config(path: str | Path, overrides: Sequence[str] = ()) -> DataConfig:
    """Read a data configuration, with `key=value` strings laid over it. Raises ConfigError.

    `{seed}` in the name of a file of annotated texts is the seed, so that each seed of a study reads its own.
    """
    config = load(DataConfig, path, overrides)
    named = {
        key: dataclasses.replace(rule, texts=rule.texts.replace("{seed}", str(config.seed)))
        for key, rule in config.datasets.items()
        if rule.texts and "{seed}" in rule.texts
    }
    return dataclasses.replace(config, datasets={**config.datasets, **named}) if named else config


def plain(config: DataConfig) -> dict[str, Any]:
    """The configuration as JSON-like values, defaults filled in."""
    values: dict[str, Any] = type_adapter(DataConfig).dump_python(config, mode="json")
    return values


def config_digest(config: DataConfig) -> str:
    """Digest of all that decides the build's bytes: configuration, prompts, files that it names, version of the code.

    Raises DataError for a file of annotated texts or of contradicted pairs that cannot be read.
    """
    files = sorted({rule.texts for rule in config.datasets.values() if rule.texts})
    return _digest(config, [file_digest(file) for file in (*files, *_refined(config))])


def _refined(config: DataConfig) -> list[str]:
    return [config.pairs.refine.file] if config.pairs.refine else []


def file_digest(file: str) -> str:
    """SHA-256 of a file that a configuration names; "" where there is none, an error only where it is read."""
    try:
        return artefacts.sha256(file) if Path(file).is_file() else ""
    except OSError as error:
        raise DataError(file, f"cannot be read ({error.strerror})") from None


def _digest(config: DataConfig, files: Sequence[str]) -> str:
    kinds = {rule.kind for rule in config.datasets.values()}
    own = [file for kind, file in (("group", GROUPS_FILE), ("reflect", REFLECT_FILE)) if kind in kinds]
    prompts = {path.name: artefacts.sha256(path) for path in (PROMPTS / "questions.yaml", YESNO_FILE, *own)}
    code = [artefacts.code_digest(*_DECIDE), installed_code(config.source.kind)]
    decides = [plain(config), prompts, claims_digest(config.source.kind), code]
    return artefacts.digest([*decides, list(files)] if files else decides)


def frames_folder(config: DataConfig) -> str:
    """The folder of the pictures in the registry; its digest is of all that decides what a picture's path shows.

    Training frameworks cache by path, so a path must never come to show something else.
    """
    values = plain(config)
    code = [artefacts.code_digest(*_DECIDE_PICTURES), installed_code(config.source.kind)]
    decides = [values["source"], values["frames"], config.seed, *code]
    # A position in a tar depends on the pictures before it, and so on the pairs that are left out, but on no text.
    digest = (
        _digest(config, list(map(file_digest, _refined(config))))
        if config.frames.store == "tar"
        else artefacts.digest(decides)
    )
    return f"{config.name}/frames-{digest[:8]}"
