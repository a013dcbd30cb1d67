"""How far a judge's probabilities can be taken at their word: figures, and the results of `stcr calibrate`.

Shares and accuracies are percent, 0..100; Brier scores, thresholds and areas under a curve are 0..1.
Intervals are (low, high) at 95 %: of judgments by bootstrap over episodes, of counted episodes Wilson's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from stcr_plugin.figures import Bounds, Intervals, Measure
from stcr_plugin.result_files import Result


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions of similar probability, and how many of them came true.

    Attributes:
        n: How many.
        predicted: Their mean probability, percent.
        observed: Share that came true; `interval` is its.
        coverage: Share of all predictions that are at least as probable as these.
        observed_above: Share of those that came true; `interval_above` is its.
        least: The smallest probability of these, percent.
    """

    n: int
    predicted: float
    observed: float
    interval: Bounds | None
    coverage: float
    observed_above: float
    interval_above: Bounds | None
    least: float


@dataclass(frozen=True)
class ProbabilityFigures:
    """Probabilities against what came true. Of a judgment: the probability of its own choice, 50 and more.

    Attributes:
        brier: Mean squared difference of probability and outcome, 0..1 (Brier 1950): 0 for a judge that is sure and
            right, 0.25 for one that always says 50 %.
        calibration_error: Expected calibration error, in points: mean distance of `predicted` and `observed` over the
            bins, each weighted by its size (Naeini, Cooper & Hauskrecht 2015, AAAI). Resampling adds noise to it, so
            that its interval lies too high, and may be above it, where it is not much more than `error_by_noise`.
        error_by_noise: What the same probabilities would show of it on so few predictions if they were exactly right.
        predicted: Mean probability, percent.
        observed: Share that came true; of judgments the accuracy, half for one that favours neither picture.
        intervals: Of brier, calibration_error, predicted and observed.
        bins: Of about equal size, the least probable first; equal probabilities are in one bin.
    """

    brier: float
    calibration_error: float
    error_by_noise: float
    predicted: float
    observed: float
    n: int
    n_episodes: int
    intervals: Intervals
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class Calibration:
    """The probabilities that compared answers give, of pairs that are not ties.

    Attributes:
        both_orders: Of pairs, by the mean log-odds of both orders: what `stcr judge` and `stcr rank` use.
        one_order: Of single answers.
    """

    both_orders: ProbabilityFigures
    one_order: ProbabilityFigures


# ---- temperature.json ----


@dataclass(frozen=True)
class FittedOn:
    """The evaluation that a temperature was fitted on; `n_wrong` pairs of it are judged wrong or undecided."""

    run: str
    dataset: str
    split: str
    n_pairs: int
    n_wrong: int
    n_episodes: int
    data_digest: str | None = None


@dataclass(frozen=True)
class ReportedOn:
    """What a temperature does on another split, and the change of the Brier score of both orders by it."""

    run: str
    dataset: str
    split: str
    raw: Calibration
    scaled: Calibration
    brier_change: Measure
    data_digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class Temperature(Result):
    """A number that the log-odds of compared answers are divided by, for one model asked in one way.

    Attributes:
        temperature: Above 1 for a judge that is too sure of itself.
        ties: Whether "neither" was offered as an answer.
        settings: Those of engines.settings.AskSettings that may change an answer.
        reported: On other splits than the one that it was fitted on.
    """

    file: ClassVar = "temperature.json"
    command: ClassVar = "stcr calibrate"

    name: str
    model: str = ""
    temperature: float
    interval: Bounds
    fitted: FittedOn
    ties: bool = False
    settings: Mapping[str, Any]
    reported: tuple[ReportedOn, ...] = ()
    seed: int = 0
    resamples: int = 2000
    engine: Mapping[str, Any] = field(default_factory=dict)
    model_digest: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")


# ---- thresholds.json ----


@dataclass(frozen=True)
class SuccessFigures:
    """A threshold on held-out episodes; one that reaches it is a predicted success.

    Attributes:
        precision: Share of the predicted successes that are successes; None where none is predicted.
        recall: Share of the successes that are predicted.
        auc: Area under the ROC curve, 0..1: share of the pairs of a success and a failure whose success is more
            probable, equal ones by half. It needs no threshold.
        n_predicted: How many successes are predicted.
    """

    precision: Measure
    recall: Measure
    auc: Measure
    n_predicted: int
    n_successes: int
    n_failures: int


@dataclass(frozen=True)
class TaskThreshold:
    """The threshold of one task.

    Attributes:
        threshold: Least probability of a success; None where none is given.
        why: Why none is given, "" where one is.
        n_successes: Of the episodes that it was fitted on, as `n_failures`.
        precision: On those; its interval starts at the precision that was demanded, or above.
        heldout: On the other episodes.
    """

    task: str
    threshold: float | None
    why: str
    n_successes: int
    n_failures: int
    precision: Measure | None = None
    heldout: SuccessFigures | None = None


@dataclass(frozen=True, kw_only=True)
class Thresholds(Result):
    """Thresholds of success, one per task.

    Attributes:
        success: The file of probabilities.
        labels: The table of labels.
        precision: What was demanded, 0..1.
        fewest: Successes, and failures, that a task needs in the part that is fitted on.
        parts: Whether the table or a hash says which episodes are fitted on.
        unlabelled: Rows of the file of probabilities that the table does not label.
    """

    file: ClassVar = "thresholds.json"
    command: ClassVar = "stcr calibrate --labels"

    success: str
    labels: str
    precision: float
    fewest: int
    parts: Literal["table", "hash"]
    seed: int
    unlabelled: int
    tasks: tuple[TaskThreshold, ...]
    success_digest: str
    labels_digest: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
