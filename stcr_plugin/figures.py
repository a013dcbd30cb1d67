"""The figures of every measurement, as its result has them.

Rates and accuracies are percent, 0..100; differences are percentage points, signed. Intervals are (low, high) at 95 %,
by bootstrap over episodes (of the guard: over pictures). A figure or an interval that cannot be computed is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from stcr_plugin.config import settings
from stcr_plugin.result_files import Inline, Omitted

Bounds = tuple[float, float]
Intervals = Mapping[str, Bounds]
"""Name of a figure -> (low, high); figures without an interval are not in it."""
Verdict = Literal["holds", "fails", "not shown", "not applicable"]
FEWEST, MOST = 3, 8
"""Pictures in a group."""


# ---- where the texts of a training set come from ----


@dataclass(frozen=True)
class TextCounts:
    """What was asked of the annotated texts of some pairs before they were used. No recorded state says they are true.

    Attributes:
        pairs: Pairs whose two texts are in the set, each counted once in what follows.
        by_checks: Accepted since no check failed; no person decided.
        by_person: Accepted by a person.
        passed: Check -> pairs whose texts passed it; a check that was not made is not in it.
        describers: Name of the model that wrote the texts -> pairs.
        verifiers: Name of the model that checked them -> pairs.
    """

    pairs: int = 0
    by_checks: int = 0
    by_person: int = 0
    passed: dict[str, int] = field(default_factory=dict)
    describers: dict[str, int] = field(default_factory=dict)
    verifiers: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class AnnotatedTexts:
    """The file of annotated texts that a training set was made of, its SHA-256, and what is known of the texts."""

    file: str
    digest: str
    counts: TextCounts


# ---- figures of pairs ----


@dataclass(frozen=True)
class Figures:
    """The figures of one set of answers. Rates are percent, 0..100; the gap is in percentage points, signed.

    Forward is a pair shown in time order, backward the same pair swapped, whichever of its frames is closer to
    completion: where that is the earlier one, the right answers are img1 forward and img2 backward. The more such
    pairs, the less the gap shows of order bias ("always img2" has a gap of 0 where they are half), while position
    bias, order consistency and pair accuracy show it as before.
    An unparsed answer, and "neither" to a pair that is not a tie, counts as wrong, breaks its pair's order consistency
    (which needs the same frame twice), and is not "img2" for position bias. n_queries and unparsed_rate are of all
    pairs, n_ties and tie_accuracy of ties, the other figures of pairs without ties.

    Attributes:
        forward_accuracy: Share of the pairs answered right when shown in time order.
        backward_accuracy: The same when shown swapped.
        gap_points: Forward minus backward accuracy.
        pair_accuracy: Share of the pairs answered right in both orders.
        order_consistency: Share of the pairs of which both orders choose the same frame.
        position_bias: Share of the answers that are "img2".
        unparsed_rate: Share of the answers that name no picture, or both.
        cut_rate, refused_rate: Of these, as shares of all answers: cut at the most tokens before they named a picture;
            refused by a content filter or by the model.
        tie_accuracy: Share of the ties answered "neither" in both orders; None without ties.
        neither_rate: Share of the queries about other pairs that are answered "neither".
        earlier_closer_accuracy: Pair accuracy of the n_closer_earlier pairs whose earlier frame is closer: a judge of
            progress is right there, a judge of which frame came later has 0 %. None without such pairs.
        later_closer_accuracy: The same of the pairs whose later frame is closer; None without pairs of both kinds.
        clock_accuracy: Pair accuracy of a clock, which always names the frame recorded later; None where that is 100 %.
        published_accuracy: Share of the answers right in the order in which a pair was published; None where in both.
        both_texts_accuracy: Share of the n_both_texts pairs of frames shown under two task texts with opposite answers
            that are answered right in both orders under both; None without such.
    """

    forward_accuracy: float
    backward_accuracy: float
    gap_points: float
    pair_accuracy: float
    order_consistency: float
    position_bias: float
    unparsed_rate: float
    n_pairs: int
    n_episodes: int
    n_queries: int
    n_ties: int = 0
    tie_accuracy: float | None = None
    neither_rate: float = 0.0
    n_closer_earlier: int = 0
    earlier_closer_accuracy: float | None = None
    later_closer_accuracy: Omitted[float | None] = None
    clock_accuracy: Omitted[float | None] = None
    published_accuracy: Omitted[float | None] = None
    both_texts_accuracy: Omitted[float | None] = None
    n_both_texts: Omitted[int] = 0
    cut_rate: Omitted[float] = 0.0
    refused_rate: Omitted[float] = 0.0


@dataclass(frozen=True)
class PairFigures:
    """Figures with their intervals; None where no figure has one."""

    figures: Inline[Figures]
    intervals: Intervals | None = None


@dataclass(frozen=True)
class EpisodeFigures:
    episode_id: str
    figures: Inline[Figures]


@dataclass(frozen=True)
class TaskFigures:
    task: str
    figures: Inline[Figures]
    intervals: Intervals | None = None


@dataclass(frozen=True)
class WindowFigures:
    """Pairs whose frames are `seconds` apart, [from, below); `steps` is the window's name, None without an end."""

    steps: str
    seconds: tuple[float, float | None]
    figures: Inline[Figures]
    intervals: Intervals | None = None


