"""Folders of runs as `stcr eval` writes them, with the figures that a test wants."""

import dataclasses
import json
import random

from stcr_plugin.scoring.metrics import figures, intervals
from stcr_plugin.types import Answer


def results(forward, backward, pair, interval=3.0, **more):
    bounds = {"pair_accuracy": [pair - interval, pair + interval]} if interval else None
    return {
        "name": "model",
        "dataset": "toy",
        "split": "heldout",
        "mode": "direct",
        "forward_accuracy": forward,
        "backward_accuracy": backward,
        "gap_points": forward - backward,
        "pair_accuracy": pair,
        "order_consistency": 50.0,
        "position_bias": 50.0,
        "unparsed_rate": 0.0,
        "n_pairs": 200,
        "n_episodes": 20,
        "n_queries": 400,
        "intervals": bounds,
        "per_episode": [],
        **more,
    }


def write(folder, name, row, stage=True, called=None, room=None, **more):
    """Named as `stcr eval` names it: by `called` (--name), or else by the stage."""
    path = folder / name / "eval" / (room or row["split"])
    path.mkdir(parents=True)
    named = called or (name if stage else row["name"])
    (path / "results.json").write_text(json.dumps(row | {"name": named}))
    if stage:
        (folder / name / "stage.json").write_text(json.dumps({"name": name, **more}))
    return folder / name


def chain(folder, stage2, weak_only):
    return [
        write(folder, "base", results(100.0, 0.0, 0.0), seconds=1),
        write(folder, "stage2", stage2, parent="stage1", steps=400, seconds=61.2),
        write(folder, "weak_only", weak_only, steps=500, seconds=38.9),
    ]


def judged(share, seed, episodes=20, pairs=10):
    """Answers of a judge that knows `share` of the pairs and is wrong in both orders of the others."""
    draw = random.Random(seed)
    answers = []
    for number in range(episodes * pairs):
        right = draw.random() < share
        for order, expected in (("forward", "img2"), ("backward", "img1")):
            chosen = expected if right else {"img1": "img2", "img2": "img1"}[expected]
            answers.append(Answer(f"p{number}", f"e{number // pairs}", order, expected, chosen, ""))
    return answers


def write_answered(folder, name, answers, called=None, room=None, **more):
    """A run with its answers, in the folder `room` of its evaluations, and with the figures that they really give."""
    bounds = intervals(answers, resamples=200)
    row = results(0.0, 0.0, 0.0) | dataclasses.asdict(figures(answers)) | {"intervals": bounds, **more}
    run = write(folder, name, row, called=called, room=room)
    lines = [json.dumps(dataclasses.asdict(answer)) + "\n" for answer in answers]
    (run / "eval" / (room or row["split"]) / "answers.jsonl").write_text("".join(lines))
    return run


def answered_chain(folder, stage2, weak_only):
    always_second = [dataclasses.replace(answer, chosen="img2") for answer in judged(1, 0)]
    runs = {"base": always_second, "stage2": stage2, "weak_only": weak_only}
    return [write_answered(folder, name, answers) for name, answers in runs.items()]
