"""A judgement of a few pictures in words."""

from __future__ import annotations

from stcr_plugin.evaluation.judge import Judgement


def judgement_words(found: Judgement) -> str:
    """A few lines for a terminal."""
    short = [name.rpartition("/")[2] for name in found.pictures]
    names = short if len(set(short)) == len(short) else found.pictures
    lines = [f"task: {found.task}"]
    for one in found.heard:
        first, second = (names[place] for place in one.shown)
        chosen = "none of them" if one.chosen is None else names[one.chosen]
        sure = "" if one.probability is None else f" ({second} with {100 * one.probability:.1f} %)"
        lines.append(f"shown {first}, then {second}: {chosen}{sure}")
        lines += [f"  | {line}" for line in one.text.splitlines()] if found.mode == "cot" else []
    if found.closest is None:
        lines.append("closest to completion: undecided")
    else:
        sure = "" if found.probabilities is None else f", probability {100 * found.probabilities[found.closest]:.1f} %"
        lines.append(f"closest to completion: {names[found.closest]}{sure}, both orders averaged")
    if found.temperature != 1:
        lines.append(f"probabilities are calibrated, with a temperature of {found.temperature:.2f}")
    return "\n".join([*lines, *(f"WARNING: {line}" for line in judgement_warnings(found))])


def judgement_warnings(found: Judgement) -> list[str]:
    """Reasons not to rely on it."""
    pairs, warnings = len(found.heard) // 2, []
    if found.disagreeing:
        which = "the two orders" if pairs == 1 else f"the two orders of {len(found.disagreeing)} of {pairs} pairs"
        warnings.append(f"{which} disagree: which picture was chosen depends on its position")
    if found.unparsed:
        warnings.append(f"{found.unparsed} of {len(found.heard)} answers name no picture")
    if found.cut:
        warnings.append(f"{found.cut} were cut before they named a picture: raise max_new_tokens (with --set)")
    if found.refused:
        warnings.append(f"{found.refused} were refused by a content filter or by the model")
    return warnings
