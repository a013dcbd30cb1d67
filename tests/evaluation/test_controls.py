import dataclasses
import json
import math
import re

import pytest
from toy_build import build_toy

from stcr_plugin import artefacts
from stcr_plugin.cli import main
from stcr_plugin.engines import local
from stcr_plugin.engines.oracles import Oracle
from stcr_plugin.engines.sealed import unsealed
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.episodes import source_table
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation import descriptions
from stcr_plugin.evaluation.control_list import CONTROLS
from stcr_plugin.evaluation.controls import (
    PLAIN,
    controls,
    write,
)
from stcr_plugin.evaluation.evaluate import read_answers
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.figures import Measure, PairFigures
from stcr_plugin.registry import parquet
from stcr_plugin.registry.manifest import dataset_rows, read_manifest, read_pairs
from stcr_plugin.registry.manifest import pair_files as files_of
from stcr_plugin.report.controls_table import controls_console, controls_markdown
from stcr_plugin.results import ControlRow, Controls
from stcr_plugin.samples.questions import fill_task, paraphrases
from stcr_plugin.samples.reflections import proposed_in, reflect_paraphrases
from stcr_plugin.scoring import metrics, verdicts
from stcr_plugin.scoring.factuality import named_halves, own_halves
from stcr_plugin.scoring.verdicts import RULES, judged, measured
from stcr_plugin.types import ORDERS, Answer, Pair, Query, Response

DIRECT, COT = AskSettings(mode="direct"), AskSettings(mode="cot")
PHASES = ("approach", "grasp", "lift", "move", "place")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    pairs = {"per_episode": 4, "min_seconds": 1.0, "within_phase": 0.0}
    datasets = {"cot": {"split": "train", "kind": "cot"}}
    return build_toy(tmp_path_factory.mktemp("registry"), heldout=4, pairs=pairs, datasets=datasets)


@pytest.fixture(autouse=True)
def few_episodes_suffice(monkeypatch):
    monkeypatch.setattr(verdicts, "FEWEST", 2)


# ---- judges whose ways are known ----


class Judge:
    """An engine that gives the second place the probability `second(prompt)`, and describes pictures by their frame."""

    def __init__(self, second):
        self.second, self.asked = second, 0

    def identity(self):
        return {"engine": "judge"}

    def respond(self, prompts):
        for number, prompt in enumerate(map(unsealed, prompts)):
            self.asked += 1
            likely = self.second(prompt)
            first, second, *_ = prompt.names
            line = "" if likely == 0.5 else prompt.answer.format(name=second if likely > 0.5 else first)
            if prompt.reasons:
                frames = ["step None", "step None"]
                words = getattr(self.second, "words", None)
                told = [words[one.image] if words else f"step {frame_of(one)}" for one in prompt.shown] or frames
                said = [f"{name}: {text}." for name, text in zip(prompt.names, told, strict=False)]
                yield number, Response(f"spatial details: {' '.join(said)}\n{line}")
            else:
                yield number, Response(line, {first: math.log(1 - likely), second: math.log(likely)})


def frame_of(shown):
    hidden = ("blank", "noise", "mask change")
    return None if shown.change in hidden else int(re.search(r"(\d+)\.png", shown.image)[1])


def compared(first, second):
    if first is None or second is None or first == second:
        return 0.5
    return 0.9 if second > first else 0.1


def place(prompt):
    return 0.9


def by_sight(prompt):
    return compared(*(frame_of(shown) for shown in prompt.shown)) if prompt.shown else 0.5


def from_memory(prompt):
    """Knows the pictures' names, so that it needs not look at them."""
    return compared(*(int(re.search(r"(\d+)\.png", shown.image)[1]) for shown in prompt.shown))


def progress_in(text):
    """What a description says of how far the task is: its frame, or its phase."""
    if step := re.search(r"step (\d+)", text):
        return (int(step[1]),)
    return (next(number for number, phase in enumerate(PHASES) if phase in text),)


def by_words(prompt):
    """Reads a description where it is given one, and looks where it is not."""
    for text in (prompt.begin, prompt.question):
        # Not the "img1: ... img2: ..." with which a question says how to answer.
        for halves in re.findall(rf"{prompt.names[0]}: (\w.*?)\. {prompt.names[1]}: (\w.*?)\.", text):
            return compared(*(progress_in(half) for half in halves))
    return by_sight(prompt)


def eyes_only(prompt):
    """Looks where it can and never reads a description."""
    return by_sight(prompt) if any(frame_of(one) is not None for one in prompt.shown) else 0.9


def sided(prompt):
    return place(prompt) if any(one.change == "mirror" for one in prompt.shown) else by_sight(prompt)


def fragile(prompt):
    """Looks at pictures that are whole."""
    return place(prompt) if any(one.change for one in prompt.shown) else by_sight(prompt)


def clock(prompt):
    """Is told the order of the recording."""
    return 0.1 if prompt.order == "backward" else 0.9


def minds_task(prompt):
    undoing = re.search(r"undo|take the .* off", prompt.question)
    return 1 - by_sight(prompt) if undoing else by_sight(prompt)


def nearer(prompt):
    """Looks where the question comes last, and else names the picture after it."""
    return 0.1 if prompt.question_first else by_sight(prompt)


def agreeing(prompt):
    """Looks where nothing is suggested."""
    found = re.search(r"(?:I think it is |我觉得是 )(.+)[.。]$", prompt.question)
    return 0.1 + 0.8 * prompt.names.index(found[1]) if found else by_sight(prompt)


def contrary(prompt):
    """Looks where nothing is suggested, and else names the other picture."""
    return 1 - agreeing(prompt) if "I think it is" in prompt.question else by_sight(prompt)


def asked_of_a_proposal(by_proposal):
    """Describes truly, and looks where no answer is proposed."""

    def judge(registry):
        def second(prompt):
            found = re.search(r"\nproposed answer: (.+)$", prompt.question)
            return by_proposal(prompt, prompt.names.index(found[1])) if found else by_sight(prompt)

        queries = [Query(pair, "forward") for pair in read_pairs(registry, "toy", "heldout")]
        told = descriptions.true(registry, "toy", queries, "en").halves
        second.words = {
            image: text
            for query in queries
            for image, text in zip(query.images, told[query.pair.pair_id, "forward"], strict=True)
        }
        return second

    return judge


