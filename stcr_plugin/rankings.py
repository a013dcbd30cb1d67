"""The results of ranking frames by progress: ranking.json of one strip, and voc.json of many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from stcr_plugin.figures import Intervals, OrderEffects, Tokens
from stcr_plugin.result_files import Omitted, Result


@dataclass(frozen=True)
class QueryCost:
    """What the answers of a ranking took.

    Attributes:
        queries: Prompts that were answered.
        pictures: Pictures in them, one that several prompts show counted in each.
        tokens: None where the engine counts none.
        money: In the currency of the engine's prices; None without prices.
    """

    queries: int
    pictures: int
    tokens: Tokens | None = None
    money: float | None = None


@dataclass(frozen=True)
class RankedFrame:
    """One frame of a ranking.

    Attributes:
        place: Its position in the strip, from 0.
        seconds: When it was taken; None where that is not known.
        progress: Of comparisons: share of the other frames that it is judged closer than. By another method: the value
            itself, such as a written percentage as a share. 0..1.
        score: Bradley-Terry score, or what the method reads, such as a log-probability.
        truth: True progress as a rank, 0..1; None where it is not known.
    """

    place: int
    frame: int
    seconds: float | None
    image: str
    progress: float
    progress_error: float | None = None
    score: float = 0.0
    score_error: float | None = None
    truth: float | None = None


@dataclass(frozen=True)
class RankedComparison:
    """Two frames by their positions; `outcome` is the probability that the second is closer."""

    first: int
    second: int
    outcome: float
    weight: float


@dataclass(frozen=True, kw_only=True)
class Ranking(Result):
    """The frames of one strip, ordered by how far along they are.

    Attributes:
        words: The result in a sentence or two.
        method: How the values were found: by comparisons of "pairs", or as `stcr rank --method` names it.
        order: The pictures, the farthest from completion first.
        correlation_with_time: Spearman's; None where the times are not known or all frames came out alike.
        correlation_with_truth: The same with the true progress.
        kendall_with_time: Kendall's tau-b likewise, as `kendall_with_truth`.
        n_comparisons: How many pairs of frames were compared.
        default_comparisons: How many comparisons are made by default.
        group: How many frames were shown at a time; 0 where it was two.
        pairwise_queries: Of groups: how many queries the same comparisons would need two at a time.
        temperature: What the log-odds of the answers were divided by (`stcr calibrate`).
        ridge: Of the Bradley-Terry fit.
        unread: How many frames got no value, and so the mean of the others.
    """

    file: ClassVar = "ranking.json"
    command: ClassVar = "stcr rank"

    words: str
    method: Omitted[str] = "pairs"
    episode_id: str
    task: str
    dataset: Omitted[str] = ""
    split: Omitted[str] = ""
    video: Omitted[str] = ""
    root: str = ""
    frames: tuple[RankedFrame, ...]
    order: tuple[str, ...] = ()
    correlation_with_time: float | None = None
    correlation_with_truth: float | None = None
    kendall_with_time: Omitted[float | None] = None
    kendall_with_truth: Omitted[float | None] = None
    n_comparisons: int = 0
    default_comparisons: int = 0
    group: Omitted[int] = 0
    pairwise_queries: Omitted[int] = 0
    temperature: Omitted[float] = 1.0
    answers: OrderEffects | None = None
    comparisons: tuple[RankedComparison, ...] = ()
    unread: Omitted[int] = 0
    cost: Omitted[QueryCost | None] = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    ridge: float | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    data_digest: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StripCorrelations:
    """Rank correlations of one strip with time; None where all its frames came out alike."""

    episode_id: str
    task: str
    frames: tuple[int, ...]
    voc: float | None
    vroc: float | None
    voc_both: float | None


@dataclass(frozen=True, kw_only=True)
class ValueOrder(Result):
    """Value-order correlations of many strips, see evaluation.rank.value_order.

    Attributes:
        method: As of a Ranking.
        meanings: Name of each correlation -> what it is.
        undefined: Name of each correlation -> strips whose frames all came out alike, which count as 0.
        unread: How many frames got no value, of both directions.
    """

    file: ClassVar = "voc.json"
    command: ClassVar = "stcr rank --voc"

    name: str = ""
    method: Omitted[str] = "pairs"
    voc: float
    vroc: float
    voc_f1: float
    voc_both: float
    intervals: Intervals
    meanings: Mapping[str, str] = field(default_factory=dict)
    undefined: Mapping[str, int] = field(default_factory=dict)
    n_episodes: int
    n_strips: int
    n_comparisons: int = 0
    answers: OrderEffects | None = None
    unread: Omitted[int] = 0
    cost: Omitted[QueryCost | None] = None
    per_strip: tuple[StripCorrelations, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    resamples: int = 2000
    ridge: float | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    data_digest: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
