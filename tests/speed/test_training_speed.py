"""How fast a stage trains: against the authors' approach, and against LLaMA-Factory without the plugin.

Both trainings of a comparison stand in processes of their own, each computing on one thread, and take their steps in
turn (paced_training.py).
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from paced_training import Step, paced
from tiny_stage import DATA, RECIPES, UNPREPARED, Workshop, quiet_environment

BATCH = 16
WARM_UP = 5
LAUNCHES = int(os.environ.get("STCR_BENCH_LAUNCHES", "3"))

Pairs = list[tuple[tuple[float, float], tuple[float, float]]]


@pytest.fixture(scope="module")
def workshop(full: bool, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Some 1,300 weak samples of the tabletop; `numbered` is the same file with img1 and img2 written into the text."""
    from stcr_plugin.registry.build import build, load_data_config

    made = Workshop(tmp_path_factory.mktemp("training_speed"))
    count = 44 if full else 2
    episodes = {"train": {"episodes": count, "group": "seen"}, "dev": {"episodes": 4, "group": "seen"}}
    source = {"kind": "tabletop", "seen": count + 4, "heldout": 0}
    datasets = {"weak": {"split": "train", "kind": "weak"}}
    pairs = {**DATA["pairs"], "per_episode": 15}
    made.write_yaml(made.data, DATA | {"source": source, "splits": episodes, "pairs": pairs, "datasets": datasets})
    build(load_data_config(made.data), made.registry)
    made.make_base()
    rows = json.loads((made.registry / "tiny" / "tiny_weak.json").read_text(encoding="utf-8"))
    for row in rows:
        turn = row["messages"][0]
        turn["content"] = turn["content"].replace("<image><image>", "img1: <image>\nimg2: <image>\n")
    (made.registry / "numbered.json").write_text(json.dumps(rows), encoding="utf-8")
    info_file = made.registry / "dataset_info.json"
    info = json.loads(info_file.read_text(encoding="utf-8"))
    info["numbered"] = info["tiny_weak"] | {"file_name": "numbered.json"}
    info_file.write_text(json.dumps(info), encoding="utf-8")
    return made


def stage(workshop: Workshop, out: Path, dataset: str, steps: int, *more: str) -> dict[str, Any]:
    """The recipe of stage 2 as it stands, save where it reads and writes; the callback is on and asks nothing."""
    from stcr_plugin.frameworks.recipe import read_recipe

    return read_recipe(
        RECIPES / "stage2_weak.yaml",
        [
            *UNPREPARED,
            f"model_name_or_path={workshop.base}",
            f"dataset_dir={workshop.registry}",
            f"dataset={dataset}",
            f"output_dir={out}",
            f"max_steps={steps}",
            "stcr.starts_from=model",
            "stcr.evaluate.dataset=tiny",
            "stcr.evaluate.pairs=4",
            "stcr.evaluate.before=false",
            "stcr.evaluate.after=false",
            *more,
        ],
    )


def accepted(args: dict[str, Any]) -> None:
    """The small size: two processes that train would take half a minute, so the recipe is only read as they read it."""
    from stcr_plugin.frameworks.llamafactory.experiment import refuse_unknown_keys
    from stcr_plugin.frameworks.recipe import Recipe
    from stcr_plugin.frameworks.refusals import refuse_what_cannot_work
    from stcr_plugin.frameworks.stage_run import manifests_of

    refuse_unknown_keys(args)
    recipe = Recipe.of(args)
    refuse_what_cannot_work(recipe)
    assert list(manifests_of(recipe)) == ([] if recipe.datasets[0] == "numbered" else ["tiny"])


def in_turn(one: Step, other: Step, steps: int) -> Pairs:
    """(one's seconds, the other's) of `steps` steps each, wall and processor time, the first to go changing."""
    for _ in range(WARM_UP):
        one(), other()
    taken: Pairs = []
    for k in range(steps):
        if k % 2:
            late = other()
            taken.append((one(), late))
        else:
            taken.append((one(), other()))
    return taken


