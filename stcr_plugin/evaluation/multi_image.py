"""Three and more pictures of one task: which is closest to completion, or how do all of them stand in order?

A model that was trained on pairs alone may have learned a rule for two places ("the second"). Here each group of frames
is asked in several arrangements, so that each of its frames stands once in each place.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stcr_plugin import artefacts
from stcr_plugin.config import nearest, read_yaml, settings
from stcr_plugin.engines.cache import picture_sums, put, write_answers
from stcr_plugin.engines.prompts import PROMPT_VARIANTS, names_of
from stcr_plugin.engines.settings import AskSettings, Engine
from stcr_plugin.engines.subject import subject
from stcr_plugin.errors import ConfigError, DataError, StcrError
from stcr_plugin.evaluation.evaluate import evenly
from stcr_plugin.evaluation.ground_truth import config_of, true_progress
from stcr_plugin.pairs import PairRules
from stcr_plugin.report import tables
from stcr_plugin.samples.questions import fill
from stcr_plugin.scoring import metrics
from stcr_plugin.scoring.parsing import named_in, parse_order
from stcr_plugin.scoring.verdicts import Measure, NotApplicableError, Row, Rule, above, judged, worst
from stcr_plugin.types import Pair, Prompt, Response, Shown

if TYPE_CHECKING:
    import numpy as np

GROUPS, ANSWERS, REPORT = "groups.json", "answers.jsonl", "groups.md"
FEWEST, MOST = 3, 8
ASKS = {"closest": "which is closest to completion", "order": "all in order, the closest first"}
ROWS: Mapping[tuple[int, str], str] = {
    (pictures, ask): f"{word} pictures{named}"
    for pictures, word in enumerate(("three", "four", "five", "six", "seven", "eight"), FEWEST)
    for ask, named in (("closest", ""), ("order", " in order"))
}
"""(pictures, what is asked) -> what the controls call the row of such groups."""
_TRIES = 40  # random draws of a group's frames before a segment is taken to hold no further group


@settings
class GroupSettings:
    """What is asked of groups of pictures.

    pictures: how many a group has. ask: which is closest to completion, or to list them all, the closest first.
    per_episode: groups of one episode at most. rotations: arrangements that each group is asked in, all (`pictures`) by
    default; with fewer, places and frames are no longer balanced within a group.
    """

    pictures: int = dataclasses.field(default=3, metadata={"help": "pictures per group, 3 to 8"})
    ask: Literal["closest", "order"] = dataclasses.field(
        default="closest", metadata={"help": "ask for the closest picture, or for the order of all"}
    )
    per_episode: int = dataclasses.field(default=4, metadata={"help": "at most N groups per episode"})
    rotations: int | None = dataclasses.field(default=None, metadata={"help": "rotations per group (default: all)"})

    def __post_init__(self) -> None:
        if not FEWEST <= self.pictures <= MOST:
            raise ValueError(f"pictures must be {FEWEST} to {MOST}, got {self.pictures}")
        if self.per_episode < 1:
            raise ValueError("per_episode is at least 1")
        if self.rotations is not None and not 1 <= self.rotations <= self.pictures:
            raise ValueError(f"rotations must be 1 to {self.pictures}, one a picture, got {self.rotations}")


@dataclass(frozen=True)
class Group:
    """Frames of one segment, the farthest from completion first; `images` are theirs, relative to the registry."""

    group_id: str
    episode_id: str
    task: str
    frames: tuple[int, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class GroupAnswer:
    """What a model said to one arrangement of a group.

    shown: which of the group's frames stands in each place, n - 1 being the closest to completion. chosen: the place
    from 0 that was named as closest, None where none or several were. ranking: all places, the closest first; None
    where they were not asked for, or not listed once each.
    """

    group_id: str
    episode_id: str
    shown: tuple[int, ...]
    chosen: int | None
    ranking: tuple[int, ...] | None
    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def right(self) -> bool:
        return self.chosen is not None and self.shown[self.chosen] == len(self.shown) - 1


@dataclass(frozen=True)
class GroupFigures:
    """The figures of answers about groups. Rates are percent; what a coin gets is beside them in `chance`.

    accuracy: answers whose named (or first listed) picture is the closest. all_rotations: groups answered so in every
    arrangement. places: how often each place was named. place_chi2, place_p: Pearson's chi-square of `places` against
    equal numbers; the answers to one group are no independent draws, so p describes and does not test. None where no
    place was named. exact: orders right from first to last. kendall_tau: the mean tau-b between the order listed and
    the true one, -1..1, where an unparsed answer counts as 0. Both None where orders were not asked for.
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


