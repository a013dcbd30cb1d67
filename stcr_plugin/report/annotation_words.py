"""What annotating a split will take, and what came of it, in words."""

from __future__ import annotations

from stcr_plugin.annotation.summary import AnnotationSummary, Estimate, Funnel

_CHECKS = {
    "described": "texts that are there",
    "leak": "no time, order or progress",
    "claims": "true of the recorded state",
    "confirmed": "confirmed by the picture",
    "judged": "judged with pictures",
    "blind": "judged by the texts alone",
}


def estimate_words(found: Estimate) -> str:
    """One sentence: what the pairs that are left will take."""
    parts = [f"about {found.requests:,} requests"]
    if found.tokens is not None:
        parts.append(f"{found.tokens[0]:,} prompt and {found.tokens[1]:,} response tokens")
    parts.append(f"a cost of {found.cost:.2f}" if found.cost is not None else "an unknown cost (no prices are set)")
    parts.append(duration(found.seconds))
    return f"estimate for the other {found.left:,} pairs, by the first {found.pairs}: {', '.join(parts)}"


def summary_words(found: AnnotationSummary) -> str:
    """What was accepted, a line per check, and what the models were asked."""
    figures = found.figures
    lines = [
        f"{figures.accepted_pairs:,} of {figures.pairs:,} pairs have accepted texts, "
        f"{figures.suspect_labels:,} of {figures.rows:,} rows a suspect label"
    ]
    width = max(map(len, _CHECKS.values()))
    for name, funnel in figures.checks.items():
        lines.append(f"  {_CHECKS.get(name, name):<{width}}  {_funnel(funnel)}")
    for one in found.models:
        use = one.use
        tokens = "" if use.uncounted else f", {use.prompt_tokens:,} + {use.completion_tokens:,} tokens"
        cost = "" if one.cost is None else f", cost {one.cost:.2f}"
        lines.append(f"  {one.role} {one.model}: {use.requests:,} requests{tokens}{cost}")
    return "\n".join(lines)


def summary_warnings(found: AnnotationSummary) -> list[str]:
    """What a reader must know of the result, a sentence each."""
    warnings = []
    if found.figures.unanswered:
        warnings.append(
            f"{found.figures.unanswered:,} rows had no reply; run the same command again to ask the server once more"
        )
    judged = found.figures.checks.get("judged", Funnel()).asked + found.figures.same_position
    same = found.figures.same_position
    if same > judged / 2:
        warnings.append(
            f"{found.describer} named the same position in both orders in {same:,} of {judged:,} rows: it is led by "
            "the order, so its judgments check nothing"
        )
    if not found.finished:
        warnings.append(f"these are the first {found.figures.pairs:,} of {found.of:,} pairs only")
    return warnings


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _funnel(found: Funnel) -> str:
    if not found.asked:
        return "not checked"
    failed = ", ".join(f"{count:,} {reason}" for reason, count in sorted(found.failed.items(), key=lambda one: -one[1]))
    return f"{found.passed:,} of {found.asked:,}" + (f" ({failed})" if failed else "")
