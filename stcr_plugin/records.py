"""The stage record: `stage.json` in a run's folder. Stages chain by it, and a chain is walked by it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stcr_plugin import artefacts
from stcr_plugin.config import type_adapter
from stcr_plugin.errors import ChainError, DataError, StcrError
from stcr_plugin.figures import AnnotatedTexts

RECORD = "stage.json"
BASE_MADE = "base.json"
"""Beside the record of an embedded base: the settings that made it."""


@dataclass(frozen=True)
class Measurement:
    """What the callback measured at one step.

    Attributes:
        when: "before", "after" or "step N".
        seconds: How long it took.
        figures: The fields of `scoring.metrics.Figures`.
    """

    when: str
    step: int = 0
    seconds: float = 0.0
    figures: Mapping[str, int | float | None] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, Any]:
        return {"when": self.when, "step": self.step, "seconds": self.seconds, **self.figures}


@dataclass(frozen=True)
class MissingMeasurement:
    """A measurement that failed, and why."""

    when: str
    step: int
    why: str


@dataclass(frozen=True)
class BadPicture:
    """A picture that could not be read at a step; its sample was replaced."""

    step: int
    picture: str


@dataclass(frozen=True)
class TrainedBuild:
    """A data build that was trained on, and the digest of its configuration then.

    Attributes:
        texts: Dataset -> its annotated texts, of those whose texts no recorded state says to be true.
    """

    build: str
    config_digest: str
    texts: Mapping[str, AnnotatedTexts] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, Any]:
        return {key: value for key, value in dataclasses.asdict(self).items() if value or key != "texts"}


@dataclass(frozen=True)
class AdapterStart:
    """How the stage went on from an adapter, see `frameworks.adapters.Start`."""

    way: str
    model: str
    adapters: tuple[str, ...]
    merged: str | None = None
    merged_digest: str | None = None


@dataclass(frozen=True)
class ReferenceModel:
    """What a stage of DPO or GRPO compared its log-probabilities with, see `frameworks.reference`.

    Attributes:
        model: Folder or name; `digest` is that of its files, None where it is not a folder.
        how: "a second model", or "its adapter switched off".
    """

    model: str
    digest: str | None
    how: str


@dataclass(frozen=True)
class Reward:
    """By what a stage of GRPO rewards sampled answers, see `scoring.pair_rewards`.

    Attributes:
        parts: Names of what is added up.
        unknown: Why claims are not among them, though reasons are asked for.
    """

    parts: tuple[str, ...]
    unknown: str = ""


@dataclass(frozen=True)
class Ended:
    """How the last process of a stage ended: at which step, and why it did not finish."""

    how: Literal["finished", "interrupted", "failed"]
    step: int | None = None
    why: str = ""

    @property
    def row(self) -> dict[str, Any]:
        return {"how": self.how} if self.how == "finished" else dataclasses.asdict(self)


@dataclass(frozen=True)
class StageRecord:
    """One stage.json. A field that the file lacks has its default.

    Attributes:
        parent: Folder or name of the model that the stage started from.
        parent_stage: The name of the stage that made it, None where none did.
        base: The model at the start of the chain.
        reference: Of a stage of DPO or GRPO that has one.
        reward: Of a stage of GRPO.
        chain_step_at_start: Steps that the stages before this one trained; logs count on from there.
        recipe: The recipe as written, with its `stcr:` block.
        settings: The `stcr:` block with its defaults.
        seconds: Wall time over all processes of the stage, each up to the checkpoint that the next one continued from.
        seconds_at_checkpoints: Step -> `seconds` then. `loss_sum_at_checkpoints` likewise.
        log_run_id: The run's ID in experiment trackers.
        ended: How the last process ended; None where it was killed or still trains.
        more: Keys that this version does not know. They are kept when the file is written.
    """

    backend: str | None = None
    name: str | None = None
    mode: Literal["cot", "direct"] | None = None
    template: str | None = None
    parent: str | None = None
    parent_stage: str | None = None
    parent_digest: str | None = None
    base: str | None = None
    base_digest: str | None = None
    adapter: AdapterStart | None = None
    reference: ReferenceModel | None = None
    reward: Reward | None = None
    chain_step_at_start: int = 0
    seed: int | None = None
    image_max_pixels: int | None = None
    image_min_pixels: int | None = None
    datasets: tuple[str, ...] = ()
    data: tuple[TrainedBuild, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    finished: bool = False
    figures: tuple[Measurement, ...] = ()
    figures_missing: tuple[MissingMeasurement, ...] = ()
    bad_pictures: tuple[BadPicture, ...] = ()
    seconds_at_checkpoints: Mapping[str, float] = field(default_factory=dict)
    loss_sum_at_checkpoints: Mapping[str, float] = field(default_factory=dict)
    log_run_id: str | None = None
    ended: Ended | None = None
    seconds: float | None = None
    seconds_evaluating: float | None = None
    steps: int | None = None
    model_digest: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def registry(self) -> Path:
        """The registry that the stage was trained from."""
        return Path(str(self.recipe.get("dataset_dir") or "data_registry"))

    @property
    def max_new_tokens(self) -> int | None:
        """How long the callback let an answer be."""
        return (self.settings.get("evaluate") or {}).get("max_new_tokens")

    @property
    def row(self) -> dict[str, Any]:
        """JSON-like, as the file has it."""
        known = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name != "more"}
        known = {key: value for key, value in known.items() if value is not None or key in _NULL}
        return dict(json.loads(json.dumps({**known, **self.more}, default=_plain)))


# Written as null too; other fields without a value are left out.
_NULL = ("parent_stage", "parent_digest", "base_digest", "adapter", "ended")


def _plain(value: Any) -> Any:
    return value.row if isinstance(value, (Measurement, Ended, TrainedBuild)) else dataclasses.asdict(value)


def read(run: str | Path) -> StageRecord | None:
    """The stage record of a run's folder, None where it has none.

    Raises:
        DataError: The file is not JSON, or a field has a wrong type.
    """
    path = Path(run) / RECORD
    return from_row(artefacts.read_json(path), path) if path.is_file() else None


def from_row(row: Any, path: str | Path = RECORD) -> StageRecord:
    """The record in the JSON value `row` of the file `path`. Raises DataError as `read` does."""
    import pydantic

    if not isinstance(row, dict):
        raise DataError(path, f"is {type(row).__name__}, not an object", "restore it, or train the stage again")
    known = {one.name for one in dataclasses.fields(StageRecord)} - {"more"}
    values = {key: value for key, value in row.items() if key in known}
    if isinstance(values.get("figures"), list):
        values["figures"] = [_measurement(one) for one in values["figures"]]
    if isinstance(values.get("data"), dict):  # before version 0.2, one build
        values["data"] = [values["data"]]
    for key in ("recipe", "settings", "provenance", "datasets", "data"):
        if values.get(key, ...) is None:
            del values[key]
    values["more"] = {key: value for key, value in row.items() if key not in known}
    try:
        _refuse_untyped(values)
        record: StageRecord = type_adapter(StageRecord).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(path, f"{key}: {first['msg']}", "restore it, or train the stage again") from None
    except ValueError as error:
        raise DataError(path, str(error), "restore it, or train the stage again") from None
    return record


def _refuse_untyped(values: Mapping[str, Any]) -> None:
    """Raises ValueError for what is used and has no type of its own: paths, and the settings of the callback."""
    for key in ("parent", "base"):
        if isinstance(name := values.get(key), str) and re.search("[\0\ud800-\udfff]", name):
            raise ValueError(f"{key}: {name!r:.80} is not a path")
    settings = values.get("settings")
    evaluate = settings.get("evaluate") if isinstance(settings, dict) else None
    tokens = evaluate.get("max_new_tokens") if isinstance(evaluate, dict) else None
    if not isinstance(evaluate, dict | None) or not isinstance(tokens, int | None):
        raise ValueError(f"settings.evaluate: {evaluate!r:.80} is not what the callback writes")


def _measurement(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    own = ("when", "step", "seconds")
    return {
        **{key: row[key] for key in own if key in row},
        "figures": {key: value for key, value in row.items() if key not in own},
    }


def write(run: str | Path, record: StageRecord) -> None:
    """Write the stage record of a run's folder, whole or not at all."""
    artefacts.write_json(Path(run) / RECORD, record.row)


