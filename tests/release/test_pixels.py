"""What a server sees against what was trained on, by the real functions of both."""

import pytest
from PIL import Image
from transformers import Qwen2VLImageProcessor

from stcr_plugin.engines.picture_loading import fit
from stcr_plugin.release.pixels import COMMON, serving_limits, with_limits

QWEN = {"patch_size": 14, "merge_size": 2, "size": {"shortest_edge": 3136, "longest_edge": 12845056}}
BUDGETS = (50176, 100352, 200704, 401408, 589824)


def grid(size, config, fitted):
    """(height, width) in patches of a picture as an image processor of `config` cuts it; fitted: sized as training."""
    picture = Image.new("RGB", size)
    processor = Qwen2VLImageProcessor(**{key: value for key, value in config.items() if key != "known"})
    return processor(images=[fit(picture, *fitted) if fitted else picture], return_tensors="pt")[
        "image_grid_thw"
    ].tolist()


@pytest.mark.parametrize("budget", BUDGETS)
def test_picture_that_was_sized_first_is_seen_as_it_was_trained(budget):
    served = with_limits(QWEN, serving_limits(QWEN, 1024, budget))
    for size in COMMON:
        assert grid(size, served, (budget, 1024)) == grid(size, QWEN, (budget, 1024))
    for size in ((30, 20), (900, 120)):
        served = with_limits(QWEN, serving_limits(QWEN, 1024, budget, sizes=[size]))
        assert grid(size, served, (budget, 1024)) == grid(size, QWEN, (budget, 1024))


def test_the_training_budget_as_the_limit_would_show_another_picture():
    """Why the limits are looked for: the plain choice fails for the commonest size of a robot's camera."""
    plain = QWEN | {"size": {"shortest_edge": 1024, "longest_edge": 100352}}
    trained = grid((640, 480), QWEN, (100352, 1024))
    assert grid((640, 480), plain, (100352, 1024)) != trained
    assert grid((640, 480), with_limits(QWEN, serving_limits(QWEN, 1024, 100352)), (100352, 1024)) == trained


@pytest.mark.parametrize(("size", "budget"), [((640, 480), 100352), ((640, 480), 589824), ((1280, 720), 200704)])
def test_what_is_said_of_a_picture_as_it_comes_is_what_the_processor_does(budget, size):
    limits = serving_limits(QWEN, 1024, budget, sizes=[size])
    assert limits.known
    ((_, trained, seen),) = limits.sizes
    assert [[1, seen[1] // 14, seen[0] // 14]] == grid(size, with_limits(QWEN, limits), None)
    assert [[1, trained[1] // 14, trained[0] // 14]] == grid(size, QWEN, (budget, 1024))
    assert limits.most <= max(budget, trained[0] * trained[1]) * 1.1


def test_one_size_of_training_pictures_is_seen_alike_also_as_it_comes():
    for budget in BUDGETS:
        ((_, trained, seen),) = serving_limits(QWEN, 1024, budget, sizes=[(640, 480)]).sizes
        assert trained == seen


def test_limits_of_the_processor_that_were_tighter_in_training_stay():
    tight = QWEN | {"size": {"shortest_edge": 3136, "longest_edge": 50176}}
    limits = serving_limits(tight, 1024, 589824, sizes=[(640, 480)])
    assert (limits.least, limits.most) == (3136, 50176)


def test_processor_without_limits_on_pixels_has_none():
    assert serving_limits({"size": {"height": 448, "width": 448}}, 1024, 589824) is None
