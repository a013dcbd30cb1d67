"""Make docs/results/figures.json, and the tables of README and the results pages from it.

    python docs/make_tables.py           # writes both
    python docs/make_tables.py --check   # exit code 1 where a file would change or a figure in a text is wrong

Figures come from the published studies (docs/results/STUDY/study.json and seed*.jsonl), from single runs whose answers
are in docs/results/repeats, forgetting, real and tasks (made by docs/pack_answers.py), from what stage 1 wrote in
docs/results/factuality (docs/pack_claims.py), from progress curves in docs/results/labels (docs/pack_labels.py) with
the result of `stcr calibrate` there, from the policies of docs/results/behaviour_cloning (results.jsonl of
examples/behaviour_cloning), from the answers of servers in docs/results/interop (written by `make interop`), from
models of real size in docs/results/full_size (rows.jsonl of `make full-size`), and from docs/results/measured.yaml,
which lists times, rates and estimates. figures.json holds those that a page uses. A page uses a figure in one of two
ways:

- A table stands between `<!-- table: NAME -->` and `<!-- end -->`; its text is TABLES[NAME], filled with figures.
- A number in running text is bound to its figure in a comment after its paragraph or list:
  `<!-- figures: 0.7=gap_name 93.8=low_name,high_name 4.0=- -->`, where `-` marks a number that is not a result.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.stats import pearsonr

from stcr_plugin.calibration_results import Temperature
from stcr_plugin.report.tables import ONE_TRAINING, OVER_EPISODES, OVER_SEEDS
from stcr_plugin.scoring.metrics import pooled_interval
from stcr_plugin.scoring.progress_figures import BOUND, Trace, auc, progress_figures
from stcr_plugin.scoring.seeds import spread

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "docs/results"
FIGURES = RESULTS / "figures.json"
STUDIES = ("seeds", "ablation", "few_labels")
REPEATS = sorted((RESULTS / "repeats").glob("*.jsonl"))
FORGETTING = sorted((RESULTS / "forgetting").glob("*.jsonl"))
REAL = sorted((RESULTS / "real").glob("*.jsonl"))
TASKS = sorted((RESULTS / "tasks").glob("*.jsonl"))
FACTUALITY = sorted((RESULTS / "factuality").glob("seed*.jsonl"))
ANNOTATION = RESULTS / "annotation/checks.jsonl"
TRAINED_ON_TEXTS = sorted((RESULTS / "annotation").glob("seed*.jsonl"))
ON_ROBOTS = RESULTS / "annotation/real.jsonl"
LABELS = sorted((RESULTS / "labels").glob("*.jsonl"))
TEMPERATURE = RESULTS / "labels/temperature.json"
CLONING = RESULTS / "behaviour_cloning"
SERVED = RESULTS / "interop/agreement.jsonl"
PROBABILITIES = RESULTS / "interop/probabilities.json"
FULL_SIZE = sorted((RESULTS / "full_size").glob("*.jsonl"))
ARMS = {
    "unchecked": "all texts of the teacher",
    "checked": "texts that every check accepted",
    "programmatic": "the simulator's own texts",
}
METRICS = {
    "pair_accuracy": ("pair_accuracy", "%"),
    "forward_accuracy": ("forward_accuracy", "%"),
    "backward_accuracy": ("backward_accuracy", "%"),
    "gap_points": ("gap", "points"),
    "order_consistency": ("order_consistency", "%"),
}
SPLITS = ("seen", "heldout", "crowded", "regress", "shapes", "push", "take_off")
KINDS = {"within one phase": "within_phase", "crossing phases": "across_phases"}
# Names that other pages and tools rely on, and the systematic names that they stand for.
NAMED = {
    "annotate_liar_caught": "annotate_lying_caught_all",
    "annotate_leak_caught": "annotate_leaking_caught_leak",
    "annotate_true_rejected": "annotate_truthful_true_rejected_all",
    "real_without_motion_done": "g1_stage2_heldout_pair_accuracy",
    "real_with_motion_done": "g1_motion_stage2_heldout_pair_accuracy",
    "seen_pair_accuracy": "seeds_stage2_seen_pair_accuracy",
    "heldout_pair_accuracy": "seeds_stage2_heldout_pair_accuracy",
    "baseline_seen_pair_accuracy": "seeds_weak_only_seen_pair_accuracy",
    "baseline_heldout_pair_accuracy": "seeds_weak_only_heldout_pair_accuracy",
}
if len(TRAINED_ON_TEXTS) >= 3:
    NAMED |= {
        "annotate_claims_true_unchecked": "annotated_texts_unchecked_claims_true",
        "annotate_claims_true_checked": "annotated_texts_checked_claims_true",
        "annotate_stage1_pair_accuracy": "annotated_checked_heldout_pair_accuracy",
        "programmatic_stage1_pair_accuracy": "annotated_programmatic_heldout_pair_accuracy",
    }
FULL_SIZE_UNITS = {
    "weights": ("GiB", 2**30),
    "gradients": ("MiB", 2**20),
    "optimizer": ("MiB", 2**20),
    "rise": ("MiB", 2**20),
    "trained": ("million", 1e6),
    "tokens": ("tokens", 1),
    "tail": ("tokens", 1),
}
POLICIES = {
    "all": "all rows",
    "weighted": "weights from the judge's progress",
    "filtered": "episodes that the audit keeps",
    "truth": "weights from the simulator's progress",
    "succeeded": "episodes that succeed, by the simulator",
}
REQUIRED = (
    *NAMED, "gap_abs_max", "demo_minutes", "bc_success_all", "bc_success_weighted", "bc_success_filtered",
    "bc_success_truth", "success_auc_metaworld",
)  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One figure with its interval (95 %) and where it comes from.

    Attributes:
        low: lower end of the interval: over seeds for a mean of seeds, over episodes for one seed and for a
            difference of two models.
        n: pairs evaluated in all, None where the source does not say.
        source: the published file or page that states it.
        revision: code that trained and evaluated; None where it is not known.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str = "%"
    split: str | None = None
    source: str = ""
    command: str | None = None
    revision: str | None = None

    def __format__(self, spec: str) -> str:
        """`.2f` and the like; `i` adds the interval, as in `+.1fi`: "+0.4 (-0.6 to +1.5)"."""
        number = spec.removesuffix("i") or ".1f"
        text = format(self.value, number)
        if spec.endswith("i") and self.low is not None and self.high is not None:
            text += f" ({format(self.low, number)} to {format(self.high, number)})"
        return text


# ---- figures ----


@cache
def all_figures() -> dict[str, Figure]:
    """Every known figure by its name."""
    found = {one.name: one for one in _measured()}
    for study in STUDIES:
        found |= {one.name: one for one in _of_study(study)}
    for path in (*REPEATS, *FORGETTING, *REAL, *TASKS, CLONING / "drawer.jsonl"):
        found |= {one.name: one for one in _of_run(path)}
    found |= {one.name: one for one in _of_claims("factuality", FACTUALITY)}
    found |= {one.name: one for one in _of_claims("annotated", TRAINED_ON_TEXTS)}
    found |= {one.name: one for one in _of_texts()}
    found |= {one.name: one for one in _of_recordings()}
    for path in LABELS:
        found |= {one.name: one for one in _of_labels(path)}
    for path in FULL_SIZE:
        found |= {one.name: one for one in _of_full_size(path)}
    found |= {one.name: one for one in _of_temperature()}
    found |= {one.name: one for one in _of_policies(CLONING / "results.jsonl")}
    found |= {one.name: one for one in _of_served()}
    if ANNOTATION.is_file():
        found |= {one.name: one for one in _of_teachers(ANNOTATION)}
    return found | {one.name: one for one in _derived(found)}


def _measured() -> Iterator[Figure]:
    for group in yaml.safe_load((RESULTS / "measured.yaml").read_text(encoding="utf-8")):
        figures, common = group.pop("figures"), {"source": "docs/results/measured.yaml", **group}
        for name, value in figures.items():
            own = value if isinstance(value, dict) else {"value": value}
            split = re.search(r"_(seen|heldout|dev)$", name)
            yield Figure(name=name, **{"split": split and split[1], **common, **own})


def _of_study(study: str) -> Iterator[Figure]:
    """Means over seeds, their deviation and extremes, single seeds; differences, kinds of pairs, controls, costs."""
    folder = RESULTS / study
    table = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    seeds = {one["seed"]: rows for one, *rows in map(_read, sorted(folder.glob("seed*.jsonl")))}
    revision = ", ".join(dict.fromkeys(r[:7] for path in sorted(folder.glob("seed*.jsonl")) for r in _revisions(path)))
    base = Figure("", 0.0, source=f"docs/results/{study}/study.json", revision=revision)
    base = replace(base, command=f"stcr study recipes/studies/{study}.yaml")
    pairs: dict[tuple[str, str], int] = {}
    for seed, rows in seeds.items():
        for row in rows:
            if "result" not in row:
                continue
            result = row["result"]
            at = (result["name"], result["split"])
            pairs[at] = pairs.get(at, 0) + result["n_pairs"]
            for key, (metric, unit) in METRICS.items():
                low, high = (result["intervals"] or {}).get(key) or (None, None)
                name = f"{study}_{at[0]}_{at[1]}_{metric}_seed{seed}"
                source = f"docs/results/{study}/seed{seed}.jsonl"
                own = ", ".join(r[:7] for r in _revisions(folder / f"seed{seed}.jsonl"))
                at_seed = replace(base, n=result["n_pairs"], split=at[1], source=source, revision=own)
                yield replace(at_seed, name=name, value=result[key], low=low, high=high, unit=unit)
    for row in table["rows"]:
        name, split = row["of"]["name"], row["of"]["split"]
        here = replace(base, n=pairs[name, split], split=split)
        for key, (metric, unit) in METRICS.items():
            yield from _spread(f"{study}_{name}_{split}_{metric}", row["figures"][key], replace(here, unit=unit))
    for row in table["differences"]:
        name, split = row["of"]["name"], row["of"]["split"]
        low, high = row["episodes_interval"]
        points = row["points"]
        here = replace(base, n=pairs[name, split], split=split, unit="points")
        stem = f"{study}_{name}_{split}_minus_chain"
        yield replace(here, name=stem, value=points["mean"], low=low, high=high)
        yield from _spread(f"{stem}_over_seeds", points, here)
        yield replace(here, name=f"{stem}_p", value=row["p_flips"]["p"], unit="p")
        for seed, value in zip(row["seeds"], points["values"], strict=True):
            yield replace(here, name=f"{stem}_seed{seed}", value=value, n=pairs[name, split] // len(row["seeds"]))
    for row in table["kinds_of_pairs"]:
        if kind := KINDS.get(row["kind"]):
            here = replace(base, n=row["pairs"], split=row["split"])
            yield from _spread(f"{study}_{row['row']}_{row['split']}_{kind}", row["pair_accuracy"], here)
    for row in table["controls"]:
        for key, measure in row["measures"].items():
            name = f"{study}_{row['row']}_control_{row['control'].replace(' ', '_')}_{key}"
            yield from _spread(name, measure, replace(base, split=table["config"]["controls"]["split"]))
    for name, cost in table["costs"].items():
        yield replace(
            base, name=f"{study}_{name}_tokens_millions", value=cost["supervised_tokens"] / 1e6, unit="million"
        )
        yield replace(base, name=f"{study}_{name}_minutes", value=cost["seconds"] / 60, unit="minutes")
        share = cost["supervised_tokens"] / table["costs"]["stage2"]["supervised_tokens"]
        yield replace(base, name=f"{study}_{name}_token_share", value=100 * share)
        yield replace(base, name=f"{study}_{name}_token_ratio", value=share, unit="ratio")


def _of_run(path: Path) -> Iterator[Figure]:
    """The figures of a single run, from the letters of its pairs: FILE_ROW_SPLIT_METRIC."""
    head, *lines = _read(path)
    for line in lines:
        counts = {name: Counter(letters) for name, letters in line["episodes"].items()}
        sums = sum(counts.values(), Counter())
        n = sums.total()
        here = Figure("", 0.0, n=n, split=line["split"], source=str(path.relative_to(REPOSITORY)))
        here = replace(here, command=f"{head['command']} (seed {head['seed']})", revision=head["revision"][:7])
        stem = f"{path.stem}_{line['row']}_{line['split']}"
        right = {episode: [letters["B"], letters.total()] for episode, letters in counts.items()}
        low, high = pooled_interval(right) or (None, None)
        yield replace(here, name=f"{stem}_pair_accuracy", value=100 * sums["B"] / n, low=low, high=high)
        forward, backward = (100 * (sums["B"] + sums[one]) / n for one in "FK")
        yield replace(here, name=f"{stem}_forward_accuracy", value=forward)
        yield replace(here, name=f"{stem}_backward_accuracy", value=backward)
        yield replace(here, name=f"{stem}_gap", value=forward - backward, unit="points")
        yield replace(here, name=f"{stem}_described", value=line["described"])


def _of_claims(prefix: str, paths: Iterable[Path]) -> Iterator[Figure]:
    """What stage 1 wrote of its pictures: of each seed, and over the seeds. PREFIX_ROW_SPLIT_NAME."""
    by_name: dict[str, list[Figure]] = {}
    for path in paths:
        head, *lines = _read(path)
        for line in lines:
            if "split" not in line:
                continue
            counts = {episode: _claim_counts(one) for episode, one in line["episodes"].items()}
            here = Figure("", 0.0, split=line["split"], source=str(path.relative_to(REPOSITORY)))
            here = replace(here, command=head["command"], revision=head["revision"][:7])
            here = replace(here, n=sum(len(one["pairs"]) for one in line["episodes"].values()))
            for name in dict.fromkeys(name for one in counts.values() for name in one):
                sums = {episode: [*one.get(name, (0, 0))] for episode, one in counts.items()}
                part, whole = (sum(of[column] for of in sums.values()) for column in (0, 1))
                if whole:
                    scale, unit = (1, "cm") if name.endswith("_off") else (100, "%")
                    bounds = pooled_interval(sums)
                    low, high = [scale / 100 * end for end in bounds] if bounds else (None, None)
                    stem = f"{prefix}_{line['row']}_{line['split']}_{name}"
                    one = replace(here, name=f"{stem}_seed{head['seed']}", value=scale * part / whole, unit=unit)
                    one = replace(one, low=low, high=high)
                    by_name.setdefault(stem, []).append(one)
                    yield one
                    counted = replace(one, name=f"{stem}_count_seed{head['seed']}", value=part, unit="answers")
                    yield replace(counted, low=None, high=None)
    for stem, of_seeds in by_name.items():
        here = replace(of_seeds[0], n=sum(one.n or 0 for one in of_seeds), low=None, high=None)
        yield from _spread(stem, asdict(spread([one.value for one in of_seeds])), here)
        if stem.startswith("factuality") and stem.endswith("_true") and len(of_seeds) > 3:  # fewer have no interval
            accuracies = by_name[f"factuality_stage1_{here.split}_pair_accuracy"]
            r = pearsonr([one.value for one in of_seeds], [one.value for one in accuracies])
            low, high = r.confidence_interval()
            yield replace(here, name=f"{stem}_correlation", value=r.statistic, low=low, high=high, unit="r")


def _of_texts() -> Iterator[Figure]:
    """How many pairs' texts stage 1 was trained on, and how much of them is true: of each seed, and over the seeds."""
    by_name: dict[str, list[Figure]] = {}
    for path in TRAINED_ON_TEXTS:
        head, *lines = _read(path)
        here = Figure("", 0.0, source=str(path.relative_to(REPOSITORY)), command=head["command"])
        here = replace(here, revision=head["revision"][:7])
        for line in lines:
            if "split" in line:
                continue
            sums = {name: [counts[0], sum(counts)] for name, counts in line["episodes"].items()}
            true, stated = (sum(of[column] for of in sums.values()) for column in (0, 1))
            low, high = pooled_interval(sums) or (None, None)
            stem = f"annotated_texts_{line['row']}"
            share = replace(here, value=100 * true / stated, low=low, high=high, n=line["pairs"])
            for name, one in (("claims_true", share), ("pairs", replace(here, value=line["pairs"], unit="pairs"))):
                yield replace(one, name=f"{stem}_{name}_seed{head['seed']}")
                by_name.setdefault(f"{stem}_{name}", []).append(one)
    for stem, of_seeds in by_name.items():
        here = replace(of_seeds[0], low=None, high=None)
        yield from _spread(stem, asdict(spread([one.value for one in of_seeds])), here)