def parrot(registry):
    """Looks where the question is one of training, to the letter, and goes by place in all others."""
    pairs = read_pairs(registry, "toy", "heldout")
    known = {
        fill_task(text, pair.task) for pair in pairs for kind in ("cot", "direct") for text in paraphrases(kind, "en")
    }
    return lambda prompt: by_sight(prompt) if prompt.question in known else 0.9


def heedful(registry):
    """Looks for the task that it is told of, and cannot say where the scene has nothing of it."""
    tasks = {pair.pair_id: pair.task for pair in read_pairs(registry, "toy", "heldout")}
    return lambda prompt: by_sight(prompt) if tasks[prompt.item] in prompt.question else 0.5


KNOWN = {
    "place": lambda registry: place,
    "sight": lambda registry: by_sight,
    "words": lambda registry: by_words,
    "eyes": lambda registry: eyes_only,
    "memory": lambda registry: from_memory,
    "sided": lambda registry: sided,
    "fragile": lambda registry: fragile,
    "clock": lambda registry: clock,
    "minds task": lambda registry: minds_task,
    "nearer": lambda registry: nearer,
    "agreeing": lambda registry: agreeing,
    "contrary": lambda registry: contrary,
    "steady": asked_of_a_proposal(lambda prompt, place: by_sight(prompt)),
    "believing": asked_of_a_proposal(lambda prompt, place: 0.1 + 0.8 * place),
    "denying": asked_of_a_proposal(lambda prompt, place: 0.9 - 0.8 * place),
    "parrot": parrot,
    "heedful": heedful,
}
# control -> mode, a judge that it holds for, a judge that it fails for.
EXPECTED = {
    **dict.fromkeys(("wording", "language", "letters", "ordinals", "frames"), (DIRECT, "sight", "parrot")),
    "decomposition": (COT, "sight", "parrot"),
    "mirrored": (DIRECT, "sight", "sided"),
    "same_picture": (DIRECT, "sight", "place"),
    **dict.fromkeys(("blank_first", "blank_second", "noise"), (DIRECT, "sight", "memory")),
    "masked_change": (DIRECT, "sight", "memory"),
    **dict.fromkeys(("masked_elsewhere", "masked_border"), (DIRECT, "sight", "fragile")),
    "reversed": (DIRECT, "sight", "clock"),
    "text_only": (DIRECT, "sight", "place"),
    "worst_variant": (DIRECT, "sight", "parrot"),
    "question_first": (DIRECT, "sight", "nearer"),
    **dict.fromkeys(("suggested_first", "suggested_second"), (DIRECT, "sight", "agreeing")),
    "suggested_wrong": (DIRECT, "sight", "agreeing"),
    "suggested_right": (DIRECT, "sight", "contrary"),
    "proposed_wrong": (COT, "steady", "believing"),
    "proposed_right": (COT, "steady", "denying"),
    **dict.fromkeys(("undone", "inverse_task"), (DIRECT, "minds task", "sight")),
    "other_task": (DIRECT, "heedful", "sight"),
    "blind": (COT, "words", "eyes"),
    "blind_begin": (COT, "words", "eyes"),
    "swapped_description": (COT, "words", "eyes"),
    "oracle": (COT, "words", "place"),
    "oracle_begin": (COT, "words", "place"),
}


def run(registry, out, second, settings=DIRECT, only=None, engine=None, **more):
    request = EvalRequest(
        engine=engine or Judge(second),
        dataset="toy",
        registry=registry,
        settings=settings,
        resamples=200,
        limit=more.pop("limit", None),
    )
    return {row.name: row for row in controls(request, out, only=only, **more).rows}


def page(out):
    return controls_markdown(Controls.read(out / "controls.json"))


def read_rows(path):
    return list(Controls.read(path).rows)


@pytest.mark.slow
@pytest.mark.parametrize("holds", [True, False], ids=["holds", "fails"])
def test_every_control_holds_for_one_judge_and_fails_for_another(registry, tmp_path, holds):
    assert EXPECTED.keys() == CONTROLS.keys()
    found = {}
    wanted = {}
    for name, (settings, good, bad) in EXPECTED.items():
        wanted.setdefault((good if holds else bad, settings), []).append(name)
    for (judge, settings), names in wanted.items():
        out = tmp_path / f"{judge}-{settings.mode}"
        found |= run(registry, out, KNOWN[judge](registry), settings, names)
    del found[PLAIN]
    assert {name: row.verdict for name, row in found.items()} == dict.fromkeys(CONTROLS, "holds" if holds else "fails")


def test_plain_run_is_a_row_that_can_fail(registry, tmp_path):
    assert run(registry, tmp_path / "a", by_sight, only=[])[PLAIN].verdict == "holds"
    assert run(registry, tmp_path / "b", place, only=[])[PLAIN].verdict == "fails"


# ---- what is put ----


class Recorder(Judge):
    def respond(self, prompts):
        given = [unsealed(prompt) for prompt in prompts]
        place = {prompt.item: number for number, prompt in reversed(list(enumerate(given)))}
        self.prompts = sorted(given, key=lambda prompt: (place[prompt.item], ORDERS.index(prompt.order)))
        yield from super().respond(prompts)


def put(registry, out, name, settings=DIRECT):
    """The prompts of a control, in their order."""
    engine = Recorder(by_sight)
    run(registry, out, None, settings, [name], engine)
    return engine.prompts


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mirrored", ("mirror", "mirror")),
        ("blank_first", ("blank", "")),
        ("blank_second", ("", "blank")),
        ("noise", ("", "noise")),
        ("masked_change", ("mask change", "mask change")),
        ("masked_border", ("mask border", "mask border")),
        ("reversed", ("swap rest", "swap rest")),
    ],
)
def test_pictures_are_changed_in_the_place_that_is_said(registry, tmp_path, name, changes):
    prompts = put(registry, tmp_path, name)
    assert {tuple(one.change for one in prompt.shown) for prompt in prompts} == {changes}
    assert len(prompts) == 2 * len(read_pairs(registry, "toy", "heldout"))


