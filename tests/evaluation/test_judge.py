"""Judging for a person, and as a reward: against the evaluation's own log-probabilities, and judges that are known."""

import dataclasses
import json
import math
import shutil

import lerobot_dataset
import numpy as np
import pytest
import video_files
from PIL import Image

from stcr_plugin.cli import main
from stcr_plugin.config import from_mapping
from stcr_plugin.engines.loading import load
from stcr_plugin.engines.local import respond
from stcr_plugin.engines.oracles import Oracle
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.sealed import unsealed
from stcr_plugin.engines.server import ServerEngine
from stcr_plugin.engines.server_settings import ServerSettings
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.judge import ROOT, judge, judge_all, opened
from stcr_plugin.report.judgement_words import judgement_words
from stcr_plugin.types import ORDERS, Pair, Query, Response

TASK = "put the cup on the plate"


@pytest.fixture
def pictures(tmp_path):
    """Dark to bright, so that a judge may order them by their looks."""
    paths = []
    for number in range(4):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (56, 56), (60 * number,) * 3).save(paths[-1])
    return paths


class Bright:
    """Calls the brighter picture closer with a log-odds of their difference, and adds `bias` for the second place."""

    def __init__(self, bias=0.0, text=""):
        self.bias, self.text, self.asked = bias, text, []

    def identity(self):
        return {"engine": "bright"}

    def respond(self, prompts):
        for number, prompt in enumerate(map(unsealed, prompts)):
            self.asked.append(prompt)
            first, second = (Image.open(ROOT / shown.image).getpixel((0, 0))[0] / 60 for shown in prompt.shown)
            odds = second - first + self.bias
            name = "img2" if odds > 0 else "img1"
            if prompt.reasons:
                yield number, Response(f"{self.text}closer to completion: {name}")
            else:
                share = 1 / (1 + math.exp(-odds))
                yield (
                    number,
                    Response(f"closer to completion: {name}", {"img1": math.log1p(-share), "img2": math.log(share)}),
                )


def bright(bias=0.0, mode="direct", text="spatial details: img1: dark. img2: bright.\n"):
    return Bright(bias, text), AskSettings(mode=mode)


def test_two_pictures_are_asked_in_both_orders_and_averaged_so_that_bias_cancels(pictures):
    found = judge(bright(0.5), pictures[1:3], TASK)
    assert [one.shown for one in found.heard] == [(0, 1), (1, 0)]
    assert found.closest == 1
    assert found.probabilities[1] == pytest.approx(1 / (1 + math.exp(-1)))
    assert [one.probability for one in found.heard] == pytest.approx(
        [1 / (1 + math.exp(-1.5)), 1 / (1 + math.exp(0.5))]
    )
    assert found.disagreeing == ()
    assert sum(found.probabilities) == pytest.approx(1)


def test_orders_that_disagree_are_warned_of(pictures):
    found = judge(bright(3.0), pictures[1:3], TASK)
    assert [one.chosen for one in found.heard] == [1, 0]
    assert found.disagreeing == ((0, 1),)
    assert found.closest == 1  # what the pictures show is left when the place has cancelled out
    assert "WARNING: the two orders disagree" in judgement_words(found)


def test_judge_of_places_alone_decides_nothing(pictures):
    found = judge((Oracle("position-only", []), AskSettings(mode="direct")), pictures[:2], TASK)
    assert (found.closest, found.disagreeing) == (None, ((0, 1),))
    assert found.probabilities == pytest.approx((0.5, 0.5))
    assert "closest to completion: undecided" in judgement_words(found)


def test_several_pictures_are_compared_two_by_two(pictures):
    engine, settings = bright(2.5)
    shuffled = [pictures[place] for place in (2, 3, 0, 1)]
    found = judge((engine, settings), shuffled, TASK)
    assert len(found.heard) == len(engine.asked) == 12
    assert found.closest == 1
    assert np.argsort(found.probabilities).tolist() == [2, 3, 0, 1]
    assert sum(found.probabilities) == pytest.approx(1)
    assert len(found.disagreeing) == 3 + 2  # all pairs but one differ by less than the bias
    odds = np.log(found.probabilities)
    assert odds[1] - odds[0] == pytest.approx(1, abs=0.1)


