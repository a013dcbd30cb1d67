import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from stcr_plugin import artefacts
from stcr_plugin.cli import main
from stcr_plugin.config import read_yaml
from stcr_plugin.engines.prompts import content
from stcr_plugin.engines.sealed import unsealed
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.episodes.tabletop import SEEN_COLOURS, SHAPES, TabletopConfig, TabletopSource
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation import guard as guard_module
from stcr_plugin.evaluation.guard import compare, guard, read_pope, read_replies
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.report.guard_table import compare_guards, guard_markdown
from stcr_plugin.results import Guard, GuardComparison
from stcr_plugin.samples.general import KINDS, YESNO_FILE, names_in, questions_about, random_number
from stcr_plugin.types import Response

EPISODES = 15


class Teller:
    """An engine that answers by a rule; `asked` counts its prompts, and it stops after `patience` of them."""

    def __init__(self, rule, name="teller", patience=10**9):
        self.rule, self.name, self.patience, self.asked = rule, name, patience, 0

    def identity(self):
        return {"engine": self.name}

    def respond(self, prompts):
        for number, prompt in enumerate(map(unsealed, prompts)):
            if self.asked == self.patience:
                raise KeyboardInterrupt
            self.asked += 1
            yield number, self.rule(prompt)


def always(word):
    return lambda prompt: Response(word, {"yes": -0.1 if word == "yes" else -3.0, "no": -0.1 if word == "no" else -3.0})


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """(folder of the pictures, the questions)."""
    out = tmp_path_factory.mktemp("guard")
    return out, guard_module.scene_questions(out, EPISODES, 0)


def named(question):
    """Colour and shape that a question asks about."""
    return tuple(re.fullmatch(r"Is there an? (\w+) (\w+) in the picture\? Answer yes or no\.", question.text).groups())


def truth():
    """picture -> what stands in it, from the simulator."""
    source = TabletopSource(TabletopConfig(seen=EPISODES, heldout=0), guard_module._APART)
    return {
        f"pictures/{episode.episode_id}.png": {
            (one.colour, one.shape)
            for one in source.things(episode, random_number(0, episode.episode_id) % episode.n_frames)
        }
        for episode in source.episodes()
    }


def test_each_kind_of_each_picture_has_as_many_of_both_answers(asked):
    _, questions = asked
    counts = Counter((one.picture, kind, one.label) for one in questions for kind in one.kinds)
    for picture, kind in {(picture, kind) for picture, kind, _ in counts}:
        assert 1 <= counts[picture, kind, "yes"] == counts[picture, kind, "no"] <= 3
    assert {kind for one in questions for kind in one.kinds} == set(KINDS)
    assert len({one.item for one in questions}) == len(questions)


def test_labels_are_what_the_simulator_says(asked):
    _, questions = asked
    inside = truth()
    assert all((named(one) in inside[one.picture]) == (one.label == "yes") for one in questions)


def test_adversarial_negatives_mix_what_is_there_and_popular_ones_are_frequent(asked):
    _, questions = asked
    inside = truth()
    frequent = Counter(thing for things in inside.values() for thing in things)

    def negatives(kind):
        return [one for one in questions if one.label == "no" and kind in one.kinds]

    def half_true(one):
        colour, shape = named(one)
        return (colour in {c for c, _ in inside[one.picture]}) + (shape in {s for _, s in inside[one.picture]})

    adversarial = [half_true(one) for one in negatives("adversarial")]
    assert min(adversarial) >= 1
    assert np.mean(adversarial) > 1.9, "colour and shape are there, but not together"
    assert np.mean([half_true(one) for one in negatives("random")]) < 1.2
    mean = {kind: np.mean([frequent[named(one)] for one in negatives(kind)]) for kind in KINDS}
    assert mean["popular"] > 2 * mean["random"]


def test_pictures_and_questions_are_the_same_for_the_same_seed_alone(asked, tmp_path):
    out, questions = asked
    assert guard_module.scene_questions(tmp_path, EPISODES, 0) == questions
    assert all((out / one.picture).read_bytes() == (tmp_path / one.picture).read_bytes() for one in questions)
    assert guard_module.scene_questions(tmp_path / "other", EPISODES, 1) != questions


def test_every_word_of_a_question_has_a_chinese_one(tmp_path):
    words = read_yaml(YESNO_FILE)["zh"]["words"]
    assert set(words) == {*SEEN_COLOURS, *SHAPES, "pad"}
    assert len(set(words.values())) == len(words)
    (first, *_) = guard_module.scene_questions(tmp_path, 1, 0, "zh")
    assert re.fullmatch(r"图片中有[^a-z{}]+吗？请回答“是”或“否”。", first.text)
    with pytest.raises(ConfigError, match="language 'de'"):
        guard_module.scene_questions(tmp_path, 1, 0, "de")


