"""Recordings of robots, held out by turns: what the judge of each fold says of what it was not trained on.

    python docs/real_folds.py RUNS START ROOT [ARM...]

ARM is a key of ARMS, by default each of g1. A fold holds out whole recordings and trains on the others, with seed 17,
from START; ROOT is the folder of the recordings. What was made before is used again, and an arm is published once all
of its folds are there.

g1: 24 recordings, four folds, every fourth one is held out. START is an embedded base that was taught on simulated
scenes alone, as `make runs/seed17/.base.done RUN=runs/seed17 SEED=17` makes it. Both stages are trained for the steps
of `make real`. The counts of an arm are written to docs/results/real/folds_ARM.jsonl.

sole_r1_lift (`lift`): 12 clips. START is the stage 2 of `make demo` that labelled them in
docs/results/labels.md without having seen one. Nothing describes the clips, so they have no Chain-of-Thought text, and
there is no stage 1 on them. The rule, stated before a fold was trained to its end (one was begun with
300 steps and dropped for lack of time):

- The three folds of recipes/data/sole_r1_lift.yaml; each holds out one clip that succeeds and three that fail.
- 150 steps of recipes/stage2_weak.yaml from START on the recipe's pairs of the other eight clips, with no other setting
  changed.
- Pair accuracy on the recipe's pairs of the clips that are held out, which are balanced by direction, with the share of
  pairs in which progress rises, where a clock is right.
- `stcr label --success` on every frame of these clips, on the scale of the other two successes, on which the fold was
  trained. Of all 12 clips together: Kendall's tau with the true progress, and failures against successes by progress
  at the end and by `--success`. The controls of progress run on two clips of each fold.
- All of it is written to docs/results/labels/sole_folds.jsonl and drawn, whatever comes out. It is run once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pack_answers
import pack_labels
import yaml

from stcr_plugin import artefacts
from stcr_plugin.records import is_finished
from stcr_plugin.robotics.label_files import SUCCESS, read_success

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "docs/results"
SEED = 17


@dataclass(frozen=True)
class Fold:
    """One fold.

    Attributes:
        held: Recordings that are held out.
        data: What is laid over the data recipe.
        references: Recordings of the training on whose scale the ones that are held out are labelled; () for none.
    """

    held: Sequence[str]
    data: Sequence[str]
    references: Sequence[str] = ()


@dataclass(frozen=True)
class Arm:
    """One way to train on all folds.

    Attributes:
        recipe: Data recipe of the recordings.
        folds: In the order of their numbers.
        stages: Name -> recipe, dataset, and what is laid over the recipe.
        pairs: Of an evaluation, at most.
        data: What is laid over the data recipe, beside that of the fold.
    """

    recipe: str
    folds: Sequence[Fold]
    stages: Mapping[str, Sequence[str]]
    pairs: int = 900
    data: Sequence[str] = ()


def recipe(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((REPOSITORY / f"recipes/data/{name}.yaml").read_text(encoding="utf-8"))
    return values


G1, LIFT = "g1_pick_bottle", "sole_r1_lift"
OPPOSITE = "000008"
BACK = "Bring the yellow bottle back from the right of the table to its middle, set it down and let go of it."


def g1_folds() -> list[Fold]:
    splits = recipe(G1)["splits"]
    episodes = sorted([*splits["train"]["episodes"], *splits["heldout"]["episodes"], OPPOSITE])
    found = []
    for number in range(4):
        held = episodes[number::4]
        kept = json.dumps([one for one in episodes if one not in held])
        found.append(Fold(held, (f"splits.train.episodes={kept}", f"splits.heldout.episodes={json.dumps(held)}")))
    return found


def lift_folds() -> list[Fold]:
    rows = recipe(LIFT)["source"]["table"]
    successes = [row["episode"] for row in rows if "_successful_" in row["path"]]
    weak = ("splits.train.episodes=8", "datasets.weak.split=train", "datasets.weak.kind=weak")
    found = []
    for group in ("fold_1", "fold_2", "fold_3"):
        held = [row["episode"] for row in rows if row["group"] == group]
        others = [one for one in successes if one not in held]
        found.append(Fold(held, (f"splits.heldout.group={group}", *weak), others))
    return found


def g1_stages(*settings: str) -> dict[str, Sequence[str]]:
    return {
        "stage1": ("stage1_cot", "cot", "max_steps=800", *settings),
        "stage2": ("stage2_weak", "weak", "max_steps=1400", "learning_rate=1.0e-3", *settings),
    }


LIGHT = "stcr.augment={shift_pixels: 5, brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.08}"
TEXT = (f'source.episode_tasks={{"{OPPOSITE}": "{BACK}"}}',)
ARMS = {
    "text_light": Arm(G1, g1_folds(), g1_stages(LIGHT), data=TEXT),
    "recipe": Arm(G1, g1_folds(), g1_stages()),
    "text": Arm(G1, g1_folds(), g1_stages(), data=TEXT),
    "lift": Arm(LIFT, lift_folds(), {"clips": ("stage2_weak", "weak", "max_steps=150", "stcr.name=clips")}),
}


def main(runs: str, start: str, root: str, *arms: str) -> None:
    for name in arms or [name for name, arm in ARMS.items() if arm.recipe == G1]:
        arm, out = ARMS[name], Path(runs).resolve() / name
        head = {"command": f"python docs/real_folds.py RUNS START ROOT {name}", "seed": SEED, "threads": 1}
        found, labels = [], []
        for number, fold in enumerate(arm.folds):
            model = trained(arm, number, out, start=Path(start).resolve(), root=Path(root).resolve())
            found.append(evaluated(arm, number, out, model=model))
            if fold.references:
                labels.append(labelled(arm, number, out, model=model, root=Path(root).resolve()))
        if labels:
            publish_labels(RESULTS / "labels/sole_folds.jsonl", head, arm, labels=labels, evaluations=found)
            continue
        lines = [{"fold": number, **pack_answers.packed(folder)} for number, folder in enumerate(found)]
        head |= {key: lines[0][key] for key in ("revision", "processor")}
        artefacts.write_jsonl(RESULTS / f"real/folds_{name}.jsonl", [head, *lines])


def build_of(arm: Arm, number: int) -> str:
    return f"{recipe(arm.recipe)['name']}_fold{number}"


def trained(arm: Arm, number: int, out: Path, *, start: Path, root: Path) -> Path:
    """Build the data of a fold and train its stages. Returns the folder of the last one."""
    name, registry, model = build_of(arm, number), out / "data_registry", start
    command(
        *("stcr", "data", "build", f"recipes/data/{arm.recipe}.yaml", f"name={name}", f"source.root={root}"),
        *("--registry", registry, *arm.folds[number].data, *arm.data),
        done=(registry / name / "manifest.json").exists(),
    )
    for stage, (training, dataset, *settings) in arm.stages.items():
        folder = out / f"fold{number}" / stage
        command(
            *("llamafactory-cli", "train", f"recipes/{training}.yaml", f"model_name_or_path={model}", f"seed={SEED}"),
            *(f"dataset={name}_{dataset}", f"dataset_dir={registry}", f"output_dir={folder}", *settings),
            *("stcr.prepare.data=null", "stcr.prepare.base=null", "stcr.evaluate=null"),
            done=is_finished(folder),
        )
        model = folder
    return model


def evaluated(arm: Arm, number: int, out: Path, *, model: Path) -> Path:
    """The folder of an evaluation on the recordings that are held out."""
    found = out / f"fold{number}" / "eval"
    command(
        *("stcr", "eval", "--model", model, "--dataset", build_of(arm, number), "--split", "heldout"),
        *("--limit", arm.pairs, "--batch-size", 32, "--registry", out / "data_registry", "--out", found),
        done=(found / "results.json").exists(),
    )
    return found


def labelled(arm: Arm, number: int, out: Path, *, model: Path, root: Path) -> Path:
    """The folder of the labels of the recordings that are held out, and of the references."""
    fold, folder = arm.folds[number], out / f"fold{number}" / "labels"
    config = recipe(arm.recipe)
    rows = [row for row in config["source"]["table"] if row["episode"] in (*fold.held, *fold.references)]
    config["source"] |= {"root": str(root), "table": rows}
    data = out / f"fold{number}" / "labelled.yaml"
    artefacts.write_text(data, yaml.safe_dump(config, sort_keys=False))
    command(
        *("stcr", "label", data, "--model", model, "--out", folder, "--reference", *fold.references),
        *("--success", "--controls", 2),
        done=(folder / "stcr_progress.parquet").exists(),
    )
    return folder


def publish_labels(
    path: Path, head: dict[str, Any], arm: Arm, *, labels: Sequence[Path], evaluations: Sequence[Path]
) -> None:
    """A line that says how all folds were made, and one for each recording that was held out; and the curves."""
    heads, lines = [], []
    for number, (fold, folder, evaluation) in enumerate(zip(arm.folds, labels, evaluations, strict=True)):
        made, rows = pack_labels.packed(folder)
        heads.append(made)
        success = {row.episode_id: row.probability for row in read_success(folder / SUCCESS)}
        answers = pack_answers.read_answers(evaluation)
        rising = {one["pair_id"] for one in answers if (one["order"], one["expected"]) == ("forward", "img2")}
        rises = pack_answers.letters(one for one in answers if one["pair_id"] in rising)
        falls = pack_answers.letters(one for one in answers if one["pair_id"] not in rising)
        for row in rows:
            if (name := row["episode"]) in fold.held:
                row |= {"fold": number, "success": success[name]}
                lines.append(row | {"rises": rises.get(name, ""), "falls": falls.get(name, "")})
    head |= {key: pack_answers.packed(evaluations[0])[key] for key in ("revision", "processor")}
    head |= {
        "model_digest": [one["model_digest"] for one in heads],
        "references": [one["reference"] for one in heads],
        "counts": {name: sum(one["counts"][name] for one in heads) for name in heads[0]["counts"]},
        "reference": [],
        "groups": {},
        "controls": [joined(of) for of in zip(*(one["controls"] for one in heads), strict=True)],
    }
    lines.sort(key=lambda line: str(line["episode"]))
    artefacts.write_jsonl(path, [head, *lines])
    draw(path.with_suffix(".png"), lines)


def joined(of: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One control over the recordings of all folds."""
    n = sum(one["n_episodes"] for one in of)
    means = {name: sum(one[name] * one["n_episodes"] for one in of) / n for name in ("value", "clock", "constant")}
    return {**of[0], **{name: round(mean, 6) for name, mean in means.items()}, "n_episodes": n}


def draw(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """The curves of all recordings, each beside its true progress."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.4), layout="constrained")
    axes = figure.subplots(3, 4, sharex=True, sharey=True).flat
    for axis, line in zip(axes, lines, strict=True):
        axis.plot(line["frames"], line["truth"], "--", color="#000000", linewidth=1.2, label="true progress (reward)")
        axis.plot(line["frames"], line["progress"], "-", color="#0072B2", linewidth=1.6, label="judge")
        ends = "success" if line["truth"][-1] == 1 else "failure"
        axis.set_title(f"{line['episode']}, {ends}", fontsize=9)
        axis.set_ylim(-0.04, 1.04)
    figure.supxlabel("frame")
    figure.supylabel("progress")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    with artefacts.whole_file(path) as part:
        figure.savefig(part, format="png", dpi=110)


def command(*words: object, done: bool) -> None:
    """Run a command of this environment in the repository unless it is `done`."""
    if not done:
        print("+", *words, flush=True)
        program = Path(sys.executable).parent / str(words[0])
        subprocess.run([str(program), *map(str, words[1:])], check=True, cwd=REPOSITORY)


if __name__ == "__main__":
    main(*sys.argv[1:])