def test_many_are_one_run_and_each_as_alone(pictures):
    engine, settings = bright()
    asked = [(pictures[:2], TASK), (pictures[1:], "open the drawer"), (pictures[2:], TASK)]
    together = judge_all((engine, settings), asked)
    assert together == [judge(bright(), *one) for one in asked]
    assert {prompt.question.partition("open the drawer")[1] for prompt in engine.asked[2:8]} == {"open the drawer"}
    assert len({prompt.question for prompt in engine.asked[:2] + engine.asked[8:]}) == 1


def test_reasons_are_given_and_the_probability_is_that_behind_them(pictures):
    engine, settings = bright(mode="cot")
    found = judge((engine, settings), pictures[:2], TASK)
    assert found.heard[0].text == "spatial details: img1: dark. img2: bright.\ncloser to completion: img2"
    assert [prompt.begin for prompt in engine.asked] == ["", "", *["spatial details: img1: dark. img2: bright.\n"] * 2]
    assert found.probabilities[1] == pytest.approx(1 / (1 + math.exp(-1)))
    assert "| spatial details: img1: dark." in judgement_words(found)


def test_judgment_that_a_reasoning_quotes_does_not_begin_what_is_compared(pictures):
    class Thinking(Bright):
        def respond(self, prompts):
            self.asked.extend(prompts)
            thought = "<think>I must write closer to completion: img1 or img2.</think>"
            yield from ((number, Response(f"{thought}\nimg2")) for number in range(len(prompts)))

    engine = Thinking()
    found = judge((engine, AskSettings(mode="cot")), pictures[:2], TASK)
    assert (len(engine.asked), [one.chosen for one in found.heard], found.probabilities) == (2, [1, 0], None)


def test_answers_without_names_are_told_and_decide_nothing(pictures):
    class Silent(Bright):
        def respond(self, prompts):
            yield from ((number, Response("I cannot tell.")) for number in range(len(prompts)))

    found = judge((Silent(), AskSettings(mode="cot")), pictures[:2], TASK)
    assert (found.closest, found.probabilities, found.unparsed) == (None, None, 2)
    assert "2 of 2 answers name no picture" in judgement_words(found)


def test_real_model_gives_the_log_probabilities_of_the_evaluation(model, pictures):
    settings = AskSettings(mode="direct")
    found = judge(model, [str(pictures[1]), pictures[3]], TASK)
    images = [str(path.relative_to(ROOT)) for path in (pictures[1], pictures[3])]
    pair = Pair("judge", "e", "", TASK, 0, 1, 0.0, earlier_image=images[0], later_image=images[1])
    prompts = prompts_for([Query(pair, order) for order in ORDERS], settings)
    said = dict(respond(*load(model), prompts, registry=ROOT, settings=settings, progress=False))
    odds = [said[number].logprobs["img2"] - said[number].logprobs["img1"] for number in range(2)]
    assert found.probabilities[1] == pytest.approx(1 / (1 + math.exp(-(odds[0] - odds[1]) / 2)), abs=1e-4)
    assert found.mode == "direct"


def test_stage_tells_mode_and_sizes_and_pictures_may_be_in_memory(model, pictures, tmp_path):
    stage = shutil.copytree(model, tmp_path / "stage")
    (stage / "stage.json").write_text(json.dumps({"mode": "direct", "image_max_pixels": 1600, "image_min_pixels": 800}))
    one = opened(stage)
    assert (one[1].mode, one[1].pixels) == ("direct", (1600, 800))
    arrays = [np.asarray(Image.open(path)) for path in pictures[:2]]
    kinds = [pictures[:2], arrays, [Image.open(path) for path in pictures[:2]]]
    found = judge_all(one, [(kind, TASK) for kind in kinds])
    assert [each.pictures for each in found[1:]] == [("picture 1", "picture 2")] * 2
    assert [each.probabilities for each in found] == [pytest.approx(found[0].probabilities, abs=1e-5)] * 3


class Numbers(Bright):
    """Reads the numbers that the pictures show."""

    def respond(self, prompts):
        self.read = [
            [lerobot_dataset.number(np.asarray(Image.open(ROOT / shown.image)))[1] for shown in prompt.shown]
            for prompt in map(unsealed, prompts)
        ]
        return super().respond(prompts)


@pytest.mark.parametrize("name", ["take.mp4", "take.mkv", "take.ts"])
def test_frame_of_a_video_of_variable_rate_is_the_one_shown_at_that_second(tmp_path, name):
    times = [4000, 4100, 4200, 7000, 7100, 7200]  # seconds are counted from the first frame
    path = video_files.write(tmp_path / name, "h264", times=times)
    engine = Numbers()
    judge((engine, AskSettings(mode="direct")), [f"{path}@2.9", f"{path}@3.05"], TASK)
    assert engine.read == [[2, 3], [3, 2]]