def test_colour_between_two_names_is_not_asked_about():
    from stcr_plugin.episodes.tabletop import Visible

    doubtful = Visible("black", "pad", SEEN_COLOURS["navy"], 1.0, 99.0)
    hidden = Visible("red", "cube", SEEN_COLOURS["red"], 0.3, 99.0)
    plain = Visible("green", "ball", SEEN_COLOURS["green"], 1.0, 99.0)
    questions = questions_about({"p": (doubtful, hidden, plain)}, 0, "en")
    asked = {named(one): one.label for one in questions}
    assert [thing for thing, label in asked.items() if label == "yes"] == [("green", "ball")]
    assert not {("black", "pad"), ("navy", "pad"), ("red", "cube")} & asked.keys()


def run(out, engine, episodes=EPISODES, **more):
    given = {key: more.pop(key) for key in ("pope", "images") if key in more}
    return guard(EvalRequest(engine=engine, **{"resamples": 50} | more), out, episodes=episodes, **given)


def told(asked):
    """An engine's rule that knows the truth."""
    labels = {one.item: one.label for one in asked[1]}
    return lambda prompt: always(labels[prompt.item])(prompt)


def test_engines_with_known_figures_get_them(asked, tmp_path):
    known = {
        "right": (told(asked), {"accuracy": 100, "precision": 100, "recall": 100, "f1": 100, "yes_ratio": 50}),
        "yes": (always("yes"), {"accuracy": 50, "precision": 50, "recall": 100, "f1": 200 / 3, "yes_ratio": 100}),
        "no": (always("no"), {"accuracy": 50, "precision": None, "recall": 0, "f1": 0, "yes_ratio": 0}),
        "mute": (lambda prompt: Response("?"), {"accuracy": 0, "precision": None, "f1": 0, "unparsed_rate": 100}),
        "undecided": (lambda prompt: Response("", {"yes": -1.0, "no": -1.0}), {"accuracy": 0, "unparsed_rate": 100}),
    }
    for name, (rule, expected) in known.items():
        result = run(tmp_path / name, Teller(rule), name=name)
        for kind in (*KINDS, "all"):
            found = result.kinds[kind].figures
            assert {key: getattr(found, key) for key in expected} == pytest.approx(expected), (name, kind)
        assert Guard.read(tmp_path / name / "guard.json") == result
    report = guard_markdown(result, read_replies(tmp_path / "no" / "answers.jsonl"))
    assert "| always yes | all | 50.0 | 50.0 | 100.0 | 66.7 | 100.0 | 0.0 |" in report
    assert "| a coin | all | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 0.0 |" in report


def test_questions_are_put_with_one_picture_and_the_names_of_the_language(asked):
    _, questions = asked
    prompt = guard_module._prompt(questions[0], names_in("zh"))
    assert prompt.names == ("是", "否")
    assert [part["type"] for part in content(prompt)] == ["text", "image", "text"]


