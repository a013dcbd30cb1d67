"""Texts about data builds on the command line: what a build holds, and what its check found."""

from __future__ import annotations

from pathlib import Path

from stcr_plugin.episodes.lerobot import LeRobotConfig
from stcr_plugin.episodes.lerobot_meta import Meta
from stcr_plugin.episodes.source_table import SourceSettings
from stcr_plugin.registry.check import CheckReport
from stcr_plugin.registry.manifest import Manifest


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
    for name, rows in counts.datasets.items():
        short = f"; {rows.short_by} pairs fewer than asked for" if rows.short_by else ""
        lines.append(f"dataset {name}: {rows.samples} samples of {rows.pairs} pairs{short}")
    lines.append(f"pictures: {manifest.frames.count} in {manifest.frames.folder}")
    lines += [f"skipped {number} times: {reason}" for reason, number in counts.excluded.items()]
    lines += [
        f"warning: {of.almost_same} of the {of.pairs} pairs of split {split} show two pictures that are almost the "
        "same; leave out still episodes, or set pairs.trim_idle or a larger pairs.min_seconds"
        for split, of in counts.splits.items()
        if of.almost_same
    ]
    return "\n".join(lines)


def check_text(report: CheckReport) -> str:
    """How much was checked, and one line per problem."""
    problems = [f"{problem.where}: {problem.what}" for problem in report.problems]
    count = f"{len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}"
    checked = f"{report.name}: {report.pictures} pictures, {report.pairs} pairs and {report.rows} rows checked, {count}"
    return "\n".join([checked, *problems])