@dataclass(frozen=True)
class QuarterFigures:
    """A quarter of the pairs by distance; `seconds` is the smallest and the largest distance in it."""

    seconds: Bounds
    figures: Inline[Figures]
    intervals: Intervals | None = None


@dataclass(frozen=True)
class PhaseCell:
    """Pairs whose earlier frame is in the phase `earlier` and whose later frame is in the phase `later`."""

    earlier: str
    later: str
    figures: Inline[Figures]
    intervals: Intervals | None = None


@dataclass(frozen=True)
class LeftOut:
    """How many tasks, and how many of their pairs, have no row of their own."""

    tasks: int = 0
    pairs: int = 0


@dataclass(frozen=True)
class ByTask:
    tasks: tuple[TaskFigures, ...] = ()
    left_out: LeftOut = LeftOut()


@dataclass(frozen=True)
class ByDistance:
    windows: tuple[WindowFigures, ...] = ()
    quarters: tuple[QuarterFigures, ...] = ()


@dataclass(frozen=True)
class Breakdowns:
    """The parts of an evaluation, see scoring.breakdown.breakdowns.

    Attributes:
        by_task: Most pairs first.
        by_distance: Windows of steps, and quarters of about equal size.
        by_phase: "within" one phase, and "crossing" from one to another; empty where no phase is known.
        phase_cells: The same pairs for each phase of the earlier and of the later frame, most pairs first.
    """

    by_task: ByTask | None = None
    by_distance: ByDistance | None = None
    by_phase: Mapping[str, PairFigures] | None = None
    phase_cells: tuple[PhaseCell, ...] | None = None


@dataclass(frozen=True)
class Difference:
    """Pair accuracy of one set of answers minus another's over the same pairs, in points, with its interval."""

    points: float
    interval: Bounds | None


@dataclass(frozen=True)
class Permutation:
    """The p-value of a permutation test.

    Attributes:
        p: Two-sided.
        method: All permutations ("exact"), or random ones ("monte carlo").
        permutations: How many were used.
        clusters: How many have a difference that is not 0; the others decide nothing.
    """

    p: float
    method: Literal["exact", "monte carlo"]
    permutations: int
    clusters: int


@dataclass(frozen=True)
class Tokens:
    prompt: int
    completion: int


# ---- of two datasets, groups, controls, yes/no questions, rankings ----


@dataclass(frozen=True)
class Shared:
    """How many of one thing occur on both sides, how many each side has, and the first ten shared ones by name."""

    shared: int
    trained: int
    evaluated: int
    named: tuple[str, ...] = ()


NOTHING_SHARED = Shared(0, 0, 0)


@dataclass(frozen=True)
class Nearness:
    """How near the evaluated pictures are to the training's. Distances in bits of 256, shares in percent.

    Attributes:
        sampled: How many evaluated pictures were compared, out of `evaluated`, against all `trained`.
        neighbours: The median distance between neighbouring frames of one training episode, which are `gap` native
            frames apart (median); None where no episode has two. A build keeps only the frames that its pairs use.
        share: Of evaluated pictures whose nearest training picture is nearer than `neighbours` (or than reach + 1,
            where that is less); None without `neighbours`.
        median: Of the distances to the nearest training picture; reach + 1 stands for all that are above `reach`.
        share_within: `share` of training pictures against those of the other training episodes; None with one episode.
        median_within: `median` of the same.
        reach: The greatest distance that the search finds for certain.
    """

    sampled: int
    evaluated: int
    trained: int
    neighbours: float | None
    gap: float | None
    share: float | None
    median: float
    share_within: float | None
    median_within: float | None
    reach: int = 47