@dataclass(frozen=True)
class GroupResults:
    """One evaluation with groups: its figures, and `row`, all of groups.json, which lies in `out`."""

    out: Path
    figures: GroupFigures
    row: Mapping[str, Any]


def evaluate_groups(
    model_dir: Path | None,
    dataset: str,
    split: str,
    out: Path,
    registry: Path = Path("data_registry"),
    settings: AskSettings | None = None,
    groups: GroupSettings | None = None,
    limit: int | None = None,
    seed: int = 0,
    resamples: int = 2000,
    name: str | None = None,
    engine: Engine | None = None,
) -> GroupResults:
    """Ask a model about groups of the frames that `split` has pictures of, and write the figures into the folder `out`.

    Writes said.jsonl and asked.json (see asking.put), answers.jsonl, groups.json and groups.md. `limit` takes that many
    groups, spread over the episodes. The seed draws groups, arrangements and the bootstrap. A killed run goes on. An
    order is always written and parsed, never compared. `settings.part` changes nothing, for none of these questions was
    trained on. Raises NotApplicableError for data that hold no such group or do not say what is right, and DataError
    for a model that cannot be used.
    """
    out, asked = Path(out), groups or GroupSettings()
    who = subject(model_dir, registry, settings, engine)
    settings, engine = who.settings, who.engine
    drawn = spread(_of_split(registry, dataset, split, asked, seed), limit, seed)
    arrangements = [(group, shown) for group in drawn for shown in arranged(group, asked, seed)]
    prompts = [prompt(group, shown, asked, settings) for group, shown in arrangements]
    shown_of = {image: f"group {group.group_id}" for group in drawn for image in group.images}
    sums = picture_sums(registry, shown_of)
    data_digest = artefacts.digest([[dataclasses.asdict(group) for group in drawn], sums])
    with artefacts.locked(out / ".lock"):
        asking = {"data_digest": data_digest, "settings": settings.decides, "seed": seed}
        said = put(engine, prompts, out, asking, sums)
        answers = [
            answered(group, shown, one, heard, asked)
            for (group, shown), one, heard in zip(arrangements, prompts, said, strict=True)
        ]
        write_answers(out / ANSWERS, answers)
        found, identity = figures(answers, asked), engine.identity()
        row = {
            **who.names(name),
            "dataset": dataset,
            "split": split,
            "mode": settings.mode,
            **dataclasses.asdict(asked),
            **dataclasses.asdict(found),
            "intervals": intervals(answers, asked, resamples, seed),
            "chance": chance(asked),
            "settings": dataclasses.asdict(settings),
            "seed": seed,
            "resamples": resamples,
            "limit": limit,
            "engine": dict(identity),
            "model_digest": identity.get("model_digest"),
            "data_digest": data_digest,
            "questions_digest": artefacts.digest([one.question for one in prompts]),
            "provenance": artefacts.provenance(),
        }
        artefacts.write_text(out / REPORT, _report(row))
        artefacts.write_json(out / GROUPS, row)
    return GroupResults(out, found, row)


