"""Pack what a run wrote of its pictures into one small file, from which make_tables.py computes its figures.

    python docs/pack_claims.py docs/results/factuality/seed17.jsonl COMMAND 17 1 REGISTRY EVALUATION...

Arguments: the file to write, the command of the run, its seed, its threads per process, the folder of its builds, and
folders of evaluations in mode cot. The first line says how the run was made. Each further line is one evaluation, by
episode:

- pairs: a letter per pair, as docs/pack_answers.py writes them
- claims: family -> [true, false, how far numbers are from those of a true description, summed]
- unreadable, missing, wanted: claims, counted over the answers
- deciding: of the answers whose claims that decide are all true, of which one is false, and of which nothing readable
  decides: [right, wrong, without a readable answer]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pack_answers import packed as packed_answers

from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.evaluation.descriptions import held_against_truth
from stcr_plugin.evaluation.evaluate import ANSWERS, RESULTS, read_answers
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.results import Evaluation
from stcr_plugin.scoring.factuality import Described, deciding
from stcr_plugin.types import Query


def packed(folder: Path, registry: Path) -> dict[str, Any]:
    """One evaluation folder as one line."""
    line = packed_answers(folder)
    letters = line.pop("episodes")
    episodes: dict[str, dict[str, Any]] = {
        episode: {
            "pairs": letters[episode],
            "claims": {},
            **dict.fromkeys(("unreadable", "missing", "wanted"), 0),
            "deciding": {verdict: [0, 0, 0] for verdict in ("true", "false", "unreadable")},
        }
        for episode in letters
    }
    for one in held(folder, registry):
        counts = episodes[one.answer.episode_id]
        for statement in one.statements:
            if statement.verdict == "unreadable":
                counts["unreadable"] += 1
            else:
                of_family = counts["claims"].setdefault(statement.family, [0, 0, 0])
                of_family[statement.verdict == "false"] += 1
                of_family[2] += statement.off or 0
        counts["missing"] += one.missing
        counts["wanted"] += one.wanted
        answer = one.answer
        counts["deciding"][deciding(one)][2 if answer.chosen is None else int(not answer.right)] += 1
    return line | {"episodes": episodes}


def held(folder: Path, registry: Path) -> list[Described]:
    """The answers of an evaluation with their claims."""
    result, answers = Evaluation.read(folder / RESULTS), read_answers(folder / ANSWERS)
    settings = AskSettings(**result.settings)
    pairs = {pair.pair_id: pair for pair in read_pairs(registry, result.dataset, result.split)}
    queries = [Query(pairs[answer.pair_id], answer.order) for answer in answers]
    prompts = prompts_for(queries, settings, result.seed, ties=result.ties)
    request = EvalRequest(dataset=result.dataset, split=result.split, registry=registry)
    return held_against_truth(request, list(zip(queries, prompts, answers, strict=True)), settings.language)


def main(arguments: list[str]) -> None:
    out, command, seed, threads, registry, *folders = arguments
    found = [packed(Path(folder), Path(registry)) for folder in folders]
    head = {
        "command": command,
        "seed": int(seed),
        "threads": int(threads),
        "revision": found[0]["revision"],
        "weights": {one["row"]: one["model_digest"] for one in found},
    }
    lines = [head, *({key: one[key] for key in ("row", "split", "mode", "episodes")} for one in found)]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
