"""How well the checks of `stcr annotate` work, on simulated teachers whose every text is known to be true or not.

    python tests/annotation_evidence.py [EPISODES]

runs each teacher through the real command's code against a server on loopback and writes the counts of each episode to
docs/results/annotation/checks.jsonl, from which docs/make_tables.py makes the tables of docs/results/annotation.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulated_teacher import TEACHERS, Model, Spoken, Teacher, World, plain, teaching

from stcr_plugin import artefacts
from stcr_plugin.annotation import teachers
from stcr_plugin.annotation.annotate import AnnotateRequest, annotate
from stcr_plugin.annotation.annotation_settings import AnnotateSettings
from stcr_plugin.annotation.summary import AnnotationSummary
from stcr_plugin.config import from_mapping
from stcr_plugin.engines.server import ServerEngine
from stcr_plugin.engines.server_settings import ServerSettings
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.registry.build import build
from stcr_plugin.registry.data_config import DataConfig
from stcr_plugin.samples.annotations import PASSED, Annotation, fails, read_annotations

REPOSITORY = Path(__file__).parents[1]
PUBLISHED = REPOSITORY / "docs/results/annotation/checks.jsonl"
EPISODES, PER_EPISODE = 95, 6
VERIFIER_ERRS = 0.05
OF_TEXTS, OF_PAIRS = ("described", "leak", "claims", "confirmed"), ("judged", "blind")
TRIES = 3

Counts = dict[str, list[int]]
"""Episode -> how many, of how many."""


def build_pairs(root: Path, episodes: int = EPISODES) -> Path:
    """The registry with the build `taught`, all of whose pairs are in the split `train`."""
    data = {
        "name": "taught",
        "source": {"kind": "tabletop", "seen": episodes, "heldout": 0},
        "splits": {"train": {"episodes": episodes, "group": "seen"}},
        "pairs": {"per_episode": PER_EPISODE, "min_seconds": 0.5, "max_seconds": 4.0},
        "datasets": {"weak": {"split": "train", "kind": "weak"}},
    }
    build(from_mapping(DataConfig, data, "test"), root / "registry")
    return root / "registry"


@dataclass(frozen=True)
class Run:
    """A run's rows, its summary, and what is known of its texts."""

    rows: Sequence[Annotation]
    summary: AnnotationSummary
    model: Model

    def spoken(self, row: Annotation) -> tuple[Spoken, Spoken]:
        """What is wrong with the texts of the earlier and of the later picture."""
        describer, found = self.model.describer, []
        for frame, text in ((row.earlier, row.earlier_text), (row.later, row.later_text)):
            seen = describer.world.seen[row.episode_id, frame]
            at = (seen.episode_id, seen.frame)
            found.append(describer.spoken[(*at, plain(text))] if text else describer.first[at])
        return found[0], found[1]


def run(registry: Path, out: Path, url: str, model: Model, settings: Mapping[str, Any]) -> Run:
    """Annotate the build with the teacher at `url`, a second model beside it."""
    ask = AskSettings(mode="direct", generate=True, max_new_tokens=512)
    describer, second = (
        teachers.Teacher(
            name, ServerEngine(registry, ask, ServerSettings(url=url, model=name, key_env="", concurrency=8)), ask
        )
        for name in ("teacher", "verifier")
    )
    request = AnnotateRequest(
        registry=registry,
        dataset="taught",
        split="train",
        describer=describer,
        second=second,
        settings=from_mapping(AnnotateSettings, settings, "test"),
    )
    summary = annotate(request, out)
    return Run(list(read_annotations(out / Annotation.file)), summary, model)


# ---- counts ----


def bad(kind: Teacher, spoken: Spoken) -> bool:
    """Whether a text has the fault that its teacher is made for; a vacuous one is true, and its fault is that."""
    return spoken.vacuous if kind.vacuous else not spoken.true


def of_texts(found: Run, kind: Teacher, check: str, wanted: bool) -> Counts:
    """How many of the bad, or of the true, texts a check rejects; each text counts once, however many pairs have it."""
    counts: Counts = defaultdict(lambda: [0, 0])
    known: set[tuple[str, int]] = set()
    for row in found.rows:
        for side, frame, spoken in zip(("earlier", "later"), (row.earlier, row.later), found.spoken(row), strict=True):
            if (row.episode_id, frame) not in known and bad(kind, spoken) == wanted:
                known.add((row.episode_id, frame))
                counts[row.episode_id][0] += fails(getattr(row, f"{side}_{check}"))
                counts[row.episode_id][1] += 1
    return dict(counts)


