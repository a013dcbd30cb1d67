import json
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from stcr_plugin.cli import main
from stcr_plugin.config import read_yaml
from stcr_plugin.engines.prompts import content
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.episodes.tabletop import SEEN_COLOURS, SHAPES, TabletopConfig, TabletopSource
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation import guard as guard_module
from stcr_plugin.evaluation.guard import Reply, figures, guard, intervals, parse, read_pope
from stcr_plugin.samples.general import KINDS, WORDING, Question, draw_number, names_in, questions_about
from stcr_plugin.types import Response

EPISODES = 15


class Teller:
    """An engine that answers by a rule; `asked` counts its prompts, and it stops after `patience` of them."""

    def __init__(self, rule, name="teller", patience=10**9):
        self.rule, self.name, self.patience, self.asked = rule, name, patience, 0

    def identity(self):
        return {"engine": self.name}

    def say(self, prompts):
        for number, prompt in enumerate(prompts):
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
            for one in source.things(episode, draw_number(0, episode.episode_id) % episode.n_frames)
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
    words = read_yaml(WORDING)["zh"]["words"]
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


def reply(picture, label, chosen):
    return Reply(Question(picture, f"{label} {chosen}", label, ("random",)), chosen, Response(""))


def test_figures_of_a_worked_example():
    """Of 6 things 4 are found, of 4 others 1 is imagined; one answer is none: by hand."""
    told = [("yes", "yes")] * 4 + [("yes", "no"), ("yes", None), ("no", "yes")] + [("no", "no")] * 3
    found = figures([reply("p", *one) for one in told])
    expected = {
        "accuracy": 70,
        "precision": 80,
        "recall": 100 * 4 / 6,
        "f1": 100 * 2 * 0.8 * (4 / 6) / (0.8 + 4 / 6),
        "yes_ratio": 50,
        "unparsed_rate": 10,
    }
    assert found == pytest.approx(expected)


def test_figures_where_nothing_is_answered_yes():
    found = figures([reply("p", "yes", "no"), reply("p", "no", "no")])
    assert (found["accuracy"], found["precision"], found["recall"], found["f1"]) == (50, None, 0, 0)


def test_intervals_are_over_pictures():
    """Ten questions about one picture are no ten witnesses: right about one and wrong about the other says nothing."""
    right, wrong = [reply("a", "yes", "yes")] * 10, [reply("b", "yes", "no")] * 10
    assert intervals(right + wrong)["accuracy"] == (0, 100)
    assert "accuracy" not in intervals(right)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("yes", "yes"),
        ("No.", "no"),
        ("**Yes**, there is.", "yes"),
        ("Yes, no doubt.", "yes"),
        ("\n- no\nyes", "no"),
        ("There is no red cube.", "no"),
        ("There isn’t one.", "no"),
        ("I would say yes", "yes"),
        ("yes or no", None),
        ("", None),
        ("nothing to note", None),
        ("a red cube", None),
        ("是的", "yes"),
        ("不是", "no"),
        ("没有。", "no"),
        ("有", "yes"),
        ("否", "no"),
        ("图中没有方块", "no"),
        ("ＹＥＳ", "yes"),
    ],
)
def test_answers_are_read(text, label):
    assert parse(text) == label


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
        row = guard(None, tmp_path / name, EPISODES, engine=Teller(rule), name=name, resamples=50)
        for kind in (*KINDS, "all"):
            found = row["kinds"][kind]
            assert {key: found[key] for key in expected} == pytest.approx(expected), (name, kind)
        assert json.loads((tmp_path / name / "guard.json").read_text()) == json.loads(json.dumps(row))
    report = (tmp_path / "no" / "guard.md").read_text()
    assert "| always yes | all | 50.0 | 50.0 | 100.0 | 66.7 | 100.0 | 0.0 |" in report
    assert "| a coin | all | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 0.0 |" in report