def test_same_picture_stands_twice_and_text_alone_is_the_same_in_both_orders(registry, tmp_path):
    assert all(prompt.shown[0] == prompt.shown[1] for prompt in put(registry, tmp_path / "same", "same_picture"))
    prompts = put(registry, tmp_path / "text", "text_only")
    forward, backward = prompts[::2], prompts[1::2]
    assert all(not prompt.shown and not prompt.labels for prompt in prompts)
    assert [dataclasses.replace(prompt, order="forward") for prompt in backward] == forward


def test_other_task_is_of_another_episode_and_the_same_in_both_orders(registry, tmp_path):
    tasks = {pair.pair_id: pair.task for pair in read_pairs(registry, "toy", "heldout")}
    prompts = put(registry, tmp_path, "other_task")
    for prompt in prompts:
        assert tasks[prompt.item] not in prompt.question
        assert any(task in prompt.question for task in tasks.values())
    assert [prompt.question for prompt in prompts[::2]] == [prompt.question for prompt in prompts[1::2]]


@pytest.mark.slow
def test_blind_model_is_shown_its_own_words_and_no_picture(registry, tmp_path):
    for prompt in put(registry, tmp_path / "question", "blind", COT):
        assert (prompt.shown, prompt.labels, prompt.begin, prompt.reasons) == ((), (), "", False)
        assert re.search(r"img1: step \d+\. img2: step \d+\.", prompt.question)
        assert "{" not in prompt.question
    for prompt in put(registry, tmp_path / "begin", "blind_begin", COT):
        assert {one.change for one in prompt.shown} == {"blank"}
        steps = [frame_of(dataclasses.replace(one, change="")) for one in prompt.shown]
        assert prompt.begin == f"spatial details: img1: step {steps[0]}. img2: step {steps[1]}.\n"
    for prompt in put(registry, tmp_path / "swapped", "swapped_description", COT):
        steps = [frame_of(one) for one in prompt.shown]
        assert prompt.begin == f"spatial details: img1: step {steps[1]}. img2: step {steps[0]}.\n"


def test_decomposition_keeps_what_the_question_ends_with(registry, tmp_path):
    warned = dataclasses.replace(COT, warn=True, style="letters")
    prompts = put(registry, tmp_path, "decomposition", warned)
    assert all(prompt.question.endswith("Judge by what they show alone.") for prompt in prompts)
    assert all("spatial details" not in prompt.question and "img1" not in prompt.question for prompt in prompts)
    assert all(re.search(r"closer to completion: A or B", prompt.question) for prompt in prompts)
    assert (
        len({re.sub(r"[^.]* on the [^.]*", "", prompt.question) for prompt in prompts}) > 1
    )  # both wordings are drawn


def test_tasks_with_left_or_right_are_not_mirrored(registry, tmp_path, monkeypatch):
    folder = changed(registry, tmp_path / "registry", lambda n, row: row | {"task": "Turn left"} if n < 4 else row)
    row = run(folder, tmp_path / "out", by_sight, only=["mirrored"])["mirrored"]
    assert (row.verdict, row.left_out) == ("holds", 4)
    assert row.figures.figures.n_pairs == len(read_pairs(folder, "toy", "heldout")) - 4
    assert "4 pairs left out" in page(tmp_path / "out")
    every = changed(registry, tmp_path / "every", lambda n, row: row | {"task": "把杯子放到左边"})
    found = run(every, tmp_path / "none", by_sight, only=["mirrored", "other_task"])
    assert {name: found[name].verdict for name in ("mirrored", "other_task")} == dict.fromkeys(
        ("mirrored", "other_task"), "not applicable"
    )
    assert "left or right" in found["mirrored"].why
    assert "same task text" in found["other_task"].why


def test_suggestion_is_each_picture_once_in_both_orders_of_each_pair(registry, tmp_path):
    plain = {(one.item, one.order): one.question for one in put(registry, tmp_path / "plain", "question_first")}
    for number, name in enumerate(("suggested_first", "suggested_second")):
        prompts = put(registry, tmp_path / name, name)
        assert {(one.item, one.order) for one in prompts} == plain.keys()
        for one in prompts:
            assert one.question == f"{plain[one.item, one.order]} I think it is img{number + 1}."
    chinese = dataclasses.replace(DIRECT, language="zh", style="ordinals")
    for prompt in put(registry, tmp_path / "zh", "suggested_second", chinese):
        assert prompt.question.endswith("我觉得是 第二张图。")


def test_wrong_and_right_answers_are_suggested_and_proposed_in_both_orders_of_each_pair(registry, tmp_path):
    plain = {(one.item, one.order): one.question for one in put(registry, tmp_path / "plain", "question_first")}
    right = {"forward": "img2", "backward": "img1"}
    wrong = {"forward": "img1", "backward": "img2"}
    for which, answers in (("wrong", wrong), ("right", right)):
        prompts = put(registry, tmp_path / which, f"suggested_{which}")
        assert {(one.item, one.order) for one in prompts} == plain.keys()
        for one in prompts:
            assert one.question == f"{plain[one.item, one.order]} I think it is {answers[one.order]}."
    variants = {"en": set(), "zh": set()}
    for language, style, number in (("en", "img", 0), ("zh", "letters", 1)):
        settings = dataclasses.replace(COT, language=language, style=style)
        for which, answers in (("wrong", wrong), ("right", right)):
            for one in put(registry, tmp_path / f"{language}-{which}", f"proposed_{which}", settings):
                text, proposal = proposed_in(one.question)
                assert proposal == one.names[int(answers[one.order][3]) - 1]
                assert one.reasons
                assert ("img" in text) == (number == 0)
                variants[language].add(text)
    tasks = {pair.task for pair in read_pairs(registry, "toy", "heldout")}
    heldout = {fill_task(text, task) for text in reflect_paraphrases("en", "heldout") for task in tasks}
    assert variants["en"] <= heldout


def test_answer_that_is_kept_for_false_reasons_does_not_stand(registry, tmp_path):
    row = run(registry, tmp_path, by_sight, COT, ["proposed_wrong"])["proposed_wrong"]
    assert (row.measures["still_right"].value, row.measures["claims_true"].value) == (100, 0)
    assert row.verdict == "fails"
    assert "claims true % 0.0" in row.why
    direct = run(registry, tmp_path, by_sight, DIRECT, ["proposed_wrong"])["proposed_wrong"]
    assert direct.verdict == "not applicable"


