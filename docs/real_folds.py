"""The chain on the G1 recordings with each of the 24 episodes held out once, and what single measures are worth.

    python docs/real_folds.py RUNS BASE ROOT [ARM...]

BASE is an embedded base that was taught on simulated scenes alone, as `make runs/seed17/.base.done RUN=runs/seed17
SEED=17` makes it; ROOT the LeRobot folder of recipes/data/g1_pick_bottle.yaml. In each of four folds every fourth
episode is held out, and both stages are trained on the others for the steps of `make real`. All trainings use seed 17
and start from BASE. The counts of an arm are written to docs/results/real/folds_ARM.jsonl once its four folds are
there. What was made before is used again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pack_answers
import yaml

from stcr_plugin import artefacts
from stcr_plugin.records import is_finished

REPOSITORY = Path(__file__).parents[1]
DATA = REPOSITORY / "recipes/data/g1_pick_bottle.yaml"
FOLDS, PAIRS, SEED = 4, 900, 17
STAGES = {"stage1": ("cot", "max_steps=800"), "stage2": ("weak", "max_steps=1400", "learning_rate=1.0e-3")}
OPPOSITE = "000008"
BACK = "Bring the yellow bottle back from the right of the table to its middle, set it down and let go of it."
# arm -> what is laid over the data recipe, and over the recipes of both stages
LIGHT = "stcr.augment={shift_pixels: 5, brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.08}"
TEXT = f'source.episode_tasks={{"{OPPOSITE}": "{BACK}"}}'
ARMS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "text_light": ((TEXT,), (LIGHT,)),
    "recipe": ((), ()),
    "text": ((TEXT,), ()),
}


def main(runs: str, base: str, root: str, *arms: str) -> None:
    for arm in arms or ARMS:
        found = [
            pack_answers.packed(evaluated(arm, fold, Path(runs).resolve() / arm, base=base, root=root))
            for fold in range(FOLDS)
        ]
        head = {"command": f"python docs/real_folds.py RUNS BASE ROOT {arm}", "seed": SEED, "threads": 1}
        head |= {key: found[0][key] for key in ("revision", "processor")}
        lines = [{"fold": fold, **one} for fold, one in enumerate(found)]
        out = REPOSITORY / f"docs/results/real/folds_{arm}.jsonl"
        artefacts.write_text(out, "".join(json.dumps(line) + "\n" for line in [head, *lines]))


def evaluated(arm: str, fold: int, out: Path, *, base: str, root: str) -> Path:
    """Train both stages of a fold. Returns the folder of stage 2's evaluation on the episodes that are held out."""
    name, (data, training) = f"g1_fold{fold}", ARMS[arm]
    registry, run = out / "data_registry", out / f"fold{fold}"
    out.mkdir(parents=True, exist_ok=True)
    splits = yaml.safe_load(DATA.read_text())["splits"]
    episodes = sorted([*splits["train"]["episodes"], *splits["heldout"]["episodes"], OPPOSITE])
    held = episodes[fold::FOLDS]
    kept = [one for one in episodes if one not in held]
    command(
        *("stcr", "data", "build", DATA, f"name={name}", f"source.root={Path(root).resolve()}", "--registry", registry),
        *(f"splits.train.episodes={json.dumps(kept)}", f"splits.heldout.episodes={json.dumps(held)}", *data),
        done=(registry / name / "manifest.json").exists(),
    )
    model = Path(base).resolve()
    for stage, (dataset, *steps) in STAGES.items():
        recipe = "stage1_cot" if stage == "stage1" else "stage2_weak"
        command(
            *("llamafactory-cli", "train", f"recipes/{recipe}.yaml", f"model_name_or_path={model}", f"seed={SEED}"),
            *(f"dataset={name}_{dataset}", f"dataset_dir={registry}", f"output_dir={run / stage}", *steps, *training),
            *("stcr.prepare.data=null", "stcr.prepare.base=null", "stcr.evaluate=null"),
            done=is_finished(run / stage),
        )
        model = run / stage
    found = model / "eval" / f"{name}-heldout"
    command(
        *("stcr", "eval", "--model", model, "--dataset", name, "--split", "heldout", "--limit", PAIRS),
        *("--batch-size", 32, "--registry", registry),
        done=(found / "results.json").exists(),
    )
    return found


def command(*words: object, done: bool) -> None:
    """Run a command of this environment in the repository unless it is `done`."""
    if not done:
        print("+", *words, flush=True)
        program = Path(sys.executable).parent / str(words[0])
        subprocess.run([str(program), *map(str, words[1:])], check=True, cwd=REPOSITORY)


if __name__ == "__main__":
    main(*sys.argv[1:])