def is_finished(run: str | Path) -> bool:
    """Whether the folder `run` holds a finished stage."""
    record = read(run)
    return record is not None and record.finished


def parent_record(model: str, template: str, recipe: str) -> StageRecord:
    """The record of the finished stage whose output `model` is.

    Args:
        recipe: The name of the stage that starts from it.

    Raises:
        ChainError: `model` is not a finished stage of that template, it is the base, or a stage of that name is in its
            chain.
    """
    record = read(model)
    fix = f"or set model_name_or_path of {recipe!r} to a finished stage"
    if record is None:
        what = "holds no stage.json, so no stage made it" if Path(model).is_dir() else "does not exist"
        raise ChainError(
            model,
            f"{recipe!r} starts from a stage, but that {what}",
            f"train it first, by a recipe whose output_dir is {model} (such as recipes/stage1_cot.yaml), {fix}",
        )
    if not record.finished:
        raise ChainError(
            model,
            f"the stage {record.name!r} was started but did not finish",
            f"run its command again, which continues where it stopped, {fix}",
        )
    if record.template != template:
        raise ChainError(
            model,
            f"stage {record.name!r} was trained with template {record.template!r}, this one asks for {template!r}",
            f"a chain keeps one template, so set template: {record.template}",
        )
    if (Path(model) / BASE_MADE).is_file():
        raise ChainError(
            model,
            f"{recipe!r} starts from a stage, but that is the base (it holds {BASE_MADE})",
            f"train the stage before {recipe!r} from it and start there, or set stcr.starts_from: model",
        )
    if same := next((link.folder for link in chain(model) if link.name == recipe), None):
        raise ChainError(
            model,
            f"its chain has a stage {recipe!r} already, in {same}",
            f"set model_name_or_path to the stage before {recipe!r}, or stcr.name to a name that the chain lacks",
        )
    return record