def _of_recordings() -> Iterator[Figure]:
    """What each check rejects of texts about recordings of robots: annotate_on_RECORDINGS_CHECK_rejected."""
    for line in _read(ON_ROBOTS):
        here = Figure("", 0.0, source=str(ON_ROBOTS.relative_to(REPOSITORY)), command=line["command"])
        here = replace(here, revision=line["revision"][:7], n=line["pairs"])
        stem = f"annotate_on_{line['recordings']}"
        for name in ("pairs", "accepted"):
            yield replace(here, name=f"{stem}_{name}", value=line[name], unit="pairs")
        for check, counts in line["checks"].items():
            yield replace(here, name=f"{stem}_{check}_asked", value=counts["asked"], unit="texts")
            rejected = counts["asked"] - counts["passed"]
            yield replace(here, name=f"{stem}_{check}_rejected", value=rejected, unit="texts")


def _of_labels(path: Path) -> Iterator[Figure]:
    """Of all episodes but the references and of each group: label_FILE_GROUP_NAME; the controls; and what was asked."""
    head, *lines = _read(path)
    stem = f"label_{path.stem}"
    here = Figure("", 0.0, source=str(path.relative_to(REPOSITORY)), command=head["command"])
    here = replace(here, revision=head["revision"][:7])
    traces = {one["episode"]: _trace(one) for one in lines}
    groups = {"all": [name for name in traces if name not in head["reference"]], **head["groups"]}
    for group, names in groups.items():
        of = progress_figures([traces[name] for name in names])
        assert of is not None
        at = f"{stem}_{group}"
        bounds = of.tau_interval or (None, None)
        one = replace(here, n=of.n_episodes, low=bounds[0], high=bounds[1], unit="tau")
        yield replace(one, name=f"{at}_tau", value=of.tau)
        plain = replace(one, low=None, high=None)
        yield replace(plain, name=f"{at}_tau_clock", value=of.tau_clock)
        yield replace(plain, name=f"{at}_voc", value=of.voc, unit="correlation")
        yield replace(plain, name=f"{at}_mean_end", value=of.mean_end, unit="progress")
        yield replace(plain, name=f"{at}_disagreement", value=of.disagreement, unit="share")
        if of.auc is not None and of.ends is not None:
            low, high = of.auc_interval or (None, None)
            yield replace(one, name=f"{at}_auc", value=of.auc, low=low, high=high, unit="AUC")
            low, high = of.ends_interval or (None, None)
            yield replace(one, name=f"{at}_ends", value=of.ends, low=low, high=high, unit="progress")
    if "success" in lines[0]:
        yield from _of_held_out(stem, lines, here)
    for one in head["controls"]:
        control = replace(here, n=one["n_episodes"], unit="progress")
        for name in ("value", "clock", "constant"):
            yield replace(control, name=f"{stem}_control_{one['name']}_{name}", value=one[name])
    for name in ("queries", "all_pairs", "frames", "anchors"):
        yield replace(here, name=f"{stem}_{name}", value=head["counts"][name], unit=name)