def test_frame_of_a_video_is_that_of_its_time(tmp_path):
    import av

    path = tmp_path / "take.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 12 * number, dtype=np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    found = judge(bright(), [f"{path}@0.2", f"{path}@1.7"], TASK)
    levels = math.log(found.probabilities[1] / found.probabilities[0]) * 60
    assert levels == pytest.approx(12 * 15, abs=8)
    with pytest.raises(DataError, match=r"has no frame at 9 s, its last one is shown at 1\.90 s"):
        judge(bright(), [f"{path}@0", f"{path}@9"], TASK)


@pytest.mark.parametrize(
    ("given", "task", "says"),
    [
        ([0], TASK, "1 pictures: 2 to 8 can be judged"),
        ([], TASK, "0 pictures"),
        ([0, 1], "  ", "task: the task text is empty"),
        ([0, 1], "do <image>", "media or chat marker"),
        (
            [0, "missing.png"],
            TASK,
            r"missing\.png: no such picture file; name a picture file, or a frame of a video as VIDEO@SECONDS",
        ),
        ([0, "missing.mp4@3"], TASK, r"missing\.mp4"),
        (
            [0, "notes.txt"],
            TASK,
            r"notes\.txt: cannot be opened as a picture \(its format is not known\); .* as VIDEO@SECONDS",
        ),
        ([0, 0], TASK, r"0\.png: given twice"),
    ],
)
def test_what_cannot_be_judged_is_said(pictures, tmp_path, given, task, says):
    (tmp_path / "notes.txt").write_text("no picture")
    chosen = [pictures[one] if isinstance(one, int) else tmp_path / one for one in given]
    with pytest.raises((ConfigError, DataError), match=says):
        judge(bright(), chosen, task)
    with pytest.raises(DataError, match=r"nowhere: no such folder; give a model's folder"):
        judge(tmp_path / "nowhere", pictures[:2], TASK)


def test_server_is_asked_in_its_own_words(pictures):
    from misbehaving_server import answer, serving

    with serving(lambda question, tried: answer("img1 is dark.\ncloser to completion: img2")) as desk:
        server = from_mapping(ServerSettings, {"url": desk.url, "model": "m"}, "test")
        settings = AskSettings(mode="cot", generate=True)
        found = judge((ServerEngine(ROOT, settings, server), settings), pictures[:2], TASK)
    assert (found.closest, found.probabilities, found.disagreeing) == (None, None, ((0, 1),))
    assert len(desk.bodies) == 2


# ---- the command ----


def test_command_prints_both_orders_and_the_judgement(model, pictures, capsys):
    assert main(["judge", str(model), str(pictures[0]), str(pictures[3]), "--task", TASK]) == 0
    out = capsys.readouterr().out
    expected = judge(model, [str(pictures[0]), str(pictures[3])], TASK)
    assert out == judgement_words(expected) + "\n"
    assert "shown 0.png, then 3.png" in out
    assert main(["judge", str(model), str(pictures[0]), str(pictures[3]), "--task", TASK, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["engine"]["engine"] == "local"
    assert {key: row[key] for key in ("closest", "task")} == {"closest": expected.closest, "task": TASK}
    assert row["heard"][0]["shown"] == list(dataclasses.asdict(expected.heard[0])["shown"])


def test_command_needs_no_model_where_another_answers(pictures, capsys):
    from misbehaving_server import answer, serving

    given = [str(path) for path in pictures[:3]]
    assert main(["judge", *given, "--task", TASK, "--oracle", "position-only"]) == 0
    assert "the two orders of 3 of 3 pairs disagree" in capsys.readouterr().out
    with serving(lambda question, tried: answer("closer to completion: img1")) as desk:
        options = ["--engine", "server", "--url", desk.url, "--server-model", "m", "--set", "language=zh"]
        assert main(["judge", *given[:2], "--task", TASK, *options]) == 0
    assert len(desk.bodies) == 2
    assert "任务" in desk.bodies[0]["messages"][0]["content"][-1]["text"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["0.png", "1.png"], "0.png: no such folder; name a model's folder first, then the pictures"),
        (["model"], "0 pictures"),
    ],
)
def test_command_says_what_is_missing(model, pictures, capsys, given, says):
    named = [str(model) if one == "model" else str(pictures[0].parent / one) for one in given]
    assert main(["judge", *named, "--task", TASK]) == 1
    assert says in capsys.readouterr().err
