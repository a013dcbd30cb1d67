"""The commands of the page on other people's benchmarks, run on files in the published forms."""

import json
import re
import shlex
from pathlib import Path

import benchmark_files as made
import pytest

from stcr_plugin.cli import main
from stcr_plugin.rankings import Ranking
from stcr_plugin.registry.manifest import read_manifest, read_pairs
from stcr_plugin.results import Evaluation

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "benchmarks.md"
FILES = {
    "progress_bench": made.progress_bench,
    "robopulse": made.before_after,
    "robo_reward_bench": made.rated_clips,
    "robo_dopamine": made.robo_dopamine,
    "prm_manifest": made.prm_manifest,
}
FOLDERS = {"prm_manifest": "prm"}
SMALL = ["frames.max_pixels=null", "frames.width=32", "frames.height=24"]
pytestmark = pytest.mark.usefixtures("undrawn")


def commands(dataset):
    """The commands of a benchmark's section, each as its words."""
    text = PAGE.read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines()]
    start = next(place for place, line in enumerate(lines) if f"recipes/data/{dataset}.yaml" in line)
    ends = [place for place, line in enumerate(lines) if place > start and "recipes/data/" in line]
    return [shlex.split(line)[1:] for line in lines[start : min(ends, default=len(lines))]]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the commands of a benchmark's section with a judge that always names the second picture."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(REPOSITORY / "recipes")

    def use(dataset, oracle="position-only"):
        FILES[dataset](tmp_path / FOLDERS.get(dataset, dataset))
        for words in commands(dataset):
            if "--model" in words:
                place = words.index("--model")
                words = [*words[:place], "--oracle", oracle, *words[place + 2 :]]
            if words[0] == "eval":
                words += ["--out", "runs/eval"]
            main([*words, *(SMALL if words[:2] == ["data", "build"] else [])])
        return Evaluation.read("runs/eval/results.json"), read_manifest(Path("data_registry"), dataset)

    return use


def test_progress_bench_is_built_and_evaluated_and_counts_what_has_no_answer(run):
    found, manifest = run("progress_bench")
    assert (found.figures.n_episodes, found.figures.n_pairs) == (6, 18)
    assert (found.figures.pair_accuracy, found.figures.published_accuracy) == (0, None)
    assert [number for reason, number in manifest.counts.excluded.items() if "n/a" in reason] == [6]


def test_robopulse_shows_its_own_figure_beside_both_orders(run, capsys):
    found, manifest = run("robopulse")
    # Always the second picture: right where AFTER, shown second, is closer, which is one of two untied rows.
    assert (found.figures.n_episodes, found.figures.n_pairs, found.figures.pair_accuracy) == (6, 12, 0)
    assert found.figures.published_accuracy == 50
    assert found.intervals["published_accuracy"] == (50, 50)
    assert manifest.counts.splits["heldout"].dropped["tied"] == 6
    assert "published order %" in capsys.readouterr().out
    assert "published order %" in Path("runs/eval/report.md").read_text(encoding="utf-8")


def test_a_judge_that_looks_is_right_in_every_order(run):
    found, _ = run("robopulse", "right")
    assert (found.figures.pair_accuracy, found.figures.published_accuracy) == (100, 100)


def test_robo_reward_bench_compares_clips_and_shows_what_their_length_gives(run):
    found, manifest = run("robo_reward_bench")
    assert (found.figures.n_episodes, found.figures.n_pairs) == (3, 15)
    assert found.figures.clock_accuracy == 80  # the longest clip of each task is not the best
    assert manifest.counts.splits["heldout"].dropped["tied"] == 3


def test_robo_dopamine_is_described_by_its_keyframes(run):
    found, manifest = run("robo_dopamine")
    assert found.figures.n_episodes == 1
    assert manifest.counts.datasets["robo_dopamine_cot"].samples > 0
    assert manifest.claims_checked > 0
    text = str(json.loads(Path("data_registry", manifest.datasets["robo_dopamine_cot"][0]).read_text(encoding="utf-8")))
    assert {"reach the cup", "lift the cup"} == set(re.findall(r"doing “(.+?)”", text))


def test_prm_manifest_is_evaluated_ranked_and_written(run, drawn):
    found, manifest = run("prm_manifest", "right")
    assert (found.figures.n_episodes, found.figures.pair_accuracy) == (4, 100)
    assert {pair.closer for pair in read_pairs(Path("data_registry"), "prm_manifest", "heldout")} == {"later"}
    ranking = Ranking.read("runs/rank/case_0/ranking.json")
    rows = [json.loads(line) for line in Path("runs/recorded/manifest.jsonl").read_text().splitlines()]
    assert [row["case_id"] for row in rows] == ["case_0"]
    trace = json.loads(Path("runs/recorded", rows[0]["progress_path"]).read_text())["progress"]
    assert trace == [frame.progress for frame in sorted(ranking.frames, key=lambda frame: frame.place)]
    assert trace[0] < trace[-1]
    assert manifest.splits["heldout"] == [f"case_{number}" for number in range(4)]
