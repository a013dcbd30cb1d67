"""Controls: questions that a hostile reader would ask of a good figure, each with a verdict that can be `fails`.

A control evaluates the pairs of a split with other settings (other words, other pictures, words for pictures) and
judges the result by a rule of verdicts.RULES against the plain run on the same pairs. Each is a row of CONTROLS.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.config import from_mapping, nearest
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.control_list import CONTROLS, Control
from stcr_plugin.evaluation.control_prompts import Plain
from stcr_plugin.evaluation.evaluate import ANSWERS, evaluate, read_answers
from stcr_plugin.evaluation.multi_image import evaluate_groups
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.figures import GroupSettings, PairFigures, Verdict
from stcr_plugin.pairs import spread
from stcr_plugin.progress_bar import progress
from stcr_plugin.provenance import provenance
from stcr_plugin.result_files import encode
from stcr_plugin.results import ControlRow, Controls, ControlsOf, Evaluation
from stcr_plugin.scoring import group_figures, metrics
from stcr_plugin.scoring.verdicts import RULES, NotApplicableError, judged, measured, measures_of
from stcr_plugin.types import ORDERS, Answer, Prompt, Query

CONTROLS_JSON, CONTROLS_MD = Controls.file, "controls.md"
PLAIN = "plain"


def controls(
    request: EvalRequest,
    out: Path,
    *,
    only: Sequence[str] | None = None,
    also: Sequence[str] = (),
    pictures: int | None = None,
) -> Controls:
    """Run the controls on a model, and write controls.json into the folder `out`.

    Each control has a folder in `out` with all that `evaluate` writes; `plain` is the plain run. A killed run goes on.
    Rows of an earlier run of the same model, data and settings stay in the file.

    Args:
        request: Model, data and settings; `limit` takes as many groups as pairs.
        out: Folder of the results.
        only: Names of the controls to run; None for all.
        also: Other data, "NAME:SPLIT=label", whose rows are judged as the plain run is.
        pictures: Adds two rows on groups of as many pictures; None for 3, or for none with `only`.

    Returns:
        The rows of this run.

    Raises:
        ConfigError: A control is unknown, `also` is malformed, or a group cannot have as many pictures.
    """
    chosen, others = _chosen(only), other_data(also)
    count = 3 if pictures is None and only is None else pictures
    groups = [
        from_mapping(GroupSettings, {"pictures": count, "ask": ask}, "--pictures")
        for ask in (group_figures.ASKS if count is not None else ())
    ]
    subject = request.subject()  # one engine for all, so that a model is loaded once
    run = _Run.plain(dataclasses.replace(request, settings=subject.settings, engine=subject.engine), Path(out))
    rows = [_known(PLAIN, f"the questions of training, {request.dataset}, {request.split}", run.result)]
    rows += [run.control(control) for control in progress(chosen, "controls: running", "controls")]
    rows += [run.groups(asked) for asked in groups]
    for label, (dataset, split) in others.items():
        found = evaluate(dataclasses.replace(run.request, dataset=dataset, split=split), run.out / label)
        rows.append(_known(label, f"other data: {dataset}, {split}", found))
    write(run.out, _of(run.result), rows)
    return Controls(of=_of(run.result), rows=tuple(rows), provenance=provenance())


@dataclass(frozen=True)
class _Run:
    """The plain run, and what all controls share: its request, folder, answers and queries."""

    request: EvalRequest
    out: Path
    result: Evaluation
    answers: Sequence[Answer]
    asked: Plain

    @classmethod
    def plain(cls, request: EvalRequest, out: Path) -> _Run:
        from stcr_plugin.registry.manifest import read_pairs

        result = evaluate(request, out / PLAIN)
        answers = read_answers(out / PLAIN / ANSWERS)
        pairs = spread(read_pairs(request.registry, request.dataset, request.split), request.limit, request.seed)
        asked = Plain(
            request.registry,
            request.dataset,
            queries=tuple(Query(pair, order) for pair in pairs for order in ORDERS),
            settings=request.settings,
            seed=request.seed,
            ties=result.ties,
            texts={(answer.pair_id, answer.order): answer.text for answer in answers},
        )
        return cls(request, out, result=result, answers=answers, asked=asked)

    def control(self, control: Control) -> ControlRow:
        """Raises ConfigError where the engine refuses prompts that do not begin the model's own turn."""
        variants: dict[str, list[Prompt]] = {}
        try:
            variants = _variants(control, self.asked)
            runs = [
                self._run(control, f"{control.name}/{number}" if control.variants else control.name, prompts=prompts)
                for number, prompts in enumerate(variants.values(), 1)
            ]
        except NotApplicableError as reason:
            return _row(control, "not applicable", str(reason))
        except ConfigError as reason:
            if not any(prompt.begin for prompts in variants.values() for prompt in prompts):
                raise
            return _row(control, "not applicable", str(reason))  # not every engine lets its model's turn be begun
        variant, (folder, found) = min(
            zip(variants, runs, strict=True), key=lambda one: one[1][1].figures.pair_accuracy
        )
        answers, level = read_answers(self.out / folder / ANSWERS), 100 - 5 / len(runs)
        bootstrap: dict[str, Any] = {"resamples": found.resamples, "seed": found.seed, "level": level}
        part = PairFigures(found.figures, metrics.intervals(answers, **bootstrap))
        measures = measured(part, answers, self.answers, ties=found.ties, **bootstrap)
        if "claims_true" in RULES[control.rule].judged and found.claims and found.claims.found:
            measures["claims_true"] = found.claims.found.claims_true
        verdict, why = judged(RULES[control.rule], measures, found.figures.n_episodes, shows=control.shows)
        left_out = len(self.asked.queries) // len(ORDERS) - found.figures.n_pairs - found.figures.n_ties
        row = _row(control, verdict, why)
        if control.variants:
            row = dataclasses.replace(row, asks=f'{row.asks} of {len(runs)}: "{variant}"')
        if control.told and (origin := self.asked.true.origin):
            row = dataclasses.replace(row, asks=f"{row.asks}; here {origin}")
        return dataclasses.replace(row, measures=measures, figures=part, left_out=left_out, folder=folder)

    def _run(self, control: Control, folder: str, *, prompts: list[Prompt]) -> tuple[str, Evaluation]:
        """The folder of a run of the control, and its result."""
        request = dataclasses.replace(
            self.request,
            settings=dataclasses.replace(self.request.settings, **control.settings),
            name=f"{self.result.name}, {folder}",
        )
        return folder, evaluate(request, self.out / folder, change=lambda _: prompts)

    def groups(self, asked: GroupSettings) -> ControlRow:
        folder = _folder(asked.pictures, asked.ask)
        try:
            return group_figures.control_row(evaluate_groups(self.request, self.out / folder, asked), folder)
        except (NotApplicableError, ConfigError) as reason:  # the plain run went well, so it is about the groups
            return group_figures.inapplicable_row(asked, reason)


