"""A strip of frames -> its progress curve; many strips -> how well what a model says agrees with time (VOC)."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.engines.cache import put
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.settings import AskSettings, Engine
from stcr_plugin.evaluation.strips import Strip
from stcr_plugin.report import plots
from stcr_plugin.scoring import metrics
from stcr_plugin.scoring.bradley_terry import RIDGE, Comparison, Scores, bradley_terry, enough, hops, outcome, rank
from stcr_plugin.scoring.parsing import answered
from stcr_plugin.types import ORDERS, Answer, Prompt, Query, Response

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

RANKING, CURVE, CURVE_PLOT = "ranking.json", "progress.csv", "progress.png"
VOC, VOC_PLOT, ASKED = "voc.json", "voc.png", "asked"
MEANINGS: Mapping[str, str] = {
    "voc": "rank correlation of the values with time, each pair shown in time order",
    "vroc": "the same with each pair shown in reverse, as in the reversed video; +1 is right here too",
    "voc_f1": "harmonic mean of the two; 0 where one of them is not above 0",
    "voc_both": "rank correlation with time of the values from both orders together, as `stcr rank` gives them",
}
"""Each is 1 for a judge that is always right and 0 for a coin. "The second is further" has +1, -1, 0 and 0."""


@dataclass(frozen=True)
class Ranked:
    """One ranking: `scores` of the strip's frames, and `row`, all of ranking.json, which lies in `out`."""

    out: Path
    scores: Scores
    row: Mapping[str, Any]

    @property
    def words(self) -> str:
        return str(self.row["words"])