def draw_groups(
    pairs: Sequence[Pair],
    rules: PairRules,
    asked: GroupSettings,
    seed: int,
    truth: Mapping[str, Sequence[float | None]] | None = None,
) -> list[Group]:
    """Up to `per_episode` groups of each episode, drawn by `seed` and the episode's id alone, none twice.

    Any two frames of a group are at least as far apart as `rules` ask of a pair (`min_seconds`, `min_frames`); there is
    no longest distance. truth: episode_id -> progress of each frame; a frame of unknown progress stands in no group,
    nor do two that `rules` call a tie. Without it the later of two frames is the closer one.
    """
    import numpy as np

    episodes: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        episodes[pair.episode_id].append(pair)
    groups = []
    for episode_id, own in episodes.items():
        random = np.random.default_rng(int(artefacts.digest([seed, episode_id, asked.pictures])[:16], 16))
        closeness = None if truth is None else truth[episode_id]
        apart = rules.distances(own[0].distance / own[0].seconds)[0]
        segments = [part for part in _segments(own) if len(part[1]) >= asked.pictures]
        found: dict[tuple[int, ...], Group] = {}
        for number in range(_TRIES * asked.per_episode if segments else 0):
            task, images = segments[number % len(segments)]
            frames = _drawn(list(images), asked.pictures, apart, closeness, rules.tie_within, random)
            if frames and len(found) < asked.per_episode:
                group_id = f"{episode_id}:{'-'.join(str(frame) for frame in frames)}"
                group = Group(group_id, episode_id, task, frames, tuple(images[frame] for frame in frames))
                found.setdefault(frames, group)
        groups += list(found.values())
    return groups


def spread(groups: Sequence[Group], limit: int | None, seed: int) -> list[Group]:
    """`limit` of `groups` in their order, as evenly over episodes as their numbers allow; all without a limit."""
    chosen = {group.group_id for group in evenly(groups, limit, seed)}
    return [group for group in groups if group.group_id in chosen]


def arranged(group: Group, asked: GroupSettings, seed: int) -> list[tuple[int, ...]]:
    """The arrangements that a group is asked in: rotations of one that is drawn, so that none need be in time order.

    Each entry is the frame (of `group.frames`) in each place. All rotations put each frame once in each place.
    """
    import numpy as np

    random = np.random.default_rng(int(artefacts.digest([seed, group.group_id, "arrangement"])[:16], 16))
    first = [int(frame) for frame in random.permutation(asked.pictures)]
    return [(*first[turn:], *first[:turn]) for turn in range(asked.rotations or asked.pictures)]


def prompt(group: Group, shown: Sequence[int], asked: GroupSettings, settings: AskSettings) -> Prompt:
    """The prompt of one arrangement. Raises ConfigError for a language or a style that there is none of."""
    wordings = read_yaml(PROMPT_VARIANTS / "groups.yaml")
    if settings.language not in wordings:
        raise ConfigError(f"no group question in {settings.language!r}, {nearest(settings.language, list(wordings))}")
    words = wordings[settings.language]
    names = names_of(settings.style, settings.language, asked.pictures)
    mode = settings.mode or "direct"
    template = words[asked.ask][mode].replace("{names}", ", ".join(names))
    return Prompt(
        item=group.group_id,
        episode_id=group.episode_id,
        order="-".join(str(frame) for frame in shown),
        shown=tuple(Shown(group.images[frame]) for frame in shown),
        labels=names,
        question=fill(template, group.task) + (words["warning"] if settings.warn else ""),
        names=names,
        reasons=mode == "cot" or asked.ask == "order",
    )


def answered(group: Group, shown: Sequence[int], prompt: Prompt, said: Response, asked: GroupSettings) -> GroupAnswer:
    """What `said` names: the likeliest place where names were compared, else what the text says."""
    listed = parse_order(said.text, prompt.names) if asked.ask == "order" else None
    if asked.ask == "order":
        named = listed[0] if listed else None
    else:
        named = named_in(said, prompt.names)
    return GroupAnswer(
        group.group_id,
        group.episode_id,
        tuple(shown),
        None if named is None else prompt.names.index(named),
        None if listed is None else tuple(prompt.names.index(name) for name in listed),
        said.text,
        said.prompt_tokens,
        said.completion_tokens,
    )


