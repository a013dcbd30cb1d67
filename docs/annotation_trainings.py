"""Stage 1 trained on texts that a model wrote about plain videos, with the checks of `stcr annotate` and without them.

    python docs/annotation_trainings.py RUNS SEED TEACHER SECOND [EPISODES]

RUNS holds the chains of single seeds, as `make runs/seed17/.stage1.evaluated RUN=runs/seed17 SEED=17` makes them. The
training episodes of SEED are written out as videos without any state. The stage 1 of seed TEACHER describes them behind
a real `llamafactory-cli api`; the stage 1 of seed SECOND is the second model. Three stages are trained from the base of
SEED on the same pairs, for as many steps: on all texts, on those that every check accepted, and on the simulator's own
texts. Each is evaluated as the others of that seed. Counts of each episode are written to
docs/results/annotation/seedSEED.jsonl. What was made before is used again.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import pack_claims

from stcr_plugin import artefacts
from stcr_plugin.registry.ground_truth import config_of, source_of
from stcr_plugin.registry.manifest import read_manifest, read_pairs
from stcr_plugin.samples.annotations import PASSED, VERDICTS, Annotation, read_annotations
from stcr_plugin.samples.cot import claim_reader, load_phrases
from stcr_plugin.types import Claim, Episode, EpisodeSource, State

REPOSITORY = Path(__file__).parents[1]
EPISODES, PER_EPISODE, STEPS = 60, 4, 1000
SPLITS, PAIRS = ("seen", "heldout"), 420
ARMS = ("unchecked", "checked", "programmatic")


def main(runs: str, *numbers: str) -> None:
    seed, teacher, second, *rest = map(int, numbers)
    Study(Path(runs).resolve(), seed, teacher, second, *rest).run()


@dataclasses.dataclass(frozen=True)
class Study:
    """One seed's recordings, texts and trainings, under `runs/annotatedSEED`."""

    runs: Path
    seed: int
    teacher: int
    second: int
    episodes: int = EPISODES

    @property
    def out(self) -> Path:
        return self.runs / f"annotated{self.seed}"

    @property
    def chain(self) -> Path:
        return self.runs / f"seed{self.seed}"

    @property
    def registry(self) -> Path:
        return self.out / "data_registry"

    def stage(self, seed: int) -> Path:
        return self.runs / f"seed{seed}" / "stage1"

    def run(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        self.write_videos()
        self.build("taped", None)
        self.annotate()
        for arm in ARMS:
            self.build(arm, self.texts(arm))
            self.train(arm)
        self.publish()

    # ---- recordings ----

    def write_videos(self) -> None:
        """The first episodes of the training split as videos, from which the exact pictures can be decoded."""
        folder = self.out / "recordings"
        table = folder / "episodes.csv"
        if table.exists():
            return
        source, episodes = self.simulated
        folder.mkdir(exist_ok=True)
        for name, episode in episodes.items():
            with av.open(str(folder / f"{name}.mp4"), "w") as container:
                stream: Any = container.add_stream("libx264rgb", rate=int(episode.fps), options={"qp": "0"})
                stream.codec_context.thread_count = 1
                for picture in source.frames(episode, range(episode.n_frames)):
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                    stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "rgb24"
                    container.mux(stream.encode(frame))
                container.mux(stream.encode())
        rows = [{"episode": name, "task": one.task, "path": f"{name}.mp4", "fps": ""} for name, one in episodes.items()]
        with table.with_suffix(".part").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        table.with_suffix(".part").rename(table)

    def build(self, name: str, texts: Path | None) -> None:
        """A build of the recordings; with `texts`, also Chain-of-Thought samples of them."""
        cot = {"cot": {"split": "train", "kind": "cot", "texts": str(texts), "pairs": None}} if texts else {}
        config = {
            "name": name,
            "seed": self.seed,
            "source": {
                "kind": "frames",
                "root": str(self.out / "recordings"),
                "table": "episodes.csv",
                "motion": "pictures",
            },
            "splits": {"train": {"fraction": 1.0}},
            "pairs": {"per_episode": PER_EPISODE, "min_seconds": 2.0, "max_seconds": 6.0, "trim_idle": 0.02},
            "datasets": cot | {"weak": {"split": "train", "kind": "weak"}},
        }
        path = self.out / f"{name}.yaml"
        artefacts.write_text(path, json.dumps(config, indent=1))
        run("stcr", "data", "build", path, "--registry", self.registry)

    # ---- texts ----

    def texts(self, arm: str) -> Path:
        return self.out / f"{arm}.jsonl"

    def annotate(self) -> None:
        """The files of texts of all arms."""
        found = self.out / "annotate" / Annotation.file
        ask = ["stcr", "annotate", "taped", "--registry", self.registry, "--out", found.parent, "--yes"]
        ask += ["--questions", "stage", "--engine", "server", "--server-model", "stage1", "--key-env", ""]
        ask += ["--judge-model", self.stage(self.second)]
        if not self.texts("checked").exists():
            with served(self.stage(self.teacher), self.out / "api.log") as url:
                run(*ask, "--url", url, "--tries", 1, "--checks", "described")
                shutil.copy(found, self.texts("unchecked"))
                began = time.monotonic()
                run(*ask, "--url", url)
                print(f"checked in {time.monotonic() - began:.0f} s", flush=True)
                shutil.copy(found.parent / "summary.json", self.out / "summary.json")
                shutil.copy(found, self.texts("checked"))
        rows = list(self.own_texts(read_annotations(self.texts("unchecked"))))
        artefacts.write_text(self.texts("programmatic"), "".join(json.dumps(row.row()) + "\n" for row in rows))

    def own_texts(self, rows: Iterable[Annotation]) -> Iterator[Annotation]:
        """The same pairs with the simulator's own texts."""
        phrases = load_phrases("tabletop")["en"]
        for row in rows:
            earlier, later = (phrases.say(claims) for claims, _ in self.true(row))
            passed: dict[str, Any] = dict.fromkeys(VERDICTS, PASSED)
            yield dataclasses.replace(
                row, earlier_text=earlier, later_text=later, accepted=True, describer="simulator", **passed
            )

    def true(self, row: Annotation) -> list[tuple[tuple[Claim, ...], State]]:
        """The claims and the state of the earlier and of the later picture."""
        source, episodes = self.simulated
        states = source.states(episodes[row.episode_id])
        assert states is not None
        return [(source.claims(states[frame]), states[frame]) for frame in (row.earlier, row.later)]

    @cached_property
    def simulated(self) -> tuple[EpisodeSource, dict[str, Episode]]:
        manifest = read_manifest(self.chain / "data_registry", "stcr")
        wanted = {pair.episode_id for pair in read_pairs(self.chain / "data_registry", "stcr", "train")}
        return source_of(config_of(manifest), sorted(wanted)[: self.episodes])

    # ---- trainings ----

    def train(self, arm: str) -> None:
        stage = self.out / arm
        run(
            *("llamafactory-cli", "train", "recipes/stage1_cot.yaml", f"model_name_or_path={self.chain / 'base'}"),
            *(f"dataset={arm}_cot", f"dataset_dir={self.registry}", f"output_dir={stage}", f"seed={self.seed}"),
            *("stcr.prepare.data=null", "stcr.prepare.base=null", "stcr.evaluate=null", f"max_steps={STEPS}"),
            done=stage / "stage.json",
        )
        for split in SPLITS:
            run(
                *("stcr", "eval", "--model", stage, "--dataset", "stcr", "--split", split, "--limit", PAIRS),
                *("--batch-size", 32, "--registry", self.chain / "data_registry"),
                done=stage / "eval" / f"stcr-{split}" / "results.json",
            )

    # ---- figures ----

    def publish(self) -> None:
        summary = json.loads((self.out / "summary.json").read_text())
        head = {
            "command": f"python docs/annotation_trainings.py RUNS {self.seed} {self.teacher} {self.second}",
            "seed": self.seed,
            "teacher": self.teacher,
            "second": self.second,
            "steps": STEPS,
            "revision": code_revision(),
            "funnel": summary,
        }
        lines = [head]
        for arm in ARMS:
            lines.append({"row": arm, **self.texts_account(arm)})
            for split in SPLITS:
                found = pack_claims.packed(self.out / arm / "eval" / f"stcr-{split}", self.chain / "data_registry")
                lines.append({"row": arm, "split": split, "episodes": found["episodes"]})
        out = REPOSITORY / f"docs/results/annotation/seed{self.seed}.jsonl"
        artefacts.write_text(out, "".join(json.dumps(line) + "\n" for line in lines))

    def texts_account(self, arm: str) -> dict[str, Any]:
        """Of an arm's texts: the pairs, and by episode the claims that are [true, false, unreadable]."""
        rows = [row for row in read_annotations(self.texts(arm)) if row.used]
        known = [claim for row in rows for claims, _ in self.true(row) for claim in claims]
        read = claim_reader("tabletop", load_phrases("tabletop")["en"], known)
        episodes: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for row in rows:
            for text, (_, state) in zip((row.earlier_text, row.later_text), self.true(row), strict=True):
                for claim in read(text):
                    column = 2 if claim is None else int(not self.simulated[0].holds(claim, state))
                    episodes[row.episode_id][column] += 1
        return {"pairs": len(rows), "episodes": dict(episodes)}


def run(*command: object, done: Path | None = None) -> None:
    """Run a command of this environment in the repository; not again where `done` is there."""
    if done is None or not done.exists():
        print("+", *command, flush=True)
        subprocess.run(
            [str(Path(sys.executable).parent / str(command[0])), *map(str, command[1:])], check=True, cwd=REPOSITORY
        )


@contextmanager
def served(model: Path, log: Path) -> Iterator[str]:
    """The address of `llamafactory-cli api` with the model."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [Path(sys.executable).parent / "llamafactory-cli", "api", "--model_name_or_path", model]
    command += ["--template", "stcr_qwen2_vl", "--infer_dtype", "float32", "--image_max_pixels", 7056]
    own = {"API_HOST": "127.0.0.1", "API_PORT": str(port), "API_VERBOSE": "0", "API_MODEL_NAME": "stage1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(one) for one in command], env=os.environ | own, stdout=file, stderr=file, start_new_session=True
        )
    try:
        while True:  # it imports for minutes where other work runs beside it
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()[-2000:]
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def code_revision() -> str:
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return found.stdout.strip()


if __name__ == "__main__":
    main(*sys.argv[1:])
