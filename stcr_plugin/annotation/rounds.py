"""One chunk of pairs -> its annotated texts: describe, check, confirm, judge, and ask again for what failed.

A text about one picture is shared by all pairs of the chunk that show it; a pair that was accepted keeps the texts it
was accepted with. Nothing here depends on when a response comes, so the same responses give the same rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from stcr_plugin.annotation.annotation_settings import AnnotateSettings
from stcr_plugin.annotation.forms import Form, JudgeTexts, blind_prompt, in_order
from stcr_plugin.annotation.leak_check import leak
from stcr_plugin.annotation.readings import Reading, read_halves, read_text
from stcr_plugin.annotation.recorded import ClaimCheck
from stcr_plugin.annotation.summary import Role, reason_of
from stcr_plugin.annotation.teachers import Asking, Key
from stcr_plugin.engines.server import ServerEngine
from stcr_plugin.samples.annotations import NOT_CONFIRMED, PASSED, SAME_POSITION, UNCHECKED, Annotation, fails
from stcr_plugin.samples.sentences import missing_in, sentences
from stcr_plugin.scoring.parsing import choice, named_in, why_lost
from stcr_plugin.scoring.yes_no import label_in
from stcr_plugin.types import ORDERS, Choice, Closer, Order, Pair, Prompt, Query, Response, Shown

FAILED = "failed"
"""Verdict where the server gave no reply; the same command asks for it again."""
UNCLEAR = "unclear"
WRONG_ONCE, WRONG, UNDECIDED = "wrong in one order", "wrong in both orders", "undecided"
_LOST = (FAILED, "refused", "cut", "garbled")  # reply of a checking model: not the fault of the text

Judgements = Mapping[Order, Choice | str]
"""Order -> the picture that was named, or why none was."""


@dataclass(frozen=True)
class PrintedPair:
    """A pair with the perceptual hashes of its pictures."""

    pair: Pair
    earlier_fingerprint: str
    later_fingerprint: str


@dataclass(frozen=True)
class Plan:
    """How every chunk is annotated.

    Attributes:
        ties: Whether the build offers "neither".
    """

    settings: AnnotateSettings
    form: Form
    ties: bool

    @property
    def together(self) -> bool:
        return self.settings.together or self.form.describe is None

    def makes(self, check: str) -> bool:
        return check in self.form.checks and self.settings.makes(check)


@dataclass(frozen=True)
class _Text:
    """A text about one picture and its verdicts, in the order of the checks."""

    text: str
    described: str
    leak: str = UNCHECKED
    claims: str = UNCHECKED
    confirmed: str = UNCHECKED

    @property
    def failures(self) -> tuple[str, ...]:
        verdicts = (self.described, self.leak, self.claims, self.confirmed)
        return tuple(one for one in verdicts if fails(one))


@dataclass(eq=False)
class _Subject:
    """What is described at once: a picture, or both of a pair.

    Attributes:
        frames: Episode's frames, as `pictures`.
        pair: None for a picture alone.
        due: Whether it is asked for in this attempt.
        judgements: Of the answers that hold a judgment too.
    """

    episode_id: str
    task: str
    pictures: tuple[str, ...]
    frames: tuple[int, ...]
    sample: int
    pair: Pair | None = None
    due: bool = True
    attempt: int = 0
    texts: tuple[_Text, ...] = ()
    judgements: Judgements = field(default_factory=dict)

    def prompts(self, plan: Plan) -> list[Prompt]:
        """The questions of this attempt: another prompt variant each time, with the reasons of the last failure."""
        variant = self.sample + (self.attempt - 1) * plan.settings.samples
        reasons = tuple(dict.fromkeys(one for text in self.texts for one in text.failures))
        language, form = plan.settings.language, plan.form
        if self.pair is None and form.describe is not None:
            shown = Shown(self.pictures[0])
            return [
                form.describe(shown, self.task, language, episode_id=self.episode_id, variant=variant, reasons=reasons)
            ]
        return [
            form.describe_both(query, language, variant=variant, reasons=reasons, ties=plan.ties)
            for query in self.queries(plan)
        ]

    def queries(self, plan: Plan) -> list[Query]:
        return [Query(self.pair, order) for order in plan.form.described_in(self.pair)] if self.pair else []


@dataclass(eq=False)
class _Candidate:
    """A pair and one sample of texts about it; `sides` names the texts of the earlier and the later picture."""

    of: PrintedPair
    sample: int
    sides: tuple[tuple[_Subject, int], tuple[_Subject, int]]
    texts: tuple[_Text, _Text] = (_Text("", UNCHECKED), _Text("", UNCHECKED))
    judged: str = UNCHECKED
    blind: str = UNCHECKED
    suspect: bool = False
    attempt: int = 0
    open: bool = True

    @property
    def failures(self) -> tuple[str, ...]:
        """Of the pair's own checks."""
        return tuple(one for one in (self.judged, self.blind) if fails(one))

    @property
    def accepted(self) -> bool:
        return not (self.failures or any(text.failures for text in self.texts))

    @property
    def hopeless(self) -> bool:
        """Whether a check had no usable reply, so that another text would not help."""
        checks = [*self.failures, *(text.confirmed for text in self.texts)]
        return any(reason_of(one) in _LOST for one in checks) or any(FAILED in text.failures for text in self.texts)

    def now(self) -> tuple[_Text, _Text]:
        earlier, later = (subject.texts[number] for subject, number in self.sides)
        return earlier, later