def figures(answers: Sequence[GroupAnswer], asked: GroupSettings) -> GroupFigures:
    """The figures of `answers`, which were asked for as `asked` says. Raises DataError for none."""
    from scipy.stats import chisquare

    if not answers:
        raise DataError("no answers: nothing to compute figures from")
    sums = _sums(answers)
    total = {name: sum(one[name] for one in sums.values()) for name in next(iter(sums.values()))}
    rates = {name: total[part] / total[whole] for name, (part, whole) in _RATIOS.items()}
    places = tuple(sum(answer.chosen == place for answer in answers) for place in range(asked.pictures))
    test = chisquare(places) if any(places) else None
    orders = asked.ask == "order"
    return GroupFigures(
        accuracy=100 * rates["accuracy"],
        all_rotations=100 * rates["all_rotations"],
        places=places,
        place_chi2=float(test.statistic) if test else None,
        place_p=float(test.pvalue) if test else None,
        unparsed_rate=100 * sum(answer.chosen is None for answer in answers) / len(answers),
        exact=100 * rates["exact"] if orders else None,
        kendall_tau=rates["kendall_tau"] if orders else None,
        n_groups=int(total["groups"]),
        n_episodes=len(sums),
        n_queries=len(answers),
    )


def intervals(
    answers: Sequence[GroupAnswer], asked: GroupSettings, resamples: int = 2000, seed: int = 0
) -> dict[str, tuple[float, float]] | None:
    """95 % intervals by the bootstrap over episodes of metrics.pooled_interval; None for a single episode."""
    sums = _sums(answers)
    found = {}
    for name in ("accuracy", "all_rotations", *(("exact", "kendall_tau") if asked.ask == "order" else ())):
        part, whole = _RATIOS[name]
        counts = {episode: (one[part], one[whole]) for episode, one in sums.items()}
        if bounds := metrics.pooled_interval(counts, resamples, seed):
            scale = 100 if name == "kendall_tau" else 1
            found[name] = (bounds[0] / scale, bounds[1] / scale)
    return found or None


def kendall_tau(ranking: Sequence[int], shown: Sequence[int]) -> float:
    """tau-b (Kendall 1945) between a listed order and the true one: -1 reversed, 0 unrelated, 1 the same.

    ranking: places, the closest first. shown: the frame in each place. Neither has ties, so that tau-b is tau-a: pairs
    in the right order minus pairs in the wrong one, over all pairs.
    """
    listed = [shown[place] for place in ranking]
    signs = [1 if first > second else -1 for at, first in enumerate(listed) for second in listed[at + 1 :]]
    return sum(signs) / len(signs)


def chance(asked: GroupSettings) -> dict[str, float]:
    """What a coin that draws anew for each query gets; with all rotations, a judge by place has the same accuracy."""
    turns = asked.rotations or asked.pictures
    found = {"accuracy": 100 / asked.pictures, "all_rotations": 100 / asked.pictures**turns}
    return found | ({"exact": 100 / math.factorial(asked.pictures), "kendall_tau": 0.0} if asked.ask == "order" else {})


def summary(row: Mapping[str, Any]) -> str:
    """groups.json in one line."""
    order = (
        f", orders right {with_interval(row, 'exact')}, tau {with_interval(row, 'kendall_tau')}"
        if row["ask"] == "order"
        else ""
    )
    return (
        f"{row['name']}: closest of {row['pictures']} right {with_interval(row, 'accuracy')}, chance "
        f"{row['chance']['accuracy']:.1f} %; groups right in every arrangement "
        f"{with_interval(row, 'all_rotations')}{order}; named by place {list(row['places'])}; "
        f"unparsed {row['unparsed_rate']:.1f} %"
    )


def control(row: Mapping[str, Any], folder: str = "") -> Row:
    """groups.json as a row of the controls: whether the rule learned for two pictures is more than a rule of places."""
    asked = GroupSettings(pictures=row["pictures"], ask=row["ask"])
    bounds = row["intervals"] or {}
    names = {
        "closest": "accuracy", "every_arrangement": "all_rotations", "whole_order": "exact",
        "order_tau": "kendall_tau", "unparsed_rate": "unparsed_rate",
    }  # fmt: skip
    measures = {
        name: _measure(row[key], bounds.get(key), 100 if name == "order_tau" else 1)
        for name, key in names.items()
        if row[key] is not None
    }
    verdict, why = judged(_rule(asked), measures, row["n_episodes"])
    return Row(
        **_texts(asked),
        verdict=verdict,
        why=why,
        measures=measures,
        figures={key: row[key] for key in (*FIGURES, "intervals", "chance")},
        folder=folder,
    )


def not_asked(asked: GroupSettings, reason: Exception) -> Row:
    """The row of the controls where no group could be asked about."""
    return Row(**_texts(asked), verdict="not applicable", why=str(reason))