def _of_held_out(stem: str, lines: Sequence[Mapping[str, Any]], here: Figure) -> Iterator[Figure]:
    """Of recordings that folds held out: pairs in both orders by direction, and what `stcr label --success` gave."""
    pairs = {kind: {line["episode"]: line[kind] for line in lines} for kind in ("rises", "falls")}
    pairs["pair_accuracy"] = {name: letters + pairs["falls"][name] for name, letters in pairs["rises"].items()}
    for kind, of in pairs.items():
        right = {name: (letters.count("B"), len(letters)) for name, letters in of.items() if letters}
        part, whole = (sum(one[column] for one in right.values()) for column in (0, 1))
        low, high = pooled_interval(right) or (None, None)
        yield replace(here, name=f"{stem}_{kind}", value=100 * part / whole, low=low, high=high, n=whole)
        yield replace(here, name=f"{stem}_{kind}_episodes", value=len(right), unit="episodes")
    orders = Counter("".join(pairs["pair_accuracy"].values()))
    n = orders.total()
    yield replace(here, name=f"{stem}_clock", value=100 * sum(map(len, pairs["rises"].values())) / n, n=n)
    yield replace(here, name=f"{stem}_gap", value=100 * (orders["F"] - orders["K"]) / n, n=n, unit="points")
    good, bad = ([line["success"] for line in lines if (line["truth"][-1] == 1) is kind] for kind in (True, False))
    low, high = _auc_interval(good, bad)
    yield replace(here, name=f"{stem}_success_auc", value=_auc(good, bad), low=low, high=high, n=len(lines), unit="AUC")


def _trace(line: Mapping[str, Any]) -> Trace:
    lists = (tuple(line.get(name, ())) for name in ("frames", "progress", "truth"))
    return Trace(line["episode"], *lists, disagreement=line["disagreement"])


def _of_temperature() -> Iterator[Figure]:
    """What a fitted temperature does to held-out probabilities: calibration_NAME, and without it calibration_raw_NAME.

    A figure that is a mean has its interval; one that lies outside of its own, which an error can, has none.
    """
    found = Temperature.read(TEMPERATURE)
    here = Figure("", 0.0, source=str(TEMPERATURE.relative_to(REPOSITORY)))
    command = f"stcr calibrate {found.fitted.run} --on {' '.join(one.run for one in found.reported)}"
    here = replace(here, command=command, revision=found.provenance["code_revision"][:7])
    low, high = found.interval
    yield replace(here, name="calibration_temperature", value=found.temperature, low=low, high=high, unit="temperature")
    for on in found.reported:
        here = replace(here, split=on.split, n=on.scaled.both_orders.n)
        for name, of in (("calibration", on.scaled), ("calibration_raw", on.raw)):
            for order, measured in (("", of.both_orders), ("_one_order", of.one_order)):
                for key, unit in (("brier", "Brier score"), ("calibration_error", "points of probability")):
                    low, high = measured.intervals.get(key) or (None, None)
                    value = getattr(measured, key)
                    inside = low is not None and low <= value <= high  # that of an error lies too high
                    low, high = (low, high) if inside else (None, None)
                    yield replace(here, name=f"{name}{order}_{key}", value=value, low=low, high=high, unit=unit)
                noise = measured.error_by_noise
                yield replace(here, name=f"{name}{order}_noise", value=noise, unit="points of probability")
        change = on.brier_change
        low, high = change.interval or (None, None)
        yield replace(here, name="calibration_brier_change", value=change.value, low=low, high=high, unit="Brier score")


