"""Checks of a stage's place in its chain, and of the pairs that it is evaluated on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stcr_plugin import artefacts, records
from stcr_plugin.errors import StcrError
from stcr_plugin.frameworks.parents import parent_of
from stcr_plugin.frameworks.reference import WITHOUT
from stcr_plugin.preflight.plan import Plan
from stcr_plugin.preflight.verdict import Verdict, error, ok, refused, warning
from stcr_plugin.results import Overlap
from stcr_plugin.types import ORDERS


def chain(plan: Plan) -> Iterator[Verdict]:
    """The stage before is finished, has the same template, and its files are as it saved them; and the reference."""
    yield from _reference(plan)
    start, name = plan.start, plan.recipe.settings.name
    record = records.read(start)
    if not plan.recipe.starts_from_stage:
        if record and not record.finished:
            what = f"holds the stage {record.name!r}, which was started but did not finish"
            yield warning("chain", what, "train it first", where=str(start))
        else:
            yield ok("chain", f"{name!r} starts from a model, {start}")
        return
    try:
        found = parent_of(plan.recipe)
    except StcrError as refusal:
        yield refused("chain", refusal)
        return
    assert found is not None
    parent = found.record
    base = Path(parent.base or "")
    if base.is_dir() and parent.base_digest not in (None, artefacts.model_digest(base)):
        what = f"the chain's base has changed since stage {parent.name!r} started from it"
        yield warning("chain", what, "train the chain again to compare its stages with the base", where=str(base))
    yield ok(
        "chain",
        f"{name!r} starts from the finished stage {parent.name!r}, same template, files as saved "
        f"({found.digest[:12]}); base {parent.base} ({str(parent.base_digest)[:12]})",
        parent_digest=found.digest,
        base_digest=parent.base_digest,
    )


def _reference(plan: Plan) -> Iterator[Verdict]:
    """Which model a preference stage compares its log-probabilities with."""
    if plan.reference is not None:
        what = f"log-probabilities are compared with those of {plan.reference.model}: {plan.reference.how}"
        yield ok("reference", what, model=plan.reference.model, second=plan.reference.copied)
    elif plan.recipe.prefers and plan.recipe.keys.get("pref_loss") in WITHOUT:
        yield ok("reference", f"pref_loss: {plan.recipe.keys['pref_loss']} compares with no other model")


def evaluation(plan: Plan) -> Iterator[Verdict]:
    """The pairs that the callback evaluates on exist, and none of them is trained on."""
    from stcr_plugin.evaluation.leakage import contamination
    from stcr_plugin.pairs import spread
    from stcr_plugin.registry.manifest import read_pairs
    from stcr_plugin.registry.overlap import compare, evaluated_side, merged, side
    from stcr_plugin.report.overlap_words import overlap_words

    registry, datasets = plan.recipe.registry, plan.recipe.datasets
    rule = plan.recipe.settings.evaluate
    if rule is None:
        yield warning(
            "evaluation", "the gap is not measured during training", "set stcr.evaluate", where="stcr.evaluate"
        )
        return
    name = rule.dataset or next(iter(plan.manifests), None)
    if name is None:
        what = f"{plan.recipe.keys['dataset']!r} was not built by `stcr data build`, so the callback has no pairs"
        fix = "set stcr.evaluate.dataset to a build's name, or stcr.evaluate to null"
        yield error("evaluation", what, fix, where="stcr.evaluate.dataset")
        return
    try:
        pairs = spread(read_pairs(registry, name, rule.split), rule.pairs)
    except StcrError as refusal:
        yield refused("evaluation", refusal)
        return
    yield ok("evaluation", f"{len(pairs)} pairs of {name}:{rule.split}, before, after or every few steps as set")
    sides = [side(dataset, registry) for dataset in datasets if _is_ours(plan, dataset)]
    if sides:
        yield from _overlap(
            compare(merged(sides), evaluated_side(registry, name, rule.split, pairs=pairs, questions=()))
        )
    others = [dataset for dataset in datasets if not _is_ours(plan, dataset)]
    if others:
        what = f"{', '.join(others)} was not built by `stcr data build`, so its episodes are unknown"
        yield warning("overlap", what, "make sure that it has none of the evaluated episodes")
    if records.read(plan.start):
        before = contamination(
            plan.start,
            registry,
            dataset=name,
            split=rule.split,
            pairs=pairs,
            questions=[""] * (len(ORDERS) * len(pairs)),
            seed=0,
        )
        if before.leaks:
            yield error("overlap", f"of the stages before: {overlap_words(before)}", "evaluate on another split")
        elif before.unknown:
            yield warning("overlap", f"of the stages before: {before.unknown}", "keep their data to know")


def _is_ours(plan: Plan, dataset: str) -> bool:
    from stcr_plugin.registry.manifest import build_name

    try:
        return build_name(plan.recipe.registry, dataset) in plan.manifests
    except StcrError:
        return False


def _overlap(found: Overlap) -> Iterator[Verdict]:
    figures = {"episodes": found.episodes.shared, "pictures": found.pictures.shared}
    if found.leaks:
        what = (
            f"{found.episodes.shared} of {found.episodes.evaluated} evaluated episodes and {found.pictures.shared} of "
            f"{found.pictures.evaluated} evaluated pictures are trained on ({found.trained})"
        )
        named = ", ".join(found.episodes.named or found.pictures.named)
        yield Verdict(
            "overlap", "error", what, where=named, fix="evaluate on a split that is not trained on", figures=figures
        )
    else:
        yield ok("overlap", f"no episode or picture of {found.evaluated} is trained on ({found.trained})", **figures)