def _measure(value: float, bounds: Sequence[float] | None, scale: int) -> Measure:
    return Measure(scale * value, (scale * bounds[0], scale * bounds[1]) if bounds else None)


def _texts(asked: GroupSettings) -> dict[str, Any]:
    count = asked.pictures
    looks = {
        "closest": "names the picture that is closest to completion in whatever place it stands",
        "order": "lists the pictures by their state, wherever they stand",
    }
    return {
        "name": ROWS[count, asked.ask],
        "asks": f"{count} pictures of one task in every rotation: {ASKS[asked.ask]}",
        "looks": looks[asked.ask],
        "mends": f"training samples of {count} pictures, in all arrangements"
        + (", that ask for the order" if asked.ask == "order" else ""),
        "rule": _rule(asked).words,
    }


def _rule(asked: GroupSettings) -> Rule:
    level = chance(asked)["accuracy"]
    words = f"holds where the interval of accuracy lies above chance, {level:.1f} %"
    # A judge by place has exactly the level of chance, which rounding must not lift above itself.
    if asked.ask == "closest":
        return Rule(
            f"{words}, and fails where none of it does",
            ("closest", "every_arrangement"),
            lambda measures: above(measures["closest"], level + 1e-9),
        )
    return Rule(
        f"{words}, and that of tau above 0; fails where none of either does",
        ("closest", "order_tau", "whole_order"),
        lambda measures: worst((above(measures["closest"], level + 1e-9), above(measures["order_tau"], 1e-9))),
    )


FIGURES = tuple(field.name for field in dataclasses.fields(GroupFigures))
_RATIOS = {
    "accuracy": ("right", "queries"),
    "all_rotations": ("all_right", "groups"),
    "exact": ("exact", "queries"),
    "kendall_tau": ("tau", "queries"),
}
"""Figure -> the sums that it is the ratio of."""


def _sums(answers: Sequence[GroupAnswer]) -> dict[str, dict[str, float]]:
    """episode_id -> sums over its groups, sorted so that a seed means one draw."""
    groups: dict[tuple[str, str], list[GroupAnswer]] = defaultdict(list)
    for answer in answers:
        groups[answer.episode_id, answer.group_id].append(answer)
    sums: dict[str, dict[str, float]] = {}
    for (episode, _), own in sorted(groups.items()):
        have = sums.setdefault(episode, dict.fromkeys(("queries", "groups", "right", "all_right", "exact", "tau"), 0.0))
        taus = [kendall_tau(one.ranking, one.shown) for one in own if one.ranking is not None]
        have["queries"] += len(own)
        have["groups"] += 1
        have["right"] += sum(one.right for one in own)
        have["all_right"] += all(one.right for one in own)
        have["exact"] += sum(tau == 1 for tau in taus)
        have["tau"] += sum(taus)
    return sums


def _segments(pairs: Sequence[Pair]) -> list[tuple[str, dict[int, str]]]:
    """The segments of one episode's pairs: task text, and frame -> picture.

    Rows name no segment; pairs of one task text whose spans overlap lie in the same one.
    """
    found: list[tuple[str, dict[int, str]]] = []
    for task in dict.fromkeys(pair.task for pair in pairs):
        end = -1
        for pair in sorted((pair for pair in pairs if pair.task == task), key=lambda pair: pair.earlier):
            if pair.earlier > end:
                found.append((task, {}))
            end = max(end, pair.later)
            found[-1][1].update({pair.earlier: pair.earlier_image, pair.later: pair.later_image})
    return found


def _drawn(
    frames: Sequence[int],
    count: int,
    apart: int,
    closeness: Sequence[float | None] | None,
    tie: float,
    random: np.random.Generator,
) -> tuple[int, ...] | None:
    """`count` of `frames`, the farthest from completion first; None where this draw does not find so many."""
    chosen: list[int] = []
    values: dict[int, float] = {}
    for frame in (frames[at] for at in random.permutation(len(frames))):
        value = float(frame) if closeness is None else closeness[frame]
        if value is None or any(abs(frame - other) < apart for other in chosen):
            continue
        if closeness is not None and any(value == other or abs(value - other) < tie for other in values.values()):
            continue
        chosen.append(frame)
        values[frame] = value
        if len(chosen) == count:
            return tuple(sorted(chosen, key=values.__getitem__))
    return None


