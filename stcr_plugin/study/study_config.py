"""What a study may say: its stages, rows, seeds and what is asked of them, as typed settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stcr_plugin.config import nearest, settings

BASE = "base"


@settings
class StudyStage:
    """One stage of a study: `recipe` with `overrides` laid over it, on `datasets`.

    datasets: keys of the data config, or BUILD:KEY of a config under the study's `also`; the stage's own measurements
    (`stcr.evaluate`) are on the data config then too.
    starts_from: another stage, or "base". row: whether it is a row of the table, or only leads to one.
    """

    recipe: str
    datasets: tuple[str, ...]
    starts_from: str = BASE
    overrides: tuple[str, ...] = ()
    row: bool = True


@settings
class StudyControls:
    """Which `rows` the controls are put to, on how many `pairs` of a split of the data.

    also: other data to judge, BUILD:SPLIT=label, as `stcr controls --also` takes it.
    """

    rows: tuple[str, ...]
    split: str = "heldout"
    pairs: int | None = 200
    also: tuple[str, ...] = ()


@settings
class StudyGuard:
    """Which `rows` are asked yes/no questions (`stcr guard`), about how many simulated scenes; the first is the before.

    The scenes are drawn by the study's seed, the same ones for all rows, and none of them is in the data.
    """

    rows: tuple[str, ...]
    episodes: int = 100


@settings
class StudyConfig:
    """What is trained and compared.

    asks: the question of the study, in a sentence. data, base: configurations, with overrides. model: instead of
    `base`, the folder of a model that is there already, which every seed starts from. seeds: each has data, base and
    stages of its own. reference: the row that the others are compared with, pair by pair.
    equal: "steps" demands that all rows take as many steps from the base on as the reference does; "tokens" sets
    `max_steps` of each row's last stage so that all are trained on as many supervised tokens, for which no other stage
    may start from a row but the reference. "nothing" asks nothing.
    mode: how all rows are asked, whatever each was trained for; null: by its own mode.
    also: configurations of more data, to train on or to ask about. pairs: so many of each of `splits`, which are splits
    of the data, or BUILD:SPLIT of a config under `also`.
    controls: which rows the controls are put to, none where it is null. guard: which rows are asked of their general
    ability. batch_size: of the evaluation.
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
    pairs: int | None = 420
    mode: Literal["cot", "direct"] | None = None
    controls: StudyControls | None = None
    guard: StudyGuard | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"`seeds` must be different numbers from 0 on, at least one, got {list(self.seeds)}")
        if (self.base is None) == (self.model is None):
            raise ValueError(
                "give either `base`, the configuration of one to build, or `model`, a folder that holds one"
            )
        if BASE in self.stages:
            raise ValueError("no stage may be called base; the base is a row of its own")
        for name, stage in self.stages.items():
            if stage.starts_from not in (BASE, *self.stages):
                known = nearest(stage.starts_from, [BASE, *self.stages])
                raise ValueError(f"stages.{name}: starts_from {stage.starts_from!r} is no stage, {known}")
            self.chain(name)
        for key, asked in (("controls", self.controls), ("guard", self.guard)):
            for row in asked.rows if asked else ():
                if row not in self.rows:
                    raise ValueError(f"{key}.rows: {row!r} is no row, {nearest(row, list(self.rows))}")
        if self.reference not in self.rows[1:]:
            raise ValueError(
                f"`reference` {self.reference!r} is no stage that is a row, {nearest(self.reference, self.rows[1:])}"
            )
        for name, stage in self.stages.items() if self.equal == "tokens" else ():
            if (row := stage.starts_from) in self.rows and row not in (BASE, self.reference):
                raise ValueError(
                    f"equal: tokens sets the steps of the row {row}, which {name} starts from, so {name} would not "
                    f"take what it should; set stages.{row}.row=false, or equal to steps or nothing"
                )

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows of the table: the base, and the stages that are rows."""
        return (BASE, *(name for name, stage in self.stages.items() if stage.row))

    def asked(self, build: str) -> list[tuple[str, str]]:
        """(build, split) of each of `splits`; of `build`, the study's own data, where one names no other."""
        return _of_builds(self.splits, build)

    def trained_on(self, name: str, build: str) -> list[tuple[str, str]]:
        """(build, key) of each dataset of the stage `name`, in the same way."""
        return _of_builds(self.stages[name].datasets, build)

    def chain(self, name: str) -> list[str]:
        """The stages from the base on that end in the stage `name`. Raises ValueError for a circle."""
        found: list[str] = []
        while name != BASE:
            if name in found:
                raise ValueError(f"stages.{name}: starts from itself, by way of {' and '.join(found)}")
            found.insert(0, name)
            name = self.stages[name].starts_from
        return found


def _of_builds(named: Sequence[str], build: str) -> list[tuple[str, str]]:
    return [(other or build, part) for other, _, part in (one.rpartition(":") for one in named)]


@dataclass(frozen=True)
class Plan:
    """One stage as it is run for one seed: `recipe` as `stcr train` will see it, from `overrides`.

    steps: of this stage. tokens: those of the answers that it is trained on, about (see `supervised_tokens`).
    """

    name: str
    path: str
    overrides: tuple[str, ...]
    recipe: dict[str, Any]
    steps: int
    tokens: float
