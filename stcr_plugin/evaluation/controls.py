"""Controls: questions that a hostile reader would ask of a good figure, each with a verdict that can be `fails`.

A control puts the pairs of a split otherwise (other words, other pictures, words for pictures) and judges what comes of
it by a rule of verdicts.RULES against the plain run on the same pairs. Each is a row of CONTROLS and nothing else.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.config import from_mapping, nearest, read_yaml
from stcr_plugin.engines.prompts import PROMPT_VARIANTS, prompts_for, renamed
from stcr_plugin.engines.settings import AskSettings, Engine
from stcr_plugin.engines.subject import subject
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation import descriptions, multi_image
from stcr_plugin.evaluation.evaluate import ANSWERS, Results, evaluate, read_answers, spread
from stcr_plugin.evaluation.multi_image import GroupSettings, evaluate_groups
from stcr_plugin.progress_bar import progress
from stcr_plugin.report import tables
from stcr_plugin.samples.questions import ask
from stcr_plugin.scoring import verdicts
from stcr_plugin.scoring.verdicts import RULES, NotApplicableError, Row, judged, measured
from stcr_plugin.types import ORDERS, Answer, Change, Prompt, Query, Shown

CONTROLS_JSON, CONTROLS_MD = "controls.json", "controls.md"
PLAIN = "plain"
_SIDES = re.compile(r"\b(?:left|right)\b|左|右", re.IGNORECASE)
_BOTH_ORDERS = "training pairs in both orders, as many of each (`orders: both`)"


@dataclass(frozen=True)
class Plain:
    """The plain run: what was asked, how, and what was said. Controls make their prompts of it.

    prompts: those of `settings` changed as the control says. texts: (pair_id, order) -> what the model wrote.
    """

    registry: Path
    dataset: str
    queries: tuple[Query, ...]
    settings: AskSettings
    seed: int
    ties: bool
    texts: Mapping[tuple[str, str], str]

    def prompts(self, queries: Sequence[Query] | None = None, ties: bool | None = None, **changes: Any) -> list[Prompt]:
        settings = from_mapping(AskSettings, dataclasses.asdict(self.settings) | changes, "the control's settings")
        offered = self.ties if ties is None else ties
        return prompts_for(self.queries if queries is None else queries, settings, self.seed, offered)


Make = Callable[[Plain, list[Prompt]], list[Prompt]]
"""(the plain run, its prompts with the control's settings) -> what is put: both orders of each pair, or neither."""


@dataclass(frozen=True)
class Control:
    """One control. asks, looks, mends and informative are as verdicts.Row has them; rule is a key of RULES.

    settings: fields of AskSettings that it sets. make: what it does to the prompts; None where settings say it all.
    reasoned: it needs a model that writes its reasons (mode cot).
    """

    name: str
    rule: str
    asks: str
    looks: str
    mends: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    make: Make | None = None
    reasoned: bool = False
    informative: bool = False


def controls(
    model_dir: Path | None,
    dataset: str,
    split: str,
    out: Path,
    registry: Path = Path("data_registry"),
    settings: AskSettings | None = None,
    only: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    resamples: int = 2000,
    also: Sequence[str] = (),
    engine: Engine | None = None,
    name: str | None = None,
    pictures: int | None = None,
) -> list[Row]:
    """Put the controls (or `only` some) to a model, and write controls.json and controls.md into the folder `out`.

    Each has a folder in `out` with all that run.evaluate writes, `plain` is the plain run, and a killed run goes on.
    `also` names other data, "NAME:SPLIT=label", whose rows are judged as the plain run is. Rows of an earlier run of
    the same model, data and settings stay in the files. All else is as in run.evaluate. `pictures`: two rows that ask
    about groups of so many (see groups), 3 by default, with `only` none; `limit` takes as many groups as pairs.
    Returns the rows of this run. Raises ConfigError for an unknown control, a malformed `also` or a number of pictures
    that cannot be asked about, and what evaluate raises.
    """
    from stcr_plugin.registry.manifest import read_pairs

    chosen = _chosen(only)
    others = other_data(also)
    count = 3 if pictures is None and only is None else pictures
    asked_of_groups = [
        from_mapping(GroupSettings, {"pictures": count, "ask": ask}, "the options")
        for ask in (multi_image.ASKS if count is not None else ())
    ]
    out, registry = Path(out), Path(registry)
    who = subject(model_dir, registry, settings, engine)
    asked, engine = who.settings, who.engine  # one engine for all, so that a model is loaded once

    def run(folder: str, data: tuple[str, str], ask: AskSettings, prompts: list[Prompt] | None = None) -> Results:
        change = None if prompts is None else lambda _: prompts
        label = name if prompts is None else f"{plain.row['name']}, {folder}"
        return evaluate(
            model_dir, *data, out / folder, registry, ask, limit, seed, resamples, label, engine, change
        )  # fmt: skip

    plain = run(PLAIN, (dataset, split), asked)
    answers = read_answers(plain.out / ANSWERS)
    pairs = spread(read_pairs(registry, dataset, split), limit, seed)
    queries = tuple(Query(pair, order) for pair in pairs for order in ORDERS)
    texts: dict[tuple[str, str], str] = {(answer.pair_id, answer.order): answer.text for answer in answers}
    before = Plain(registry, dataset, queries, asked, seed, bool(plain.row["ties"]), texts)
    rows = [_known(PLAIN, f"the questions of training, {dataset}, {split}", plain, PLAIN)]
    for control in progress(chosen, "controls: running", "controls"):
        try:
            prompts = _prompts(control, before)
            ask = dataclasses.replace(asked, **control.settings)
            found = run(control.name, (dataset, split), ask, prompts)
        except NotApplicableError as reason:
            rows.append(_not_applicable(control, reason))
        except ConfigError as reason:
            if not any(prompt.begin for prompt in prompts):
                raise
            rows.append(_not_applicable(control, reason))  # not every engine lets its model's turn be begun
        else:
            rows.append(_row(control, found, answers, len(pairs), resamples, seed))
    for grouped in asked_of_groups:
        folder = _folder(grouped.pictures, grouped.ask)
        try:
            of_groups = evaluate_groups(
                model_dir, dataset, split, out / folder, registry, asked, grouped, limit, seed, resamples, name, engine
            )
            rows.append(multi_image.control(of_groups.row, folder))
        except (NotApplicableError, ConfigError) as reason:  # the plain run went well, so it is about the groups
            rows.append(multi_image.not_asked(grouped, reason))
    for label, data in others.items():
        rows.append(_known(label, f"other data: {data[0]}, {data[1]}", run(label, data, asked), label))
    write(out, _header(plain.row), rows)
    return rows


def write(out: Path, header: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write `rows` into controls.json and controls.md in the folder `out`, over those of the same names.

    Earlier rows stay where the file's `header` (model, data, settings) is the same.
    """
    path = Path(out) / CONTROLS_JSON
    with artefacts.locked(Path(out) / ".lock"):
        earlier = artefacts.read_json(path) if path.exists() else {}
        same = isinstance(earlier, dict) and earlier.get("of") == dict(header)
        every = {row["name"]: row for row in earlier["rows"]} if same else {}
        every |= {row.name: dataclasses.asdict(row) for row in rows}
        order = [PLAIN, *CONTROLS, *multi_image.ROWS.values()]
        listed = sorted(every.values(), key=lambda row: (_place(row["name"], order), row["name"]))
        whole = {"of": dict(header), "unit": "percent", "rows": listed, "provenance": artefacts.provenance()}
        artefacts.write_json(path, whole)
        artefacts.write_text(Path(out) / CONTROLS_MD, markdown(header, read_rows(path)))


def read_rows(path: Path) -> list[Row]:
    """The rows of a controls.json. Raises DataError where it holds anything else."""
    import pydantic

    found = artefacts.read_json(path)
    if not isinstance(found, dict) or not {"of", "rows"} <= found.keys():
        raise DataError(f"{path}: is no file of controls; delete it, run `stcr controls` again")
    try:
        return pydantic.TypeAdapter(list[Row]).validate_python(found["rows"])
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        raise DataError(f"{path}: row {problem['loc'][0]}: {problem['msg']}; delete it, run again") from None


def _folder(pictures: int, ask: str) -> str:
    """Where a row about groups of pictures has its files."""
    return f"{pictures}_pictures{'_order' if ask == 'order' else ''}"


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def _header(row: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the rows; a batch size does not."""
    keys = ("name", "model", "dataset", "split", "mode", "seed", "resamples", "limit", "n_pairs", "n_episodes")
    settings = from_mapping(AskSettings, row["settings"], "the settings of the plain run").decides
    of = {**{key: row[key] for key in keys}, "settings": settings, "engine": row["engine"]}
    return {**of, "data_digest": row["data_digest"], "questions_digest": row["questions_digest"]}


def _chosen(only: Sequence[str] | None) -> list[Control]:
    for name in only or ():
        if name not in CONTROLS:
            raise ConfigError(f"no control {name!r}, {nearest(name, list(CONTROLS))}")
    return [control for name, control in CONTROLS.items() if only is None or name in only]


def other_data(also: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Each "NAME:SPLIT=label" -> label and (NAME, SPLIT); a label is a row's name and that of its folder.

    Raises ConfigError for another form, and for a label that is taken.
    """
    found: dict[str, tuple[str, str]] = {}
    for text in also:
        match = re.fullmatch(r"([\w-]+):([\w-]+)=(\w[\w.-]*)", text)
        if not match:
            raise ConfigError(
                f"other data read NAME:SPLIT=label, such as stcr_regress:regress=non_monotone, got {text!r}"
            )
        dataset, split, label = match.groups()
        if label in (PLAIN, *CONTROLS, CONTROLS_JSON, CONTROLS_MD, *(_folder(*row) for row in multi_image.ROWS)):
            raise ConfigError(f"{text!r}: {label!r} is a name of the controls' own; give another label")
        if label in found:
            raise ConfigError(f"{text!r}: another row has the label {label!r}; give each its own")
        found[label] = dataset, split
    return found


def _prompts(control: Control, plain: Plain) -> list[Prompt]:
    """What the control puts. Raises NotApplicableError where that is nothing, or what the plain run puts."""
    if control.reasoned and plain.settings.mode != "cot":
        raise NotApplicableError("the model is not let reason (mode direct), so there are no reasons to look at")
    try:
        prompts = plain.prompts(**control.settings)
        prompts = control.make(plain, prompts) if control.make else prompts
    except (ConfigError, DataError) as error:
        raise NotApplicableError(str(error)) from error
    if not prompts:
        raise NotApplicableError("no pair can be asked about in this way")
    if prompts == plain.prompts():
        raise NotApplicableError("the plain run asks in this way already")
    return prompts


def _row(control: Control, found: Results, plain: Sequence[Answer], pairs: int, resamples: int, seed: int) -> Row:
    measures = measured(found.row, read_answers(found.out / ANSWERS), plain, resamples, seed)
    verdict, why = judged(RULES[control.rule], measures, found.row["n_episodes"])
    figures = dataclasses.asdict(found.figures) | {"intervals": found.row["intervals"]}
    return Row(
        **_texts(control),
        verdict=verdict,
        why=why,
        measures=measures,
        figures=figures,
        left_out=pairs - found.figures.n_pairs - found.figures.n_ties,
        folder=control.name,
    )


def _not_applicable(control: Control, reason: Exception) -> Row:
    return Row(**_texts(control), verdict="not applicable", why=str(reason))


def _texts(control: Control) -> dict[str, Any]:
    said = {key: getattr(control, key) for key in ("name", "asks", "looks", "mends", "informative")}
    return {**said, "rule": RULES[control.rule].words}


def _known(name: str, asks: str, found: Results, folder: str) -> Row:
    """The row of a run that nothing is changed in: the plain one, and those on other data."""
    bounds = found.row["intervals"] or {}
    measures = {
        key: verdicts.Measure(found.row[key], bounds.get(key))
        for key in ("pair_accuracy", "earlier_closer_accuracy", "position_bias", "unparsed_rate")
        if found.row[key] is not None
    }
    verdict, why = judged(RULES["knows"], measures, found.row["n_episodes"])
    return Row(
        name=name,
        asks=asks,
        looks="is right in both orders",
        mends="more of such episodes in training; CoT samples first where weak ones alone do not help",
        rule=RULES["knows"].words,
        verdict=verdict,
        why=why,
        measures=measures,
        figures=dataclasses.asdict(found.figures) | {"intervals": found.row["intervals"]},
        folder=folder,
    )


def markdown(header: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """controls.md: a table, what a failure says and what mends it, and the rules."""
    title = tables.cell(f"{header['name']}: {header['dataset']}, {header['split']}")
    lines = [
        [
            f"`{tables.cell(row.name)}`",
            tables.cell(row.asks),
            tables.cell(row.looks),
            tables.cell(row.why) + (f"; {row.left_out} pairs left out" if row.left_out else ""),
            f"**{row.verdict}**" + (" (informative)" if row.informative else ""),
        ]
        for row in rows
    ]
    mended = [
        f"- `{tables.cell(row.name)}` ({row.verdict}): {tables.cell(row.mends)}."
        for row in rows
        if row.verdict in ("fails", "not shown") and not row.informative
    ]
    named = [name for name in verdicts.MEANINGS if any(name in row.measures for row in rows)]
    by_rule: dict[str, list[str]] = {}
    for row in rows:
        by_rule.setdefault(row.rule, []).append(f"`{tables.cell(row.name)}`")
    counts = ", ".join(
        f"{sum(row.verdict == verdict and not row.informative for row in rows)} {words}"
        for verdict, words in (("holds", "hold"), ("fails", "fail"), ("not shown", "not shown"))
    )
    parts = [
        f"# Controls of {title}",
        f"{header['n_pairs']} pairs of {header['n_episodes']} episodes, mode `{header['mode']}`. Of those with a right "
        f"outcome: {counts}. Intervals: 95 %, bootstrap over episodes, paired with the plain run; each stands by "
        "itself, so of twenty one may miss by chance, and with a handful of episodes they are too narrow.",
        tables.markdown(["control", "what is asked", "a model that looks", "figures", "verdict"], lines),
        "An informative control tells what the model uses; none of its outcomes is a fault.",
        tables.markdown(["figure", "what it counts"], [list(verdicts.MEANINGS[name]) for name in named]),
        *(["## What would mend it", "\n".join(mended)] if mended else []),
        "## The rules",
        "They stand in the code (evaluation/verdicts.py; of groups in evaluation/groups.py) and depend on no result.",
        "\n".join(f"- {', '.join(names)}: {tables.cell(rule)}." for rule, names in by_rule.items()),
    ]
    return "\n\n".join(parts) + "\n"


def console(rows: Sequence[Row]) -> str:
    """A line a row for a terminal: name, verdict, figures."""
    width = max(len(row.name) for row in rows)
    return "\n".join(f"{row.name:<{width}}  {row.verdict:<14}  {row.why}" for row in rows)


# ---- what controls do to prompts ----


def _query_of(plain: Plain) -> dict[tuple[str, str], Query]:
    return {(query.pair.pair_id, query.order): query for query in plain.queries}


def _pictures(change: Callable[[tuple[Shown, ...]], tuple[Shown, ...]]) -> Make:
    """Every prompt with its pictures changed; without pictures there are no labels either."""

    def make(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
        changed = [(prompt, change(prompt.shown)) for prompt in prompts]
        return [
            dataclasses.replace(prompt, shown=shown, labels=prompt.labels[: len(shown)]) for prompt, shown in changed
        ]

    return make


def _changed(place: int, change: Change) -> Make:
    """The picture at `place` blank or noise."""

    def one(shown: tuple[Shown, ...]) -> tuple[Shown, ...]:
        return tuple(Shown(each.image, change) if at == place else each for at, each in enumerate(shown))

    return _pictures(one)


def _mirrored(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    """Of tasks that speak of left or right a mirrored picture would be another task's, so these are left out."""
    sided = {query.pair.pair_id for query in plain.queries if _SIDES.search(query.pair.task)}
    if len(sided) == len({query.pair.pair_id for query in plain.queries}):
        raise NotApplicableError("every task text speaks of left or right")
    mirror = _pictures(lambda shown: tuple(Shown(one.image, "mirror") for one in shown))
    return mirror(plain, [prompt for prompt in prompts if prompt.item not in sided])


def _other_task(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    """The same question about the task of another episode of the split, drawn by pair and seed."""
    tasks = sorted({query.pair.task for query in plain.queries})
    if len(tasks) < 2:
        raise NotApplicableError("all pairs have the same task text, so there is no other to put in its place")

    def swapped(query: Query) -> Query:
        others = [task for task in tasks if task != query.pair.task]
        task = others[_drawn([plain.seed, query.pair.pair_id, "other_task"], len(others))]
        return Query(dataclasses.replace(query.pair, task=task), query.order)

    asked = plain.prompts([swapped(query) for query in plain.queries])
    return [dataclasses.replace(prompt, question=one.question) for prompt, one in zip(prompts, asked, strict=True)]


def _decomposed(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    texts = _wording("decomposition", plain.settings.language)

    def question(query: Query, prompt: Prompt) -> str:
        # What the usual question ends with (neither, a warning) stays: it is no part of the decomposition.
        settings = plain.settings
        usual = renamed(ask(query, "cot", settings.language, seed=plain.seed, part=settings.part), prompt.names)
        template = texts[_drawn([plain.seed, query.pair.pair_id, "decomposition"], len(texts))]
        return _filled(template, query, prompt) + prompt.question.removeprefix(usual)

    queries = _query_of(plain)
    return [
        dataclasses.replace(prompt, question=question(queries[prompt.item, prompt.order], prompt)) for prompt in prompts
    ]


def _own(plain: Plain, prompts: Sequence[Prompt]) -> list[tuple[Prompt, descriptions.Halves]]:
    """The prompts of pairs that the model itself described in both orders, with its description."""
    found = {
        (prompt.item, prompt.order): descriptions.own(plain.texts[prompt.item, prompt.order], prompt.names)
        for prompt in prompts
    }
    kept = []
    for prompt in prompts:
        halves = found[prompt.item, prompt.order]
        if halves and all(found[prompt.item, order] for order in ORDERS):
            kept.append((prompt, halves))
    if not kept:
        raise NotApplicableError("in no pair do the model's words describe both pictures in both orders")
    return kept


def _begun(prompt: Prompt, halves: descriptions.Halves, **changes: Any) -> Prompt:
    """The description as the beginning of the model's own turn, as its training writes it; what is left is to judge."""
    begin = f"spatial details: {descriptions.described(halves, prompt.names)}\n"
    return dataclasses.replace(prompt, begin=begin, reasons=False, **changes)


def _blind(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    template = _wording("described", plain.settings.language)[0]
    queries = _query_of(plain)
    return [
        dataclasses.replace(
            prompt,
            shown=(),
            labels=(),
            reasons=False,
            question=_filled(template, queries[prompt.item, prompt.order], prompt, halves),
        )
        for prompt, halves in _own(plain, prompts)
    ]


def _blind_begun(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    return [
        _begun(prompt, halves, shown=tuple(Shown(one.image, "blank") for one in prompt.shown))
        for prompt, halves in _own(plain, prompts)
    ]


def _swapped_description(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    return [_begun(prompt, (second, first)) for prompt, (first, second) in _own(plain, prompts)]


def _true(plain: Plain, prompts: Sequence[Prompt]) -> list[tuple[Prompt, descriptions.Halves]]:
    found = descriptions.true(plain.registry, plain.dataset, plain.queries, plain.settings.language)
    return [(prompt, found[prompt.item, prompt.order]) for prompt in prompts if (prompt.item, prompt.order) in found]


def _oracle(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    template = _wording("told", plain.settings.language)[0]
    queries = _query_of(plain)
    return [
        dataclasses.replace(
            prompt,
            question=prompt.question + _filled(template, queries[prompt.item, prompt.order], prompt, halves),
        )
        for prompt, halves in _true(plain, prompts)
    ]


def _oracle_begun(plain: Plain, prompts: list[Prompt]) -> list[Prompt]:
    return [_begun(prompt, halves) for prompt, halves in _true(plain, prompts)]


def _filled(template: str, query: Query, prompt: Prompt, halves: descriptions.Halves | None = None) -> str:
    """A wording of controls.yaml with the pictures' names, the task and the description in it."""
    values = {"task": query.pair.task.strip().rstrip(".。")}
    if halves:
        values["description"] = descriptions.described(halves, prompt.names)
    return re.sub(r"\{(task|description)\}", lambda found: values[found[1]], renamed(template, prompt.names))


def _drawn(seed: list[Any], count: int) -> int:
    return int(artefacts.digest(seed)[:16], 16) % count


def _wording(key: str, language: str) -> list[str]:
    texts = _wordings()[key]
    if language not in texts:
        raise ConfigError(f"no wording {key!r} in {language!r}, {nearest(language, list(texts))}")
    found = texts[language]
    return [found] if isinstance(found, str) else list(found)


@cache
def _wordings() -> dict[str, Any]:
    return read_yaml(PROMPT_VARIANTS / "controls.yaml")


_TRUTH_UNUSED = (
    "more CoT samples, since it cannot judge even by the truth: reasoning is the limit, not sight; where it does worse "
    "than in the plain run, it is the unfamiliar prompt that it cannot use, and samples that give a description mend it"
)


def _styled(name: str, style: str, words: str) -> Control:
    return Control(
        name,
        "keeps",
        f"the pictures are called {words}",
        "answers as before, by the other name",
        f"training in several styles of naming pictures ({style} among them), drawn anew for each pair",
        {"style": style},
    )


def _taken(name: str, asks: str, place: int, change: Change) -> Control:
    return Control(
        name,
        "falls",
        asks,
        "can no longer compare, so its accuracy falls",
        "data whose answer needs both pictures: pairs from anywhere in the episode, so that one frame does not tell, "
        "and none of the evaluated episodes in training (see the overlap)",
        make=_changed(place, change),
    )


CONTROLS: Mapping[str, Control] = {
    control.name: control
    for control in (
        Control(
            "wording",
            "keeps",
            "in wordings of the question that training never saw",
            "answers as before",
            "more paraphrases of the question in samples/prompts/questions.yaml",
            {"part": "heldout"},
        ),
        Control(
            "language",
            "keeps",
            "in Chinese",
            "answers as before, where it knows the language",
            "training samples in both languages (`languages: [en, zh]` of a dataset)",
            {"language": "zh"},
        ),
        _styled("letters", "letters", "A and B"),
        _styled("ordinals", "ordinals", "first picture and second picture"),
        _styled("frames", "frames", "frame 1 and frame 2"),
        Control(
            "decomposition",
            "keeps",
            "to reason by what is done and what is left in each picture, where training describes what stands where",
            "answers as before",
            "CoT samples in several decompositions",
            make=_decomposed,
            reasoned=True,
        ),
        Control(
            "mirrored",
            "keeps",
            "with both pictures mirrored (tasks that speak of left or right are left out)",
            "answers as before",
            "mirrored copies of the training pictures, of tasks without left and right",
            make=_mirrored,
        ),
        Control(
            "same_picture",
            "unswayed",
            "with the first picture shown in both places, so that neither is closer",
            "has no preference",
            f"{_BOTH_ORDERS}; ties taught (`ties: teach`)",
            make=_pictures(lambda shown: (shown[0],) * len(shown)),
        ),
        _taken("blank_first", "with a blank first picture", 0, "blank"),
        _taken("blank_second", "with a blank second picture", 1, "blank"),
        _taken("noise", "with noise for the second picture", 1, "noise"),
        Control(
            "text_only",
            "unswayed",
            "without pictures; both orders are then the same prompt, so pair accuracy is 0 by construction",
            "has no preference for a place",
            _BOTH_ORDERS,
            make=_pictures(lambda shown: ()),
        ),
        Control(
            "other_task",
            "heeds",
            "about the task of another episode",
            "is less often right where the task text is needed; where it is not, it may answer as before, and then "
            "this only says that the text is not used",
            "scenes in which two tasks are possible, so that the pictures alone do not tell",
            make=_other_task,
            informative=True,
        ),
        Control(
            "blind",
            "agrees",
            "for the judgment again, without pictures, from its own description in the question",
            "reaches the same answer, if its answer comes from what it wrote",
            "descriptions in the CoT samples that decide the answer, and some samples that give them in the question",
            make=_blind,
            reasoned=True,
        ),
        Control(
            "blind_begin",
            "agrees",
            "for the judgment again, both pictures blank, its own description as the beginning of its turn",
            "reaches the same answer, if its answer comes from what it wrote",
            "descriptions in the CoT samples that decide the answer",
            make=_blind_begun,
            reasoned=True,
        ),
        Control(
            "swapped_description",
            "follows",
            "to judge after its own description with the two halves changed over, the pictures in place",
            "follows the words where it reasons by them, and the pictures where it does not",
            "nothing: it tells which of the two the answer follows",
            make=_swapped_description,
            reasoned=True,
            informative=True,
        ),
        Control(
            "oracle",
            "reasons",
            "with the true description of both pictures in the question",
            "is right wherever the description decides",
            _TRUTH_UNUSED,
            make=_oracle,
        ),
        Control(
            "oracle_begin",
            "reasons",
            "to judge after the true description, as if it had written that itself",
            "is right wherever the description decides",
            _TRUTH_UNUSED,
            make=_oracle_begun,
        ),
    )
}
"""Name -> control, in the order of the report."""
