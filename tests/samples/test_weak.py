from stcr_plugin.samples.weak import weak_sample
from stcr_plugin.types import Pair, Query

PAIR = Pair("e:1-2", "e", "train", "stack cups", 1, 2, 0.1)


def test_target_is_the_label_alone_and_follows_the_order():
    targets = [weak_sample(Query(PAIR, order), "en", 0).target for order in ("forward", "backward")]
    assert targets == ["closer to completion: img2", "closer to completion: img1"]


def test_prompt_asks_for_no_description():
    assert "spatial details" not in weak_sample(Query(PAIR, "forward"), "en", 0).prompt
