"""Finished evaluations -> the temperature of a model's probabilities, what it does on other splits, and its use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin.calibration_results import FittedOn, ReportedOn, Temperature
from stcr_plugin.engines.settings import AskSettings, Engine
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.evaluate import ANSWERS, RESULTS, read_answers
from stcr_plugin.provenance import provenance
from stcr_plugin.results import Evaluation
from stcr_plugin.scoring import calibration
from stcr_plugin.types import Answer

_NO_PROBABILITY = ("batch_size", "other_image_size", "max_new_tokens")
"""Settings that change no compared answer."""


@dataclass(frozen=True)
class _Judge:
    """A model by its engine's identity, and how it is asked."""

    engine: Mapping[str, Any]
    settings: Mapping[str, Any]
    ties: bool


@dataclass(frozen=True)
class _Finished:
    """An evaluation on disk, whose answers were compared."""

    run: Path
    of: Evaluation
    answers: list[Answer]
    margins: calibration.Margins

    @property
    def where(self) -> str:
        return f"{self.run}: {self.of.dataset}, {self.of.split}"

    @property
    def judge(self) -> _Judge:
        return _Judge(self.of.engine, self.of.settings, self.of.ties)


def fit_temperature(run: Path, on: Sequence[Path], out: Path, *, resamples: int = 2000, seed: int = 0) -> Temperature:
    """Fit a temperature on the evaluation in the folder `run`, and write temperature.json into the folder `out`.

    Args:
        run: A finished `stcr eval` in mode direct, on a split that no figure is reported of.
        on: Those of the same model on other splits, on which the temperature is reported.
        out: Folder of the result.
        resamples: Of the bootstrap over episodes.
        seed: Of the bootstrap.

    Raises:
        DataError: An evaluation has no probabilities, is of another model or asked in another way, or shares episodes
            with `run`; or no temperature can be fitted, see `calibration.temperature_of`.
    """
    fitted, others = _finished(run), [_finished(one) for one in on]
    of = fitted.of
    if of.overlap is not None and of.overlap.leaks:
        raise DataError(
            fitted.where, "the model was trained on episodes or pictures of it", "fit on a split held out of training"
        )
    for other in others:
        _refuse_other(fitted, other)
    try:
        value, interval = calibration.temperature_of(fitted.margins, resamples=resamples, seed=seed)
    except DataError as error:
        raise DataError(fitted.where, error.problem, error.fix) from None
    wrong = int((fitted.margins.both_orders <= 0).sum())
    found = Temperature(
        name=of.name,
        model=of.model,
        temperature=value,
        interval=interval,
        fitted=FittedOn(
            str(run),
            of.dataset,
            of.split,
            n_pairs=len(fitted.margins.episodes),
            n_wrong=wrong,
            n_episodes=len(set(fitted.margins.episodes)),
            data_digest=of.data_digest,
        ),
        ties=of.ties,
        settings=_deciding(of.settings),
        reported=tuple(_reported(one, value, resamples=resamples, seed=seed) for one in others),
        seed=seed,
        resamples=resamples,
        engine=of.engine,
        model_digest=of.model_digest,
        provenance=provenance(),
    )
    found.write(Path(out) / Temperature.file)
    return found


def temperature_for(found: Temperature | None, engine: Engine, settings: AskSettings, *, ties: bool) -> float:
    """The temperature of a model's compared answers, 1 without a calibration.

    Args:
        found: The calibration.
        engine: Of the model that is asked.
        settings: How it is asked, completed by its stage.
        ties: Whether "neither" is offered.

    Raises:
        ConfigError: The calibration is of another model, or of one that was asked in another way.
    """
    if found is None:
        return 1.0
    here = _Judge(engine.identity(), {**settings.decides, "mode": settings.mode or "direct"}, ties)
    problem = _difference(_Judge(found.engine, found.settings, found.ties), here)
    if settings.mode == "cot" or settings.generate:
        problem = "answers are generated here, and it scales the probabilities of compared ones"
    if problem:
        raise ConfigError(f"calibration of {found.name}", problem, "fit one for this model and these settings")
    return found.temperature


def _finished(run: Path) -> _Finished:
    of, answers = Evaluation.read(run / RESULTS), read_answers(run / ANSWERS)
    if of.comparator is not None:
        raise DataError(run, f"an evaluation by the comparator {of.comparator.name!r}", "name one by `stcr eval`")
    found = calibration.margins(answers)
    if found is None:
        raise DataError(
            run, "its answers were generated, so that they have no probabilities", "evaluate in mode direct"
        )
    return _Finished(run, of, answers, found)


def _refuse_other(fitted: _Finished, other: _Finished) -> None:
    """Raise DataError where a temperature of `fitted` must not be reported on `other`."""
    mine, theirs = fitted.of, other.of
    same_data = mine.data_digest is not None and mine.data_digest == theirs.data_digest
    shared = {*fitted.margins.episodes} & {*other.margins.episodes} if mine.dataset == theirs.dataset else set()
    if same_data or shared or (mine.dataset, mine.split) == (theirs.dataset, theirs.split):
        problem = f"shares {len(shared)} episodes with the split that the temperature is fitted on"
        raise DataError(
            other.where,
            problem if shared else "is the split that the temperature is fitted on",
            "fit on one split, such as dev, and report on another",
        )
    if problem := _difference(fitted.judge, other.judge):
        raise DataError(other.where, f"{problem}, compared with {fitted.where}", "evaluate both alike")


def _difference(there: _Judge, here: _Judge) -> str:
    """What is different from the model and the settings that a temperature was fitted for, "" for nothing."""
    if _weights(there.engine) != _weights(here.engine):
        return "this is another model"
    asked, before = _deciding(here.settings), _deciding(there.settings)
    for key in (key for key in before if before[key] != asked.get(key)):
        return f"this is {key}={asked.get(key)} and not {key}={before[key]}"
    if there.ties != here.ties:
        return f'this is with{"" if here.ties else "out"} the answer "neither"'
    return ""


def _weights(engine: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the identities of engines for the same weights have in common."""
    digest = engine.get("model_digest")
    return (digest,) if digest else tuple(engine.get(key) for key in ("engine", "url", "model"))


def _deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in _NO_PROBABILITY}


def _reported(other: _Finished, temperature: float, *, resamples: int, seed: int) -> ReportedOn:
    raw, scaled = (
        calibration.calibration(other.answers, one, resamples=resamples, seed=seed) for one in (1.0, temperature)
    )
    assert raw
    assert scaled
    return ReportedOn(
        str(other.run),
        other.of.dataset,
        other.of.split,
        raw=raw,
        scaled=scaled,
        brier_change=calibration.brier_change(other.margins, temperature, resamples=resamples, seed=seed),
        data_digest=other.of.data_digest,
    )
