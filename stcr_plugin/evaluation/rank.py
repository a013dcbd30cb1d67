"""A strip of frames -> its progress curve; many strips -> how well what a model says agrees with time (VOC)."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from stcr_plugin import artefacts
from stcr_plugin.calibration_results import Temperature
from stcr_plugin.config import from_mapping
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.evaluation.asking import Asked, asked_about
from stcr_plugin.evaluation.calibrate import temperature_for
from stcr_plugin.evaluation.multi_image import answered as group_answered
from stcr_plugin.evaluation.multi_image import prompt
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.evaluation.strips import Strip
from stcr_plugin.figures import GroupSettings, OrderEffects
from stcr_plugin.groups import arranged
from stcr_plugin.rankings import RankedComparison, RankedFrame, Ranking, StripCorrelations, ValueOrder
from stcr_plugin.scoring import metrics
from stcr_plugin.scoring.bradley_terry import (
    RIDGE,
    Comparison,
    Scores,
    bradley_terry,
    enough,
    hops,
    outcome,
    rank,
    rank_groups,
)
from stcr_plugin.scoring.group_figures import GroupAnswer
from stcr_plugin.scoring.parsing import answered
from stcr_plugin.scoring.rank_correlation import correlation, kendall, rank_shares
from stcr_plugin.types import ORDERS, Answer, Choice, Group, Order, Pair, Query

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

RANKING, VOC, CURVE = Ranking.file, ValueOrder.file, "progress.csv"
MEANINGS: Mapping[str, str] = {
    "voc": "rank correlation of the values with time, each pair shown in time order",
    "vroc": "the same with each pair shown in reverse, as in the reversed video; +1 is right here too",
    "voc_f1": "harmonic mean of the two; 0 where one of them is not above 0",
    "voc_both": "rank correlation with time of the values from both orders together, as `stcr rank` gives them",
}
"""Each is 1 for a judge that is always right and 0 for a coin. "The second is further" has +1, -1, 0 and 0."""
_OF_STRIPS = ("voc", "vroc", "voc_both")


def rank_frames(
    request: EvalRequest,
    strip: Strip,
    out: Path,
    *,
    comparisons: int | None = None,
    group: int | None = None,
    calibration: Temperature | None = None,
) -> Ranking:
    """Order the frames of `strip` by how far along they are, by comparisons of two, each in both orders.

    With `group`, the model is asked for the order of so many frames at a time, which compares every two of them: N
    (N - 1) / 2 pairs per query, where the closest of them would give N - 1. Each group is shown in a random order and
    in its reverse, so that every two of its frames are shown in both orders here too: a preference for the order shown
    cancels out. One for a position in the middle does not; it is noise, which lowers the share of equal choices.

    Writes into the folder `out` ranking.json and progress.csv (a line per frame in the strip's order; `progress`, 0..1,
    is that of bradley_terry.Scores), and the responses, round by round, into `out`/asked, so that a killed run goes on.
    The same seed and answers give the same bytes. Progress is relative to the strip's own frames: the furthest of an
    episode that fails is as high as that of one that succeeds, unless a picture of the finished task is in the strip.

    Args:
        request: Model or engine, settings and seed; the data are those of the strip.
        strip: The pictures.
        out: Folder of the results.
        comparisons: How many to make; by default about n log2 n.
        group: How many frames to order at a time, 3 to 8; None for comparisons of two.
        calibration: Scales the log-odds of comparisons of two, for this model and these settings.

    Raises:
        ConfigError: Too few frames or comparisons, no group of that size, or a calibration of something else.
        DataError: A picture cannot be read.
    """
    sums, seed = strip.sums(), request.seed
    asked = Asked.of(request, out, root=strip.root, data_digest=strip.digest(sums))
    temperature = temperature_for(calibration, asked.engine, asked.settings, ties=strip.ties)
    given: list[Answer] = []
    with artefacts.locked(out / ".lock"):

        def compare(number: int, pairs: list[tuple[int, int]]) -> list[Comparison]:
            answers = _answers(asked.round(number), [(strip, *pair) for pair in pairs], sums)
            given.extend(answer for both in answers for answer in both)
            return [Comparison(*pair, *outcome(both, temperature)) for pair, both in zip(pairs, answers, strict=True)]

        def compare_groups(number: int, groups: list[tuple[int, ...]]) -> list[Comparison]:
            answers = _group_answers(asked.round(number), strip, groups, pictures=sums)
            given.extend(answer for _, both in answers for answer in both)
            return [Comparison(*pair, *outcome(both)) for pair, both in answers]

        n = len(strip.images)
        if group is None:
            scores, made = rank(n, comparisons, seed, compare=compare)
        else:
            size = from_mapping(GroupSettings, {"pictures": group}, "--group").pictures
            scores, made = rank_groups(n, size, comparisons, seed=seed, compare=compare_groups)
        result = _ranking(strip, scores, made, given=given, group=group or 0)
        return written(dataclasses.replace(result, temperature=temperature), asked, out)


def value_order(request: EvalRequest, strips: Sequence[Strip], out: Path) -> ValueOrder:
    """How well the values that a model's answers give to frames agree with time, shown forward and in reverse.

    VOC is the rank correlation (Spearman's) of a strip's values with time order: Ma et al. 2024, Vision Language Models
    are In-Context Value Learners (GVL), arXiv 2411.04549. They correlate the argsort of the values, which is
    the same where no two are equal; where they are, equal ranks are taken here, so that a model which distinguishes
    nothing has no +1. VROC is its value with every two frames in reversed order and the judgments' signs turned, so
    that +1 is right: VLAC, arXiv 2509.15937, after its released code (`get_trajectory_critic(reverse_eval=True)`,
    `compute_voc`; github.com/InternRobotics/VLAC). VOC-F1 is their harmonic mean.

    Ours, where those leave it open or do not fit: the harmonic mean is of the means over strips, and 0 where VOC or
    VROC is not above 0; a strip whose values are all alike counts as 0 and is counted in `undefined`; values are
    Bradley-Terry scores of comparisons 1, 2, 4, ... frames apart (`bradley_terry.hops`), since a judge of which frame
    is closer gives no share of the way left, from which VLAC adds up its values. Intervals: 95 %, metrics' bootstrap
    over episodes. Writes voc.json into `out`, and the responses into `out`/asked, so that a killed run goes on.
    """
    asked, shown = asked_about(request, strips, out)
    places = [(strip, *pair) for strip in strips for pair in hops(len(strip.images))]
    with artefacts.locked(out / ".lock"):
        answers = _answers(asked, places, shown)
        left = iter(zip(places, answers, strict=True))
        rows = tuple(_correlations(strip, [next(left) for _ in hops(len(strip.images))]) for strip in strips)
        result = dataclasses.replace(
            correlated(rows, asked, request),
            n_comparisons=len(places),
            answers=_order_effects([answer for both in answers for answer in both]),
            ridge=RIDGE,
        )
        result.write(out / VOC)
    return result


def correlated(rows: Sequence[StripCorrelations], asked: Asked, request: EvalRequest) -> ValueOrder:
    """The means of the correlations of strips, with intervals by a bootstrap over episodes, and how they were asked."""
    import numpy as np

    shares: dict[str, list[list[float]]] = defaultdict(list)
    for row in rows:
        shares[row.episode_id].append([*(getattr(row, key) or 0.0 for key in _OF_STRIPS), 1.0])
    # One partition, and a sum over each episode's strips: the bootstrap of every other figure.
    sums = np.array([np.sum(shares[episode], axis=0) for episode in sorted(shares)])
    means = [round(mean, 6) for mean in _means(sums.sum(axis=0)).tolist()]
    bounds = metrics.cluster_bounds(sums[None], _means, resamples=request.resamples, seed=request.seed, level=95)[0]
    return ValueOrder(
        name=request.name or "",
        **dict(zip(MEANINGS, means, strict=True)),
        intervals={
            key: (round(pair[0], 6), round(pair[1], 6)) for key, pair in zip(MEANINGS, bounds, strict=True) if pair
        },
        meanings=MEANINGS,
        undefined={key: sum(getattr(one, key) is None for one in rows) for key in _OF_STRIPS},
        n_episodes=len(sums),
        n_strips=len(rows),
        per_strip=tuple(rows),
        resamples=request.resamples,
        **asked.account,
    )


def written(ranking: Ranking, asked: Asked, out: Path) -> Ranking:
    """`ranking` with how it was asked, as the files of the folder `out` have it."""
    result = dataclasses.replace(ranking, **asked.account)
    artefacts.write_text(out / CURVE, _csv(result.frames))
    result.write(out / RANKING)
    return result


def _answers(
    asked: Asked, places: Sequence[tuple[Strip, int, int]], pictures: Mapping[str, str]
) -> list[tuple[Answer, Answer]]:
    """(forward, backward) answers about the frames at two positions of a strip each."""
    queries = [Query(strip.pair(*pair), order) for strip, *pair in places for order in ORDERS]
    prompts = prompts_for(queries, asked.settings, asked.seed, ties=any(strip.ties for strip, _, _ in places))
    responses = asked.responses(prompts, pictures)
    answers = [answered(*one) for one in zip(queries, prompts, responses, strict=True)]
    return list(zip(answers[::2], answers[1::2], strict=True))


def _group_answers(
    asked: Asked, strip: Strip, groups: Sequence[tuple[int, ...]], *, pictures: Mapping[str, str]
) -> list[tuple[tuple[int, int], tuple[Answer, Answer]]]:
    """Each two positions of each group with the (forward, backward) answers about them that its two orders hold."""
    order = GroupSettings(pictures=len(groups[0]), ask="order")
    shown: list[tuple[Group, tuple[int, ...]]] = []
    for places in groups:
        group = strip.group(places)
        drawn = arranged(group, order, asked.seed)[0]
        shown += [(group, drawn), (group, drawn[::-1])]
    prompts = [prompt(group, one, order, settings=asked.settings, seed=asked.seed) for group, one in shown]
    responses = asked.responses(prompts, pictures)
    answers = [
        group_answered(group, one, of, response=response, ask="order")
        for (group, one), of, response in zip(shown, prompts, responses, strict=True)
    ]
    found = []
    for number, places in enumerate(groups):
        both = answers[2 * number : 2 * number + 2]
        at = {frame: place for place, frame in enumerate(shown[2 * number][0].frames)}
        for first, second in combinations(places, 2):
            pair = strip.pair(first, second)
            given = {one.order: one for one in (_of_group(pair, answer, at) for answer in both)}
            found.append(((first, second), (given["forward"], given["backward"])))
    return found


def _of_group(pair: Pair, answer: GroupAnswer, at: Mapping[int, int]) -> Answer:
    """What the listed order of a group says of two of its frames, as an answer about them alone.

    at: Frame of the strip -> its place in the group's `frames`.
    """
    places = [answer.shown.index(at[frame]) for frame in (pair.earlier, pair.later)]
    order: Order = "forward" if places[0] < places[1] else "backward"
    chosen: Choice | None = None
    if answer.ranking is not None:
        nearer = min(places, key=answer.ranking.index)
        chosen = "img2" if nearer == max(places) else "img1"
    return Answer(
        f"{pair.pair_id} in {answer.group_id}",  # several groups may have the pair
        pair.episode_id,
        order,
        Query(pair, order).answer,
        chosen,
        answer.text,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        lost=answer.lost,
    )


def _ranking(
    strip: Strip, scores: Scores, made: Sequence[Comparison], *, given: Sequence[Answer], group: int
) -> Ranking:
    n = len(strip.images)
    compared, shown_at_once = len({(one.first, one.second) for one in made}), group * (group - 1) or 2
    answers = _order_effects(given, shown_at_once)
    placed = valued(strip, _columns(scores))
    cost = f" by {answers.n_queries} queries about groups of {group} (two at a time: {2 * compared})" if group else ""
    return dataclasses.replace(
        placed,
        words=f"{n} frames, {compared} of {n * (n - 1) // 2} possible comparisons{cost}: {placed.words}. "
        f"{answers.words}",
        n_comparisons=compared,
        group=group,
        pairwise_queries=2 * compared if group else 0,
        default_comparisons=enough(n),
        answers=answers,
        comparisons=tuple(
            RankedComparison(one.first, one.second, outcome=round(one.outcome, 6), weight=one.weight) for one in made
        ),
        ridge=RIDGE,
    )


def valued(strip: Strip, columns: Mapping[str, Sequence[float] | Floats]) -> Ranking:
    """The frames of `strip` in the order of their values, and how well these agree with time and truth, also in words.

    Args:
        strip: The pictures.
        columns: Field of a RankedFrame -> its value for each frame; `score` is what they are ordered by.
    """
    timed, n, scores = bool(strip.seconds), len(strip.images), columns["score"]
    known = [place for place, value in enumerate(strip.truth) if value is not None]
    truth = dict(zip(known, rank_shares([float(strip.truth[place] or 0.0) for place in known]), strict=True))
    own = [scores[place] for place in known]
    by_time, tau_time = (of(scores, range(n)) if timed else None for of in (correlation, kendall))
    by_truth, tau_truth = (of(own, truth.values()) if len(known) > 1 else None for of in (correlation, kendall))
    frames = tuple(
        RankedFrame(
            place=place,
            frame=strip.frames[place],
            seconds=round(strip.seconds[place], 6) if timed else None,
            image=strip.images[place],
            **{key: round(float(values[place]), 6) for key, values in columns.items()},
            truth=truth.get(place),
        )
        for place in range(n)
    )
    order = sorted(frames, key=lambda one: (one.score, one.place))
    agreement = [
        f"rank correlation with {what} {value:+.2f} (Kendall's tau {tau:+.2f})"
        for what, value, tau in (("time", by_time, tau_time), ("the true progress", by_truth, tau_truth))
        if value is not None
    ]
    alike = order[0].score == order[-1].score
    found = "all came out alike" if alike else f"the furthest is {order[-1].image}"
    return Ranking(
        words="; ".join([*agreement, found]),
        episode_id=strip.episode_id,
        task=strip.task,
        dataset=strip.dataset,
        split=strip.split,
        video=strip.video,
        root=str(strip.root),
        frames=frames,
        order=tuple(one.image for one in order),
        correlation_with_time=by_time,
        correlation_with_truth=by_truth,
        kendall_with_time=tau_time,
        kendall_with_truth=tau_truth,
    )


def _columns(scores: Scores) -> dict[str, Floats]:
    return {
        "progress": scores.progress,
        "progress_error": scores.progress_errors,
        "score": scores.values,
        "score_error": scores.errors,
    }


def _order_effects(answers: Sequence[Answer], at_once: int = 2) -> OrderEffects:
    """at_once: How many answers two queries give: two, or those about every two frames of a group."""
    found = metrics.figures(answers)
    second = "img2" if at_once == 2 else "the one shown later"
    words = (
        f"The same frame was chosen in both orders in {found.order_consistency:.0f} % of the comparisons, {second} in "
        f"{found.position_bias:.0f} % of the answers, {found.unparsed_rate:.0f} % could not be read"
        f"{f', {found.cut_rate:.0f} % were cut: raise max_new_tokens' if found.cut_rate else ''}."
    )
    return OrderEffects(
        found.order_consistency,
        found.position_bias,
        found.unparsed_rate,
        n_queries=2 * found.n_queries // at_once,
        words=words,
    )


def _csv(frames: Sequence[RankedFrame]) -> str:
    """CSV with a heading; an empty cell is what is not known."""
    rows = [dataclasses.asdict(frame) for frame in frames]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _correlations(
    strip: Strip, asked: Sequence[tuple[tuple[Strip, int, int], tuple[Answer, Answer]]]
) -> StripCorrelations:
    n = len(strip.images)

    def of(*orders: int) -> float | None:
        made = [
            Comparison(first, second, *outcome([both[order] for order in orders])) for (_, first, second), both in asked
        ]
        return correlation(bradley_terry(n, made).values, range(n))

    return StripCorrelations(strip.episode_id, strip.task, strip.frames, voc=of(0), vroc=of(1), voc_both=of(0, 1))


def _means(totals: Floats) -> Floats:
    """[..., sums of voc, vroc, voc_both and strips] -> [..., MEANINGS]; NaN of no strips."""
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        voc, vroc, both = np.moveaxis(totals[..., :3] / totals[..., 3:], -1, 0)
        harmonic = np.where((voc > 0) & (vroc > 0), 2 * voc * vroc / (voc + vroc), np.where(np.isnan(voc), np.nan, 0.0))
    return np.stack([voc, vroc, harmonic, both], axis=-1)
