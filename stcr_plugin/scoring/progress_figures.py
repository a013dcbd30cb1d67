"""Progress curves of episodes -> how far they agree with the truth or with time, and separate failures from successes.

Beside each figure is that of a clock, the curve that rises evenly with time, which looks at nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from stcr_plugin.artefacts import rng
from stcr_plugin.scoring.metrics import pooled_interval
from stcr_plugin.scoring.rank_correlation import correlation, kendall

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

BOUND = 0.1
"""Of the rules of the controls of progress, see robotics/progress_controls.py."""
SHARE = 0.95
"""Of the way from the lowest true progress at a start to the highest at an end: what an episode that succeeds ends at
or above."""
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Trace:
    """The curve of one episode.

    Attributes:
        frames: Numbers of its anchors.
        progress: At each of them, 0..1.
        truth: Their true progress, greater is further; empty where the source does not record it.
        disagreement: Mean share of comparisons in which the two orders choose different frames.
    """

    episode_id: str
    frames: tuple[int, ...]
    progress: tuple[float, ...]
    truth: tuple[float, ...] = ()
    disagreement: float = 0.0


@dataclass(frozen=True)
class ProgressControl:
    """One control over the sampled episodes.

    Attributes:
        name: One of robotics.progress_controls.
        value: Of the judge, mean over episodes.
        clock: Of a curve that rises evenly with the time shown.
        constant: Of a curve that is 1/2 everywhere.
        at_least: The rule: `value` at least BOUND; otherwise at most.
    """

    name: str
    value: float
    clock: float
    constant: float
    at_least: bool
    n_episodes: int

    @property
    def passed(self) -> bool:
        return self.value >= BOUND if self.at_least else self.value <= BOUND


@dataclass(frozen=True)
class ProgressFigures:
    """Figures of many curves, means over episodes with 95 % intervals by bootstrap over episodes.

    Attributes:
        against: What tau is a rank correlation with.
        tau: Kendall's tau-b; a curve whose values are all alike counts as 0 and in `flat`.
        tau_clock: That of the clock; against time it is 1 by definition.
        auc: Probability that a success ends higher than a failure (ties count half); None without both kinds.
        ends: Mean end of successes minus mean end of failures, on the scale of progress; None likewise.
        voc: Spearman's correlation with time, the last of the figures: any rising output maximises it.
        disagreement: Mean over episodes, 0..1.
    """

    against: Literal["true progress", "time"]
    n_episodes: int
    flat: int
    tau: float
    tau_interval: Bounds | None
    tau_clock: float
    n_success: int
    n_failure: int
    auc: float | None
    auc_interval: Bounds | None
    ends: float | None
    ends_interval: Bounds | None
    voc: float
    disagreement: float
    mean_end: float


def progress_figures(traces: Sequence[Trace], *, seed: int = 0, resamples: int = 2000) -> ProgressFigures | None:
    """The figures of curves of at least two anchors each; None of no curve.

    Against the true progress where at least one episode has it, and then over those that have it. A success ends at
    `SHARE` of the way or above, by the true progress of these episodes.
    """
    import numpy as np

    known = [one for one in traces if one.truth]
    used = known or list(traces)
    if not used:
        return None
    taus = [kendall(one.progress, one.truth or one.frames) for one in used]
    clocks = [kendall(one.frames, one.truth or one.frames) or 0.0 for one in used]
    values = np.array([value or 0.0 for value in taus])
    ends = np.array([one.progress[-1] for one in used])
    done = succeeded(known)
    both = bool(done) and 0 < sum(done) < len(done)
    success = np.array(done if both else [], dtype=bool)
    measured = ends if both else np.array([])
    return ProgressFigures(
        against="true progress" if known else "time",
        n_episodes=len(used),
        flat=sum(value is None for value in taus),
        tau=_rounded(values.mean()),
        tau_interval=_of_episodes(used, values, seed=seed, resamples=resamples),
        tau_clock=_rounded(np.mean(clocks)),
        n_success=int(success.sum()),
        n_failure=int((~success).sum()),
        auc=_rounded(auc(measured, success)) if both else None,
        auc_interval=_by_end(auc, measured, success, seed=seed, resamples=resamples),
        ends=_rounded(_difference(measured, success)) if both else None,
        ends_interval=_by_end(_difference, measured, success, seed=seed, resamples=resamples),
        voc=_rounded(np.mean([correlation(one.progress, one.frames) or 0.0 for one in used])),
        disagreement=_rounded(np.mean([one.disagreement for one in used])),
        mean_end=_rounded(ends.mean()),
    )


def succeeded(traces: Sequence[Trace]) -> list[bool]:
    """Of each episode whose true progress is known: whether it ends at `SHARE` of the way or above."""
    if not traces:
        return []
    low, high = min(one.truth[0] for one in traces), max(one.truth[-1] for one in traces)
    return [one.truth[-1] >= low + SHARE * (high - low) for one in traces]


def auc(values: Floats, positive: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in which the positive is higher, ties half.

    It is Mann & Whitney's U divided by the number of pairs; Hanley & McNeil 1982, Radiology 143, 29-36.
    """
    import numpy as np

    highs, lows = values[positive], np.sort(values[~positive])
    won = np.searchsorted(lows, highs, side="left").sum() + np.searchsorted(lows, highs, side="right").sum()
    return float(won / 2 / (len(highs) * len(lows)))


def _difference(values: Floats, positive: npt.NDArray[np.bool_]) -> float:
    return float(values[positive].mean() - values[~positive].mean())


def _by_end(measure: Callable[[Any, Any], float], ends: Floats, success: Any, *, seed: int, resamples: int) -> Any:
    """The interval of a measure over episodes that succeed or fail, each kind drawn by itself."""
    import numpy as np

    if min(int(success.sum()), int((~success).sum())) < 2:
        return None
    kinds = [np.flatnonzero(success), np.flatnonzero(~success)]
    generator = rng("ends", seed)
    drawn = [np.concatenate([generator.choice(kind, len(kind)) for kind in kinds]) for _ in range(resamples)]
    return _percentiles([measure(ends[rows], success[rows]) for rows in drawn])


def _of_episodes(traces: Sequence[Trace], values: Floats, *, seed: int, resamples: int) -> Bounds | None:
    """The interval of a mean over episodes."""
    sums = {one.episode_id: (float(value), 1.0) for one, value in zip(traces, values, strict=True)}
    bounds = pooled_interval(sums, resamples, seed)
    return bounds and (_rounded(bounds[0] / 100), _rounded(bounds[1] / 100))


def _percentiles(values: Sequence[float]) -> Bounds:
    import numpy as np

    low, high = np.percentile(values, (2.5, 97.5))
    return _rounded(low), _rounded(high)


def _rounded(value: Any) -> float:
    return round(float(value), 6)
