"""What the labels of a dataset's progress are worth, in words for a terminal: figures first, with a clock's beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from stcr_plugin.scoring.progress_figures import BOUND, ProgressControl, ProgressFigures
from stcr_plugin.types import Exclusion

MEANINGS: Mapping[str, str] = {
    "still": "one repeated frame: highest minus lowest progress",
    "dropped": "three of four frames left out of the second half: change of progress at the same frames",
    "reversed": "the video backwards: change of progress at the same frames",
    "shuffled": "the frames in a random order: change of progress at the same frames",
    "cut": "the first half alone, which fails: how much lower it ends",
}
RELATIVE = (
    "Progress is relative to each episode, since nothing links the episodes: a failed one also ends high. "
    "Name demonstrations with --reference, or a picture of the finished task with --goal, to change that."
)
VOC = (
    "VOC, the correlation with time, is last: any output that rises maximises it, also for a video of one repeated "
    "frame from a model that reads the order of its frames."
)


def progress_words(
    counts: Mapping[str, int],
    figures: ProgressFigures | None,
    controls: Sequence[ProgressControl],
    *,
    relative: bool,
    skipped: Sequence[Exclusion] = (),
) -> str:
    """The whole text: what was labelled, what its progress rests on, the figures, the controls."""
    ratio = counts["all_pairs"] / max(1, counts["queries"])
    parts = [
        f"{counts['episodes']} episodes, {counts['frames']} frames: {counts['anchors']} of them compared by "
        f"{counts['queries']} queries (all pairs: {counts['all_pairs']}, {ratio:.1f} times as many).",
        *_skipped(skipped),
        *([RELATIVE] if relative else []),
        *(_figures(figures) if figures else []),
        *_controls(controls),
    ]
    return "\n".join(parts)


def _skipped(skipped: Sequence[Exclusion]) -> list[str]:
    if not skipped:
        return []
    reasons = Counter(one.reason for one in skipped)
    listed = [f"  {count} x {reason}" for reason, count in reasons.most_common(5)]
    more = [f"  and {len(reasons) - 5} other reasons"] if len(reasons) > 5 else []
    return [f"{len(skipped)} skipped; the progress of their frames is NaN (weight 1 in LeRobot):", *listed, *more]


def _figures(of: ProgressFigures) -> list[str]:
    clock = f"clock {of.tau_clock:+.2f}" + (" by definition" if of.against == "time" else "")
    flat = f"; {of.flat} curves are flat" if of.flat else ""
    lines = [
        f"Kendall's tau with {'the ' if of.against != 'time' else ''}{of.against}: {of.tau:+.3f}"
        f"{_interval(of.tau_interval)} over {of.n_episodes} episodes ({clock}, constant 0{flat})"
    ]
    if of.auc is not None and of.ends is not None:
        lines += [
            f"success against failure by the end's progress, AUC: {of.auc:.3f}{_interval(of.auc_interval)} "
            f"({of.n_success} successes, {of.n_failure} failures; clock 0.5, constant 0.5)",
            f"ends of successes minus ends of failures: {of.ends:+.3f}{_interval(of.ends_interval)} "
            "(clock 0, constant 0)",
        ]
    else:
        lines.append(
            f"success against failure: not measured, the true progress of both is not known; mean end {of.mean_end:.2f}"
        )
    lines += [
        f"the two orders choose different frames in {100 * of.disagreement:.0f} % of the comparisons",
        f"VOC: {of.voc:+.3f} (clock +1, constant 0). {VOC}",
    ]
    return lines


def _controls(controls: Sequence[ProgressControl]) -> list[str]:
    if not controls:
        return [
            "Controls were not run, so nothing shows what these figures rest on: use --controls 4, longer episodes."
        ]
    lines = [f"Controls, on {max(one.n_episodes for one in controls)} episodes (clock | constant beside):"]
    for one in controls:
        rule = f"at {'least' if one.at_least else 'most'} {BOUND:g}"
        verdict = "holds" if one.passed else "fails"
        lines.append(
            f"  {one.name:<9} {verdict:<6} {one.value:+.3f} ({rule}; {one.clock:+.3f} | {one.constant:+.3f})  "
            f"{MEANINGS[one.name]}"
        )
    return lines


def _interval(bounds: tuple[float, float] | None) -> str:
    return f" [{bounds[0]:+.3f}, {bounds[1]:+.3f}]" if bounds else ""
