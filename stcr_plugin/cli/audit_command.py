"""`stcr audit`: which episodes of a labelled dataset to look at first."""

from __future__ import annotations

import argparse
from pathlib import Path

from stcr_plugin.cli.options import Commands, Parser, command


def add_commands(commands: Commands) -> None:
    """Add the command of this module."""
    command(
        commands, "audit", _audit, help="rank the episodes of a labelled dataset by suspicion", options=_audit_options
    )


def _audit_options(parser: Parser) -> None:
    from stcr_plugin.scoring.suspicion import DROP, MEASURES

    parser.add_argument(
        "labels", type=Path, metavar="DATASET_OR_LABELS", help="folder with the files of `stcr label`; it is only read"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default: runs/audit/NAME)")
    parser.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="RULE",
        help="list episodes for which a measure is below or above a level, such as 'fall>0.5'; may be given several "
        f"times (default: '{DROP.measure}<{DROP.level}'); measures: {', '.join(MEASURES)}",
    )


def _audit(arguments: argparse.Namespace) -> None:
    from stcr_plugin.report.audit_page import Labels, audit_words, write_audit_page
    from stcr_plugin.robotics.audit import audit
    from stcr_plugin.scoring.suspicion import DROP, drop_rule

    name = arguments.labels.resolve().name
    out = arguments.out or Path("runs/audit") / name
    rules = [drop_rule(text) for text in arguments.drop] or [DROP]
    found = audit(arguments.labels, out, rules=rules)
    record = found.record
    facts = [("labels", str(arguments.labels)), ("episodes", str(len(found.rows)))]
    notes = [found.recordings.problem] if found.recordings.problem else []
    if record:
        facts += [
            ("dataset", record.dataset),
            ("engine", str(record.engine.get("model") or record.engine.get("engine"))),
        ]
    if record and record.relative:
        notes.append(
            "These labels are relative: nothing links the episodes, so that a failed one also ends high, and the "
            "progress at the end says little."
        )
    facts.append(("drop", " or ".join(f"{one.measure} {'<' if one.below else '>'} {one.level:g}" for one in rules)))
    page = write_audit_page(
        out,
        found.rows,
        curves=found.curves,
        labels=Labels(name, facts, notes),
        pictures=found.recordings.pictures,
    )
    print(audit_words(found.rows, found.dropped))
    print(f"page: {page}")