def _claim_counts(episode: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Name of a share -> (part, whole) in one episode, from the counts that docs/pack_claims.py writes."""
    claims, deciding = episode["claims"], episode["deciding"]
    true, false = (sum(one[column] for one in claims.values()) for column in (0, 1))
    stated, answers = true + false + episode["unreadable"], 2 * len(episode["pairs"])
    causes = {"seeing": "false", "judging": "true", "unknown": "unreadable"}
    wrong = sum(one[1] for one in deciding.values())
    return {
        "pair_accuracy": (episode["pairs"].count("B"), len(episode["pairs"])),
        "claims_true": (true, stated),
        "claims_false": (false, stated),
        "claims_unreadable": (episode["unreadable"], stated),
        "claims_missing": (episode["missing"], episode["wanted"]),
        **{f"{family}_true": (one[0], one[0] + one[1]) for family, one in claims.items()},
        **{f"{family}_off": (one[2], one[0] + one[1]) for family, one in claims.items()},
        **{f"wrong_{cause}": (deciding[verdict][1], answers) for cause, verdict in causes.items()},
        **{f"wrong_of_{cause}": (deciding[verdict][1], wrong) for cause, verdict in causes.items()},
        "unparsed": (sum(one[2] for one in deciding.values()), answers),
        "deciding_true": (sum(deciding["true"]), answers),
        **{f"right_where_{verdict}": (one[0], sum(one)) for verdict, one in deciding.items()},
    }


def _of_teachers(path: Path) -> Iterator[Figure]:
    """What the checks of `stcr annotate` made of the texts of simulated teachers: annotate_TEACHER_MEASURE_CHECK."""
    head, *lines = _read(path)
    base = Figure("", 0.0, source=str(path.relative_to(REPOSITORY)), command=head["command"])
    base = replace(base, revision=head["revision"][:7])
    for line in lines:
        stem = f"annotate_{line['teacher']}"
        if line["measure"] == "cost":
            for name in ("requests", "tokens"):
                if line["accepted"]:
                    yield replace(base, name=f"{stem}_{name}", value=line[name] / line["accepted"], unit=name)
            yield replace(base, name=f"{stem}_texts", value=line["texts"], unit="texts")
        elif line["measure"] != "missed":
            part, whole = (sum(counts[column] for counts in line["episodes"].values()) for column in (0, 1))
            if whole:
                low, high = pooled_interval(line["episodes"]) or (None, None)
                name = f"{stem}_{line['measure']}_{line['check']}"
                yield replace(base, name=name, value=100 * part / whole, low=low, high=high, n=whole)


def _of_policies(path: Path) -> Iterator[Figure]:
    """How often cloned policies succeed, over seeds and over layouts, and what the labels they rest on are worth."""
    head, *lines = _read(path)
    base = Figure("", 0.0, source=str(path.relative_to(REPOSITORY)), command=head["command"])
    base = replace(base, revision=head["provenance"]["code_revision"][:7])
    done = {
        arm: [[step is not None for step in one["steps"]] for one in lines if one.get("arm") == arm] for arm in POLICIES
    }
    for arm, of_seeds in done.items():
        layouts = len(of_seeds[0])
        here = replace(base, n=layouts * len(of_seeds))
        yield from _spread(f"bc_success_{arm}", asdict(spread([100 * sum(one) / layouts for one in of_seeds])), here)
        low, high = pooled_interval(_by_layout(of_seeds)) or (None, None)
        rate = 100 * sum(map(sum, of_seeds)) / here.n
        yield replace(here, name=f"bc_success_{arm}_layouts", value=rate, low=low, high=high)
        for seed, one in enumerate(of_seeds):
            yield replace(base, name=f"bc_success_{arm}_seed{seed}", value=100 * sum(one) / layouts, n=layouts)
        gains = [[a - b for a, b in zip(*of_both, strict=True)] for of_both in zip(of_seeds, done["all"], strict=True)]
        here = replace(here, unit="points")
        yield from _spread(f"bc_gain_{arm}", asdict(spread([100 * sum(one) / layouts for one in gains])), here)
        low, high = pooled_interval(_by_layout(gains)) or (None, None)
        yield replace(
            here, name=f"bc_gain_{arm}_layouts", value=100 * sum(map(sum, gains)) / here.n, low=low, high=high
        )
    episodes = [one for one in lines if "episode" in one]
    base = replace(base, n=len(episodes))
    for name, key in {"success_auc_metaworld": "probability", "bc_end_auc": "end"}.items():
        good, bad = ([one[key] for one in episodes if one["success"] is kind] for kind in (True, False))
        low, high = _auc_interval(good, bad)
        yield replace(base, name=name, value=_auc(good, bad), low=low, high=high, unit="AUC")
    for text, expert in (("experts", True), ("bad", False)):
        of = [one for one in episodes if ("_expert-" in one["episode"]) is expert]
        rows = sum(one["rows"] for one in of)
        yield replace(base, name=f"bc_{text}", value=len(of), unit="episodes")
        yield replace(base, name=f"bc_{text}_listed", value=sum(not one["kept"] for one in of), unit="episodes")
        yield replace(base, name=f"bc_{text}_last_place", value=max(one["place"] for one in of), unit="place")
        for weights in ("weighted", "truth"):
            mean = sum(one["rows"] * one[weights] for one in of) / rows
            yield replace(base, name=f"bc_{text}_{weights}_mean", value=mean, n=rows, unit="weight")
    label = head["label"]["figures"]
    low, high = label["tau_interval"]
    yield replace(base, name="bc_label_tau", value=label["tau"], low=low, high=high, unit="tau")
    yield replace(base, name="bc_label_tau_clock", value=label["tau_clock"], unit="tau")
    for group, of in head["weights"].items():
        rows = sum(of[kind][0] for kind in ("none", "some", "whole"))
        yield replace(base, name=f"bc_weight_correlation_{group}", value=of["correlation"], n=rows, unit="r")
        for kind in ("none", "some", "whole"):
            yield replace(base, name=f"bc_weight_where_{kind}_{group}", value=of[kind][1], n=of[kind][0], unit="weight")


def _of_served() -> Iterator[Figure]:
    """How far a served model agrees with the local engine: served_MEASURE_SERVER_MODE; and what one request does."""
    here = Figure("", 0.0)
    for line in _read(SERVED) if SERVED.is_file() else ():
        here = Figure("", 0.0, n=line["answers"] // 2, split="seen", source=str(SERVED.relative_to(REPOSITORY)))
        here = replace(here, command=line["command"], revision=line["provenance"]["code_revision"][:7])
        shares = {"agreement": ("same", "answers"), "same_text": ("same_text", "answers")}
        if line["counted"]:
            shares["same_tokens"] = ("same_prompt_tokens", "counted")
        for name, (part, whole) in shares.items():
            yield replace(here, name=f"served_{name}_{line['name']}", value=100 * line[part] / line[whole])
        right = 2 * 100 * line["right_in_both_orders"] / line["answers"]
        yield replace(here, name=f"served_pair_accuracy_{line['name']}", value=right)
        if line["largest_difference_of_log_odds"] is not None:
            off = line["largest_difference_of_log_odds"]
            yield replace(here, name=f"served_log_odds_off_{line['name']}", value=off, unit="nats")
    found = json.loads(PROBABILITIES.read_text(encoding="utf-8")) if PROBABILITIES.is_file() else {}
    here = replace(here, n=None, source=str(PROBABILITIES.relative_to(REPOSITORY)))
    for name in ("queries", "requests", "generated_tokens"):
        if name in found:
            yield replace(here, name=f"served_{name}", value=found[name], unit=name.replace("_", " "))
    for name, key in {"as_given": "as given", "in_order": "in the order of the engine"}.items():
        if "prefix_tokens_used_again_percent" in found:
            yield replace(here, name=f"served_prefix_{name}", value=found["prefix_tokens_used_again_percent"][key])


def _of_full_size(path: Path) -> Iterator[Figure]:
    """What was foretold and measured of each step of `make full-size`: full_size_MODEL_STEP_foretold_NAME."""
    head, *lines = _read(path)
    here = Figure("", 0.0, source=str(path.relative_to(REPOSITORY)), command="make full-size")
    here = replace(here, revision=head["provenance"]["code_revision"][:7])
    for line in lines:
        stem = f"full_size_{path.stem}_{line['step']}"
        for kind in ("foretold", "measured"):
            for name, (unit, scale) in FULL_SIZE_UNITS.items():
                if name in line.get(kind, {}):
                    yield replace(here, name=f"{stem}_{kind}_{name}", value=line[kind][name] / scale, unit=unit)
        for number, seconds in enumerate(line.get("measured", {}).get("seconds", ()), 1):
            yield replace(here, name=f"{stem}_seconds_{number}", value=seconds, unit="seconds")
        for name in ("prompt_tokens", "completion_tokens"):
            if name in line:
                yield replace(here, name=f"{stem}_{name}", value=line[name], unit="tokens")
        if "bytes" in line:
            yield replace(here, name=f"{stem}_size", value=line["bytes"] / 2**30, unit="GiB")


def _by_layout(of_seeds: list[list[Any]]) -> dict[int, tuple[int, int]]:
    """Layout -> (sum over seeds, seeds)."""
    return {layout: (sum(values), len(values)) for layout, values in enumerate(zip(*of_seeds, strict=True))}


def _auc(good: list[float], bad: list[float]) -> float:
    return auc(np.array([*good, *bad]), np.arange(len(good) + len(bad)) < len(good))


def _auc_interval(good: list[float], bad: list[float]) -> tuple[float, float]:
    """By bootstrap over episodes, each kind drawn by itself."""
    random = np.random.default_rng(0)
    drawn = [_auc(random.choice(good, len(good)).tolist(), random.choice(bad, len(bad)).tolist()) for _ in range(2000)]
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    return low, high


def _spread(name: str, measure: Mapping[str, Any], here: Figure) -> Iterator[Figure]:
    low, high = measure["interval"] or (None, None)
    yield replace(here, name=name, value=measure["mean"], low=low, high=high)
    yield replace(here, name=f"{name}_min", value=min(measure["values"]))
    yield replace(here, name=f"{name}_max", value=max(measure["values"]))
    if measure["deviation"] is not None:
        yield replace(here, name=f"{name}_sd", value=measure["deviation"])


def _derived(found: Mapping[str, Figure]) -> Iterator[Figure]:
    """Figures that summarise others."""
    for name, systematic in NAMED.items():
        yield replace(found[systematic], name=name)
    base, chain = (found[f"ablation_{row}_heldout_pair_accuracy"] for row in ("base", "stage2"))
    less = replace(base, name="ablation_base_heldout_minus_chain", unit="points", low=None, high=None)
    yield replace(less, value=base.value - chain.value)
    for row in ("cot_only", "mixed"):
        yield _adjusted(found[f"ablation_{row}_heldout_minus_chain"], row)
    gaps = {
        row: [found[f"seeds_{row}_{split}_gap_seed{seed}"] for split in SPLITS for seed in range(17, 22)]
        for row in ("stage2", "weak_only")
    }
    main = {row: [one for one in values if one.split in ("seen", "heldout")] for row, values in gaps.items()}
    both_orders = ("stage2", "cot_only", "reverse", "mixed", "weak_weak", "authors_mask", "weak_only")
    largest = {
        "gap_abs_max": main["stage2"],
        "gap_abs_max_baseline": main["weak_only"],
        "gap_abs_max_other_seeds": [one for one in main["stage2"] if not one.name.endswith("seed17")],
        "gap_abs_max_other_splits": [one for row in gaps for one in gaps[row] if one not in main[row]],
        "gap_abs_max_of_means": [found[f"seeds_{row}_{split}_gap"] for row in gaps for split in SPLITS],
        "ablation_gap_abs_max": [
            found[f"ablation_{row}_{split}_gap"] for row in both_orders for split in ("seen", "heldout")
        ],
    }
    for name, values in largest.items():
        one = max(values, key=lambda figure: abs(figure.value))
        yield replace(one, name=name, value=abs(one.value), low=None, high=None)
    for split in ("seen", "heldout"):
        singles = [found[f"seeds_stage2_{split}_pair_accuracy_seed{seed}"] for seed in range(17, 22)]
        lows = [one.low for one in singles if one.low is not None]
        for which, pick in (("min", min), ("max", max)):
            name = f"seeds_stage2_{split}_pair_accuracy_low_{which}"
            yield replace(singles[0], name=name, value=pick(lows), low=None, high=None)
    consistency = [found[f"seeds_stage2_{split}_order_consistency"] for split in ("seen", "heldout")]
    for which, pick in (("min", min), ("max", max)):
        ends = [found[f"{one.name}_{which}"] for one in consistency]
        value = pick(ends, key=lambda figure: figure.value)
        yield replace(value, name=f"order_consistency_{which}", split="seen, heldout")


def _adjusted(plain: Figure, row: str) -> Figure:
    """The same difference with an interval for all comparisons of the study together (Bonferroni)."""
    table = json.loads((RESULTS / "ablation/study.json").read_text(encoding="utf-8"))
    lines = [line["result"] for line in _read(RESULTS / "ablation/seed17.jsonl") if "result" in line]
    mine, chain = (
        {one["episode_id"]: one for line in lines if (line["name"], line["split"]) == of for one in line["per_episode"]}
        for of in ((row, "heldout"), ("stage2", "heldout"))
    )
    right = {
        name: [
            sum(sign * round(one["pair_accuracy"] * one["n_pairs"] / 100) for sign, one in pair),
            pair[0][1]["n_pairs"],
        ]
        for name, pair in ((name, ((1, one), (-1, chain[name]))) for name, one in mine.items())
    }
    low, high = pooled_interval(right, resamples=20000, level=100 - 5 / len(table["differences"])) or (None, None)
    return replace(plain, name=f"{plain.name}_adjusted", low=low, high=high)


@cache
def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _revisions(path: Path) -> list[str]:
    return list(_read(path)[0]["revisions"])


# ---- tables ----

TEACHERS = {
    "truthful": "true, in free English",
    "truthful_phrases": "true, in the phrases of the claims",
    "decoys": "true, with harmless words that can speak of order",
    "biased": "true, but judges the second picture",
    "leaking": "true, and a sentence of time, order, progress or the other picture",
    "lying": "a fifth of its claims false, others each time; free English",
    "lying_phrases": "the same, in the phrases of the claims",
    "believing": "a fifth of its claims false, the same each time, and judges by them; free English",
    "vacuous": "true, and says nothing",
    "failing": "refuses a tenth of all requests, and a tenth of its texts end in the middle",
}
CHECKS = ("described", "leak", "claims", "confirmed", "judged", "blind", "all")


def _checked(measure: str) -> str:
    """Percent of texts, of pairs from `judged` on, that each check rejects; a dash where there are no such texts."""
    known = {one.name for one in _of_teachers(ANNOTATION)} if ANNOTATION.is_file() else set[str]()
    rows = []
    for name, text in TEACHERS.items():
        cells = []
        for check in CHECKS:
            figure = f"annotate_{name}_{measure}_{check}"
            cells.append(f"{{{figure}:.1f{'i' if check == 'all' else ''}}}" if figure in known else "-")
        if set(cells) != {"-"}:
            rows.append(f"| {text} | {' | '.join(cells)} |")
    heads = " | ".join(f"`{check}`" for check in CHECKS[:-1])
    return _table(f"| teacher | {heads} | all together, by pairs |", rows)


def _taught() -> str:
    """What is accepted, how much of it is bad, and what an accepted pair costs."""
    known = {one.name for one in _of_teachers(ANNOTATION)} if ANNOTATION.is_file() else set[str]()
    rows = []
    for name, text in TEACHERS.items():
        figures = {
            f"annotate_{name}_accepted_all": ".1fi",
            f"annotate_{name}_accepted_bad_all": ".1fi",
            f"annotate_{name}_requests": ".1f",
            f"annotate_{name}_tokens": ".0f",
        }
        cells = [f"{{{figure}:{spec}}}" if figure in known else "-" for figure, spec in figures.items()]
        rows.append(f"| {text} | {' | '.join(cells)} |")
    head = "| teacher | pairs accepted % | of them with a bad text % | requests per accepted pair | tokens |"
    return _table(head, rows)


def _trained_on_texts() -> str:
    """A line per arm and seed: its texts, how much of them is true, and the stage 1 trained on them."""
    rows = []
    for arm, text in ARMS.items():
        for seed in (f"seed{_read(path)[0]['seed']}" for path in TRAINED_ON_TEXTS):
            cells = [
                f"{{annotated_texts_{arm}_pairs_{seed}:.0f}}",
                f"{{annotated_texts_{arm}_claims_true_{seed}:.1fi}}",
            ]
            for split in SPLITS[:2]:
                stem = f"annotated_{arm}_{split}"
                cells.append(f"{{{stem}_pair_accuracy_{seed}:.1fi}} | {{{stem}_claims_true_{seed}:.1f}}")
            rows.append(f"| {text} | {seed.removeprefix('seed')} | {' | '.join(cells)} |")
    heads = " | ".join(f"{split}: pair accuracy % | claims true %" for split in ("seen", "held out"))
    return _table(f"| stage 1 trained on | seed | pairs | claims of the texts true % | {heads} |", rows)


def _on_robots() -> str:
    """A line per recordings: how many texts, of pairs from `judged` on, each check rejects, of how many."""
    lines = []
    for line in _read(ON_ROBOTS):
        stem = f"annotate_on_{line['recordings']}"
        cells = [f"{{{stem}_{check}_rejected:.0f}} of {{{stem}_{check}_asked:.0f}}" for check in CHECKS[:-1]]
        lines.append(
            f"| `{line['recordings']}` | {{{stem}_pairs:.0f}} | {' | '.join(cells)} | {{{stem}_accepted:.0f}} |"
        )
    return _table(f"| recordings | pairs | {' | '.join(f'`{one}`' for one in CHECKS[:-1])} | pairs accepted |", lines)


LABELLED = {
    "g1": "G1, by the stage trained on 17 of the 24",
    "sole_folds": "`sole_r1_lift`, by that stage trained on other clips",
    "sole_tabletop": "`sole_r1_lift`, by a stage of the simulator",
}


def _labelled() -> str:
    """A line per run and group of episodes, Kendall's tau first and VOC last."""
    lines = []
    for path in LABELS:
        head, *_ = _read(path)
        known = {one.name for one in _of_labels(path)}
        for group in ("all", *head["groups"]):
            stem = f"label_{path.stem}_{group}"
            both = [f"{{{stem}_{key}:.2fi}}" if f"{stem}_{key}" in known else "-" for key in ("auc", "ends")]
            cells = [f"{{{stem}_tau:.2fi}} | {{{stem}_tau_clock:.2f}}", *both, f"{{{stem}_mean_end:.2f}}"]
            cells += [f"{{{stem}_voc:.2f}}"]
            name = group.replace("_", " ")
            if group == "all":
                name = "all but the reference" if head["reference"] else "each held out once"
            lines.append(f"| {LABELLED[path.stem]} | {name} | {{{stem}_tau.n}} | {' | '.join(cells)} |")
    head = "| labels | episodes | number | Kendall's tau | clock | AUC of ends | success minus failure "
    return _table(head + "| mean end | VOC |", lines)


def _label_controls() -> str:
    """A line per control: of each run, and of a clock and a constant on the same frames."""
    runs = [(path.stem, {one["name"]: one for one in _read(path)[0]["controls"]}) for path in LABELS]
    lines = []
    for name, control in runs[0][1].items():
        rule = f"at {'least' if control['at_least'] else 'most'} {BOUND:g}"
        cells = [
            f"{{label_{stem}_control_{name}_value:+.2f}} (clock {{label_{stem}_control_{name}_clock:+.2f}})"
            for stem, _ in runs
        ]
        lines.append(f"| `{name}` | {rule} | {' | '.join(cells)} |")
    return _table(f"| control | holds | {' | '.join(LABELLED[stem] for stem, _ in runs)} |", lines)


def _policies() -> str:
    rows = [
        f"| {text} | {{bc_success_{arm}_layouts:.1fi}} | {{bc_success_{arm}:.1fi}} | "
        + " / ".join(f"{{bc_success_{arm}_seed{seed}:.1f}}" for seed in range(3))
        + (" | |" if arm == "all" else f" | {{bc_gain_{arm}_layouts:+.1fi}}; {{bc_gain_{arm}:+.1fi}} |")
        for arm, text in POLICIES.items()
    ]
    heads = (
        "success %, interval over layouts | interval over seeds | seeds 0 / 1 / 2 | minus all rows: over layouts; seeds"
    )
    return _table(f"| trained on | {heads} |", rows)


SERVERS = {
    "vllm_direct": "vLLM | stage 2, answers compared",
    "vllm_direct_generated": "vLLM | stage 2, answers generated",
    "vllm_cot": "vLLM | stage 1, mode `cot`",
    "llamafactory": "`llamafactory-cli api` | stage 2, answers generated",
    "llamafactory_cot": "`llamafactory-cli api` | stage 1, mode `cot`",
}


def _served() -> str:
    """A line per server and mode."""
    known, rows = {one.name for one in _of_served()}, []
    for line in _read(SERVED) if SERVED.is_file() else ():
        name = line["name"]
        tokens = f"{{served_same_tokens_{name}:.1f}}" if f"served_same_tokens_{name}" in known else "not given"
        odds = f"{{served_log_odds_off_{name}:.1e}}" if f"served_log_odds_off_{name}" in known else "-"
        texts = f"{{served_agreement_{name}:.1f}} | {{served_same_text_{name}:.1f}}"
        rows.append(f"| {SERVERS[name]} | {{served_agreement_{name}.n}} | {texts} | {tokens} | {odds} |")
    heads = (
        "pairs, in both orders | same answer % | same text % | same number of prompt tokens % | log-odds apart at most"
    )
    return _table(f"| server | asked | {heads} |", rows)


ROWS = {"base": "base", "stage1": "stage 1", "stage2": "chain", "weak_only": "weak pairs only"}


def _table(header: str, rows: list[str]) -> str:
    cells = header.count("|") - 1
    return "\n".join([header, "|" + " --- |" * cells, *rows])


def _mean(name: str) -> str:
    return f"{{{name}:.1f}} ± {{{name}_sd:.1f}}"


def _full_size() -> str:
    """A line per model and stage: foretold / measured."""
    rows = []
    for path in FULL_SIZE:
        for line in _read(path)[1:]:
            if "foretold" in line:
                stem = f"full_size_{path.stem}_{line['step']}"
                cells = [
                    f"{{{stem}_foretold_{name}:{spec}}} / {{{stem}_measured_{name}:{spec}}}"
                    for name, spec in (
                        ("trained", ".2f"),
                        ("weights", ".3f"),
                        ("gradients", ".1f"),
                        ("optimizer", ".1f"),
                        ("rise", ".0f"),
                    )
                ]
                cells.append(f"{{{stem}_measured_tokens:.0f}}, {{{stem}_measured_tail:.0f}}")
                steps = range(1, 1 + len(line["measured"]["seconds"]))
                seconds = [f"{{{stem}_seconds_{number}:,.0f}}" for number in steps]
                rows.append(f"| {line['model']}: `{line['recipe']}` | {' | '.join(cells)} | {', '.join(seconds)} |")
    heads = "trained, millions | weights, GiB | gradients, MiB | optimizer, MiB | rise in a step, MiB"
    return _table(f"| model, recipe | {heads} | tokens, of them with logits | seconds of each step |", rows)


def _main() -> str:
    texts = ("base (before training)", "after stage 1", "**chain: stage 1, then stage 2**", "baseline: weak pairs only")
    rows = []
    for name, text in zip(ROWS, texts, strict=True):
        of = [f"seeds_{name}_{split}_pair_accuracy" for split in ("seen", "heldout")]
        shown = [next((short for short, full in NAMED.items() if full == one), one) for one in of]
        gaps = [f"{{seeds_{name}_{split}_gap:+.1f}}" for split in ("seen", "heldout")]
        pairs = [f"{{{short}:.1f}} ± {{{full}_sd:.1f}}" for short, full in zip(shown, of, strict=True)]
        rows.append(f"| {text} | {pairs[0]} | {gaps[0]} | {pairs[1]} | {gaps[1]} |")
    return _table("| | seen: pair accuracy % | gap | held out: pair accuracy % | gap |", rows)


def _glance() -> str:
    rows = [
        f"| {text} | " + " | ".join(_mean(f"seeds_{name}_{split}_pair_accuracy") for split in SPLITS) + " |"
        for name, text in ROWS.items()
    ]
    return _table("| row | " + " | ".join(SPLITS) + " |", rows)


def _differences(study: str, rows: Iterable[str], splits: Iterable[str]) -> str:
    """What a row has more than the chain, with the interval over episodes and the one over trainings."""
    lines = []
    for split in splits:
        for name in rows:
            stem = f"{study}_{name}_{split}_minus_chain"
            intervals = [f"{{{one}.low:+.1f}} to {{{one}.high:+.1f}}" for one in (stem, f"{stem}_over_seeds")]
            lines.append(f"| {split} | {ROWS[name]} | {{{stem}:+.1f}} | {' | '.join(intervals)} | {{{stem}_p:.3f}} |")
    return _table(f"| split | row | minus the chain | {OVER_EPISODES} | {OVER_SEEDS} | p over seeds |", lines)


def _per_seed() -> str:
    rows = []
    for split in ("seen", "heldout"):
        for name, text in ROWS.items():
            stem = f"seeds_{name}_{split}"
            cells = [
                f"{{{stem}_forward_accuracy_seed{seed}:.1f}} / {{{stem}_backward_accuracy_seed{seed}:.1f}} "
                f"**{{{stem}_pair_accuracy_seed{seed}:.1f}}**"
                for seed in range(17, 22)
            ]
            rows.append(f"| {text} | {split} | " + " | ".join(cells) + " |")
    return _table("| | split | seed 17 | seed 18 | seed 19 | seed 20 | seed 21 |", rows)


def _trained_again() -> str:
    """Seed 17 as the study trained it, and every published run of it; one that nobody has repeated is named."""
    study = RESULTS / "seeds/seed17.jsonl"
    digests = {line["result"]["name"]: line["result"]["model_digest"] for line in _read(study) if "result" in line}
    runs = [
        ("the study", 1, ", ".join(one[:7] for one in _revisions(study)), digests, "seeds_{}_{}_pair_accuracy_seed17")
    ]
    heads = []
    for path in REPEATS:
        head, *lines = _read(path)
        heads.append(head["command"])
        name = f"{path.stem}_{{}}_{{}}_pair_accuracy" if lines else ""
        processor = f", {head['processor']}" if "processor" in head else ""
        runs.append((f"`{head['command']}`{processor}", head["threads"], head["revision"][:7], head["weights"], name))
    rows = []
    for label, threads, revision, weights, name in runs:
        cells = [f"`{weights[row][:8]}`" if row in weights else "-" for row in ("base", "stage1", "stage2")]
        for row in ("stage1", "stage2"):
            both = " / ".join(f"{{{name.format(row, split)}:.1f}}" for split in ("seen", "heldout"))
            same = "as in the study" if weights.get(row) == digests[row] else "-"
            cells.append(both if name and row in weights else same)
        rows.append(f"| {label} | {threads} | {revision} | " + " | ".join(cells) + " |")
    if heads.count("make demo") < 2:
        rows.append("| `make demo`, again | not repeated | | | | | | |")
    weights = "weights of the base | of stage 1 | of the chain"
    return _table(f"| run | threads | revision | {weights} | stage 1: seen / held out % | chain |", rows)


def _ablation() -> str:
    data = {
        "base": ("base", "", ""),
        "stage2": ("stage2 (the chain)", "CoT", "weak"),
        "cot_only": ("cot_only", "CoT", "CoT"),
        "reverse": ("reverse", "weak", "CoT"),
        "mixed": ("mixed", "both", "both"),
        "weak_weak": ("weak_weak", "weak", "weak"),
        "forward_only": ("forward_only", "passive", "passive"),
        "authors_mask": ("authors_mask", "CoT", "weak"),
        "weak_only": ("weak_only (the baseline)", "weak, 4,800 steps", ""),
    }
    rows = []
    for name, (text, first, then) in data.items():
        accuracy = " | ".join(f"{{ablation_{name}_{split}_pair_accuracy:.1f}}" for split in ("seen", "heldout"))
        minus = " | " if name == "stage2" else f"{{ablation_{name}_heldout_minus_chain:+.1fi}} | {ONE_TRAINING}"
        cost = f"{{ablation_{name}_tokens_millions:.2f}} M | {{ablation_{name}_minutes:.0f}} min"
        if name == "base":
            minus, cost = f"{{ablation_base_heldout_minus_chain:+.1f}} | {ONE_TRAINING}", " | "
        rows.append(
            f"| {text} | {first} | {then} | {accuracy} | {{ablation_{name}_heldout_gap:+.1f}} | {minus} | {cost} |"
        )
    header = "| row | first 1,000 steps | then 3,800 steps | seen % | held out % | gap | held out, minus the chain "
    return _table(header + f"({OVER_EPISODES}) | {OVER_SEEDS} | supervised tokens | training |", rows)


def _few_labels() -> str:
    rows = []
    for name in ("base", "stage2", "weak_only"):
        cells = [
            " / ".join(f"{{few_labels_{name}_{split}_pair_accuracy_seed{seed}:.1f}}" for split in ("seen", "heldout"))
            for seed in (23, 24)
        ]
        rows.append(f"| {ROWS[name]} | " + " | ".join(cells) + " |")
    return _table("| row | seed 23 | seed 24 |", rows)


def _factuality(columns: Mapping[str, str]) -> str:
    """A line per split and seed; columns: heading -> cell, where NAME is the figure's stem."""
    lines = []
    for split in ("seen", "heldout"):
        for seed in (_read(path)[0]["seed"] for path in FACTUALITY):
            cells = [
                re.sub(r"{(\w+)", rf"{{factuality_stage1_{split}_\1_seed{seed}", cell) for cell in columns.values()
            ]
            lines.append(f"| {split} | {seed} | " + " | ".join(cells) + " |")
    return _table("| split | seed | " + " | ".join(columns) + " |", lines)


TABLES = {
    "main": _main(),
    "policies": _policies(),
    "served": _served(),
    "policy_labels": _table(
        "| 48 demonstrations | judge | a judge that looks at nothing |",
        [
            "| Kendall's tau of progress with the true one | {bc_label_tau:.2fi} | {bc_label_tau_clock:.2f} (clock) |",
            "| success against failure, AUC of `stcr label --success` | {success_auc_metaworld:.2fi} | 0.5 |",
            "| the same, AUC of the progress at the end | {bc_end_auc:.2fi} | 0.5 |",
            "| bad episodes that the audit lists | {bc_bad_listed:.0f} of {bc_bad:.0f} | |",
            "| expert episodes that the audit lists | {bc_experts_listed:.0f} of {bc_experts:.0f} | |",
            "| correlation of the weights with those from the truth | {bc_weight_correlation_all:.2f} | 0 |",
            "| the same, rows of expert episodes | {bc_weight_correlation_expert:.2f} | 0 |",
            "| the same, rows of regressing episodes | {bc_weight_correlation_regressing:.2f} | 0 |",
            "| the same, rows of failed episodes | {bc_weight_correlation_failed:.2f} | 0 |",
            "| mean weight where the true weight is 1 | {bc_weight_where_whole_all:.2f} | 1 (all rows alike) |",
            "| mean weight where the true weight is 0 | {bc_weight_where_none_all:.2f} | 1 (all rows alike) |",
        ],
    ),
    "seeds_glance": _glance(),
    "seeds_differences": _differences("seeds", ("stage1", "weak_only"), SPLITS),
    "seeds_single": _per_seed(),
    "trained_again": _trained_again(),
    "ablation": _ablation(),
    "few_labels": _few_labels(),
    "few_labels_differences": _differences("few_labels", ("weak_only",), ("seen", "heldout")),
    "forgetting": _table(
        "| `make demo`, seed 17 | mode | responses that describe the images % | seen % | held out % |",
        [
            f"| {text} | {mode} | {{{stem}_heldout_described:.1f}} | "
            + " | ".join(f"{{{stem}_{split}_pair_accuracy:.1fi}}" for split in ("seen", "heldout"))
            + " |"
            for text, mode, stem in (
                ("stage 1", "`cot`", "demo_stage1"),
                ("stage 2, no replay", "`cot`", "demo_reasoning_stage2"),
                ("stage 2, no replay", "`direct`", "demo_stage2"),
            )
        ],
    ),
    "real": _table(
        "| CoT text | after | pair accuracy % | forward / backward % | gap |",
        [
            f"| {text} | {after} | {{{stem}_pair_accuracy:.1fi}} | "
            f"{{{stem}_forward_accuracy:.1f}} / {{{stem}_backward_accuracy:.1f}} | {{{stem}_gap:+.1f}} |"
            for run, text in (("g1", "hand"), ("g1_motion", "hand, and `motion_done`"))
            for row, after in (("base", "no training"), ("stage1", "stage 1"), ("stage2", "stage 2"))
            for stem in (f"{run}_{row}_heldout",)
        ],
    ),
    "factuality": _factuality(
        {
            "pair accuracy %": "{pair_accuracy:.1fi}",
            "claims true %": "{claims_true:.1fi}",
            "false %": "{claims_false:.1f}",
            "unreadable %": "{claims_unreadable:.1f}",
            "missing %": "{claims_missing:.1f}",
            "seeing errors": "{wrong_seeing_count:.0f}",
            "judging errors": "{wrong_judging_count:.0f}",
            "unknown": "{wrong_unknown_count:.0f}",
            "unparsed": "{unparsed_count:.0f}",
        }
    ),
    "factuality_families": _factuality(
        {f"{family} true %": f"{{{family}_true:.1f}}" for family in ("phase", "gripper", "reach", "goal", "height")}
        | {f"{family} off by cm": f"{{{family}_off:.1f}}" for family in ("reach", "goal", "height")}
    ),
    "factuality_deciding": _factuality(
        {
            "answers whose deciding claims are all true %": "{deciding_true:.1fi}",
            "right, of these %": "{right_where_true:.1fi}",
            "right where a deciding claim is false %": "{right_where_false:.1fi}",
        }
    ),
    "speed": _table(
        "| comparison | ours | baseline | ratio of the medians | quartiles of step against step |",
        [
            f"| {text} | {{{name}_ours}} | {{{name}_baseline}} | {{{name}_ratio}} | "
            f"{{{name}_quartile_low:.2f}} to {{{name}_quartile_high:.2f}} |"
            for text, name in (
                ("`train_vs_authors_approach`, samples/s", "speed_authors"),
                ("the same without our dataloader worker", "speed_authors_no_worker"),
            )
        ],
    ),
    "distributed": _table(
        "| | losses, relative difference at most | gradient norms, at most |",
        [
            "| DDP, batch 2 x 2 ranks, against batch 2 x 2 accumulations | {distributed_ddp_loss:.0f} (equal to the "
            "last bit) | {distributed_ddp_norm:.0f} |",
            "| ZeRO-2 | {distributed_zero2_loss:.1e} | {distributed_zero2_norm:.1e} |",
            "| ZeRO-3 | {distributed_zero3_loss:.1e} | {distributed_zero3_norm:.1e} |",
            "| one batch of 4 against two of 2 | {distributed_batch_loss:.1e} | {distributed_batch_norm:.1e} |",
        ],
    ),
    "annotate_caught": _checked("caught"),
    "annotate_true_rejected": _checked("true_rejected"),
    "annotate_yield": _taught(),
    "annotate_trained": _trained_on_texts(),
    "annotate_on_robots": _on_robots(),
    "labels": _labelled(),
    "label_controls": _label_controls(),
    "demo_time": _table(
        "| data | base | stage 1 | stage 2 | whole demo |",
        [
            "| {demo_data_minutes:.1f} min | {demo_base_minutes:.1f} min | {demo_stage1_minutes:.1f} min | "
            "{demo_stage2_minutes:.1f} min | {demo_minutes:.1f} min |"
        ],
    ),
    "builds": _table(
        "| weak pairs | episodes | time | processor time | memory over all processes, at most |",
        [
            "| 1,000,000 | 10,000 | {build_1m_seconds:.0f} s | {build_1m_cpu_seconds:.0f} s | "
            "{build_1m_memory:.0f} MiB |"
        ],
    ),
    "full_size": _full_size(),
    "step_shares": _table(
        "| | percent of the time |",
        [
            f"| {text} | {{step_share_{name}:.0f}} |"
            for text, name in (
                ("matrix products", "matrix_products"),
                ("attention", "attention"),
                ("convolution that embeds the patches", "patch_convolution"),
                ("waiting for the next batch", "data"),
                ("all other operators", "small_operations"),
            )
        ],
    ),
    "extraction": _table(
        "| stored as | against a bare PyAV decode of the frames | against reading all, keeping every tenth as JPEG |",
        [
            "| 84x84 PNG | {extraction_png_decode:.2f} | {extraction_png_every:.1f} |",
            "| 256-token JPEG | {extraction_jpeg_decode:.2f} | {extraction_jpeg_every:.1f} |",
        ],
    ),
}

# ---- the tree of the package ----


def _tree() -> str:
    """Every module with the first sentence of its docstring; a room's row before those of its modules."""
    package = REPOSITORY / "stcr_plugin"
    rows = []
    for path in sorted(package.rglob("*.py"), key=lambda path: (path.parent != package, path.parent, path.name)):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        gloss = " ".join(docstring.split("\n\n")[0].split()).replace("|", "\\|").replace("{", "{{").replace("}", "}}")
        name = path.relative_to(package).as_posix()
        if path.name != "__init__.py" or gloss:
            rows.append(f"| `{name.replace('__init__.py', '') or '__init__.py'}` | {gloss} |")
    return _table("| module | content |", rows)


TABLES["tree"] = _tree()

# ---- pages ----

_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_BOUND = re.compile(r"<!-- figures: (.*?) -->", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.,/-])-?(\d[\d,]*(?:\.\d+)?)(?![\w/]|[.,]\d)(?! ?x \d)")
_UNIT = re.compile(r"(?: (?:to|and) \d[\d.,]*)? (?:%|points|minutes|times|MiB|GiB|seconds)")


