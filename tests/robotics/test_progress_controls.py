"""The controls of progress: which judges pass them, and which do not."""

import math

import pytest
from PIL import Image

from stcr_plugin.engines.oracles import Oracle
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.evaluation.strips import Strip
from stcr_plugin.robotics.judged_progress import Judge, Scale, compared
from stcr_plugin.robotics.progress_controls import FRAMES, progress_controls
from stcr_plugin.types import Response

ASK = AskSettings(mode="direct")
POSITIONS = tuple(place / 7 for place in range(8))


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """For judges who do not look."""
    folder = tmp_path_factory.mktemp("picture")
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    return folder


class Constant:
    """Gives both names the same probability."""

    def identity(self):
        return {"engine": "constant"}

    def respond(self, prompts):
        for number, prompt in enumerate(prompts):
            yield number, Response("", dict.fromkeys(prompt.names, math.log(0.5)))


def judge(name):
    if name == "constant":
        return Judge(lambda pairs: Constant(), {"engine": name}, ASK)
    return Judge(lambda pairs: Oracle(name, pairs), {"engine": name}, ASK)


def run(name, picture, out, with_scale):
    truth = tuple(place / (FRAMES - 1) for place in range(FRAMES))
    strips = [
        Strip(picture, f"e{number}", "a task", ("a.png",) * FRAMES, tuple(range(FRAMES)), truth=truth)
        for number in range(2)
    ]
    scale = Scale()
    if with_scale:
        reference = Strip(picture, "r", "a task", ("a.png",) * 8, tuple(range(8)), truth=POSITIONS)
        between = compared(judge(name), reference, POSITIONS, out / "between")
        scale = Scale(reference.images, POSITIONS, POSITIONS, between)
    return {one.name: one for one in progress_controls(judge(name), strips, out, [scale] * 2)}


def test_a_judge_that_is_always_right_passes_all_with_a_reference(picture, tmp_path):
    found = run("right", picture, tmp_path, True)
    assert all(one.passed for one in found.values())
    assert {one.n_episodes for one in found.values()} == {2}


def test_a_judge_that_is_always_right_cannot_pass_without_a_reference(picture, tmp_path):
    found = run("right", picture, tmp_path, False)
    assert found["reversed"].passed
    assert found["shuffled"].passed
    assert not found["cut"].passed  # the half episode ends as high as the whole one
    assert not found["dropped"].passed


def test_a_clock_fails_where_the_video_is_changed(picture, tmp_path):
    found = run("chronological", picture, tmp_path, False)
    assert not any(found[name].passed for name in ("still", "dropped", "reversed", "shuffled", "cut"))
    assert found["reversed"].value == pytest.approx(found["reversed"].clock, abs=0.2)


def test_a_constant_is_still_but_never_sees_a_failure(picture, tmp_path):
    found = run("constant", picture, tmp_path, True)
    assert found["still"].value == 0
    assert found["cut"].value == 0
    assert not found["cut"].passed


def test_a_strip_too_short_for_a_control_is_left_out(picture, tmp_path):
    short = Strip(picture, "e", "a task", ("a.png",) * 3, (0, 1, 2))
    assert progress_controls(judge("coin"), [short], tmp_path) == ()