def annotated(pairs: Sequence[PrintedPair], plan: Plan, asking: Asking, claim_check: ClaimCheck) -> list[Annotation]:
    """The rows of a chunk: one per pair and sample, in the order of `pairs`.

    Args:
        pairs: Of whole episodes.
        plan: How they are annotated.
        asking: Who is asked.
        claim_check: Holds a text against the recorded state.
    """
    candidates = _candidates(pairs, plan)
    subjects = list(dict.fromkeys(subject for one in candidates for subject, _ in one.sides))
    for attempt in range(1, plan.settings.tries + 1):
        due = [subject for subject in subjects if subject.due]
        if not due:
            break
        _describe(due, plan, asking, claim_check=claim_check)
        still_open = [one for one in candidates if one.open]
        _confirm_and_judge(due, still_open, plan, asking=asking)
        for subject in due:
            subject.due = False
        for one in still_open:
            one.attempt = max(subject.attempt for subject, _ in one.sides)
            one.open = not (one.accepted or one.hopeless)
            if one.open and attempt < plan.settings.tries:
                _ask_again(one)
    return [_row(one, plan, asking) for one in candidates]


def _candidates(pairs: Sequence[PrintedPair], plan: Plan) -> list[_Candidate]:
    subjects: dict[tuple[str, ...] | tuple[str, str, int], _Subject] = {}
    found = []
    for one in pairs:
        pair = one.pair
        shown = ((pair.earlier_image, pair.earlier), (pair.later_image, pair.later))
        for sample in range(plan.settings.samples):
            if plan.together:
                images, frames = (pair.earlier_image, pair.later_image), (pair.earlier, pair.later)
                both = _Subject(pair.episode_id, pair.task, images, frames, sample=sample, pair=pair)
                found.append(_Candidate(one, sample, ((both, 0), (both, 1))))
                continue
            earlier, later = (
                subjects.setdefault(
                    (image, pair.task, sample), _Subject(pair.episode_id, pair.task, (image,), (frame,), sample=sample)
                )
                for image, frame in shown
            )
            found.append(_Candidate(one, sample, ((earlier, 0), (later, 0))))
    return found


def _ask_again(one: _Candidate) -> None:
    """Mark what has to be described again: the texts that failed, or both where the pair did."""
    for subject, number in one.sides:
        if subject.texts[number].failures or not any(text.failures for text in one.texts):
            subject.due = True


# ---- describe, and the checks that ask nobody ----


def _describe(due: Sequence[_Subject], plan: Plan, asking: Asking, *, claim_check: ClaimCheck) -> None:
    prompts: dict[_Subject, list[Prompt]] = {}
    for subject in due:
        subject.attempt += 1
        prompts[subject] = subject.prompts(plan)
    found = asking.ask({"describer": [prompt for mine in prompts.values() for prompt in mine]})
    for subject, mine in prompts.items():
        responses = [_of("describer", prompt, found) for prompt in mine]
        subject.texts = tuple(
            _checked(reading, subject.episode_id, frame, plan=plan, claim_check=claim_check)
            for reading, frame in zip(_readings(subject, plan, mine, responses=responses), subject.frames, strict=True)
        )
        subject.judgements = {
            query.order: _choice(prompt, response)
            for query, prompt, response in zip(subject.queries(plan), mine, responses, strict=False)
        }