def pages() -> list[Path]:
    """Pages with tables or figures; the study.md files are made by `stcr study`."""
    named = ("README.md", "docs/index.md", "docs/architecture.md")
    return [
        *(REPOSITORY / name for name in named),
        REPOSITORY / "docs/behaviour_cloning.md",
        *sorted(RESULTS.glob("*.md")),
    ]


class Used(dict[str, Figure]):
    """Figures by name, and which of them were read."""

    def __init__(self, figures: Mapping[str, Figure]) -> None:
        super().__init__(figures)
        self.names: set[str] = set(REQUIRED)

    def __getitem__(self, name: str) -> Figure:
        self.names.add(name)
        return super().__getitem__(name)


def filled(text: str, figures: Mapping[str, Figure]) -> str:
    """The page with its tables made again. Raises KeyError for an unknown table or figure."""
    return _TABLE.sub(lambda found: found[1] + TABLES[found[2]].format_map(figures) + "\n" + found[3], text)


def wrong_numbers(text: str, figures: Mapping[str, Figure]) -> list[str]:
    """Numbers in running text that are bound to no figure, or differ from theirs when rounded alike."""
    found = []
    for paragraph, bound in _paragraphs(_TABLE.sub("", text)):
        for number in dict.fromkeys(_result_numbers(paragraph)):
            if number not in bound:
                found.append(f"{number} is bound to no figure: {paragraph[:70]!r}")
        for number, names in bound.items():
            if not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d]|\.\d)", paragraph):
                found.append(f"{number} is not in the paragraph: {paragraph[:70]!r}")
            places = len(number.partition(".")[2])
            for name in names:
                if name != "-" and name.partition(".")[0] not in figures:
                    found.append(f"{number} is bound to {name}, which is not a figure")
                    continue
                values = [] if name == "-" else _values(name, figures)
                if values and number.replace(",", "") not in {f"{abs(value):.{places}f}" for value in values}:
                    found.append(f"{number} is not {name}, {values[0]}: {paragraph[:70]!r}")
    return found