@dataclass(frozen=True)
class Link:
    """One model of a chain.

    Attributes:
        folder: Its folder, or its name on the Hub.
        record: Its stage record, None where that is unknown or no stage made the model.
        unknown: Why the record is unknown: there is none ("missing"), it cannot be read ("unreadable"), or the stage
            was trained again after the next one started from it ("retrained"). None for a base that no stage made.
        child: The stage that started from it, None for the last stage of the chain.
        retrained: The record of a retrained stage, which is not that of the chain.
        error: Why the record cannot be read.
    """

    folder: Path
    record: StageRecord | None = None
    unknown: Literal["missing", "unreadable", "retrained"] | None = None
    child: StageRecord | None = None
    retrained: StageRecord | None = None
    error: StcrError | None = None

    @property
    def name(self) -> str | None:
        """The stage's name, by the stage after it where its own record is unknown; None for a base."""
        known = self.record.name if self.record else None
        return known or (self.child.parent_stage if self.child else None)


def chain(run: str | Path) -> Iterator[Link]:
    """The stage in the folder `run`, its parent, and so on to the base. It ends where a record is unknown."""
    folder, child = Path(run), None
    seen: set[Path] = set()
    while folder.resolve() not in seen:
        seen.add(folder.resolve())
        link = _link(folder, child)
        yield link
        if link.record is None or not link.record.parent:
            return
        folder, child = Path(link.record.parent), link.record


def _link(folder: Path, child: StageRecord | None) -> Link:
    try:
        record = read(folder)
    except StcrError as error:
        return Link(folder, None, "unreadable", child=child, error=error)
    if record is None:
        return Link(folder, None, "missing" if child is None or child.parent_stage else None, child=child)
    if child is not None and record.model_digest and record.model_digest != child.parent_digest:
        return Link(folder, None, "retrained", child=child, retrained=record)
    return Link(folder, record, None, child=child)
