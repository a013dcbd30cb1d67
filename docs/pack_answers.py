"""Pack the answers of one run into one small file of docs/results, from which make_tables.py computes its figures.

    python docs/pack_answers.py docs/results/repeats/NAME.jsonl "make demo" 17 2 runs/demo/stage1/eval/stcr-seen ...

Arguments: the file to write, the command of the run, its seed, its threads per process, and folders of evaluations. The
first line says how the run was made. Each further line is one evaluation: for each episode one letter per pair, in the
order of answers.jsonl: B right in both orders, F only forward, K only backward, N in neither. `described` is the share
of the responses, in percent, that describe the images before they answer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LETTERS = {(True, True): "B", (True, False): "F", (False, True): "K", (False, False): "N"}


def packed(folder: Path) -> dict[str, Any]:
    """One evaluation folder as one line."""
    result = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    answers = read_answers(folder)
    return {
        "row": result["name"],
        "split": result["split"],
        "mode": result["mode"],
        "model_digest": result["model_digest"],
        "revision": result["provenance"]["code_revision"],
        "processor": result["provenance"].get("processor", "not recorded"),
        "described": 100 * sum("spatial details:" in answer["text"] for answer in answers) / len(answers),
        "episodes": letters(answers),
    }


def read_answers(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


def letters(answers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Episode -> a letter per pair."""
    right: dict[tuple[str, str], dict[str, bool]] = {}
    for answer in answers:
        pair = right.setdefault((answer["episode_id"], answer["pair_id"]), {})
        pair[answer["order"]] = answer["chosen"] == answer["expected"]
    episodes: dict[str, str] = {}
    for (episode, _), pair in right.items():
        episodes[episode] = episodes.get(episode, "") + LETTERS[pair["forward"], pair["backward"]]
    return episodes


def main(arguments: list[str]) -> None:
    out, command, seed, threads, *folders = arguments
    evaluations = [packed(Path(folder)) for folder in folders]
    weights = {one["row"]: one["model_digest"] for one in evaluations}
    revision = evaluations[0]["revision"]
    head = {"command": command, "seed": int(seed), "threads": int(threads), "revision": revision}
    head |= {"processor": evaluations[0]["processor"], "weights": weights}
    lines = [
        head,
        *({key: one[key] for key in ("row", "split", "mode", "described", "episodes")} for one in evaluations),
    ]
    Path(out).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