def write(out: Path, of: ControlsOf, rows: Sequence[ControlRow]) -> None:
    """Write `rows` into controls.json in the folder `out`, over those of the same names.

    Earlier rows stay where they belong to the same plain run (model, data, settings).
    """
    path = Path(out) / CONTROLS_JSON
    with artefacts.locked(Path(out) / ".lock"):
        try:
            earlier = Controls.read(path) if path.exists() else None
        except DataError:  # written by something else, and nothing of it can be kept
            earlier = None
        same = earlier.rows if earlier and encode(earlier.of) == encode(of) else ()
        every = {row.name: row for row in (*same, *rows)}
        order = [PLAIN, *CONTROLS, *group_figures.ROWS.values()]
        listed = sorted(every.values(), key=lambda row: (_place(row.name, order), row.name))
        Controls(of=of, rows=tuple(listed), provenance=provenance()).write(path)


def _folder(pictures: int, ask: str) -> str:
    """Where a row about groups of pictures has its files."""
    return f"{pictures}_pictures{'_order' if ask == 'order' else ''}"


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def _of(plain: Evaluation) -> ControlsOf:
    """What decides the rows; a batch size does not."""
    return ControlsOf(
        name=plain.name,
        model=plain.model,
        dataset=plain.dataset,
        split=plain.split,
        mode=plain.mode,
        seed=plain.seed,
        resamples=plain.resamples,
        limit=plain.limit,
        n_pairs=plain.figures.n_pairs,
        n_episodes=plain.figures.n_episodes,
        settings=from_mapping(AskSettings, plain.settings, "the settings of the plain run").decides,
        engine=plain.engine,
        data_digest=plain.data_digest,
        questions_digest=plain.questions_digest,
    )


