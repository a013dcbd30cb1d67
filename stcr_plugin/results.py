"""The result of every measurement, each one JSON file that `read` and `write` know. Units: as in figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from stcr_plugin.calibration_results import Calibration
from stcr_plugin.figures import (
    NOTHING_SHARED,
    Breakdowns,
    Difference,
    EpisodeFigures,
    Factuality,
    Figures,
    GroupFigures,
    GroupPart,
    GroupSettings,
    GuardKind,
    Intervals,
    Measure,
    Nearness,
    PairFigures,
    Permutation,
    Shared,
    Tokens,
    Verdict,
)
from stcr_plugin.result_files import Inline, Key, Omitted, Result

# ---- what two datasets share ----


@dataclass(frozen=True)
class Overlap(Result):
    """What the sides `trained` and `evaluated` share; `near` is None where a side has no pictures."""

    file: ClassVar = "overlap.json"
    command: ClassVar = "stcr data overlap"

    trained: str
    evaluated: str
    episodes: Shared
    pictures: Shared
    questions: Shared = NOTHING_SHARED
    tasks: Shared = NOTHING_SHARED
    near: Nearness | None = None

    @property
    def leaks(self) -> bool:
        """Whether an episode or a picture is on both sides."""
        return bool(self.episodes.shared or self.pictures.shared)


@dataclass(frozen=True)
class TrainingOverlap:
    """What an evaluation shares with all that the model's chain was trained on.

    Attributes:
        found: Against the part of the training that is known; None where none is.
        unknown: Why a part of the training is not known, "" where all is.
    """

    found: Inline[Overlap | None] = None
    unknown: Omitted[str] = ""

    @property
    def leaks(self) -> bool:
        """Whether the model was trained on an episode or a picture that it is evaluated on."""
        return self.found is not None and self.found.leaks


# ---- one evaluation: results.json ----


@dataclass(frozen=True)
class ClaimAccount:
    """What a model wrote, against the true states of the build's source.

    Attributes:
        found: None where the truth is not known.
        unknown: Why it is not, "" where it is.
    """

    found: Inline[Factuality | None] = None
    unknown: Omitted[str] = ""


@dataclass(frozen=True)
class PlainAccuracy:
    """What the plain prompt gives on the same pairs; `difference` is the comparator's pair accuracy minus it."""

    pair_accuracy: float
    mean_accuracy: float
    difference: Difference


@dataclass(frozen=True)
class ComparatorAccount:
    """How a comparator evaluated, and how its accuracy compares with that of the plain prompt.

    Attributes:
        mean_accuracy: Half the sum of forward and backward accuracy; 50 for any judge that goes by position alone.
        plain: None where the plain prompt was not evaluated.
        variants: Name -> what is done to the pictures of a prompt. For the others see comparators.Comparator.
    """

    name: str
    does: str
    source: str
    variants: Mapping[str, str]
    weight: float | None
    weight_of: str
    plausible: float
    mean_accuracy: float
    plain: PlainAccuracy | None