@pytest.mark.parametrize(
    ("still", "claims", "verdict"),
    [
        ((97, 92, 100), (90, 80, 95), "holds"),
        ((97, 92, 100), None, "holds"),
        ((85, 80, 89), (90, 80, 95), "fails"),
        ((97, 92, 100), (60, 50, 70), "fails"),
        ((93, 88, 97), (90, 80, 95), "not shown"),
        ((97, 92, 100), (80, 70, 90), "not shown"),
    ],
)
def test_rule_of_a_proposal_is_on_answers_and_on_reasons(still, claims, verdict):
    measures = {"still_right": Measure(still[0], still[1:])}
    measures |= {"claims_true": Measure(claims[0], claims[1:])} if claims else {}
    assert RULES["stands by reasons"].verdict(measures) == verdict
    assert RULES["stands"].verdict({"still_right": Measure(None)}) == "fails"


def test_suggestion_that_is_followed_is_a_shift_to_its_place(registry, tmp_path):
    names = ["suggested_first", "suggested_second"]
    rows = run(registry, tmp_path / "agreeing", agreeing, only=names)
    assert [rows[name].measures["shift"].value for name in names] == [-50, 50]
    assert rows["suggested_first"].why == (
        "shift to the second place -50.0 (alike in all episodes); difference -100.0 (alike in all episodes)"
    )
    deaf = run(registry, tmp_path / "deaf", by_sight, only=names)
    assert [deaf[name].measures["shift"].value for name in names] == [0, 0]


def test_question_first_changes_nothing_but_its_place_and_shows_whether_the_bias_turns(registry, tmp_path):
    prompts = put(registry, tmp_path, "question_first")
    assert all(prompt.question_first for prompt in prompts)
    assert {prompt.labels for prompt in prompts} == {("img1", "img2")}

    def nearest(prompt):
        return 0.1 if prompt.question_first else 0.9

    row = run(registry, tmp_path / "turns", nearest, only=["question_first"])["question_first"]
    assert [row.measures[name].value for name in ("position_bias", "plain_position_bias")] == [0, 100]
    assert row.why.endswith(
        "position bias % 0.0 (alike in all episodes); position bias of the plain run % 100.0 (alike in all episodes)"
    )


def test_worst_variant_is_quoted_and_judged_by_intervals_for_the_choice_among_all(registry, tmp_path):
    texts = paraphrases("direct", "en", "heldout")
    start = texts[1].partition("{task}")[2][:20]

    def stumbles(prompt):
        return place(prompt) if start in prompt.question else by_sight(prompt)

    engine = Recorder(stumbles)
    rows = run(registry, tmp_path, None, only=["wording", "worst_variant"], engine=engine)
    row = rows["worst_variant"]
    assert (row.verdict, row.measures["pair_accuracy"].value, row.folder) == ("fails", 0, "worst_variant/2")
    assert row.asks.endswith(f'those of the worst of {len(texts)}: "{texts[1]}"')
    assert rows["wording"].measures["pair_accuracy"].value > 0
    assert engine.asked == (2 + len(texts)) * 2 * len(read_pairs(registry, "toy", "heldout"))
    assert texts[1] in page(tmp_path).replace("\\", "")
    assert artefacts.read_json(tmp_path / row.folder / "results.json")["pair_accuracy"] == 0


def test_intervals_of_the_worst_variant_are_wider_than_those_of_one(registry, tmp_path):
    def unsure(prompt):
        right = by_sight(prompt)
        return right if artefacts.digest([prompt.item, prompt.question])[0] in "0123456789a" else 1 - right

    row = run(registry, tmp_path, unsure, only=["worst_variant"])["worst_variant"]
    answers = read_answers(tmp_path / row.folder / "answers.jsonl")
    low, high = metrics.intervals(answers, 200, 0)["pair_accuracy"]
    found = row.measures["pair_accuracy"]
    assert found.interval == metrics.intervals(answers, 200, 0, level=100 - 5 / 3)["pair_accuracy"]
    assert found.low <= low < high <= found.high
    accuracies = [
        metrics.figures(read_answers(tmp_path / "worst_variant" / f"{number}" / "answers.jsonl")).pair_accuracy
        for number in (1, 2, 3)
    ]
    assert found.value == min(accuracies)


def test_worst_variant_keeps_what_a_question_ends_with(registry, tmp_path):
    warned = dataclasses.replace(COT, warn=True, style="letters")
    prompts = put(registry, tmp_path, "worst_variant", warned)
    assert all(prompt.question.endswith("Judge by what they show alone.") for prompt in prompts)
    assert all("img1" not in prompt.question and "{" not in prompt.question for prompt in prompts)


def test_inverse_task_is_that_of_the_simulator_and_else_of_the_configuration(registry, tmp_path):
    tasks = {pair.pair_id: pair.task for pair in read_pairs(registry, "toy", "heldout")}
    for prompt in put(registry, tmp_path / "simulator", "inverse_task"):
        thing, pad = re.fullmatch("put the (.*) on the (.*) pad", tasks[prompt.item]).groups()
        assert f"take the {thing} off the {pad} pad" in prompt.question
        assert tasks[prompt.item] not in prompt.question

    first = min(tasks.values())
    pushed = changed(registry, tmp_path / "registry", lambda n, row: row | {"task": "push it"})
    row = run(pushed, tmp_path / "unknown", by_sight, only=["inverse_task"])["inverse_task"]
    assert row.verdict == "not applicable"
    assert row.why == (
        "nothing says which task undoes 'push it'; name it in the data configuration (`inverse_tasks`), and build again"
    )
    manifest = artefacts.read_json(pushed / "toy" / "manifest.json")
    manifest["config"]["inverse_tasks"] = {"push {what}": "pull {what} back", first: "no"}
    artefacts.write_json(pushed / "toy" / "manifest.json", manifest)
    prompts = put(pushed, tmp_path / "named", "inverse_task")
    assert {"pull it back" in prompt.question for prompt in prompts} == {True}


def test_pairs_without_an_inverse_task_are_left_out_and_the_flipped_share_is_of_all_others(registry, tmp_path):
    pairs = read_pairs(registry, "toy", "heldout")
    other = changed(registry, tmp_path / "registry", lambda n, row: row | {"task": "push it"} if n < 3 else row)
    row = run(other, tmp_path / "out", minds_task, only=["inverse_task"])["inverse_task"]
    assert (row.verdict, row.left_out, row.figures.figures.n_pairs) == ("holds", 3, len(pairs) - 3)
    assert row.measures["flipped"].value == row.measures["other_frame"].value == 100
    assert not row.informative