def test_questions_are_put_with_one_picture_and_the_names_of_the_language(asked):
    _, questions = asked
    prompt = guard_module._prompt(questions[0], names_in("zh"))
    assert prompt.names == ("是", "否")
    assert [part["type"] for part in content(prompt)] == ["text", "image", "text"]


def test_killed_guard_goes_on_and_asks_nothing_twice(asked, tmp_path):
    whole = Teller(told(asked))
    guard(None, tmp_path / "whole", EPISODES, engine=whole, resamples=50)
    first, second = Teller(told(asked), patience=7), Teller(told(asked))
    with pytest.raises(KeyboardInterrupt):
        guard(None, tmp_path / "cut", EPISODES, engine=first, resamples=50)
    guard(None, tmp_path / "cut", EPISODES, engine=second, resamples=50)
    assert first.asked + second.asked == whole.asked
    for name in ("guard.json", "answers.jsonl", "guard.md", "questions.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_comparison_is_paired_and_of_the_same_questions(asked, tmp_path):
    labels = {one.item: one.label for one in asked[1]}
    worse = sorted(labels)[::10]  # every tenth is answered wrong

    def rule(prompt):
        label = labels[prompt.item]
        return always({"yes": "no", "no": "yes"}[label] if prompt.item in worse else label)(prompt)

    before = guard(None, tmp_path / "a", EPISODES, engine=Teller(told(asked)), name="before", resamples=200)
    after = guard(None, tmp_path / "b", EPISODES, engine=Teller(rule), name="after", resamples=200)
    text = guard_module.compare([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    found = json.loads((tmp_path / "both" / "compare.json").read_text())["differences"][0]["kinds"]
    for kind in (*KINDS, "all"):
        lost = after["kinds"][kind]["accuracy"] - before["kinds"][kind]["accuracy"]
        assert found[kind]["points"] == pytest.approx(lost)
        low, high = found[kind]["interval"]
        assert low < lost < high < 0
    assert (tmp_path / "both" / "compare.md").read_text() == text
    guard(None, tmp_path / "other", EPISODES, seed=1, engine=Teller(always("yes")), resamples=50)
    with pytest.raises(DataError, match="other questions than in"):
        guard_module.compare([tmp_path / "a", tmp_path / "other"])
    written = AskSettings(generate=True)
    guard(None, tmp_path / "written", EPISODES, settings=written, engine=Teller(always("yes")), resamples=50)
    with pytest.raises(DataError, match="come by in another way than in"):
        guard_module.compare([tmp_path / "a", tmp_path / "written"])
    with pytest.raises(ConfigError, match="two runs"):
        guard_module.compare([tmp_path / "a"])
    with pytest.raises(DataError, match=r"guard\.json: no such file"):
        guard_module.compare([tmp_path / "a", tmp_path / "none"])


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
    row = guard(None, tmp_path / "out", pope=files, images=images, engine=teller, resamples=50)
    assert teller.asked == 3
    assert {kind: found["n"] for kind, found in row["kinds"].items()} == {"random": 2, "popular": 2, "all": 4}
    assert row["kinds"]["all"]["accuracy"] == 50
    with pytest.raises(ConfigError, match="--images"):
        guard(None, tmp_path / "out", pope=files, engine=teller)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"image": "COCO_1.jpg", "text": "?"}, "row 3: a row of POPE has the texts"),
        (["COCO_1.jpg"], "row 3: a row of POPE has the texts"),
        ({"image": "COCO_1.jpg", "text": "?", "label": "maybe"}, "row 3: label 'maybe'"),
        ({"image": "COCO_9.jpg", "text": "?", "label": "no"}, r"row 3: .*COCO_9\.jpg is no file"),
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
    row = guard(None, tmp_path, 2, settings=AskSettings(image_max_pixels=7056), engine=Teller(always("no")))
    assert row["settings"]["image_max_pixels"] == 7056
    assert row["settings"]["mode"] == "direct"