def _of_split(registry: Path, dataset: str, split: str, asked: GroupSettings, seed: int) -> list[Group]:
    """The groups drawn from a split. Raises NotApplicableError for none, or where nothing says what is right."""
    from stcr_plugin.registry.manifest import read_manifest, read_pairs

    rules, pairs = config_of(read_manifest(registry, dataset)).pairs, read_pairs(registry, dataset, split)
    found = draw_groups(pairs, rules, asked, seed, _truth(registry, dataset, rules, pairs))
    if not found:
        raise NotApplicableError(
            f"{dataset}, {split}: no {asked.pictures} frames of one segment that lie far enough apart have pictures; "
            "ask about fewer pictures, or build with more pairs an episode"
        )
    return found


def _truth(
    registry: Path, dataset: str, rules: PairRules, pairs: Sequence[Pair]
) -> dict[str, list[float | None]] | None:
    """episode_id -> the true progress of its frames, from the build's source; None where time says which is closer.

    Rows know of two frames at a time which is closer, which orders no three. Raises NotApplicableError where the source
    does not say it, or has changed since.
    """
    if rules.label == "order" and all(pair.closer == "later" for pair in pairs):
        return None
    try:
        found = true_progress(registry, dataset, {pair.episode_id for pair in pairs})
    except StcrError as error:
        raise NotApplicableError(str(error)) from error
    known = {episode_id: progress for episode_id, progress in found.items() if progress is not None}
    if unknown := sorted(found.keys() - known.keys()):
        raise NotApplicableError(
            f"{dataset}: episode {unknown[0]} has no state 'progress', and by time its pairs say that the later frame "
            "is not always closer; groups of it have no known answer"
        )
    return known


def with_interval(row: Mapping[str, Any], name: str) -> str:
    """A figure with its interval; tau with two decimals, shares in percent with one."""
    form, unit = ("{:.2f}", "") if name == "kendall_tau" else ("{:.1f}", " %")
    bounds = (row["intervals"] or {}).get(name)
    interval = f" ({form.format(bounds[0])} to {form.format(bounds[1])})" if bounds else " (no interval)"
    return f"{form.format(row[name])}{unit}{interval}"


def _report(row: Mapping[str, Any]) -> str:
    meanings = {
        "accuracy": "closest picture named right",
        "all_rotations": "groups right in every arrangement",
        "exact": "orders right from first to last",
        "kendall_tau": "Kendall's tau-b with the true order; unparsed counts as 0",
    }
    lines = [
        [
            meaning,
            with_interval(row, name),
            ("{:.2f}" if name == "kendall_tau" else "{:.1f} %").format(row["chance"][name]),
        ]
        for name, meaning in meanings.items()
        if row[name] is not None
    ]
    bias = (
        f"chi-square {row['place_chi2']:.1f} against equal numbers, p {row['place_p']:.2g}; the answers to one group "
        "are no independent draws, so p describes and does not test."
        if row["place_chi2"] is not None
        else "nothing was named."
    )
    verdict = control(row)
    title = tables.cell(f"{row['name']}: {row['dataset']}, {row['split']}")
    return (
        "\n\n".join(
            [
                f"# Groups of {row['pictures']} pictures: {title}",
                f"{ASKS[row['ask']].capitalize()}? {row['n_groups']} groups of {row['n_episodes']} episodes, each in "
                f"{row['n_queries'] // row['n_groups']} arrangements: {row['n_queries']} queries. Intervals: 95 %, "
                f"bootstrap over episodes, {row['resamples']} resamples.",
                tables.markdown(["figure", "value", "a coin gives"], lines),
                f"Named by place: {', '.join(str(count) for count in row['places'])}; {bias} "
                f"Unparsed: {row['unparsed_rate']:.1f} %.",
                f"As a control, {verdict.name}: **{verdict.verdict}**. {verdict.why}. Rule: {verdict.rule}.",
            ]
        )
        + "\n"
    )
