"""The embedded base: a tiny checkpoint of the real architecture, and the prior it is given.

A stock VLM can read pictures, and believes that the second one is later. The embedded base starts from random weights
(architecture.py), so `build` teaches it the first with captions of single pictures (pretraining.py) and the second
with forward-only pairs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts, records
from stcr_plugin.config import from_mapping, load, settings
from stcr_plugin.embedded.architecture import Architecture, write_checkpoint
from stcr_plugin.embedded.pretraining import Pretraining, teach_to_describe
from stcr_plugin.errors import ChainError
from stcr_plugin.records import BASE_MADE


@settings
class BaseConfig:
    """Settings of an embedded base.

    Attributes:
        prior: Recipe of the forward-only stage.
        dataset: Replaces the recipe's training set.
        split: Replaces the split that the recipe measures its gap on.
        gap_over: The gap on held-out pairs has to be above this many points.
    """

    out: str
    prior: str
    seed: int = 0
    dataset: str | None = None
    split: str | None = None
    gap_over: float = 70.0
    architecture: Architecture = Architecture()
    pretraining: Pretraining | None = Pretraining()


def build(config: str, overrides: Sequence[str], registry: str, train: Callable[[str, Sequence[str]], None]) -> Path:
    """Write the checkpoint, teach it to describe, and train the prior into it. A finished base is left as it is.

    Args:
        train: Trains one stage, as `stcr train` does: a recipe with overrides laid over it.

    Returns:
        The folder of the base.

    Raises:
        ChainError: where another configuration made the base that is there, and as `check_prior` does.
        StcrError: another process builds it now.
    """
    base = load(BaseConfig, config, overrides)
    out = Path(base.out)
    with artefacts.locked(out / ".base.lock", alone=out):
        _built(base, registry, train)
    check_prior(base)
    return out


def _built(base: BaseConfig, registry: str, train: Callable[[str, Sequence[str]], None]) -> None:
    out = Path(base.out)
    start = out.with_name(f"{out.name}_random")
    made = _made_by(base)
    if records.is_finished(out):
        before = made
        if (out / BASE_MADE).is_file():  # a setting that was added since has its default
            values = {**artefacts.read_json(out / BASE_MADE), "out": base.out}
            before = _made_by(from_mapping(BaseConfig, values, str(out / BASE_MADE)))
        if unlike := [key for key in made if made[key] != before.get(key)]:
            raise ChainError(
                out,
                f"holds a base that was made with another {' and '.join(unlike)}",
                f"delete that folder and {start} to make it again, or give another `out`",
            )
        return
    write_checkpoint(start, base.architecture, base.seed)
    if base.pretraining:
        teach_to_describe(start, base.pretraining, base.seed)
    overrides = [f"model_name_or_path={start}", f"output_dir={out}", f"seed={base.seed}", f"dataset_dir={registry}"]
    if base.dataset:  # other data than the recipe's, so what the recipe prepares is not needed
        overrides += [f"dataset={base.dataset}", "stcr.prepare.data=null"]
    if base.split:
        overrides += [f"stcr.evaluate.split={base.split}"]
    artefacts.write_json(out / BASE_MADE, made)
    train(base.prior, overrides)


def _made_by(base: BaseConfig) -> dict[str, Any]:
    """The settings that decide what a base is, as they are kept beside it."""
    values = {key: value for key, value in asdict(base).items() if key not in ("out", "gap_over")}
    made: dict[str, Any] = json.loads(json.dumps(values))
    return made


def check_prior(base: BaseConfig) -> None:
    """Raises ChainError where the gap of a finished base is too small or was not measured."""
    record = records.read(base.out)
    measured = reversed(record.figures if record else ())
    gap = next((one.figures.get("gap_points") for one in measured if one.when == "after"), None)
    if gap is None:
        raise ChainError(
            base.out,
            "no gap was measured after the prior",
            f"set stcr.evaluate.after: true in {base.prior} and delete that folder, then run again",
        )
    if gap <= base.gap_over:
        raise ChainError(
            base.out,
            f"the prior's gap is {gap:.1f} points, not over {base.gap_over:g}",
            f"raise max_steps in {base.prior} and delete that folder, then run again",
        )