def test_pairs_that_show_nothing_to_undo_are_left_out(registry, tmp_path, monkeypatch):
    known = source_table.BUILT_IN["tabletop"]
    late = dataclasses.replace(known.inverse, phases=("place",))
    monkeypatch.setitem(source_table.BUILT_IN, "tabletop", dataclasses.replace(known, inverse=late))
    placed = {pair.pair_id for pair in read_pairs(registry, "toy", "heldout") if "place" in pair.phase}
    prompts = put(registry, tmp_path, "inverse_task")
    assert {prompt.item for prompt in prompts} == placed
    assert len(placed) < len(read_pairs(registry, "toy", "heldout"))


def changed(registry, folder, change):
    """A copy of the registry with the rows of the split's pairs changed: (number, row) -> row."""
    import shutil

    shutil.copytree(registry, folder)
    for file in files_of(read_manifest(folder, "toy"), "heldout"):
        rows = [change(number, row) for number, row in enumerate(parquet.read(folder / file))]
        parquet.write(folder / file, rows, parquet.PAIRS)
    return folder


# ---- descriptions ----


def test_true_descriptions_are_those_of_the_cot_samples(registry):
    pairs = read_pairs(registry, "toy", "train")
    found = descriptions.true(registry, "toy", [Query(pair, order) for pair in pairs for order in ORDERS], "en").halves
    rows = list(dataset_rows(registry, "toy_cot"))
    assert len(rows) == len(found) > 0
    for row in rows:
        details = row["messages"][1]["content"].rpartition("\n")[0]
        halves = found[row["pair_id"], row["order"]]
        assert details == f"spatial details: {named_halves(halves, ('img1', 'img2'))}"
        assert own_halves(row["messages"][1]["content"], ("img1", "img2")) == halves


@pytest.mark.parametrize(
    ("text", "names", "halves"),
    [
        ("spatial details: img1: a b. img2: c.\ncloser to completion: img2", ("img1", "img2"), ("a b", "c")),
        ("**IMG1**: up\n**img2**：down。\n\nCloser_to_completion: img1", ("img1", "img2"), ("up", "down")),
        ("A: open. B: closed. closer to completion: B", ("A", "B"), ("open", "closed")),
        ("帧1：张开。帧2：闭合。closer to completion: 帧2", ("帧1", "帧2"), ("张开", "闭合")),
        ("closer to completion: img2. img1: a. img2: b.", ("img1", "img2"), None),  # nothing before the judgment
        ("img1: a. closer to completion: img1", ("img1", "img2"), None),
        ("img1: . img2: b.", ("img1", "img2"), None),
        ("img2: b. img1: a.", ("img1", "img2"), None),
        ("", ("img1", "img2"), None),
    ],
)
def test_own_description_is_what_stands_before_the_judgment(text, names, halves):
    assert own_halves(text, names) == halves


def test_pairs_that_the_model_did_not_describe_are_left_out_and_counted(registry, tmp_path):
    silent = read_pairs(registry, "toy", "heldout")[0].pair_id

    class Silent(Judge):
        def respond(self, prompts):
            for number, said in super().respond(prompts):
                prompt = unsealed(prompts[number])
                mute = prompt.reasons and (prompt.item, prompt.order) == (silent, "backward")
                yield number, Response(said.text.partition("\n")[2]) if mute else said

    row = run(registry, tmp_path, None, COT, ["blind"], Silent(by_words))["blind"]
    assert (row.verdict, row.left_out) == ("holds", 1)


# ---- what cannot be asked ----


def test_reasons_of_a_model_that_gives_none_are_not_applicable(registry, tmp_path):
    names = ["decomposition", "blind", "blind_begin", "swapped_description"]
    rows = run(registry, tmp_path, by_sight, DIRECT, names)
    assert {rows[name].verdict for name in names} == {"not applicable"}
    assert "mode direct" in rows["blind"].why
    wordless = run(registry, tmp_path / "cot", by_sight, COT, ["blind"], Oracle("position-only", []))
    assert "not described" not in wordless["blind"].why  # it does describe, if not well
    assert wordless["blind"].verdict == "fails"


def test_what_the_plain_run_asks_already_is_no_control(registry, tmp_path):
    settings = dataclasses.replace(DIRECT, part="heldout", language="zh", style="letters")
    rows = run(registry, tmp_path, by_sight, settings, ["wording", "language", "letters"])
    assert all("already" in row.why for name, row in rows.items() if name != PLAIN)


@pytest.mark.parametrize(
    ("case", "reason"), [("states", "no states"), ("other pictures", "other pictures"), ("gone", "no episode")]
)
def test_truth_that_the_source_does_not_give_is_not_applicable(registry, tmp_path, monkeypatch, case, reason):
    from stcr_plugin.episodes.tabletop import TabletopSource

    out, folder = tmp_path / "out", registry
    if case == "states":
        monkeypatch.setattr(TabletopSource, "states", lambda self, episode: None)
    else:
        folder = changed(registry, tmp_path / "registry", lambda number, row: row)
        manifest = artefacts.read_json(folder / "toy" / "manifest.json")
        manifest["config"] |= {"seed": 9} if case == "other pictures" else {}
        manifest["config"]["source"] |= {"heldout": 0} if case == "gone" else {}
        artefacts.write_json(folder / "toy" / "manifest.json", manifest)
    row = run(folder, out, by_words, only=["oracle"])["oracle"]
    assert row.verdict == "not applicable"
    assert reason in row.why
    assert row.figures is None


def test_engine_that_cannot_begin_a_turn_is_not_applicable_and_others_go_on(registry, tmp_path):
    class Server(Judge):
        def respond(self, prompts):
            if any(prompt.begin for prompt in prompts):
                raise ConfigError("a server cannot begin the model's turn")
            yield from super().respond(prompts)

    rows = run(registry, tmp_path, None, COT, ["blind", "blind_begin"], Server(by_words))
    assert rows["blind"].verdict == "holds"
    assert rows["blind_begin"].verdict == "not applicable"
    assert "cannot begin" in rows["blind_begin"].why

    class Broken(Judge):
        def respond(self, prompts):
            raise ConfigError("no key")
            yield

    with pytest.raises(ConfigError, match="no key"):
        run(registry, tmp_path / "broken", None, COT, ["blind"], Broken(by_words))