def _readings(
    subject: _Subject, plan: Plan, prompts: Sequence[Prompt], *, responses: Sequence[Response]
) -> tuple[Reading, ...]:
    """What was written of the subject's pictures, of the earlier one first."""
    if subject.pair is None:
        return (read_text(responses[0]),)
    halves = read_halves(responses[0], prompts[0])
    return halves if subject.queries(plan)[0].order == "forward" else halves[::-1]


def _checked(reading: Reading, episode_id: str, frame: int, *, plan: Plan, claim_check: ClaimCheck) -> _Text:
    if reading.described != PASSED:
        return _Text(reading.text, reading.described)
    found = _Text(reading.text, PASSED)
    if plan.makes("leak"):
        found = replace(found, leak=leak(reading.text))
    if plan.makes("claims"):
        found = replace(found, claims=claim_check(reading.text, episode_id, frame))
    return found


# ---- the checks by models ----


def _confirm_and_judge(
    due: Sequence[_Subject], candidates: Sequence[_Candidate], plan: Plan, *, asking: Asking
) -> None:
    """Ask about all texts that passed so far, with one call per model."""
    wanted: dict[Role, list[Prompt]] = defaultdict(list)
    confirms = {
        (subject, number): _confirm_prompts(subject, number, plan)
        for subject in due
        for number, text in enumerate(subject.texts)
        if plan.makes("confirmed") and not text.failures
    }
    for prompts in confirms.values():
        wanted["verifier"] += prompts
    sound = [one for one in candidates if not any(text.failures for text in one.now())]
    judges = {one: _judge_prompts(one, plan) for one in sound if plan.makes("judged") and plan.form.judge}
    blinds = {one: _blind_prompts(one, plan, asking) for one in sound if plan.makes("blind")}
    wanted["describer"] += [prompt for prompts in judges.values() for prompt in prompts.values()]
    wanted["verifier"] += [prompt for prompts in blinds.values() for prompt in prompts.values()]
    found = asking.ask(wanted)
    for (subject, number), prompts in confirms.items():
        verdict = _confirmed(subject, number, plan, prompts=prompts, found=found)
        texts = list(subject.texts)
        texts[number] = replace(texts[number], confirmed=verdict)
        subject.texts = tuple(texts)
    for one in candidates:
        pair, one.texts = one.of.pair, one.now()
        judgements: Judgements = {}
        if one in judges:
            judgements = {order: _answer("describer", prompt, found) for order, prompt in judges[one].items()}
        elif one in sound and plan.makes("judged"):
            judgements = one.sides[0][0].judgements
        one.judged = SAME_POSITION if _led_by_order(judgements) else _verdict(pair, judgements)
        one.suspect = _suspect(pair, judgements)
        read = {order: _answer("verifier", prompt, found) for order, prompt in blinds.get(one, {}).items()}
        one.blind = _verdict(pair, read)


def _confirm_prompts(subject: _Subject, number: int, plan: Plan) -> list[Prompt]:
    """One question per sentence; of a form without such a question, to describe the pictures as was asked before."""
    if plan.form.confirm is None:
        return subject.prompts(plan)[:1]
    shown, text = Shown(subject.pictures[number]), subject.texts[number].text
    return [
        plan.form.confirm(shown, sentence, plan.settings.language, episode_id=subject.episode_id)
        for sentence in sentences(text)
    ]


def _confirmed(
    subject: _Subject, number: int, plan: Plan, *, prompts: Sequence[Prompt], found: Mapping[Key, Response]
) -> str:
    text = subject.texts[number].text
    responses = [_of("verifier", prompt, found) for prompt in prompts]
    if plan.form.confirm is None:
        own = _readings(subject, plan, prompts, responses=responses)[number]
        if own.described != PASSED:
            return own.described
        missing = missing_in(text, own.text)
        return f"{NOT_CONFIRMED}: {missing[0]}" if missing else PASSED
    denied, unread = "", ""
    for sentence, prompt, response in zip(sentences(text), prompts, responses, strict=True):
        yes, no = prompt.names[:2]
        label = label_in(response, (yes, no))
        if label is None:
            unread = unread or why_lost(response) or f"{UNCLEAR}: {sentence}"
        elif label == "no":
            denied = denied or f"{NOT_CONFIRMED}: {sentence}"
    return denied or unread or PASSED


