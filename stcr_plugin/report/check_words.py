"""Texts about data builds on the command line: what a build holds, and what its check found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stcr_plugin.episodes.lerobot import LeRobotConfig
from stcr_plugin.episodes.lerobot_meta import Meta
from stcr_plugin.episodes.source_table import SourceSettings, find_kind
from stcr_plugin.errors import StcrError
from stcr_plugin.figures import AnnotatedTexts
from stcr_plugin.registry.check import CheckReport
from stcr_plugin.registry.manifest import Manifest, PairCounts


def camera_text(source: SourceSettings) -> str:
    """Which of a dataset's cameras is used, "" for a source with one kind of pictures.

    Raises DataError and ConfigError as `Meta` does.
    """
    if not isinstance(source, LeRobotConfig):
        return ""
    how = "" if source.camera else ", the first that shows colour (choose by source.camera)"
    return f"camera: {Meta(Path(source.root), source.camera).camera}{how}"


def build_text(manifest: Manifest) -> str:
    """The splits, datasets and pictures of a finished build, and what was skipped; one line each."""
    counts = manifest.counts
    lines = [
        f"split {split}: {of.episodes} episodes, {of.pairs} pairs"
        + (f" ({of.within_phase} within a phase)" if of.within_phase else "")
        for split, of in counts.splits.items()
    ]
    lines += direction_lines(counts.splits)
    for name, rows in counts.datasets.items():
        kind = manifest.rules[name].kind if name in manifest.rules else ""
        what = {"describe": "pictures", "group": "groups"}.get(kind, "pairs")
        short = f"; {rows.short_by} {what} fewer than asked for" if rows.short_by else ""
        made = f"{rows.samples} pictures described"
        if kind != "describe":
            made = f"{rows.samples} samples of {rows.pairs} {what}"
        lines.append(f"dataset {name}: {made}{short}")
        if origin := text_origin(manifest, name):
            lines.append(f"texts of {name}: {origin}")
    lines.append(f"pictures: {manifest.frames.count} in {manifest.frames.folder}")
    if refined := manifest.refined:
        lines.append(
            f"refined by {refined.file}: {refined.dropped} pairs left out, {refined.ties} taught as ties, "
            f"{refined.kept} kept"
            + (f"; {refined.unmatched} rows are about no pair of this build" if refined.unmatched else "")
        )
    lines += [f"skipped {number} times: {reason}" for reason, number in counts.excluded.items()]
    lines += [
        f"warning: {of.almost_same} of the {of.pairs} pairs of split {split} show two pictures that are almost the "
        "same; leave out still episodes, or set pairs.trim_idle or a larger pairs.min_seconds"
        for split, of in counts.splits.items()
        if of.almost_same
    ]
    return "\n".join(lines)


def direction_lines(splits: Mapping[str, PairCounts]) -> list[str]:
    """Which frame of a pair is the closer one, of each split where it is not always the later one, and what was dropped
    to balance it."""
    lines = []
    for split, of in splits.items():
        earlier, later = of.closer.get("earlier", 0), of.closer.get("later", 0)
        if earlier:
            dropped = (of.dropped or {}).get("unbalanced", 0)
            lines.append(
                f"closer frame in split {split}: the earlier one in {earlier} pairs, the later one in {later}; "
                f"a clock is right in {100 * later / (earlier + later):.1f} %"
                + (f"; {dropped} pairs more were dropped to balance them" if dropped else "")
            )
    return lines


def text_origin(manifest: Manifest, dataset: str) -> str:
    """Who says what the pictures of a CoT or reflect dataset show, where it is not the recorded state; "" elsewhere."""
    rule = manifest.rules.get(dataset)
    if rule is None or rule.kind not in ("cot", "reflect"):
        return ""
    if dataset in manifest.texts:
        return annotated_text(manifest.texts[dataset])
    return "as published with the pairs, not checked" if _gives_pairs(manifest) else ""


def annotated_text(texts: AnnotatedTexts) -> str:
    """By whom texts were annotated, and what was asked of them before they were used."""
    counts = texts.counts
    passed = ", ".join(f"{check} {number}" for check, number in counts.passed.items())
    verified = f", verified by {_names(counts.verifiers)}" if counts.verifiers else ""
    return (
        f"annotated, not true by a recorded state: described by {_names(counts.describers) or 'unknown'}{verified}; "
        f"of {counts.pairs} pairs {counts.by_checks} accepted by checks and {counts.by_person} by a person; checks "
        f"passed: {passed or 'none was made'}; {Path(texts.file).name}, SHA-256 {texts.digest[:12]}"
    )


def _names(counts: Mapping[str, int]) -> str:
    return " and ".join(name if len(counts) == 1 else f"{name} ({number})" for name, number in counts.items())


def _gives_pairs(manifest: Manifest) -> bool:
    try:
        return find_kind(str(manifest.config["source"]["kind"])).gives_pairs
    except StcrError:  # of a package that is not installed here
        return False


def check_text(report: CheckReport) -> str:
    """How much was checked, and one line per problem."""
    origins = [f"texts of {dataset}: {annotated_text(texts)}" for dataset, texts in report.texts.items()]
    problems = [f"{problem.where}: {problem.what}" for problem in report.problems]
    count = f"{len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}"
    checked = f"{report.name}: {report.pictures} pictures, {report.pairs} pairs and {report.rows} rows checked, {count}"
    return "\n".join([checked, *direction_lines(report.splits), *origins, *problems])