def of_pairs(found: Run, kind: Teacher, check: str, wanted: bool) -> Counts:
    """How many pairs with a bad text, or with true ones alone, a check rejects; "all" for all checks together."""
    counts: Counts = defaultdict(lambda: [0, 0])
    for row in found.rows:
        if any(bad(kind, one) for one in found.spoken(row)) == wanted:
            counts[row.episode_id][0] += not row.accepted if check == "all" else fails(getattr(row, check))
            counts[row.episode_id][1] += 1
    return dict(counts)


def accepted(found: Run, kind: Teacher, bad_alone: bool) -> Counts:
    """How many pairs are accepted; or, of those, how many have a bad text."""
    counts: Counts = defaultdict(lambda: [0, 0])
    for row in found.rows:
        if not bad_alone:
            counts[row.episode_id][0] += row.accepted
            counts[row.episode_id][1] += 1
        elif row.accepted:
            counts[row.episode_id][0] += any(bad(kind, one) for one in found.spoken(row))
            counts[row.episode_id][1] += 1
    return dict(counts)


def lines_of(registry: Path, out: Path, name: str, errs: float = VERIFIER_ERRS) -> Iterator[dict[str, Any]]:
    """The published lines about a teacher.

    The checks are first made one by one, of the first texts: those by models need texts that no other check held back.
    Then together with one try, and with TRIES. What was asked before is not asked again.
    """
    kind, world = TEACHERS[name], World(registry, "taught", "train")

    def line(measure: str, check: str, counts: Counts) -> dict[str, Any]:
        return {"teacher": name, "measure": measure, "check": check, "episodes": counts}

    with teaching(world, kind, errs) as (counts, model):
        asked = (registry, out / name, counts.url, model)
        models_alone = run(*asked, {"tries": 1, "checks": ["confirmed", "judged", "blind"]})
        once = run(*asked, {"tries": 1})
        for wanted, measure in ((True, "caught"), (False, "true_rejected")):
            for check in OF_TEXTS:
                yield line(
                    measure, check, of_texts(once if check != "confirmed" else models_alone, kind, check, wanted)
                )
            for check in OF_PAIRS:
                yield line(measure, check, of_pairs(models_alone, kind, check, wanted))
            yield line(measure, "all", of_pairs(once, kind, "all", wanted))
        whole = run(*asked, {"tries": TRIES})
        yield line("accepted", "all", accepted(whole, kind, False))
        yield line("accepted_bad", "all", accepted(whole, kind, True))
        uses = [one.use for one in whole.summary.models]
        yield {
            "teacher": name,
            "measure": "cost",
            "pairs": whole.summary.figures.pairs,
            "accepted": whole.summary.figures.accepted,
            "requests": sum(one.requests for one in uses),
            "tokens": sum(one.prompt_tokens + one.completion_tokens for one in uses),
            "texts": len(model.describer.first),
            "repeated": counts.repeated,
        }
        if name == "leaking":
            yield {"teacher": name, "measure": "missed", "sentences": missed(once)}


def missed(found: Run) -> dict[str, int]:
    """The sentences of leaking texts that the leak check passes, with how often it did."""
    counts: dict[str, int] = defaultdict(int)
    for row in found.rows:
        for side in ("earlier", "later"):
            if getattr(row, f"{side}_leak") == PASSED:
                counts[getattr(row, f"{side}_text").split(". ")[-1]] += 1
    return dict(sorted(counts.items()))


def revision() -> str:
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def main(episodes: int = EPISODES) -> None:
    head = {
        "command": "python tests/annotation_evidence.py",
        "revision": revision(),
        "episodes": episodes,
        "verifier_errs": VERIFIER_ERRS,
        "tries": TRIES,
    }
    with tempfile.TemporaryDirectory() as folder:
        registry = build_pairs(Path(folder), episodes)
        lines = [head]
        for name in TEACHERS:
            began = time.monotonic()
            lines += lines_of(registry, Path(folder) / "out", name)
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        artefacts.write_text(PUBLISHED, "".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
