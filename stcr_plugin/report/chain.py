"""What changed over a chain of runs, in words that depend on the figures alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stcr_plugin.errors import DataError
from stcr_plugin.figures import Measure, Verdict
from stcr_plugin.report import tables
from stcr_plugin.report.document import Block, Bullets, Finding, Heading, Words, code
from stcr_plugin.report.lost_words import lost_words
from stcr_plugin.report.overlap_words import overlap_words
from stcr_plugin.report.runs import Measured, same_pairs
from stcr_plugin.results import Evaluation
from stcr_plugin.scoring.metrics import paired_difference
from stcr_plugin.scoring.verdicts import CHANCE, FEWEST, RULES, judged

WEAK_ONLY, STAGE2 = "weak_only", "stage2"
_BIAS = 5.0  # points that the share of img2 may be off 50 %: a gap of 10, where the later frame is always closer
_CONSISTENT = 90.0  # percent of pairs of which the same frame must be chosen in both orders


@dataclass(frozen=True)
class Chain:
    """The evaluations of one title, with the same data and settings; each has its own name.

    Attributes:
        after: The first evaluation called stage2, unless the chain starts with it and there is another; without one
            the last.
        before: The first except for `after`. One called weak_only is neither, unless there is nothing else.
    """

    title: str
    measured: Sequence[Measured]

    @property
    def before(self) -> Measured:
        return next((one for one in self._stages if one is not self.after), self.after)

    @property
    def after(self) -> Measured:
        ends = [one for one in self._stages if one.of.name == STAGE2] or [self._stages[-1]]
        return next((one for one in ends if one is not self._stages[0]), ends[0])

    @property
    def weak_only(self) -> Measured | None:
        return next((one for one in self.measured if one.of.name == WEAK_ONLY), None)

    @property
    def _stages(self) -> Sequence[Measured]:
        return [one for one in self.measured if one.of.name != WEAK_ONLY] or self.measured


def chains(measured: Sequence[Measured]) -> list[Chain]:
    """One chain for each title, those with the default settings first."""
    titles: dict[str, list[Measured]] = {}
    for one in sorted(measured, key=lambda one: bool(one.settings)):
        titles.setdefault(one.title, []).append(one)
    return [Chain(title, of_title) for title, of_title in titles.items()]


def changed(chain: Chain) -> list[Block]:
    """The verdict on the end of the chain, and how it differs from the beginning."""
    before, after = chain.before, chain.after
    blocks: list[Block] = [Heading(chain.title), finding(after), Words(_task(chain))]
    if before is after:
        blocks.append(Words(f"Only {code(after.name)} was evaluated: {_state(after.of)}."))
    else:
        first, then = ("Before", "After") if before.of.name != after.of.name else ("The first", "The second")
        old, new = before.of.figures, after.of.figures
        blocks.append(
            Words(
                f"{first}, {code(before.name)}: {_state(before.of)}. {then}, {code(after.name)}: {_state(after.of)}. "
                f"Pair accuracy {_change(old.pair_accuracy, new.pair_accuracy)}, "
                f"the gap's size {_change(abs(old.gap_points), abs(new.gap_points))}. "
                f"{_pair_by_pair(after, before)[1]}"
            )
        )
    if words := _gap_test(after):
        blocks.append(Words(words))
    if warnings := _warnings(after):
        blocks.append(Bullets(tuple(warnings)))
    if chain.weak_only and after.of.name == STAGE2:
        blocks.append(Words(_against_weak_only(after, chain.weak_only)))
    return blocks


def _task(chain: Chain) -> str:
    after = chain.after
    of, figures = after.of, after.of.figures
    how = "reasons first" if of.mode == "cot" else "answers directly"
    ties = f"; {figures.n_ties} more are ties" if figures.n_ties else ""
    others = [one for one in chain.measured if one is not after]
    alike = [code(one.name) for one in others if one.of.data_digest == of.data_digest]
    apart = [f"{code(one.name)} {one.of.figures.n_pairs} pairs" for one in others if code(one.name) not in alike]
    return (
        f"The task: which of two pictures of a robot task is closer to its completion? {code(after.name)} {how} (mode "
        f"{code(of.mode)}): {figures.n_pairs} pairs of {figures.n_episodes} episodes of the split {code(of.split)}"
        f"{ties}, each in both orders, {figures.n_queries} queries in all."
        + (f" Evaluated on the same pairs: {', '.join(alike)}." if alike else "")
        + (f" Evaluated on other pairs, or other pictures of them: {', '.join(apart)}." if apart else "")
    )


_FOUND: Mapping[Verdict, str] = {
    "holds": "is shown to do",
    "fails": "is shown not to do",
    "not shown": "is not shown to do",
}
_BETTER = "better than a judge that ignores order but cannot distinguish the frames"
_JUDGED = {"pair_accuracy": "pair accuracy", "earlier_closer_accuracy": "where the earlier frame is closer"}


def finding(one: Measured) -> Finding:
    """The verdict on pair accuracy: above that of a judge that cannot distinguish the frames, or not."""
    of = one.of
    rule, bounds, episodes = RULES["knows"], of.intervals or {}, of.figures.n_episodes
    values = {name: getattr(of.figures, name) for name in rule.judged}
    measures = {name: Measure(value, bounds.get(name)) for name, value in values.items() if value is not None}
    verdict, _ = judged(rule, measures, episodes)
    if verdict == "holds" and of.overlap and of.overlap.leaks:
        verdict = "not shown"  # it may have learned these pairs by heart
    shown = " and ".join(f"{_JUDGED[name]} {tables.with_interval(of, name)} %" for name in measures)
    few = f" {episodes} episodes are too few for a verdict." if episodes < FEWEST else ""
    return Finding(verdict, f"{code(one.name)} {_FOUND[verdict]} {_BETTER}: {shown}, against {CHANCE:.0f} %.{few}")


def _state(of: Evaluation) -> str:
    return (
        f"pair accuracy {tables.with_interval(of, 'pair_accuracy')} %, "
        f"forward {tables.figure(of, 'forward_accuracy')} %, backward {tables.figure(of, 'backward_accuracy')} %, "
        f"gap {tables.figure(of, 'gap_points')} points"
    )


def _change(before: float, after: float) -> str:
    moved = round(after - before, 1)
    if not moved:
        return "is unchanged"
    return f"{'rose' if moved > 0 else 'fell'} by {abs(moved):.1f} points"


def _gap_test(one: Measured) -> str:
    found = one.of.p_gap
    if not found:
        return ""
    flips = f"all {found.permutations}" if found.method == "exact" else f"{found.permutations} random"
    return (
        f"If {code(one.name)} treated both orders alike, a gap as large as its {tables.figure(one.of, 'gap_points')} "
        f"points would occur with p = {found.p:.2g} ({flips} sign flips of whole episodes). A large p does not prove "
        "that there is no gap, and no gap does not prove knowledge: a coin has none."
    )


def _warnings(one: Measured) -> list[str]:
    """The other weaknesses of the end of a chain."""
    name, of, figures = code(one.name), one.of, one.of.figures
    bias = _order_bias(of)
    silent = figures.unparsed_rate or figures.neither_rate
    manner = "is not consistent" if silent else "contradicts itself"
    found = [
        (of.overlap and of.overlap.leaks, f"**{overlap_words(of.overlap) if of.overlap else ''}**"),
        (bias, f"{name} still has an order bias: {bias}."),
        (
            figures.position_bias in (0, 100) and not figures.unparsed_rate and one.stage.get("steps"),
            f"{name} names the same picture, img{1 + (figures.position_bias == 100)}, in every answer, as a training "
            "does that never leaves chance level. Where its loss stayed flat, train it with half of the learning rate.",
        ),
        (
            figures.order_consistency < _CONSISTENT,
            f"{name} {manner}: in {100 - figures.order_consistency:.1f} % of the pairs it does not choose the same "
            "frame in both orders (a coin: 50 %)"
            f"{'; an answer that names no picture chooses none' if silent else ''}.",
        ),
        (
            figures.unparsed_rate > 5,
            f"{tables.figure(of, 'unparsed_rate')} % of {name}'s answers could not be read; they count as wrong.",
        ),
        *((True, f"{name}: {line}") for line in lost_words(figures, of.settings)),
        (not of.intervals, f"{name} has no intervals: a single episode shows nothing about others."),
    ]
    return [text for holds, text in found if holds]


def _order_bias(of: Evaluation) -> str:
    """The signs that the order of the pictures decides; "" without any."""
    low, high = says_img2(of)
    if low - _BIAS <= 50 <= high + _BIAS and abs(of.figures.gap_points) <= 2 * _BIAS:
        return ""
    earlier = of.figures.n_closer_earlier
    hides = (
        f"; in {earlier} of {of.figures.n_pairs} pairs the earlier frame is closer, so the gap shows less of the bias"
    )
    share = f"{low:.1f}" if round(low, 1) == round(high, 1) else f"{low:.1f} to {high:.1f}"
    return (
        f"{share} % of its answers that name a picture say img2 (50 is unbiased), its gap is "
        f"{tables.figure(of, 'gap_points')} points{hides if earlier else ''}"
    )


def says_img2(of: Evaluation) -> tuple[float, float]:
    """The least and the greatest share, in percent, of img2 among the answers that name a picture, without ties.

    The two differ only where there are ties: figures do not say how many of the unparsed answers are to ties.
    """
    figures = of.figures
    ties, bias = 100 * figures.n_ties / figures.n_pairs, figures.position_bias
    unparsed = figures.unparsed_rate * (1 + ties / 100)  # of all queries -> of those about the other pairs, 100 %
    read = 100 - figures.neither_rate
    sure = max(bias, (figures.forward_accuracy + figures.backward_accuracy) / 2)  # img2 or right: it names a picture
    most, least = read - max(0, unparsed - ties), max(sure, read - unparsed)
    low, high = (100 * bias / named if named > 1e-6 else 50 for named in (most, least))
    return min(low, high), max(low, high)


def _against_weak_only(stage2: Measured, weak: Measured) -> str:
    better, words = _pair_by_pair(stage2, weak)
    text = (
        f"{code(weak.name)} (weak samples alone, without stage 1) has pair accuracy "
        f"{tables.with_interval(weak.of, 'pair_accuracy')} % against "
        f"{tables.with_interval(stage2.of, 'pair_accuracy')} % of {code(stage2.name)}. {words} "
    )
    return text + (
        "This is one training run of each; another seed may come out differently."
        if better
        else "This evaluation does not show that the CoT stage helps."
    )


def _pair_by_pair(one: Measured, other: Measured) -> tuple[bool, str]:
    """Whether `one` is shown to be better than `other` on the same pairs, and the comparison in words."""
    try:
        found = paired_difference(*same_pairs(one, other))
    except DataError as error:
        return False, f"They cannot be compared pair by pair, so nothing is shown: {error}."
    lead = f"Pair by pair, {code(one.name)} minus {code(other.name)} is {tables.signed(found.points)} points"
    if found.interval is None:
        return False, f"{lead}; a single episode cannot show whether that is more than chance."
    low, high = found.interval
    verdict = "better" if low > 0 else "worse" if high < 0 else "no difference is shown"
    return low > 0, f"{lead} ({tables.OVER_EPISODES}: {tables.bounds(found.interval)}): {verdict}."
