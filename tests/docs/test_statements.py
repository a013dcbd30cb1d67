"""Statements of README and the results pages that no table holds, compared with what they are about."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from PIL import Image
from tiny_stage import REPOSITORY

from stcr_plugin.config import from_mapping, read_yaml
from stcr_plugin.embedded.pretraining import Pretraining
from stcr_plugin.episodes.tabletop import HELDOUT_COLOURS, SEEN_COLOURS
from stcr_plugin.frameworks.augmentation import DRAWS, augmented
from stcr_plugin.frameworks.stcr_block import Augment

SHADE = 22  # the simulator draws each channel of a colour up to this far from its name's
TABLE = (176, 150, 120)
REPEATS = REPOSITORY / "docs/results/repeats"


def reached(recipe: str) -> set[str]:
    """Held-out colours that the augmentation of a recipe makes out of a training colour, more often than 1 in 400."""
    augment = from_mapping(Augment, read_yaml(REPOSITORY / recipe)["stcr"]["augment"], "test")
    rng = np.random.default_rng(0)
    colours = np.array(list(SEEN_COLOURS.values()))[:, None, :]
    shades = np.clip(colours + rng.integers(-SHADE, SHADE + 1, (len(colours), 84, 3)), 0, 255)
    scene = np.concatenate([shades, np.full((5 * len(colours), 84, 3), TABLE)]).astype(np.uint8)
    draws = [[0.5, 0.5, *rng.random(DRAWS - 2)] for _ in range(600)]  # no shift
    changed = [np.asarray(augmented([Image.fromarray(scene)], augment, one)[0]) for one in draws]
    made = np.concatenate(changed, axis=1)[: len(colours)]
    near = {
        name: (np.abs(made.astype(int) - rgb).max(axis=-1) <= SHADE).mean(axis=1).max()
        for name, rgb in HELDOUT_COLOURS.items()
    }
    return {name for name, share in near.items() if share > 1 / 400}


def test_augmentation_of_stage_2_makes_three_of_the_four_held_out_colours() -> None:
    assert reached("recipes/stage2_weak.yaml") == {"orange", "lime", "maroon"}
    assert len(reached("recipes/weak_only.yaml")) < 3


def test_one_thread_gives_the_published_weights_again_and_two_threads_or_another_processor_do_not() -> None:
    lines = (REPOSITORY / "docs/results/seeds/seed17.jsonl").read_text(encoding="utf-8").splitlines()
    study = {one["result"]["name"]: one["result"]["model_digest"] for one in map(json.loads, lines) if "result" in one}
    runs: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(REPEATS.glob("*.jsonl")):
        head = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
        kind = "other processor" if "processor" in head else f"{head['threads']} threads"
        runs.setdefault(kind, []).append(head["weights"])
    assert all(weights[row] == study[row] for weights in runs["1 threads"] for row in weights)
    for kind in ("2 threads", "other processor"):
        assert all(weights[row] != study[row] for weights in runs[kind] for row in weights)


def test_the_page_says_that_a_run_was_not_repeated_until_it_was() -> None:
    commands = [json.loads(path.read_text().splitlines()[0])["command"] for path in REPEATS.glob("*.jsonl")]
    text = (REPOSITORY / "docs/results/seeds.md").read_text(encoding="utf-8")
    assert ("again | not repeated" in text) == (commands.count("make demo") < 2)


def test_few_labels_has_a_base_that_was_taught_on_600_other_episodes() -> None:
    assert Pretraining().episodes == 600
    overrides = read_yaml(REPOSITORY / "recipes/studies/few_labels.yaml")["data_overrides"]
    assert overrides == ["splits.train.episodes=100", "datasets.cot.pairs=null"]  # the base is not among them


def test_half_of_the_weak_pairs_of_the_default_are_in_chinese() -> None:
    datasets = read_yaml(REPOSITORY / "recipes/data/tabletop.yaml")["datasets"]
    assert datasets["weak"]["languages"] == ["en", "zh"]


def test_recipe_of_the_robot_says_nothing_that_needs_the_future_and_words_what_is_done() -> None:
    source = read_yaml(REPOSITORY / "recipes/data/g1_pick_bottle.yaml")["source"]
    assert source["proprioception"]["say"] == ["hand:right"]
    assert source["tasks"] == {
        "Pick up the yellow bottle on the table.": (
            "Pick up the yellow bottle, set it down on the right of the table and let go of it."
        )
    }