def _judge_prompts(one: _Candidate, plan: Plan) -> dict[Order, Prompt]:
    assert plan.form.judge is not None
    return _in_both_orders(one, plan, plan.form.judge)


def _blind_prompts(one: _Candidate, plan: Plan, asking: Asking) -> dict[Order, Prompt]:
    served = isinstance(asking.teachers.verifier.engine, ServerEngine)  # it cannot continue what is begun for it
    return _in_both_orders(one, plan, blind_prompt if plan.form.blind_begins and served else plan.form.blind)


def _in_both_orders(one: _Candidate, plan: Plan, make: JudgeTexts) -> dict[Order, Prompt]:
    earlier, later = one.now()
    prompts: dict[Order, Prompt] = {}
    for order in ORDERS:
        query = Query(one.of.pair, order)
        halves = in_order(query, (earlier.text, later.text))
        prompts[order] = make(query, halves, plan.settings.language, ties=plan.ties)
    return prompts


def _of(role: Role, prompt: Prompt, found: Mapping[Key, Response]) -> Response:
    return found[role, prompt.item, prompt.order]


def _answer(role: Role, prompt: Prompt, found: Mapping[Key, Response]) -> Choice | str:
    return _choice(prompt, _of(role, prompt, found))


def _choice(prompt: Prompt, response: Response) -> Choice | str:
    """The picture that a response names, else why it names none."""
    return choice(named_in(response, prompt.names), prompt.names) or why_lost(response) or UNCLEAR


def _verdict(pair: Pair, judgements: Judgements) -> str:
    """Whether both orders were answered as the label has it; the first of the reasons why not."""
    if not judgements:
        return UNCHECKED
    wrong = []
    for order in ORDERS:
        given = judgements.get(order, UNCLEAR)
        if given not in ("img1", "img2", "neither"):
            return given
        if given != Query(pair, order).answer:
            wrong.append(given)
    if wrong and {*wrong} == {"neither"}:
        return UNDECIDED
    return (PASSED, WRONG_ONCE, WRONG)[len(wrong)]


def _led_by_order(judgements: Judgements) -> bool:
    """Whether the same position was named in both orders."""
    named = [judgements.get(order) for order in ORDERS]
    return named[0] == named[1] and named[0] in ("img1", "img2")


def _suspect(pair: Pair, judgements: Judgements) -> bool:
    """Whether both orders name the same frame, and not the label's."""
    frames = {_frame(order, judgements.get(order, "")) for order in ORDERS} if judgements else set()
    return len(frames) == 1 and not frames & {None, pair.closer}


def _frame(order: Order, given: Choice | str) -> Closer | None:
    if given == "neither":
        return "neither"
    if given not in ("img1", "img2"):
        return None
    return "later" if (given == "img2") == (order == "forward") else "earlier"


# ---- rows ----


def _row(one: _Candidate, plan: Plan, asking: Asking) -> Annotation:
    pair, (earlier, later) = one.of.pair, one.texts
    return Annotation(
        pair_id=pair.pair_id,
        episode_id=pair.episode_id,
        split=pair.split,
        task=pair.task,
        earlier=pair.earlier,
        later=pair.later,
        closer=pair.closer,
        earlier_image=pair.earlier_image,
        later_image=pair.later_image,
        earlier_fingerprint=one.of.earlier_fingerprint,
        later_fingerprint=one.of.later_fingerprint,
        language=plan.settings.language,
        sample=one.sample,
        attempt=one.attempt,
        earlier_text=earlier.text,
        later_text=later.text,
        earlier_described=earlier.described,
        later_described=later.described,
        earlier_leak=earlier.leak,
        later_leak=later.leak,
        earlier_claims=earlier.claims,
        later_claims=later.claims,
        earlier_confirmed=earlier.confirmed,
        later_confirmed=later.confirmed,
        judged=one.judged,
        blind=one.blind,
        accepted=one.accepted,
        suspect_label=one.suspect,
        describer=asking.teachers.describer.name,
        verifier=asking.teachers.verifier.name,
    )