def other_numbers(text: str) -> set[str]:
    """Numbers in running text that are bound to no figure: settings, sizes, seeds, names of stages."""
    found = set()
    for paragraph, bound in _paragraphs(_TABLE.sub("", text)):
        found |= {one[1].rstrip(",") for one in _NUMBER.finditer(paragraph)} - bound.keys()
    return found


def _paragraphs(text: str) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Each block of text outside code blocks, and the figures that its numbers are bound to."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"\n\s*\n(?=<!-- figures: )", "\n", text)
    for block in re.split(r"\n\s*\n", text):
        bound = {}
        for comment in _BOUND.findall(block):
            bound |= {number: names.split(",") for number, _, names in (one.partition("=") for one in comment.split())}
        plain = re.sub(r"<!--.*?-->|`[^`]*`|\]\([^)]*\)|https?://\S+", " ", block, flags=re.DOTALL)
        yield plain.strip(), bound


def _result_numbers(text: str) -> Iterator[str]:
    """Numbers with a decimal point, or with a unit of a result. The level of intervals, 95 %, is not a result."""
    text = re.sub(
        r"95 % (?=interval|over|by)|arXiv [\d.]+|Python 3\.\d+|Apache 2\.0|\s+",
        lambda found: " " if found[0].isspace() else "",
        text,
    )
    for found in _NUMBER.finditer(text):
        if "." in found[1] or _UNIT.match(text, found.end()):
            yield found[1]