def _chosen(only: Sequence[str] | None) -> list[Control]:
    for name in only or ():
        if name not in CONTROLS:
            raise ConfigError("--only", f"no control {name!r}", nearest(name, list(CONTROLS)))
    return [control for name, control in CONTROLS.items() if only is None or name in only]


def other_data(also: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Each "NAME:SPLIT=label" -> label and (NAME, SPLIT); a label is the name of a row and of its folder.

    Raises:
        ConfigError: It has another form, or the label is taken.
    """
    found: dict[str, tuple[str, str]] = {}
    for text in also:
        match = re.fullmatch(r"([\w-]+):([\w-]+)=(\w[\w.-]*)", text)
        if not match:
            raise ConfigError(
                f"other data {text!r}", "the form is NAME:SPLIT=label", "use, say, stcr_regress:regress=non_monotone"
            )
        dataset, split, label = match.groups()
        folders = (_folder(*row) for row in group_figures.ROWS)
        if label in (PLAIN, *CONTROLS, CONTROLS_JSON, CONTROLS_MD, *folders):
            raise ConfigError(text, f"the controls use the name {label!r} themselves", "give another label")
        if label in found:
            raise ConfigError(text, f"another row has the label {label!r}", "give each its own")
        found[label] = dataset, split
    return found


def _variants(control: Control, plain: Plain) -> dict[str, list[Prompt]]:
    """The prompts of the control by prompt variant, "" for a control without variants.

    Raises NotApplicableError where there are none, or those of the plain run.
    """
    if control.reasoned and plain.settings.mode != "cot":
        raise NotApplicableError("the model does not reason (mode direct), so there are no reasons to look at")
    try:
        prompts = plain.prompts(**control.settings)
        prompts = control.make(plain, prompts) if control.make else prompts
        variants = dict(control.variants(plain, prompts)) if control.variants else {"": prompts}
    except (ConfigError, DataError) as error:
        raise NotApplicableError(str(error)) from error
    if not prompts:
        raise NotApplicableError("no pair can be evaluated in this way")
    if [prompts] == list(variants.values()) and prompts == plain.prompts():
        raise NotApplicableError("the plain run does the same already")
    return variants


def _row(control: Control, verdict: Verdict, why: str) -> ControlRow:
    return ControlRow(
        control.name,
        control.asks,
        control.looks,
        fix=control.fix,
        rule=RULES[control.rule].words,
        verdict=verdict,
        why=why,
        informative=control.informative,
    )


def _known(name: str, asks: str, found: Evaluation) -> ControlRow:
    """The row of a run that nothing is changed in: the plain one, and those on other data."""
    measures = measures_of(found.figures, found.intervals)
    verdict, why = judged(RULES["knows"], measures, found.figures.n_episodes)
    return ControlRow(
        name,
        asks,
        "is right in both orders",
        fix="more of such episodes in training; CoT samples first where weak ones alone do not help",
        rule=RULES["knows"].words,
        verdict=verdict,
        why=why,
        measures=measures,
        figures=PairFigures(found.figures, found.intervals),
        folder=name,
    )