def test_killed_guard_goes_on_and_asks_nothing_twice(asked, tmp_path):
    whole = Teller(told(asked))
    run(tmp_path / "whole", whole)
    first, second = Teller(told(asked), patience=7), Teller(told(asked))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", first)
    run(tmp_path / "cut", second)
    assert first.asked + second.asked == whole.asked
    for name in ("guard.json", "answers.jsonl", "questions.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_comparison_is_paired_and_of_the_same_questions(asked, tmp_path):
    labels = {one.item: one.label for one in asked[1]}
    worse = sorted(labels)[::10]  # every tenth is answered wrong

    def rule(prompt):
        label = labels[prompt.item]
        return always({"yes": "no", "no": "yes"}[label] if prompt.item in worse else label)(prompt)

    before = run(tmp_path / "a", Teller(told(asked)), name="before", resamples=200)
    after = run(tmp_path / "b", Teller(rule), name="after", resamples=200)
    text = compare_guards([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    (found,) = GuardComparison.read(tmp_path / "both" / "compare.json").differences
    for kind in (*KINDS, "all"):
        lost = after.kinds[kind].figures.accuracy - before.kinds[kind].figures.accuracy
        assert found.kinds[kind].points == pytest.approx(lost)
        low, high = found.kinds[kind].interval
        assert low < lost < high < 0
    assert (tmp_path / "both" / "compare.md").read_text() == text
    run(tmp_path / "other", Teller(always("yes")), seed=1)
    with pytest.raises(DataError, match="other questions than"):
        compare([tmp_path / "a", tmp_path / "other"])
    run(tmp_path / "written", Teller(always("yes")), settings=AskSettings(generate=True))
    with pytest.raises(DataError, match="came about in another way than"):
        compare([tmp_path / "a", tmp_path / "written"])
    row = artefacts.read_json(tmp_path / "a" / "guard.json")
    artefacts.write_json(tmp_path / "written" / "guard.json", row | {"settings": {}})  # by hand
    with pytest.raises(DataError, match="came about in another way than"):
        compare([tmp_path / "a", tmp_path / "written"])
    with pytest.raises(ConfigError, match="two runs"):
        compare([tmp_path / "a"])
    with pytest.raises(DataError, match=r"guard\.json: no such file"):
        compare([tmp_path / "a", tmp_path / "none"])


@pytest.fixture
def pope(tmp_path):
    """Two of POPE's files as they are published, and the folder of their pictures."""
    images = tmp_path / "val2014"
    images.mkdir()
    for number in (1, 2):
        Image.new("RGB", (60, 40), (number * 90, 0, 0)).save(images / f"COCO_{number}.jpg")
    rows = {
        "random": [(1, "Is there a dog in the image?", "yes"), (2, "Is there a car in the image?", "no")],
        "popular": [(1, "Is there a dog in the image?", "yes"), (2, "Is there a person in the image?", "no")],
    }
    files = []
    for kind, listed in rows.items():
        file = tmp_path / f"coco_pope_{kind}.json"
        file.write_text(
            "".join(
                json.dumps({"question_id": n, "image": f"COCO_{image}.jpg", "text": text, "label": label}) + "\n"
                for n, (image, text, label) in enumerate(listed, 1)
            )
        )
        files.append(file)
    return files, images


def test_popes_own_files_are_read_and_a_question_of_several_is_asked_once(pope, tmp_path):
    files, images = pope
    questions = read_pope(files, images)
    assert [(one.picture, one.label, one.kinds) for one in questions] == [
        ("COCO_1.jpg", "yes", ("random", "popular")),
        ("COCO_2.jpg", "no", ("random",)),
        ("COCO_2.jpg", "no", ("popular",)),
    ]
    teller = Teller(always("yes"))
    found = run(tmp_path / "out", teller, pope=files, images=images)
    assert teller.asked == 3
    assert {kind: one.n for kind, one in found.kinds.items()} == {"random": 2, "popular": 2, "all": 4}
    assert found.kinds["all"].figures.accuracy == 50
    with pytest.raises(ConfigError, match="--images"):
        run(tmp_path / "out", teller, pope=files)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"image": "COCO_1.jpg", "text": "?"}, "row 3: a row of POPE has the texts"),
        (["COCO_1.jpg"], "row 3: a row of POPE has the texts"),
        ({"image": "COCO_1.jpg", "text": "?", "label": "maybe"}, "row 3: label 'maybe'"),
        ({"image": "COCO_9.jpg", "text": "?", "label": "no"}, r"row 3: .*COCO_9\.jpg is not a file"),
        ({"image": "../pope", "text": "?", "label": "no"}, "leaves its folder"),
        (
            {"image": "COCO_1.jpg", "text": "Is there a dog in the image?", "label": "no"},
            "row 3: the label is no, but yes in .*row 1",
        ),
    ],
)
def test_bad_row_of_pope_is_named(pope, row, words):
    files, images = pope
    with open(files[0], "a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=words):
        read_pope(files, images)


def test_command_asks_a_real_model_and_its_questions_are_popes_format(model, tmp_path, capsys):
    out = tmp_path / "guard"
    assert main(["guard", "--model", str(model), "--out", str(out), "--episodes", "2", "--name", "base"]) == 0
    assert "base, adversarial: accuracy % " in capsys.readouterr().out
    row = json.loads((out / "guard.json").read_text())
    assert row["kinds"]["all"]["unparsed_rate"] == 0
    said = [json.loads(line) for line in (out / "said.jsonl").read_text().splitlines()]
    assert all(set(one["logprobs"]) == {"yes", "no"} for one in said)
    again = read_pope([out / "questions.jsonl"], out)
    assert [one.item for one in again] == [f"{one['item']}" for one in said]
    assert main(["guard", "--compare", str(out), str(out), "--out", str(tmp_path / "both")]) == 0
    assert "| base | all | +0.0 (+0.0 to +0.0) |" in (tmp_path / "both" / "compare.md").read_text()
    assert main(["guard", "--model", str(model)]) == 1
    assert "requires --out" in capsys.readouterr().err


def test_settings_of_the_model_are_those_of_the_guard(asked, tmp_path):
    found = run(tmp_path, Teller(always("no")), 2, settings=AskSettings(image_max_pixels=7056))
    assert found.settings["image_max_pixels"] == 7056
    assert found.settings["mode"] == "direct"
