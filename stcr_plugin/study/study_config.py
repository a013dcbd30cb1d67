"""The configuration of a study: its stages, rows, seeds and evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stcr_plugin.config import nearest, settings
from stcr_plugin.result_files import Omitted

BASE = "base"


@settings
class StudyStage:
    """One stage of a study.

    Attributes:
        recipe: Recipe of the training.
        datasets: Keys of the data config, or BUILD:KEY of a config under the study's `also`. The stage's own
            measurements (`stcr.evaluate`) are on the data config in both cases.
        starts_from: Another stage, or "base".
        overrides: Laid over the recipe.
        row: Whether it is a row of the table, or only leads to one.
    """

    recipe: str
    datasets: tuple[str, ...]
    starts_from: str = BASE
    overrides: tuple[str, ...] = ()
    row: bool = True


@settings
class StudyControls:
    """The controls of a study.

    Attributes:
        rows: The rows that are evaluated.
        split: A split of the data.
        pairs: At most this many.
        also: Other data to evaluate on, BUILD:SPLIT=label, as for `stcr controls --also`.
        only: Names of the controls to run; empty for all.
    """

    rows: tuple[str, ...]
    split: str = "heldout"
    pairs: int | None = 200
    also: tuple[str, ...] = ()
    only: Omitted[tuple[str, ...]] = ()


@settings
class StudyGuard:
    """The yes/no questions of a study (`stcr guard`).

    Attributes:
        rows: The rows that are evaluated; the others are compared with the first.
        episodes: How many simulated scenes. They are drawn by the seed, the same for all rows, and are not in the data.
    """

    rows: tuple[str, ...]
    episodes: int = 100


@settings
class StudyConfig:
    """What is trained and compared.

    Attributes:
        asks: The question of the study, in a sentence.
        data: Data config; `base` likewise. Both have overrides.
        seeds: Each has its own data, base and stages.
        reference: The row that the others are compared with, pair by pair.
        model: Folder of an existing model that every seed starts from, instead of `base`.
        splits: Evaluated on these: splits of the data, or BUILD:SPLIT of a config under `also`.
        also: Configs of more data, to train or evaluate on.
        equal: "steps": all rows must take as many steps from the base on as the reference. "tokens": `max_steps` of
            each row's last stage is set so that all are trained on as many supervised tokens; then no other stage
            may start from a row but the reference. "nothing": no condition. A row that the reference starts from is
            as long as it is.
        needed_seeds: A row is recommended only where its interval over episodes against the reference lies above 0 in
            at least this many seeds; null: the report has no such table.
        pairs: At most this many per split.
        mode: Mode of all rows' evaluation, whatever each was trained for; null: its own mode.
        controls: null: no controls. `guard` likewise.
        batch_size: Of the evaluation.
    """

    name: str
    asks: str
    data: str
    stages: dict[str, StudyStage]
    reference: str
    seeds: tuple[int, ...]
    base: str | None = None
    model: str | None = None
    splits: tuple[str, ...] = ("seen", "heldout")
    data_overrides: tuple[str, ...] = ()
    base_overrides: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    equal: Literal["nothing", "steps", "tokens"] = "nothing"
    needed_seeds: int | None = None
    pairs: int | None = 420
    mode: Literal["cot", "direct"] | None = None
    controls: StudyControls | None = None
    guard: StudyGuard | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"`seeds` must be at least one, different and not negative, got {list(self.seeds)}")
        if (self.base is None) == (self.model is None):
            raise ValueError("give either `base`, the config of one to build, or `model`, the folder of one")
        if BASE in self.stages:
            raise ValueError("a stage cannot be called base, which is a row already")
        for name, stage in self.stages.items():
            if stage.starts_from not in (BASE, *self.stages):
                known = nearest(stage.starts_from, [BASE, *self.stages])
                raise ValueError(f"stages.{name}: starts_from {stage.starts_from!r} is not a stage, {known}")
            self.chain(name)
        for key, part in (("controls", self.controls), ("guard", self.guard)):
            for row in part.rows if part else ():
                if row not in self.rows:
                    raise ValueError(f"{key}.rows: {row!r} is not a row, {nearest(row, list(self.rows))}")
        if self.reference not in self.rows[1:]:
            known = nearest(self.reference, self.rows[1:])
            raise ValueError(f"`reference` {self.reference!r} is not a stage that is a row, {known}")
        if self.needed_seeds is not None and self.needed_seeds < 1:
            raise ValueError(f"needed_seeds is {self.needed_seeds}; give at least 1, or null")
        for name, stage in self.stages.items() if self.equal == "tokens" else ():
            if (row := stage.starts_from) in self.rows and row not in (BASE, *self.chain(self.reference)):
                raise ValueError(
                    f"equal: tokens sets the steps of the row {row}, which {name} starts from, so {name} would be "
                    f"trained on too many or too few; set stages.{row}.row=false, or equal to steps or nothing"
                )

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows of the table: the base, and the stages that are rows."""
        return (BASE, *(name for name, stage in self.stages.items() if stage.row))

    @property
    def compared(self) -> tuple[str, ...]:
        """The rows that `equal` is about: all stages but those that the reference starts from."""
        return tuple(row for row in self.rows[1:] if row not in self.chain(self.reference)[:-1])

    @property
    def control_rows(self) -> tuple[str, ...]:
        """The rows that have controls."""
        return self.controls.rows if self.controls else ()

    @property
    def guard_rows(self) -> tuple[str, ...]:
        """The rows that have yes/no questions."""
        return self.guard.rows if self.guard else ()

    def evaluated_on(self, build: str) -> list[tuple[str, str]]:
        """(build, split) of each of `splits`; those without a build are of `build`, the study's data."""
        return _of_builds(self.splits, build)

    def trained_on(self, name: str, build: str) -> list[tuple[str, str]]:
        """(build, key) of each dataset of the stage `name`, likewise."""
        return _of_builds(self.stages[name].datasets, build)

    def chain(self, name: str) -> list[str]:
        """The stages from the base on that end in the stage `name`. Raises ValueError for a circle."""
        found: list[str] = []
        while name != BASE:
            if name in found:
                raise ValueError(f"stages.{name}: starts from itself, through {' and '.join(found)}")
            found.insert(0, name)
            name = self.stages[name].starts_from
        return found


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """One seed of a study, in the folder `out`; `build` is the name of its data."""

    config: StudyConfig
    seed: int
    out: Path
    build: str

    @property
    def registry(self) -> Path:
        return self.out / "data_registry"

    @property
    def splits(self) -> list[tuple[str, str]]:
        """(build, split) of all that the rows are evaluated on."""
        return self.config.evaluated_on(self.build)


def _of_builds(named: Sequence[str], build: str) -> list[tuple[str, str]]:
    return [(other or build, part) for other, _, part in (one.rpartition(":") for one in named)]