@dataclass(frozen=True)
class _Identified:
    """An engine whose identity was taken once: of a large model's files that is slow, and a ranking has many rounds."""

    engine: Engine
    known: Mapping[str, Any]

    def identity(self) -> Mapping[str, Any]:
        return self.known

    def say(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
        return self.engine.say(prompts)


def rank_frames(
    engine: Engine,
    strip: Strip,
    out: Path,
    settings: AskSettings | None = None,
    comparisons: int | None = None,
    seed: int = 0,
) -> Ranked:
    """Order the frames of `strip` by how far along they are, by `comparisons` of two, each asked in both orders.

    Writes into the folder `out` ranking.json, progress.csv (a line a frame in the strip's order; `progress`, 0..1, is
    that of ranking.Scores) and progress.png, and what was said, round by round, into `out`/asked, so that a killed run
    goes on. `settings` are those of the engine; the same seed and answers give the same bytes. Progress is relative to
    the strip's own frames: the furthest of an episode that fails is as high as that of one that succeeds, unless a
    picture of the finished task stands in the strip. Raises ConfigError for too few frames or comparisons, DataError
    for a picture that cannot be read, and what the engine raises.
    """
    settings, known = settings or AskSettings(), _Identified(engine, engine.identity())
    sums = strip.sums()
    asked = _asked(settings, seed, strip.digest(sums))
    given: list[Answer] = []
    with artefacts.locked(out / ".lock"):

        def compare(number: int, pairs: list[tuple[int, int]]) -> list[Comparison]:
            places = [(strip, *pair) for pair in pairs]
            answers = _ask(known, places, settings, seed, out / ASKED / f"{number:03d}", asked, sums)
            given.extend(answer for both in answers for answer in both)
            return [Comparison(*pair, *outcome(both)) for pair, both in zip(pairs, answers, strict=True)]

        scores, made = rank(len(strip.images), comparisons, seed, compare)
        row = _ranking_row(strip, scores, made, given)
        row |= {"settings": dataclasses.asdict(settings), "seed": seed, "ridge": RIDGE, "engine": dict(known.known)}
        row |= {"data_digest": asked["data_digest"], "provenance": artefacts.provenance()}
        artefacts.write_text(out / CURVE, _table(row["frames"]))
        plots.progress(out / CURVE_PLOT, row)
        artefacts.write_json(out / RANKING, row)
    return Ranked(out, scores, row)


@dataclass(frozen=True)
class Correlations:
    """Value-order correlations of many strips: `row`, all of voc.json, which lies in `out`."""

    out: Path
    row: Mapping[str, Any]

    @property
    def words(self) -> str:
        parts = [f"{name} {_with_interval(self.row, name)}" for name in MEANINGS]
        strips, undefined = self.row["n_strips"], self.row["undefined"]
        none = {name: count for name, count in undefined.items() if count}
        tied = f"; counted as 0, since all frames came out alike: {none}" if none else ""
        return f"{strips} strips of {self.row['n_episodes']} episodes: {', '.join(parts)}{tied}"


def value_order(
    engine: Engine,
    strips: Sequence[Strip],
    out: Path,
    settings: AskSettings | None = None,
    seed: int = 0,
    resamples: int = 2000,
    name: str = "",
) -> Correlations:
    """How well the values that a model's answers give to frames agree with time, shown forward and in reverse.

    VOC is the rank correlation (Spearman's) of a strip's values with time order: Ma et al. 2024, Vision Language Models
    are In-Context Value Learners (GVL), arXiv 2411.04549. They correlate the argsort of the values, which is
    the same where no two are equal; where they are, equal ranks are taken here, so that a model which tells nothing
    apart has no +1. VROC is its value with every two frames in reversed order and the judgments' signs turned, so that
    +1 is right: VLAC, arXiv 2509.15937, after its released code (`get_trajectory_critic(reverse_eval=True)`,
    `compute_voc`; github.com/InternRobotics/VLAC). VOC-F1 is their harmonic mean.

    Ours, where those leave it open or do not fit: the harmonic mean is of the means over strips, and 0 where VOC or
    VROC is not above 0; a strip whose values are all alike counts as 0 and is counted in `undefined`; values are
    Bradley-Terry scores of comparisons 1, 2, 4, ... frames apart (`ranking.hops`), since a judge of which frame is
    closer gives no share of the way left, from which VLAC adds up its values. Intervals: 95 %, metrics' bootstrap over
    episodes. Writes voc.json and voc.png into `out`, and what was said into `out`/asked, so that a killed run goes on.
    """
    import numpy as np

    settings, known = settings or AskSettings(), _Identified(engine, engine.identity())
    pictures = [strip.sums() for strip in strips]
    digests = [strip.digest(own) for strip, own in zip(strips, pictures, strict=True)]
    shown = {path: of for own in pictures for path, of in own.items()}
    asked = _asked(settings, seed, artefacts.digest(digests))
    places = [(strip, *pair) for strip in strips for pair in hops(len(strip.images))]
    with artefacts.locked(out / ".lock"):
        answers = _ask(known, places, settings, seed, out / ASKED, asked, shown)
        left = iter(zip(places, answers, strict=True))
        rows = [_orders(strip, [next(left) for _ in hops(len(strip.images))]) for strip in strips]
        shares: dict[str, list[list[float]]] = defaultdict(list)
        for row in rows:
            shares[row["episode_id"]].append([row[key] or 0.0 for key in ("voc", "vroc", "voc_both")] + [1.0])
        # One partition, and a sum over each episode's strips: the bootstrap of every other figure.
        sums = np.array([np.sum(shares[episode], axis=0) for episode in sorted(shares)])
        means = _means(sums.sum(axis=0)).tolist()
        bounds = metrics.cluster_bounds(sums[None], _means, resamples, seed, 95)[0]
        row = {
            "name": name,
            **dict(zip(MEANINGS, (round(mean, 6) for mean in means), strict=True)),
            "intervals": {key: [round(x, 6) for x in pair] for key, pair in zip(MEANINGS, bounds, strict=True) if pair},
            "meanings": dict(MEANINGS),
            "undefined": {key: sum(one[key] is None for one in rows) for key in ("voc", "vroc", "voc_both")},
            "n_episodes": len(sums),
            "n_strips": len(rows),
            "n_comparisons": len(places),
            "answers": _of_answers([answer for both in answers for answer in both]),
            "per_strip": rows,
            "settings": dataclasses.asdict(settings),
            "seed": seed,
            "resamples": resamples,
            "ridge": RIDGE,
            "engine": dict(known.known),
            "data_digest": asked["data_digest"],
            "provenance": artefacts.provenance(),
        }
        plots.correlations(out / VOC_PLOT, row)
        artefacts.write_json(out / VOC, row)
    return Correlations(out, row)


def correlation(values: Iterable[float], others: Iterable[float]) -> float | None:
    """Spearman's rank correlation, equal values having equal ranks; None where all values of one side are alike.

    Values count as equal up to 1e-6: answers that cancel out do so but for rounding.
    """
    import numpy as np
    from scipy.stats import spearmanr

    sides = [np.round(np.array(list(side), dtype=np.float64), 6) for side in (values, others)]
    if any(np.ptp(side) == 0 for side in sides):
        return None
    return round(float(spearmanr(*sides).statistic), 6)


def _asked(settings: AskSettings, seed: int, data_digest: str) -> dict[str, Any]:
    return {"data_digest": data_digest, "settings": settings.decides, "seed": seed}


def _ask(
    engine: Engine,
    places: Sequence[tuple[Strip, int, int]],
    settings: AskSettings,
    seed: int,
    out: Path,
    asked: Mapping[str, Any],
    pictures: Mapping[str, str],
) -> list[tuple[Answer, Answer]]:
    """(forward, backward) answers about the frames at two places of a strip each."""
    queries = [Query(strip.pair(*pair), order) for strip, *pair in places for order in ORDERS]
    ties = [strip.ties for strip, _, _ in places]
    prompts = prompts_for(queries, settings, seed, any(ties))
    said = put(engine, prompts, out, asked, pictures)
    answers = [answered(*one) for one in zip(queries, prompts, said, strict=True)]
    return list(zip(answers[::2], answers[1::2], strict=True))


def _ranking_row(strip: Strip, scores: Scores, made: Sequence[Comparison], given: Sequence[Answer]) -> dict[str, Any]:
    timed, n = bool(strip.seconds), len(strip.images)
    known = [place for place, value in enumerate(strip.truth) if value is not None]
    truth = dict(zip(known, _shares([float(strip.truth[place] or 0.0) for place in known]), strict=True))
    by_time = correlation(scores.values, range(n)) if timed else None
    by_truth = correlation([scores.values[place] for place in known], truth.values()) if len(known) > 1 else None
    frames = [
        {
            "place": place,
            "frame": strip.frames[place],
            "seconds": round(strip.seconds[place], 6) if timed else None,
            "image": strip.images[place],
            **{key: round(float(values[place]), 6) for key, values in _columns(scores).items()},
            "truth": truth.get(place),
        }
        for place in range(n)
    ]
    order = sorted(range(n), key=lambda place: (frames[place]["score"], place))
    answers = _of_answers(given)
    agreement = [
        f"rank correlation with {what} {value:+.2f}"
        for what, value in (("time", by_time), ("the true progress", by_truth))
        if value is not None
    ]
    alike = frames[order[0]]["score"] == frames[order[-1]]["score"]
    found = "all came out alike" if alike else f"the furthest is {frames[order[-1]]['image']}"
    words = (
        f"{n} frames, {len(made)} of {n * (n - 1) // 2} possible comparisons: {'; '.join([*agreement, found])}. "
        f"{answers['words']}"
    )
    return {
        "words": words,
        "episode_id": strip.episode_id,
        "task": strip.task,
        **strip.source,
        "root": str(strip.root),
        "frames": frames,
        "order": [frames[place]["image"] for place in order],
        "correlation_with_time": by_time,
        "correlation_with_truth": by_truth,
        "n_comparisons": len(made),
        "default_comparisons": enough(n),
        "answers": answers,
        "comparisons": [
            {"first": one.first, "second": one.second, "outcome": round(one.outcome, 6), "weight": one.weight}
            for one in made
        ],
    }


def _columns(scores: Scores) -> dict[str, Floats]:
    return {
        "progress": scores.progress,
        "progress_error": scores.progress_errors,
        "score": scores.values,
        "score_error": scores.errors,
    }


def _shares(truth: Sequence[float]) -> list[float]:
    """Of each: the share of the others that are less far along, those alike by half; the progress of a sure judge."""
    others = max(1, len(truth) - 1)
    return [
        round((sum(other < one for other in truth) + (sum(other == one for other in truth) - 1) / 2) / others, 6)
        for one in truth
    ]


def _of_answers(answers: Sequence[Answer]) -> dict[str, Any]:
    """What the order of the pictures did to the answers."""
    found = metrics.figures(answers)
    words = (
        f"The same frame was chosen in both orders in {found.order_consistency:.0f} % of the comparisons, img2 in "
        f"{found.position_bias:.0f} % of the answers, {found.unparsed_rate:.0f} % could not be read."
    )
    figures = {key: getattr(found, key) for key in ("order_consistency", "position_bias", "unparsed_rate", "n_queries")}
    return figures | {"words": words}


def _table(frames: Sequence[Mapping[str, Any]]) -> str:
    """CSV with a heading; an empty cell is what is not known."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(frames[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(frames)
    return file.getvalue()


def _orders(strip: Strip, asked: Sequence[tuple[tuple[Strip, int, int], tuple[Answer, Answer]]]) -> dict[str, Any]:
    """A strip's correlations with time; None where all its frames came out alike."""
    n = len(strip.images)

    def of(*orders: int) -> float | None:
        made = [
            Comparison(first, second, *outcome([both[order] for order in orders])) for (_, first, second), both in asked
        ]
        return correlation(bradley_terry(n, made).values, range(n))

    return {
        "episode_id": strip.episode_id,
        "task": strip.task,
        "frames": list(strip.frames),
        "voc": of(0),
        "vroc": of(1),
        "voc_both": of(0, 1),
    }


def _means(totals: Floats) -> Floats:
    """[..., sums of voc, vroc, voc_both and strips] -> [..., MEANINGS]; NaN of no strips."""
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        voc, vroc, both = np.moveaxis(totals[..., :3] / totals[..., 3:], -1, 0)
        harmonic = np.where((voc > 0) & (vroc > 0), 2 * voc * vroc / (voc + vroc), np.where(np.isnan(voc), np.nan, 0.0))
    return np.stack([voc, vroc, harmonic, both], axis=-1)


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    bounds = row["intervals"].get(name)
    return f"{row[name]:+.2f}" + (f" ({bounds[0]:+.2f} to {bounds[1]:+.2f})" if bounds else "")