def compare(
    workshop: Workshop, name: str, launch: Callable[[ExitStack, Path, str], Step], kinds: tuple[str, str], steps: int
) -> tuple[float, float, float]:
    """Median wall seconds a step of both kinds, and the least that the median ratio of two steps taken in turn may be
    (95 %, by order statistics). All of it is printed with its spread, in processor time too, workers aside.
    """
    taken: Pairs = []
    medians: dict[int, list[float]] = {0: [], 1: []}
    least = 0.0
    for number in range(LAUNCHES):
        with ExitStack() as stack:
            one, other = (launch(stack, workshop.root / f"{name}-{number}-{kind}", kind) for kind in kinds)
            found = in_turn(one, other, steps)
        taken += found
        for clock in medians:
            medians[clock].append(statistics.median(mine[clock] / theirs[clock] for mine, theirs in found))
    for clock, what in ((1, "processor time"), (0, "wall")):
        ratios = sorted(mine[clock] / theirs[clock] for mine, theirs in taken)
        low, middle, high = statistics.quantiles(ratios, n=4)
        beside = round(0.98 * len(ratios) ** 0.5)
        least, most = (ratios[len(ratios) // 2 + side * beside] for side in (-1, 1))
        print(
            f"\n{name}: {kinds[0]} / {kinds[1]}, {what}: median {middle:.4f} ({least:.4f} to {most:.4f}), quartiles "
            f"{low:.4f} to {high:.4f}, launches {', '.join(f'{one:.4f}' for one in medians[clock])}; "
            f"{len(taken)} steps each"
        )
    walls = [statistics.median(pair[side][0] for pair in taken) for side in (0, 1)]
    return walls[0], walls[1], least


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "more"), [
    ("train_vs_authors_approach", ()),
    ("train_vs_authors_approach_without_worker", ("dataloader_num_workers=0",)),
])  # fmt: skip
def test_train_vs_authors_approach(
    report: Callable[..., None], full: bool, workshop: Workshop, name: str, more: tuple[str, ...]
) -> None:
    """value: samples a second of recipes/stage2_weak.yaml as it stands, augmentation and a worker that prepares batches
    included; baseline: of the authors' approach with the same batch by accumulation, model, precision and pictures,
    and prompts of the same length. `..._without_worker`: the recipe in one process, as their approach is.
    """
    steps = 30

    def launch(stack: ExitStack, out: Path, kind: str) -> Step:
        args = stage(workshop, out / "run", "tiny_weak", steps + WARM_UP + 1, *more)
        if kind == "authors":
            args = {
                "model": str(workshop.base),
                "registry": str(workshop.registry),
                "data": str(workshop.registry / "numbered.json"),
                "output_dir": str(out / "run"),
                "max_steps": steps + WARM_UP + 1,
                "batch": BATCH,
            }
        training = "authors" if kind == "authors" else "llamafactory"
        return stack.enter_context(paced(training, args, out, quiet_environment(workshop.root)))

    if not full:
        accepted(stage(workshop, workshop.root / "run", "tiny_weak", steps, *more))
        return
    ours, theirs, _ = compare(workshop, name, launch, ("recipe", "authors"), steps)
    report(name, BATCH / ours, "samples/s", BATCH / theirs)
    assert theirs > 1.5 * ours


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "dataset", "most"), [
    ("plugin_overhead", "numbered", 1.01),
    ("plugin_overhead_with_numbers", "tiny_weak", 1.5),
])  # fmt: skip
def test_plugin_overhead(
    report: Callable[..., None], full: bool, workshop: Workshop, name: str, dataset: str, most: float
) -> None:
    """value: seconds a step with the plugin (template, record, callbacks, no augmentation); baseline: LLaMA-Factory
    with STCR_AUTOLOAD=0 and its own template qwen2_vl, on the same data file. `plugin_overhead`: the file has the
    numbers of the pictures in its text, so both see the same prompts; `..._with_numbers`: the file as `stcr data build`
    writes it, where our template adds the numbers, 10 tokens a sample, and LLaMA-Factory's does without.
    """
    steps = 100
    alone = ("stcr.augment=null", "dataloader_num_workers=0")

    def launch(stack: ExitStack, out: Path, kind: str) -> Step:
        args = stage(workshop, out / "run", dataset, steps + WARM_UP + 1, *alone)
        environment = quiet_environment(workshop.root)
        if kind == "plain":
            del args["stcr"]
            args["template"] = "qwen2_vl"
            environment["STCR_AUTOLOAD"] = "0"
        return stack.enter_context(paced("llamafactory", args, out, environment))

    if not full:
        accepted(stage(workshop, workshop.root / "run", dataset, steps, *alone))
        return
    ours, theirs, least = compare(workshop, name, launch, ("plugin", "plain"), steps)
    report(name, ours, "s", theirs)
    assert least < most  # more than noise above it
