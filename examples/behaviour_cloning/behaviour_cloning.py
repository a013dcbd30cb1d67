"""Does a judge's progress make a policy better? Behaviour cloning on Meta-World, from nothing to a table.

    python examples/behaviour_cloning/behaviour_cloning.py runs/behaviour_cloning [--judge STAGE]

Needs `pip install 'stcr-plugin[sim]'`. A run that was killed goes on where it stopped when it is started again.
`--judge` takes a stage that is there instead of training one.

1. A judge is trained on 100 successful episodes (judge.yaml): base, stage 1, stage 2.
2. It labels 48 other episodes, half of them bad (demonstrations.yaml), with progress and success; `stcr audit` lists
   those that look bad.
3. A small network is trained to do what the demonstrations do, in five arms. The arms differ in nothing but which rows
   they take and with which weights:
       all        every row
       weighted   every row, with the weights that LeRobot's RA-BC reads from the judge's progress file
       filtered   rows of the episodes that `stcr audit` does not list
       truth      every row, with the same weights from the simulator's progress
       succeeded  rows of the episodes that end in success, by the simulator
4. Each policy acts in the simulator: 200 layouts that are in no training, three seeds per arm.

Rules, stated before any policy was trained on these demonstrations: RULES, CHUNK, KAPPA, the arms, the settings in
`Sizes`, and success = the simulator calls the task done at any of the first `limit` control steps. The number of
demonstrations and `limit` were chosen on episodes and layouts of other seeds, which are not reported.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from stcr_plugin import artefacts
from stcr_plugin.config import read_yaml
from stcr_plugin.provenance import provenance
from stcr_plugin.robotics.label_files import LABEL, PROGRESS, SUCCESS, read_progress, read_success
from stcr_plugin.robotics.labelled_data import LabelledData
from stcr_plugin.types import Episode

Floats = npt.NDArray[np.float64]
HERE = Path(__file__).parent
STAGES = {  # of the judge: recipe, what it starts from, training set, steps
    "stage1": ("stage1_cot.yaml", "base", "drawer_cot", 200),
    "stage2": ("stage2_weak.yaml", "stage1", "drawer_weak", 700),
}
TASK = "drawer-open-v3"
REFERENCES = [f"{TASK}_expert-0000", f"{TASK}_expert-0001"]
RULES = ("tau<-0.3", "end<0.7", "fall>0.3")  # what `stcr audit` lists as to be dropped
CHUNK = 40  # control steps, half a second, over which RA-BC takes the change of progress
KAPPA = 0.1  # a quarter of what an expert gains in that time
ARMS = ("all", "weighted", "filtered", "truth", "succeeded")
LAYOUTS = 7_000_000  # seed of the first layout of the rollouts; episodes have seeds made by a hash of 32 bits
STATE = [*range(18), 36, 37, 38]  # of an observation: all but the same a step ago


@dataclass(frozen=True)
class Sizes:
    """How much is made; `counts` replaces how many demonstrations there are."""

    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    every: float = 0.1
    controls: int = 2
    workers: int = 2
    steps: int = 4000
    seeds: tuple[int, ...] = (0, 1, 2)
    layouts: int = 200
    limit: int = 250


SMALL = Sizes(
    {"episodes": 3, "failed": 1, "regressing": 1},
    every=0.5,
    controls=0,
    workers=1,
    steps=30,
    seeds=(0, 1),
    layouts=2,
    limit=20,
)


@dataclass(frozen=True)
class Demonstrations:
    """Every action of every episode, one row each.

    Attributes:
        episodes: Their ids.
        of: Number of the episode [rows].
        state: [rows, 21].
        action: [rows, 4].
        truth: The true progress of each frame, per episode; one more than its rows.
        success: Whether an episode ends in success.
    """

    episodes: list[str]
    of: npt.NDArray[np.int64]
    state: Floats
    action: Floats
    truth: list[Floats]
    success: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Policy:
    """A network of two hidden layers, state -> action."""

    weights: Sequence[npt.NDArray[np.float32]]

    def __call__(self, state: Floats) -> Floats:
        mean, scale, *layers, low, high = self.weights
        value = (state - mean) / scale
        for place in range(0, len(layers), 2):
            value = value @ layers[place] + layers[place + 1]
            if place + 2 < len(layers):
                value = np.maximum(value, 0)
        return np.clip(value, low, high)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder of everything that is made")
    parser.add_argument("--judge", type=Path, metavar="STAGE", help="a trained stage, instead of training one")
    parser.add_argument("--small", action="store_true", help="a few episodes and steps, to see that everything runs")
    given = parser.parse_args(arguments)
    run(given.out.resolve(), given.judge and given.judge.resolve(), SMALL if given.small else Sizes())


def run(out: Path, judge: Path | None, sizes: Sizes) -> None:
    same_settings(out, judge, sizes)
    labels = labelled(out, judge or trained(out), sizes)
    made = kept_demonstrations(out, labels)
    arms = rows_and_weights(made, labels)
    for arm in ARMS:
        policies = [
            policy(made, arms[arm], out / f"policies/{arm}-{seed}.npz", seed, sizes.steps) for seed in sizes.seeds
        ]
        for layout in range(LAYOUTS, LAYOUTS + sizes.layouts, 20):
            block = range(layout, min(layout + 20, LAYOUTS + sizes.layouts))
            if not (path := out / f"rollouts/{arm}/{layout}.json").is_file():
                artefacts.write_json(path, [succeeds(policies, one, sizes.limit) for one in block])
        print(f"{arm}: rollouts done", flush=True)
    write_results(out, made, arms, sizes=sizes, labels=labels)


def same_settings(out: Path, judge: Path | None, sizes: Sizes) -> None:
    """End with one line where `out` holds what was made with other settings, which would be taken as it is."""
    path, settings = out / "settings.json", {"judge": judge and str(judge), **dataclasses.asdict(sizes)}
    settings["seeds"] = list(sizes.seeds)
    if not path.is_file():
        artefacts.write_json(path, settings)
    elif artefacts.read_json(path) != settings:
        sys.exit(f"{out}: was begun with other settings ({path.name}); name another folder, or delete this one")


# ---- 1 and 2: the judge, and what it says of the demonstrations


def trained(out: Path) -> Path:
    """The judge's folder; each stage is trained once."""
    registry = out / "registry"
    if not (registry / "drawer/manifest.json").is_file():
        command("stcr", "data", "build", HERE / "judge.yaml", "--registry", registry)
    if not (out / "base/stage.json").is_file():
        base = ["recipes/base_tabletop.yaml", f"out={out / 'base'}", "seed=17", "dataset=drawer_forward", "split=dev"]
        command("stcr", "base", "build", *base, "--registry", registry)
    settings = [
        f"dataset_dir={registry}",
        "seed=17",
        "stcr.prepare.data=null",
        "stcr.prepare.base=null",
        "stcr.evaluate.split=dev",
    ]
    for name, (recipe, before, dataset, steps) in STAGES.items():
        if not (out / name / "stage.json").is_file():
            own = [f"model_name_or_path={out / before}", f"output_dir={out / name}", f"dataset={dataset}"]
            command("llamafactory-cli", "train", f"recipes/{recipe}", *own, f"max_steps={steps}", *settings)
    if not (out / "eval/results.json").is_file():
        asked = ["--model", out / "stage2", "--dataset", "drawer", "--split", "dev", "--out", out / "eval"]
        command("stcr", "eval", *asked, "--registry", registry)
    return out / "stage2"