@dataclass(frozen=True, kw_only=True)
class Evaluation(Result):
    """One evaluation of single pairs.

    Attributes:
        name: What tables call the model.
        model: Its folder, or its name at a server.
        ties: Whether "neither" is offered as an answer.
        figures: Of all pairs; `intervals` are theirs.
        parts: The same by task, distance and phase.
        p_gap: How often a gap as large comes about where both orders are alike.
        settings: Fields of engines.settings.AskSettings.
        limit: How many pairs were to be evaluated at most; None for all.
        tokens: Sums over the answers whose tokens were counted; None where none were.
        cost: In the currency of the engine's prices; None without prices.
        calibration: Of the answers' probabilities; None where answers were not compared.
        claims: What the answers say of the pictures; None where none of them gives reasons.
        engine: The engine's identity.
    """

    file: ClassVar = "results.json"
    command: ClassVar = "stcr eval"

    name: str
    model: str = ""
    dataset: str
    split: str
    mode: Literal["cot", "direct"]
    ties: bool = False
    unit: str = "percent"
    figures: Inline[Figures]
    intervals: Intervals | None = None
    parts: Inline[Breakdowns]
    p_gap: Permutation | None = None
    per_episode: tuple[EpisodeFigures, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    resamples: int = 2000
    limit: int | None = None
    comparator: ComparatorAccount | None = None
    tokens: Tokens | None = None
    cost: float | None = None
    overlap: TrainingOverlap | None = None
    calibration: Omitted[Calibration | None] = None
    claims: Omitted[ClaimAccount | None] = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    model_digest: str | None = None
    data_digest: str | None = None
    questions_digest: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


# ---- groups of pictures: groups.json ----


@dataclass(frozen=True, kw_only=True)
class MultiImage(Result):
    """One evaluation with groups of three and more pictures. `chance` is what a coin gets; the rest as Evaluation."""

    file: ClassVar = "groups.json"
    command: ClassVar = "stcr multi-image"

    name: str
    model: str = ""
    dataset: str
    split: str
    mode: Literal["cot", "direct"] = "direct"
    asked: Inline[GroupSettings]
    figures: Inline[GroupFigures]
    intervals: Intervals | None
    chance: Mapping[str, float]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    resamples: int = 2000
    limit: int | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    model_digest: str | None = None
    data_digest: str | None = None
    questions_digest: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


# ---- controls: controls.json ----


@dataclass(frozen=True)
class ControlRow:
    """One control.

    Attributes:
        asks: What the model is asked.
        looks: What a model that looks at the pictures would do.
        fix: Which training data would fix a failure.
        rule: How the verdict is reached.
        why: The figures that the verdict was reached by.
        informative: It shows what the model uses; none of its outcomes is a fault.
        figures: Of this run; None where nothing was evaluated.
        left_out: Pairs that it does not apply to.
        folder: Where its own results are, relative to that of the controls.
    """

    name: str
    asks: str
    looks: str
    fix: Annotated[str, Key("mends")]
    rule: str
    verdict: Verdict
    why: str
    informative: bool = False
    measures: Mapping[str, Measure] = field(default_factory=dict)
    figures: PairFigures | GroupPart | None = None
    left_out: int = 0
    folder: str = ""

    @property
    def at_fault(self) -> bool:
        """Whether its verdict speaks against the model."""
        return self.verdict in ("fails", "not shown") and not self.informative


@dataclass(frozen=True, kw_only=True)
class ControlsOf:
    """The plain run that the controls belong to: all that decides their rows."""

    name: str = ""
    model: str = ""
    dataset: str = ""
    split: str = ""
    mode: str | None = None
    seed: int = 0
    resamples: int = 2000
    limit: int | None = None
    n_pairs: int | None = None
    n_episodes: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    data_digest: str | None = None
    questions_digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class Controls(Result):
    """The controls of one model on one split."""

    file: ClassVar = "controls.json"
    command: ClassVar = "stcr controls"

    of: ControlsOf
    unit: str = "percent"
    rows: tuple[ControlRow, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)


# ---- general ability: guard.json, compare.json ----


@dataclass(frozen=True, kw_only=True)
class Guard(Result):
    """Yes/no questions about single pictures.

    Attributes:
        questions: POPE's files, or which simulated scenes.
        kinds: Kind of negatives ("random", "popular", ...) -> its figures; "all" has every question once per kind.
    """

    file: ClassVar = "guard.json"
    command: ClassVar = "stcr guard"

    name: str
    model: str = ""
    questions: str | tuple[str, ...]
    questions_digest: str = ""
    n_pictures: int
    unit: str = "percent"
    kinds: Mapping[str, GuardKind]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    resamples: int = 2000
    engine: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GuardDifference:
    """Accuracy of the guard in the folder `run` minus that of the first one, by kind of negatives."""

    name: str
    run: str
    kinds: Mapping[str, Difference]


@dataclass(frozen=True, kw_only=True)
class GuardComparison(Result):
    """Several guards on the same questions, and what each but the first differs from the first by."""

    file: ClassVar = "compare.json"
    command: ClassVar = "stcr guard --compare"

    runs: tuple[Guard, ...]
    differences: tuple[GuardDifference, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