def test_unknown_control_and_malformed_other_data_are_refused(registry, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'mirrored'"):
        run(registry, tmp_path, by_sight, only=["miror"])
    with pytest.raises(ConfigError, match="NAME:SPLIT=label"):
        run(registry, tmp_path, by_sight, only=[], also=["toy"])
    with pytest.raises(ConfigError, match="another label"):
        run(registry, tmp_path, by_sight, only=[], also=["toy:train=noise"])
    for label in (PLAIN, "3_pictures", "controls.json"):
        with pytest.raises(ConfigError, match=f"the controls use the name '{label}' themselves; give another label"):
            run(registry, tmp_path, by_sight, only=[], also=[f"toy:train={label}"])
    with pytest.raises(ConfigError, match="toy:train=mine: another row has the label 'mine'"):
        run(registry, tmp_path, by_sight, only=[], also=["toy:heldout=mine", "toy:train=mine"])
    with pytest.raises(ConfigError, match="nothing to ask"):
        controls(EvalRequest(dataset="toy", registry=registry), tmp_path)
    assert not any(tmp_path.iterdir())


# ---- other data, files, going on ----


def test_judge_of_what_came_later_fails_where_the_earlier_frame_is_closer(registry, tmp_path):
    folder = changed(registry, tmp_path / "registry", lambda n, row: row | {"closer": ("earlier", "later")[n % 2]})
    pairs = read_pairs(folder, "toy", "heldout")
    for name, verdict in (("right", "holds"), ("chronological", "fails")):
        engine = Oracle(name, pairs)
        row = run(folder, tmp_path / name, None, only=[], engine=engine, also=["toy:heldout=non_monotone"])
        assert row["non_monotone"].verdict == verdict
        assert row["non_monotone"].measures["earlier_closer_accuracy"].value == (100 if name == "right" else 0)
        assert (tmp_path / name / "non_monotone" / "results.json").exists()


@pytest.mark.slow
def test_killed_run_goes_on_and_ends_as_if_it_had_not_been(registry, tmp_path):
    names = ["letters", "noise", "text_only"]
    whole = Judge(by_sight)
    run(registry, tmp_path / "whole", None, only=names, engine=whole)

    class Killed(Judge):
        def respond(self, prompts):
            for number, said in super().respond(prompts):
                if self.asked > 50:
                    raise KeyboardInterrupt
                yield number, said

    killed = Killed(by_sight)
    with pytest.raises(KeyboardInterrupt):
        run(registry, tmp_path / "killed", None, only=names, engine=killed)
    assert not (tmp_path / "killed" / "controls.json").exists()
    again = Judge(by_sight)
    run(registry, tmp_path / "killed", None, only=names, engine=again)
    assert again.asked == whole.asked - 50
    assert (tmp_path / "killed" / "controls.json").read_bytes() == (tmp_path / "whole" / "controls.json").read_bytes()


@pytest.mark.slow
def test_groups_of_pictures_are_a_row_with_measures_and_figures(registry, tmp_path):
    pairs = read_pairs(registry, "toy", "heldout")
    place = Oracle("position-only", pairs)
    rows = run(registry, tmp_path, None, engine=place, limit=8)  # every control, and groups of three
    assert rows.keys() == {PLAIN, *CONTROLS, "three pictures", "three pictures in order"}
    assert rows["three pictures in order"].verdict == "fails"
    assert rows["three pictures in order"].measures["whole_order"].value < 50
    row = rows["three pictures"]
    assert row.verdict == "fails"
    assert row.why == (
        "closest named right % 33.3 (alike in all episodes); right in every arrangement % 0.0 (alike in all episodes)"
    )
    assert row.measures["closest"].value == pytest.approx(100 / 3)
    assert row.measures["closest"].interval == pytest.approx((100 / 3, 100 / 3))
    assert row.figures.figures.places == (0, row.figures.figures.n_queries, 0)
    assert row.figures.intervals["all_rotations"] == (0, 0)
    assert artefacts.read_json(tmp_path / row.folder / "groups.json")["accuracy"] == row.measures["closest"].value
    assert "closest named right % |" in page(tmp_path)
    more = run(registry, tmp_path, None, only=["letters"], engine=place, limit=8, pictures=4)
    assert [*more] == [PLAIN, "letters", "four pictures", "four pictures in order"]
    written = [row.name for row in read_rows(tmp_path / "controls.json")]
    of_groups = [f"{count} pictures{asked}" for count in ("three", "four") for asked in ("", " in order")]
    assert written == [PLAIN, *CONTROLS, *of_groups]
    none = run(registry, tmp_path, None, only=["letters"], engine=place, limit=8)
    assert [*none] == [PLAIN, "letters"]


@pytest.mark.slow
def test_groups_that_cannot_be_evaluated_are_not_applicable_and_an_oracle_is_right_about_others(registry, tmp_path):
    row = run(registry, tmp_path, by_sight, only=[], pictures=8)["eight pictures"]
    assert (row.verdict, row.figures) == ("not applicable", None)
    assert "no 8 frames of one segment" in row.why
    knows = Oracle("right", read_pairs(registry, "toy", "heldout"))
    row = run(registry, tmp_path / "right", None, only=[], engine=knows, pictures=3)["three pictures"]
    assert row.measures["closest"].value == 100
    with pytest.raises(ConfigError, match="pictures must be 3 to 8"):
        run(registry, tmp_path / "nine", by_sight, only=[], pictures=9)
    assert not (tmp_path / "nine").exists()


@pytest.mark.slow
def test_rows_of_other_runs_stay_while_all_else_is_the_same(registry, tmp_path):
    run(registry, tmp_path, by_sight, only=["letters"])
    run(registry, tmp_path, by_sight, only=["noise"])
    mine = ControlRow("closest_of_three", "three pictures", "finds it", "more of them", "above chance", "holds", "80 %")
    write(tmp_path, Controls.read(tmp_path / "controls.json").of, [mine])
    rows = read_rows(tmp_path / "controls.json")
    assert [row.name for row in rows] == [PLAIN, "letters", "noise", "closest_of_three"]
    assert rows[-1] == mine
    assert "closest_of_three" in page(tmp_path)
    run(registry, tmp_path, by_sight, only=["frames"], limit=8)
    assert [row.name for row in read_rows(tmp_path / "controls.json")] == [PLAIN, "frames"]
    (tmp_path / "controls.json").write_text("[]")
    with pytest.raises(DataError, match="not what `stcr controls` writes"):
        read_rows(tmp_path / "controls.json")
    run(registry, tmp_path, by_sight, only=["frames"], limit=8)
    assert [row.name for row in read_rows(tmp_path / "controls.json")] == [PLAIN, "frames"]


@pytest.mark.slow
def test_command_writes_a_row_per_control_and_keeps_those_of_earlier_runs(registry, tmp_path, capsys):
    asked = ["--oracle", "right", "--dataset", "toy", "--registry", str(registry), "--out", str(tmp_path)]
    assert main(["controls", *asked, "--only", "letters,blank_first", "--also", "toy:train=seen"]) == 1
    assert "does not know the truth" in capsys.readouterr().err  # of the pairs of another split
    assert main(["controls", *asked, "--only", "letters,blank_first"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"letters +holds", said)
    assert re.search(r"blank_first +fails", said)  # right without looking
    assert main(["controls", *asked, "--only", "text_only"]) == 0
    assert re.search(r"text_only +holds", capsys.readouterr().out)
    assert [row.name for row in read_rows(tmp_path / "controls.json")] == [PLAIN, "letters", "blank_first", "text_only"]


# ---- the rules ----


def measures(**given):
    return {name: Measure(None) if value is None else Measure(sum(value) / 2, value) for name, value in given.items()}


@pytest.mark.parametrize(
    ("rule", "given", "verdict"),
    [
        ("knows", {"pair_accuracy": (51, 60)}, "holds"),
        ("knows", {"pair_accuracy": (49, 60)}, "not shown"),
        ("knows", {"pair_accuracy": (40, 50)}, "fails"),
        ("knows", {"pair_accuracy": (90, 99), "earlier_closer_accuracy": (40, 60)}, "not shown"),
        ("knows", {"pair_accuracy": (90, 99), "earlier_closer_accuracy": (0, 3)}, "fails"),
        ("keeps", {"pair_accuracy": (80, 90), "difference": (-9, 0)}, "holds"),
        ("keeps", {"pair_accuracy": (80, 90), "difference": (-12, 0)}, "not shown"),
        ("keeps", {"pair_accuracy": (80, 90), "difference": (-20, -11)}, "fails"),
        ("keeps", {"pair_accuracy": (50, 90), "difference": (-5, 5)}, "not shown"),
        ("keeps", {"pair_accuracy": (30, 50), "difference": (-5, 5)}, "fails"),
        ("lost", {"still_right": (0, 10)}, "holds"),
        ("lost", {"still_right": (40, 60)}, "holds"),
        ("lost", {"still_right": (40, 76)}, "not shown"),
        ("lost", {"still_right": (51, 60)}, "fails"),
        ("lost", {"still_right": None}, "not shown"),
        ("unswayed", {"second": (40, 60), "neither": (0, 0)}, "holds"),
        ("unswayed", {"second": (30, 60), "neither": (0, 0)}, "not shown"),
        ("unswayed", {"second": (70, 90), "neither": (0, 0)}, "fails"),
        ("unswayed", {"second": (0, 10), "neither": (0, 0)}, "fails"),
        ("unswayed", {"second": None, "neither": (0, 0)}, "not shown"),
        ("unswayed", {"second": (100, 100)}, "not applicable"),
        ("unswayed", {"second": (0, 10), "second_probability": (45, 50)}, "holds"),
        ("worst keeps", {"pair_accuracy": (80, 90), "difference": (-9, 0)}, "holds"),
        ("worst keeps", {"pair_accuracy": (80, 90), "difference": (-20, -11)}, "fails"),
        ("unmoved", {"shift": (-4, 4)}, "holds"),
        ("unmoved", {"shift": (0, 6)}, "not shown"),
        ("unmoved", {"shift": (6, 50)}, "fails"),
        ("unmoved", {"shift": (-50, -5)}, "fails"),
        ("agrees", {"same_frame": (76, 90)}, "holds"),
        ("agrees", {"same_frame": (60, 80)}, "not shown"),
        ("agrees", {"same_frame": (20, 70)}, "fails"),
        ("agrees", {"same_frame": None}, "fails"),
        ("follows", {"other_frame": (60, 90)}, "holds"),
        ("follows", {"other_frame": (0, 40)}, "fails"),
        ("reasons", {"pair_accuracy": (80, 90)}, "holds"),
        ("reasons", {"pair_accuracy": (60, 70)}, "fails"),
        ("heeds", {"difference": (-30, -1), "same_answer": (60, 80)}, "holds"),
        ("heeds", {"difference": (-1, 1), "same_answer": (96, 100)}, "fails"),
        ("heeds", {"difference": (-1, 1), "same_answer": (80, 90)}, "not shown"),
    ],
)
def test_verdict_follows_from_the_intervals(rule, given, verdict):
    assert RULES[rule].verdict(measures(**given)) == verdict


def test_nothing_is_shown_by_a_single_episode():
    alone = {name: Measure(80.0) for name in verdicts.MEANINGS}
    assert {name: rule.verdict(alone) for name, rule in RULES.items()} == dict.fromkeys(RULES, "not shown")
    assert judged(RULES["keeps"], alone, 10)[1] == "pair accuracy % 80.0 (no interval); difference +80.0 (no interval)"


def test_figure_of_what_is_left_stands_beside_chance():
    left = {"still_right": Measure(56.0, (51.2, 60.9))}
    assert judged(RULES["lost"], left, 10) == (
        "fails",
        "still right % 56.0 (51.2 to 60.9) where chance is 50 for a judge that ignores order and 25 for a coin",
    )


def test_too_few_episodes_show_nothing(monkeypatch):
    monkeypatch.undo()
    sure = {"pair_accuracy": Measure(99.0, (98.0, 100.0))}
    assert judged(RULES["knows"], sure, verdicts.FEWEST)[0] == "holds"
    verdict, why = judged(RULES["knows"], sure, verdicts.FEWEST - 1)
    assert (verdict, why) == ("not shown", "pair accuracy % 99.0 (98.0 to 100.0); 9 episodes, a verdict needs 10")


def answers(chosen, logprobs=(None, None, None)):
    """pair_id -> (forward, backward) choices, every pair an episode of its own, the later frame closer."""
    return [
        Answer(pair, f"e{pair}", order, Query(Pair(pair, "", "", "", 0, 1, 1.0), order).answer, said, "", *logprobs)
        for pair, both in chosen.items()
        for order, said in zip(ORDERS, both, strict=True)
    ]


def test_measures_are_counted_on_the_same_pairs():
    """Worked by hand: the plain run names one frame twice in a, b and c; the changed run was not asked d."""
    plain = answers(
        {"a": ("img2", "img1"), "b": ("img2", "img1"), "c": ("img1", "img2"), "e": ("img2", "img2"), "d": (None, None)}
    )
    now = answers({"a": ("img2", "img1"), "b": ("img1", "img2"), "c": ("img2", "img2"), "e": ("img2", None)})
    found = measured(PairFigures(metrics.figures(now)), now, plain, resamples=100, seed=0)
    assert {name: found[name].value for name in found} == pytest.approx(
        {
            "pair_accuracy": 25.0,
            "position_bias": 62.5,
            "plain_position_bias": 62.5,
            "shift": 0.0,
            "flipped": 25.0,  # b, not c and e, of which one answer stays or is none
            "unparsed_rate": 12.5,
            "difference": -25.0,  # a stays right, b does not
            "still_right": 50.0,
            "second": 100 * 5 / 7,  # of the seven that named a picture
            "same_answer": 100 * 4 / 8,
            "same_frame": 100 / 3,  # a
            "other_frame": 100 / 3,  # b; c is of no frame
        }
    )
    with pytest.raises(DataError, match="other pairs"):
        measured(PairFigures(metrics.figures(plain)), plain, now, resamples=100, seed=0)


@pytest.mark.parametrize("control", ["same_picture", "text_only"])
def test_judge_that_can_only_write_may_name_a_place_unless_neither_is_offered(registry, tmp_path, monkeypatch, control):
    """Right, deterministic, and with a rule for ties: the second picture, or neither where it may say so."""

    class Writer(Judge):
        def respond(self, prompts):
            for number, said in super().respond(prompts):
                names = prompts[number].names
                yield number, Response(said.text or prompts[number].answer.format(name=self.tie or names[-1]))

    written = dataclasses.replace(DIRECT, generate=True)

    def row(name, tie=None):
        writer = Writer(by_sight)
        writer.tie = tie
        return run(registry, tmp_path / name, None, written, [control], writer)[control]

    bound = row("bound")
    assert (bound.verdict, bound.measures["second"].value, bound.at_fault) == ("not applicable", 100, False)
    assert bound.why == (
        "second place % 100.0 (alike in all episodes); the model writes its answer and is not offered neither, so it "
        "has to name a place"
    )
    monkeypatch.setattr("stcr_plugin.registry.manifest.teaches_ties", lambda manifest: True)
    free, biased = row("free"), row("biased", "img2")
    assert (free.verdict, free.measures["neither"].value, free.measures["second"].value) == ("holds", 100, 50)
    assert (biased.verdict, biased.measures["neither"].value) == ("fails", 0)


def test_pair_is_still_right_only_if_it_was(registry, tmp_path):
    """Ties do not count: that neither is closer is as right when nothing is seen."""
    right, wrong = ("img2", "img1"), ("img1", "img2")
    plain = answers({"a": right, "b": right, "c": wrong})
    now = answers({"a": right, "b": ("img2", "img2"), "c": right})
    tie = Query(Pair("t", "t", "", "", 0, 1, 1.0, closer="neither"), "forward")
    ties = [Answer("t", "t", order, tie.answer, "neither", "") for order in ORDERS]
    found = measured(PairFigures(metrics.figures(now + ties)), now + ties, plain + ties, resamples=100, seed=0)
    assert found["still_right"].value == 50


def test_probability_of_the_second_place_halves_what_neither_has():
    logs = tuple(math.log(share) for share in (0.2, 0.5, 0.3))
    said = answers({"a": ("neither", "neither"), "b": ("neither", "neither")}, logs)
    found = measured(PairFigures(metrics.figures(said)), said, said, resamples=100, seed=0)
    assert found["second_probability"].value == pytest.approx(65)
    assert found["second"].value == 50
    two = answers({"a": ("img2", "img2"), "b": ("img2", "img2")}, (-800.0, -801.0, None))
    share = 100 / (1 + math.e)
    found = measured(PairFigures(metrics.figures(two)), two, two, resamples=100, seed=0)
    assert found["second_probability"].value == pytest.approx(share)


def test_console_names_each_row_with_its_verdict():
    row = ControlRow("noise", "", "", "", "", "fails", "difference +0.0")
    assert controls_console([row]) == "noise  fails           difference +0.0"


# ---- a real model ----


@pytest.mark.slow
def test_real_model_goes_through_controls_loaded_once(model, registry, tmp_path, monkeypatch):
    loads = []
    real = local.load
    monkeypatch.setattr(local, "load", lambda folder: loads.append(folder) or real(folder))
    names = ["letters", "question_first", "suggested_first", "noise", "masked_change", "masked_border", "reversed"]
    names += ["text_only", "inverse_task", "undone", "oracle_begin"]
    request = EvalRequest(model=model, dataset="toy", registry=registry, settings=DIRECT, limit=4, resamples=100)
    rows = controls(request, tmp_path / "out", only=names).rows
    assert len(loads) == 1
    assert [row.name for row in rows] == [PLAIN, *names]
    assert {row.verdict for row in rows} <= {"holds", "fails", "not shown"}

    def scores(name):
        lines = (tmp_path / "out" / name / "answers.jsonl").read_text().splitlines()
        return [json.loads(line)["logprob_img1"] for line in lines]

    text = scores("text_only")
    assert text[::2] == pytest.approx(text[1::2], abs=1e-5)  # both orders are one prompt
    assert len({tuple(scores(row.name)) for row in rows}) == len(rows)  # each control reached the model
    cot = dataclasses.replace(request, settings=AskSettings(mode="cot", max_new_tokens=3), limit=2)
    reasoned = controls(cot, tmp_path / "cot", only=["blind"]).rows
    assert (reasoned[1].verdict, "describe" in reasoned[1].why) == ("not applicable", True)