@settings
class GroupSettings:
    """Which questions are asked about groups of pictures.

    Attributes:
        rotations: Arrangements of each group; with fewer than all, positions and frames are no longer balanced in it.
    """

    pictures: int = field(default=3, metadata={"help": "pictures per group, 3 to 8"})
    ask: Literal["closest", "order"] = field(
        default="closest", metadata={"help": "ask for the closest picture, or for the order of all"}
    )
    per_episode: int = field(default=4, metadata={"help": "at most N groups per episode"})
    rotations: int | None = field(default=None, metadata={"help": "rotations per group (default: all)"})

    def __post_init__(self) -> None:
        if not FEWEST <= self.pictures <= MOST:
            raise ValueError(f"pictures must be {FEWEST} to {MOST}, got {self.pictures}")
        if self.per_episode < 1:
            raise ValueError("per_episode must be at least 1")
        if self.rotations is not None and not 1 <= self.rotations <= self.pictures:
            raise ValueError(f"rotations must be 1 to {self.pictures}, one per picture, got {self.rotations}")


@dataclass(frozen=True)
class GroupFigures:
    """The figures of answers about groups. What a coin gets is beside them, in `chance`.

    Attributes:
        accuracy: Share of the answers whose named (or first listed) picture is the closest.
        all_rotations: Share of the groups answered so in every arrangement.
        places: How often each position was named.
        place_chi2: Pearson's chi-square of `places` against equal numbers; None where no position was named. The
            answers to one group are not independent, so `place_p` describes and does not test.
        exact: Share of the orders that are right from first to last; None where orders were not asked for.
        kendall_tau: Mean tau-b of the listed and the true order, -1..1; an unparsed answer counts as 0. None likewise.
    """

    accuracy: float
    all_rotations: float
    places: tuple[int, ...]
    place_chi2: float | None
    place_p: float | None
    unparsed_rate: float
    exact: float | None
    kendall_tau: float | None
    n_groups: int
    n_episodes: int
    n_queries: int
    cut_rate: Omitted[float] = 0.0
    refused_rate: Omitted[float] = 0.0


@dataclass(frozen=True)
class GroupPart:
    """Figures of groups as a row of the controls has them."""

    figures: Inline[GroupFigures]
    intervals: Intervals | None = None
    chance: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """A figure in percent or points with its interval; None: nothing to compute it from, or a single episode."""

    value: float | None
    interval: Bounds | None = None

    @property
    def low(self) -> float:
        return self.interval[0] if self.interval else -math.inf

    @property
    def high(self) -> float:
        return self.interval[1] if self.interval else math.inf


@dataclass(frozen=True)
class ClaimFigures:
    """The `n` claims of one family, and the share of them that is true.

    Attributes:
        off: Mean distance of their numbers from those of a true description, in their unit; None for words.
    """

    n: int
    true: Measure
    off: float | None = None


@dataclass(frozen=True)
class AnswerCauses:
    """What the deciding claims of wrong answers are, or of right ones.

    A claim decides where it is about something in which the two pictures differ, in truth or by the answer.

    Attributes:
        seeing: A deciding claim is false.
        judging: All deciding claims are true, so that a wrong conclusion comes from the judgment.
        unknown: Nothing is said that decides, or some of it cannot be read.
    """

    seeing: int = 0
    judging: int = 0
    unknown: int = 0


@dataclass(frozen=True)
class Factuality:
    """What a model wrote of its pictures against their true states, in percent.

    Attributes:
        claims_true: Of the claims in its answers; with false and unreadable ones they are 100.
        claims_missing: Share of the claims of a true description about which an answer says nothing.
        families: Family of claims -> its figures.
        n_undescribed: Answers that describe no picture.
        right: How many right answers have such claims: only a cause that is rarer among them explains wrong ones.
    """

    claims_true: Measure
    claims_false: Measure
    claims_unreadable: Measure
    claims_missing: Measure
    families: Mapping[str, ClaimFigures]
    wrong: AnswerCauses
    n_claims: int
    n_answers: int
    n_undescribed: int
    right: AnswerCauses | None = None


@dataclass(frozen=True)
class YesNoFigures:
    """The figures of yes/no questions as POPE defines them (Li et al. 2023, arXiv 2305.10355), yes being positive.

    Attributes:
        accuracy: An answer that says neither counts as wrong.
        precision: None where nothing was answered yes.
        f1: Harmonic mean of precision and recall.
        yes_ratio: Share of the answers that are yes; 50 is unbiased.
    """

    accuracy: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    yes_ratio: float | None
    unparsed_rate: float | None
    cut_rate: Omitted[float] = 0.0
    refused_rate: Omitted[float] = 0.0


@dataclass(frozen=True)
class GuardKind:
    """The `n` questions of one kind of negatives."""

    n: int
    figures: Inline[YesNoFigures]
    intervals: Intervals = field(default_factory=dict)


@dataclass(frozen=True)
class OrderEffects:
    """What the order of the pictures did to the answers, also in `words`."""

    order_consistency: float
    position_bias: float
    unparsed_rate: float
    n_queries: int
    words: str