def labelled(out: Path, judge: Path, sizes: Sizes) -> Path:
    """The folder of the labels, with audit.jsonl in `audit` beside it."""
    labels, config = out / "labels", read_yaml(HERE / "demonstrations.yaml")
    config["source"] |= sizes.counts
    data = out / "demonstrations.yaml"
    artefacts.write_text(data, yaml.safe_dump(config, sort_keys=False))
    if not (labels / PROGRESS).is_file():
        asked = ["--model", judge, "--out", labels, "--success", "--reference", *REFERENCES, "--reference-frames", 5]
        asked += ["--every", sizes.every, "--controls", sizes.controls, "--workers", sizes.workers]
        command("stcr", "label", data, *asked)
    if not (out / "audit/audit.html").is_file():
        rules = [word for rule in RULES for word in ("--drop", rule)]
        command("stcr", "audit", labels, "--out", out / "audit", *rules)
    return labels


def command(*words: object) -> None:
    print("+", *words, flush=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    subprocess.run([str(word) for word in words], check=True, cwd=HERE.parents[1], env={**os.environ, "PATH": path})


# ---- 3: rows and weights of each arm


def demonstrations(labels: Path) -> Demonstrations:
    source = LabelledData(labels.parent / "demonstrations.yaml").opened().source
    found: list[tuple[Floats, Floats]] = []
    names, truth, success = [], [], []
    for episode in source.episodes():
        if not isinstance(episode, Episode):
            continue
        names.append(episode.episode_id)
        found.append(source.controls(episode))  # type: ignore[attr-defined]  # of Meta-World alone
        states = source.states(episode) or ()
        truth.append(np.array([state["progress"] for state in states]))
        success.append(bool(states[-1]["success"]))
    return Demonstrations(
        names,
        np.concatenate([np.full(len(actions), number) for number, (_, actions) in enumerate(found)]),
        np.concatenate([seen[:-1, STATE] for seen, _ in found]),
        np.concatenate([actions for _, actions in found]),
        truth,
        np.array(success),
    )


def kept_demonstrations(out: Path, labels: Path) -> Demonstrations:
    """`demonstrations`, simulated once."""
    path = out / "demonstrations.npz"
    if not path.is_file():
        made = demonstrations(labels)
        curves = {f"truth{number:04d}": curve for number, curve in enumerate(made.truth)}
        whole = {name: value for name, value in vars(made).items() if name != "truth"}
        with artefacts.whole_file(path) as part, part.open("wb") as file:
            np.savez(file, **whole, **curves)
    with np.load(path, allow_pickle=False) as kept:
        truth = [kept[name] for name in sorted(kept.files) if name.startswith("truth")]
        own = {name: kept[name] for name in ("of", "state", "action", "success")}
        return Demonstrations(episodes=kept["episodes"].tolist(), truth=truth, **own)


def rows_and_weights(made: Demonstrations, labels: Path) -> dict[str, tuple[npt.NDArray[np.bool_], Floats]]:
    """Arm -> which rows it draws from, and the weight of each row [rows]."""
    said = [one.progress.astype(np.float64) for one in read_progress(labels / PROGRESS)]
    dropped = {row["episode_index"] for row in audited(labels) if row["drop"]}
    every, even = np.ones(len(made.of), bool), np.ones(len(made.of))
    return {
        "all": (every, even),
        "weighted": (every, rabc_weights(said)),
        "filtered": (~np.isin(made.of, list(dropped)), even),
        "truth": (every, rabc_weights(on_the_references(made))),
        "succeeded": (made.success[made.of], even),
    }


def audited(labels: Path) -> list[dict[str, Any]]:
    """The rows of audit.jsonl, the most suspicious episode first."""
    return [json.loads(line) for line in (labels.parent / "audit/audit.jsonl").read_text("utf-8").splitlines()]


def on_the_references(made: Demonstrations) -> list[Floats]:
    """The true progress on the scale of the labels: when, 0..1, the references were as far; the mean over these."""
    own = [made.truth[made.episodes.index(name)] for name in REFERENCES]
    times = [np.linspace(0, 1, len(curve)) for curve in own]
    reached = [np.maximum.accumulate(curve) for curve in own]
    return [np.mean([np.interp(t, r, time) for r, time in zip(reached, times, strict=True)], 0) for t in made.truth]


def rabc_weights(curves: Sequence[Floats], chunk: int = CHUNK, kappa: float = KAPPA) -> Floats:
    """The weights of all rows as lerobot/rewards/sarm/rabc.py (LeRobot 0.6) computes them from a progress file.

    A row is a frame and the action that follows it; the last frame of an episode has none. By the change of progress
    over `chunk` frames, at an episode's end up to its last frame: above `kappa` 1, below 0 none, between them a ramp
    from two standard deviations below the mean to two above. A frame without progress has weight 1.
    """
    whole = [curve[np.minimum(np.arange(len(curve)) + chunk, len(curve) - 1)] - curve for curve in curves]
    known = np.concatenate(whole)
    known = known[~np.isnan(known)]
    mean, deviation = max(float(known.mean()), 0.0), max(float(known.std()), 1e-6)
    change = np.concatenate([one[:-1] for one in whole])
    ramp = np.clip((change - (mean - 2 * deviation)) / (4 * deviation + 1e-6), 0, 1)
    return np.where(np.isnan(change) | (change > kappa), 1.0, np.where(change < 0, 0.0, ramp))


# ---- 4: policies and rollouts


def policy(
    made: Demonstrations, arm: tuple[npt.NDArray[np.bool_], Floats], path: Path, seed: int, steps: int
) -> Policy:
    """Train a policy, or read the one that is there."""
    if path.is_file():
        with np.load(path, allow_pickle=False) as kept:
            return Policy([kept[name] for name in sorted(kept.files)])
    import torch

    rows, weights = arm
    if not (rows & (weights > 0)).any():
        sys.exit(f"{path.stem}: no row is left to train on; look at {path.parent.parent / 'audit/audit.html'}")
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    mean, scale = made.state.mean(0), made.state.std(0) + 1e-3  # of all rows: the same network in every arm
    state = torch.tensor((made.state - mean) / scale, dtype=torch.float32)
    action, weight = (torch.tensor(values, dtype=torch.float32) for values in (made.action, weights))
    layers = [torch.nn.Linear(state.shape[1], 256), torch.nn.Linear(256, 256), torch.nn.Linear(256, action.shape[1])]
    network = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    usable = torch.tensor(np.flatnonzero(rows))
    for _ in range(steps):
        drawn = usable[torch.randint(len(usable), (256,))]
        error = (network(state[drawn]) - action[drawn]).square().mean(1)
        loss = (weight[drawn] * error).sum() / weight[drawn].sum().clamp(min=1e-6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    kept = [mean, scale]
    for layer in layers:
        kept += [layer.weight.detach().numpy().T, layer.bias.detach().numpy()]
    kept += [np.full(4, -1.0), np.full(4, 1.0)]
    with artefacts.whole_file(path) as part, part.open("wb") as file:
        np.savez(file, **{f"{number:02d}": np.asarray(value, np.float32) for number, value in enumerate(kept)})
    return policy(made, arm, path, seed, steps)


def succeeds(policies: Sequence[Policy], layout: int, limit: int) -> list[int | None]:
    """The control step, from 1, at which each policy first succeeds from the same start; None where it does not."""
    from stcr_plugin.episodes import rollout

    mujoco = rollout.simulator()
    start = rollout.start(rollout.Scene(TASK), layout, noise=0.0, stride=limit + 1, limit=limit)
    env, kind = start.env, mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(env.model, kind))
    mujoco.mj_getState(env.model, env.data, state, kind)
    attributes = dict(env.__dict__)
    found = []
    for act in policies:
        env.__dict__.update(attributes)
        mujoco.mj_setState(env.model, env.data, state, kind)
        mujoco.mj_forward(env.model, env.data)
        run = dataclasses.replace(start, obs=start.obs, steps=0, succeeded=[], path=[], actions=[])
        while not run.finished and run.first_success() is None:
            run.step(act(run.obs[STATE]))
        found.append(run.first_success())
    return found


# ---- the results


def write_results(
    out: Path,
    made: Demonstrations,
    arms: Mapping[str, tuple[npt.NDArray[np.bool_], Floats]],
    *,
    sizes: Sizes,
    labels: Path,
) -> None:
    """results.jsonl: a line that says how it was made, one per episode, one per policy; and the table."""
    label = artefacts.read_json(labels / LABEL)
    head = {
        "command": "python examples/behaviour_cloning/behaviour_cloning.py runs/behaviour_cloning",
        "task": TASK,
        "provenance": provenance(),
        "settings": {"rules": RULES, "chunk": CHUNK, "kappa": KAPPA, **dataclasses.asdict(sizes)},
        "label": {name: label[name] for name in ("figures", "controls", "counts", "skipped")},
    }
    lines: list[dict[str, Any]] = [head]
    probability = {row.episode_id: row.probability for row in read_success(labels / SUCCESS)}
    said = [one.progress for one in read_progress(labels / PROGRESS)]
    places = {row["episode_index"]: row["place"] for row in audited(labels)}
    for number, name in enumerate(made.episodes):
        own = made.of == number
        lines.append(
            {
                "episode": name,
                "success": bool(made.success[number]),
                "probability": probability.get(name),
                "end": float(said[number][-1]),
                "place": places[number],
                "rows": int(own.sum()),
                "kept": bool(arms["filtered"][0][own].all()),
                "weighted": float(arms["weighted"][1][own].mean()),
                "truth": float(arms["truth"][1][own].mean()),
            }
        )
    group = np.array([name.partition("_")[2].partition("-")[0] for name in made.episodes])[made.of]
    kinds = {"all": made.of >= 0, **{name: group == name for name in dict.fromkeys(group.tolist())}}
    judged, true = arms["weighted"][1], arms["truth"][1]
    head["weights"] = {name: compared(judged[rows], true[rows]) for name, rows in kinds.items()}
    table = [f"{'arm':<10} success % of {sizes.layouts} layouts, by seed"]
    for arm in ARMS:
        blocks = sorted((out / "rollouts" / arm).glob("*.json"), key=lambda path: int(path.stem))
        steps = np.array([row for path in blocks for row in artefacts.read_json(path)], dtype=float)  # None: NaN
        rates = 100 * (~np.isnan(steps)).mean(0)
        table.append(f"{arm:<10} {rates.mean():5.1f}   {'  '.join(f'{rate:.1f}' for rate in rates)}")
        for seed, column in zip(sizes.seeds, steps.T, strict=True):
            lines.append({"arm": arm, "seed": seed, "steps": [None if np.isnan(one) else int(one) for one in column]})
    artefacts.write_jsonl(out / "results.jsonl", lines)
    print("\n".join(table))


def compared(judged: Floats, true: Floats) -> dict[str, Any]:
    """The judge's weights beside those from the truth: Pearson's correlation, and [rows, mean] by the true weight."""
    varied = judged.std() > 0 and true.std() > 0
    kinds = {"none": true == 0, "some": (true > 0) & (true < 1), "whole": true == 1}
    return {
        "correlation": float(np.corrcoef(judged, true)[0, 1]) if varied else None,
        **{name: [int(rows.sum()), float(judged[rows].mean()) if rows.any() else None] for name, rows in kinds.items()},
    }


if __name__ == "__main__":
    main(sys.argv[1:])
