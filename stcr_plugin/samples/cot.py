"""CoT samples: what each picture shows, written from its true state, then the judgment; and the check of both."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.config import from_mapping, nearest, read_yaml, settings
from stcr_plugin.episodes.source_table import BUILT_IN, find_kind
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.samples.questions import PROMPTS, prompt
from stcr_plugin.samples.weak import answer_line
from stcr_plugin.types import Claim, EpisodeSource, GivenPair, Query, Sample, State

START, END = "spatial details: img1: ", "."
_SLOT = re.compile(r"\{(part|value)\}")


@settings
class Phrases:
    """How claims are written in one language, and how they are read back.

    A value that reads as an integer is one.

    Attributes:
        separator: Between two claims; inside of the quotation marks “ and ” it separates nothing.
        claims: Family -> phrase with `{value}`, and `{part}` for claims named "family:part".
        words: Translation of values and parts; one that is absent is used as it is.
    """

    separator: str
    claims: dict[str, str]
    words: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.separator.strip():
            raise ValueError("`separator` must hold a character other than a space")
        phrases = self.claims.values()
        wrong = [phrase for phrase in phrases if phrase.count("{value}") != 1 or phrase.count("{part}") > 1]
        if wrong or not phrases:
            raise ValueError(
                f"every phrase under `claims` holds {{value}} once and {{part}} at most once; wrong: {wrong}"
            )
        words = list(self.words.values())
        if twice := sorted({word for word in words if words.count(word) > 1}):
            raise ValueError(f"`words` has the same word for two things, so it cannot be read back: {twice}")

    def say(self, claims: Sequence[Claim]) -> str:
        """The claims in words. Raises DataError for none at all and for one that has no phrase."""
        if not claims:
            raise DataError("claims", "the state of a frame gives no claim to describe it by", "use kind: weak")
        return self.separator.join(self._phrase(claim) for claim in claims)

    def read(self, text: str) -> tuple[Claim, ...]:
        """The claims that `text` states. Raises DataError for a piece that fits no phrase, or several alike."""
        return tuple(self._claim(piece) for piece in self._pieces(text))

    def read_pieces(self, text: str) -> tuple[Claim | None, ...]:
        """As `read`, with None for each piece that fits no phrase, or several alike."""

        def claim(piece: str) -> Claim | None:
            try:
                return self._claim(piece.strip())
            except DataError:
                return None

        return tuple(claim(piece) for piece in self._pieces(text) if piece.strip())

    def _pieces(self, text: str) -> list[str]:
        if "”" not in text:
            return text.split(self.separator)
        return re.split(rf"{re.escape(self.separator)}(?![^“]*”)", text)

    def _phrase(self, claim: Claim) -> str:
        family, _, part = claim.name.partition(":")
        phrase = self.claims.get(family)
        if phrase is None or bool(part) != ("{part}" in phrase):
            raise DataError("claims", f"no phrase for the claim {claim.name!r}, {nearest(family, list(self.claims))}")
        words = {name: self.words.get(word, word) for name, word in (("part", part), ("value", str(claim.value)))}
        return _SLOT.sub(lambda match: words[match[1]], phrase)

    def _claim(self, piece: str) -> Claim:
        # "gripper open" fits "gripper {value}" and "{value}": the phrase with the most fixed text wins.
        found = [(family, match) for family, phrase in self._patterns.items() if (match := phrase.fullmatch(piece))]
        most = max((self._fixed[family] for family, _ in found), default=0)
        meant = [(family, match) for family, match in found if self._fixed[family] == most]
        if len(meant) != 1:
            names = " and as ".join(family for family, _ in meant)
            raise DataError("claims", f"{piece!r} can be read as {names or 'no claim that has a phrase'}")
        family, match = meant[0]
        groups = {key: self._meanings.get(word, word) for key, word in match.groupdict().items()}
        value = groups["value"]
        name = f"{family}:{groups['part']}" if "part" in groups else family
        return Claim(name, int(value) if re.fullmatch(r"-?[0-9]+", value) else value)

    @cached_property
    def _fixed(self) -> dict[str, int]:
        return {family: len(_SLOT.sub("", phrase)) for family, phrase in self.claims.items()}

    @cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        slots = {re.escape(f"{{{name}}}"): f"(?P<{name}>.+?)" for name in ("value", "part")}
        patterns = {}
        for family, phrase in self.claims.items():
            pattern = re.escape(phrase)
            for slot, group in slots.items():
                pattern = pattern.replace(slot, group)
            patterns[family] = re.compile(pattern)
        return patterns

    @cached_property
    def _meanings(self) -> dict[str, str]:
        return {word: meaning for meaning, word in self.words.items()}


def load_phrases(source_kind: str) -> dict[str, Phrases]:
    """How the claims of one kind of source are written: language -> phrases.

    Built-in kinds have them in prompts/claims_<kind>.yaml; an installed one brings them with it (`SourceKind.claims`).

    Raises:
        ConfigError: Where the kind has none, so that its pairs can only become weak samples.
    """
    claims = _claims(source_kind)
    if claims is None:
        where, problem = (
            f"source kind {source_kind!r}",
            "has no claim texts, so no Chain-of-Thought text can be written",
        )
        fix = "use kind: weak" if source_kind in BUILT_IN else "set `claims` in its SourceKind, or use kind: weak"
        raise ConfigError(where, problem, fix)
    if isinstance(claims, Path):
        return _in_file(claims)
    return _of_languages(claims, f"the claim texts of source kind {source_kind!r}")


@cache  # of a package, so it stays as it is
def _in_file(path: Path) -> dict[str, Phrases]:
    return _of_languages(read_yaml(path), str(path))


def _of_languages(claims: Mapping[str, Any], where: str) -> dict[str, Phrases]:
    for name, values in claims.items():
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"{where}, {name}", "is not a mapping", "write `separator`, `claims` and `words` under it"
            )
    return {name: from_mapping(Phrases, values, f"{where}, {name}") for name, values in claims.items()}


def claim_reader(kind: str, phrases: Phrases, known: Sequence[Claim]) -> Callable[[str], list[Claim | None]]:
    """Reads the claims of a text; None for a piece whose value no claim has, such as any other words as a phase.

    Args:
        kind: Of the source.
        phrases: Of the text's language.
        known: Claims of some states; the translated words are known too.
    """
    values = {(claim.name.partition(":")[0], claim.value) for claim in known}
    numbers = {family for family, value in values if isinstance(value, int)}
    words = {word for one in load_phrases(kind).values() for word in one.words}

    def is_known(claim: Claim) -> bool:
        family = claim.name.partition(":")[0]
        if isinstance(claim.value, int):
            return family in numbers
        return (family, claim.value) in values or (family not in numbers and claim.value in words)

    return lambda text: [claim if claim and is_known(claim) else None for claim in phrases.read_pieces(text)]


def claims_digest(source_kind: str) -> str | None:
    """SHA-256 of the claim texts of one kind of source, None where it has none."""
    claims = _claims(source_kind)
    if isinstance(claims, Path):
        return artefacts.sha256(claims) if claims.is_file() else None
    return None if claims is None else artefacts.digest(claims)


def _claims(source_kind: str) -> Path | Mapping[str, Any] | None:
    if (own := find_kind(source_kind).claims) or source_kind not in BUILT_IN:
        return own
    path = PROMPTS / f"claims_{source_kind}.yaml"
    return path if path.is_file() else None


def cot_sample(
    query: Query,
    states: tuple[State, State],
    source: EpisodeSource,
    *,
    phrases: Phrases,
    language: str,
    seed: int,
    ties: bool = False,
) -> Sample:
    """Describe both pictures and judge.

    Args:
        query: Two frames in one order.
        states: The true states of img1 and img2.
        source: Their source, which knows what may be said of a state.
        phrases: How that is written.
        language: Of the question.
        seed: Of the build, which draws the variant of the question.
        ties: Offer "neither" in the question.

    Raises:
        DataError: Where a state gives no claim, or one that has no phrase.
    """
    try:
        one, two = (phrases.say(source.claims(state)) for state in states)
    except DataError as error:
        raise DataError(f"pair {query.pair.pair_id}, {error.where}", error.problem, error.fix) from None
    return _sample(query, (one, two), language, seed=seed, ties=ties)


def half(text: str) -> str:
    """A description as a target text holds it: in one line, without the full stop that the target has itself."""
    return " ".join(text.split()).rstrip(".。")


def halves_of(target: str) -> tuple[str, str] | None:
    """The descriptions of img1 and img2 in a target text; None where it is not one that describes both."""
    halves = details_of(target, 2)
    return (halves[0], halves[1]) if halves else None


def details(texts: Sequence[str]) -> str:
    """The first line of a target text, which describes img1, img2, ... by `texts`."""
    return "spatial details: " + " ".join(f"img{number}: {text}." for number, text in enumerate(texts, 1))


def details_of(target: str, count: int) -> tuple[str, ...] | None:
    """The descriptions of img1 to `count` in a target text; None where it does not describe each of them once."""
    written = target.rpartition("\n")[0]
    if not (written.startswith(START) and written.endswith(END)):
        return None
    parts = re.split(rf"\. img([2-{count}]): ", written.removeprefix(START).removesuffix(END))
    if parts[1::2] != [str(number) for number in range(2, count + 1)]:
        return None
    return tuple(parts[::2])


def published_halves(given: GivenPair) -> tuple[str, str]:
    """The published descriptions of the earlier and of the later picture, "" where there is none."""
    earlier, later = given.descriptions
    return earlier.strip().rstrip(".。"), later.strip().rstrip(".。")


def given_sample(query: Query, texts: tuple[str, str], language: str, *, seed: int, ties: bool = False) -> Sample:
    """A CoT sample of texts that come with the pair, published or annotated, not from its state.

    Args:
        query: Two frames in one order.
        texts: The descriptions of the earlier and of the later picture.
        language: Of the question.
        seed: Of the build, which draws the variant of the question.
        ties: Offer "neither" in the question.

    Raises:
        DataError: Where a picture has no description.
    """
    one, two = texts if query.order == "forward" else texts[::-1]
    if not one or not two:
        raise DataError(f"pair {query.pair.pair_id}", "has no description of each picture", "use kind: weak")
    return _sample(query, (one, two), language, seed=seed, ties=ties)


def _sample(query: Query, texts: tuple[str, str], language: str, *, seed: int, ties: bool) -> Sample:
    """The sample whose target describes img1 and img2 by `texts`."""
    target = f"{details(texts)}\n{answer_line(query)}"
    return Sample(query, "cot", prompt(query, "cot", language, seed=seed, ties=ties), target=target)


def check_target(
    target: str, query: Query, states: tuple[State, State], *, source: EpisodeSource, phrases: Phrases
) -> int:
    """Read a finished target text back and compare it with the truth.

    Every claim must hold for its picture's state (by `source.holds`) and the judgment must be the query's answer.

    Returns:
        How many claims were checked.

    Raises:
        DataError: Naming the pair, the order and the first statement that cannot be read or is false.
    """
    where = f"pair {query.pair.pair_id}, {query.order}"
    halves, judgment = halves_of(target), target.rpartition("\n")[2]
    if halves is None:
        raise DataError(where, f"the target text does not read 'spatial details: img1: ... img2: ...': {target!r}")
    checked = check_details(halves, states, source=source, phrases=phrases, where=where)
    if judgment != answer_line(query):
        raise DataError(where, f"the text ends with {judgment!r} where {answer_line(query)!r} is true")
    return checked


def check_details(
    texts: Sequence[str], states: Sequence[State], *, source: EpisodeSource, phrases: Phrases, where: str
) -> int:
    """Read the descriptions of img1, img2, ... back and hold every claim against its picture's state.

    Returns:
        How many claims were checked.

    Raises:
        DataError: Behind `where`, with the first statement that cannot be read or is false.
    """
    return sum(
        check_claims(text, state, source, phrases=phrases, where=f"{where}, img{number}")
        for number, (text, state) in enumerate(zip(texts, states, strict=True), 1)
    )


def check_claims(text: str, state: State, source: EpisodeSource, *, phrases: Phrases, where: str) -> int:
    """Read a description back; how many claims it states, each of which holds for `state`.

    Raises:
        DataError: Naming `where` and the first statement that cannot be read or is false.
    """
    try:
        claims = phrases.read(text)
    except DataError as error:
        raise DataError(where, error.problem, "fix the claim texts") from None
    for claim in claims:
        if not source.holds(claim, state):
            raise DataError(where, f"the text states {claim.name} = {claim.value!r}, which is false")
    return len(claims)