def _values(name: str, figures: Mapping[str, Figure]) -> list[float]:
    """A figure's value and the ends of its interval; NAME.low and NAME.high are one end alone."""
    stem, _, end = name.partition(".")
    one = figures[stem]
    values = [getattr(one, end)] if end else [one.value, one.low, one.high]
    return [value for value in values if value is not None]


def make() -> tuple[dict[Path, str], list[str]]:
    """File -> its text as it should be, and what is wrong in running text."""
    figures, wrong, made = Used(all_figures()), [], {}
    for path in pages():
        text = path.read_text(encoding="utf-8")
        made[path] = filled(text, figures)
        wrong += [f"{path.relative_to(REPOSITORY)}: {line}" for line in wrong_numbers(text, figures)]
    rows = [json.dumps(asdict(figures[name]), ensure_ascii=False) for name in sorted(figures.names)]
    made[FIGURES] = "[\n" + ",\n".join(rows) + "\n]\n"
    return made, wrong


def main(arguments: list[str]) -> int:
    made, wrong = make()
    changed = [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        if "--check" not in arguments:
            path.write_text(made[path], encoding="utf-8")
        print(f"{'would change' if '--check' in arguments else 'wrote'}: {path.relative_to(REPOSITORY)}")
    print("\n".join(wrong), end="\n" if wrong else "")
    return int(bool(wrong or ("--check" in arguments and changed)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
