"""Simulated teachers behind a real HTTP server: they look at the pixels of the tabletop pictures that they are sent.

    python tests/simulated_teacher.py REGISTRY BUILD SPLIT TEACHER [SECONDS]

serves one on loopback, prints its address, and answers each request after SECONDS. A teacher knows the true state of a
picture by the digest of its decoded pixels, and what it is asked for by the templates of
annotation/prompts/general.yaml. It answers the same request in the same way, as a model at temperature 0 does.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from answering_server import Counts, Reply, answering
from simulated_texts import DECOYS, FILLERS, LEAKS, REFUSALS, VACUOUS, Language, Seen, chosen, done, drawn

import stcr_plugin
from stcr_plugin.config import read_yaml
from stcr_plugin.engines.picture_loading import open_picture
from stcr_plugin.registry.ground_truth import config_of, source_of
from stcr_plugin.registry.manifest import read_manifest, read_pairs
from stcr_plugin.samples.cot import load_phrases

ROUNDS = ("describe", "both", "judge", "blind", "confirm")
TOKENS_OF_A_PICTURE, LETTERS_OF_A_TOKEN = 64, 4
_QUESTIONS = Path(stcr_plugin.__file__).parent / "annotation/prompts/general.yaml"


class World:
    """The pictures of one split of a tabletop build, by their pixels."""

    def __init__(self, registry: Path, dataset: str, split: str) -> None:
        pairs = read_pairs(registry, dataset, split)
        source, episodes = source_of(config_of(read_manifest(registry, dataset)), {pair.episode_id for pair in pairs})
        self.language = Language(source, load_phrases("tabletop")["en"])  # type: ignore[arg-type]
        self.seen: dict[tuple[str, int], Seen] = {}  # frames of equal pixels are one
        self._by_pixels: dict[str, Seen] = {}
        self._by_file: dict[bytes, Seen] = {}
        states = {name: source.states(episode) for name, episode in episodes.items()}
        for pair in pairs:
            for frame, image in ((pair.earlier, pair.earlier_image), (pair.later, pair.later_image)):
                if (pair.episode_id, frame) not in self.seen:
                    named = re.search(r"(\w+ \w+) (?:on|to|off) the (\w+ pad)", pair.task)
                    thing, pad = (named[1], named[2]) if named else ("object", "pad")
                    thing = thing.removeprefix("the ")
                    one = Seen(pair.episode_id, frame, (states[pair.episode_id] or ())[frame], thing, pad)
                    pixels = _digest(open_picture(registry, image, pair.pair_id))
                    self.seen[pair.episode_id, frame] = self._by_pixels.setdefault(pixels, one)

    def look(self, url: str) -> Seen | None:
        """What the picture of a data URI shows; None for one of another build."""
        from PIL import Image

        key = hashlib.sha256(url.encode()).digest()
        if key not in self._by_file:
            assert url.startswith("data:image/png;base64,"), url[:40]
            with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
                found = self._by_pixels.get(_digest(picture))
            if found is None:
                return None
            self._by_file[key] = found
        return self._by_file[key]


def _digest(picture: Any) -> str:
    pixels = np.asarray(picture.convert("RGB"))
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


# ---- what is asked for ----


@dataclass(frozen=True)
class Asked:
    """A request, read. `halves`: what it says of each picture; `sentence`: what is to be checked."""

    round: str
    question: str
    seen: tuple[Seen, ...]
    halves: tuple[str, str] = ("", "")
    sentence: str = ""
    neither: bool = False


class Reader:
    """Requests -> what they ask for."""

    def __init__(self, world: World, language: str = "en") -> None:
        self.world, self.forms = world, read_yaml(_QUESTIONS)[language]

    def asked(self, body: Mapping[str, Any]) -> Asked:
        parts = body["messages"][0]["content"]
        seen = tuple(self.world.look(part["image_url"]["url"]) for part in parts if part["type"] == "image_url")
        assert None not in seen, "a picture that is not in the build was sent"
        question = str(next(part["text"] for part in reversed(parts) if part["type"] == "text")).strip()
        for name, pattern in self._patterns:
            if found := pattern.search(question):
                fields = found.groupdict()
                halves = re.search(r"img1\W+(.*?)\s*img2\W+(.*)", fields.get("texts") or "", re.DOTALL)
                return Asked(
                    name,
                    question,
                    seen,  # type: ignore[arg-type]
                    halves=(halves[1], halves[2]) if halves else ("", ""),
                    sentence=fields.get("sentence") or "",
                    neither=self.forms["neither"].strip() in question,
                )
        raise AssertionError(f"asked in no known form: {question}")

    @cached_property
    def _patterns(self) -> list[tuple[str, re.Pattern[str]]]:
        made = []
        for name in ROUNDS:
            for template in self.forms[name]:
                pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.*?)", re.escape(template.strip()))
                made.append((name, re.compile(pattern, re.DOTALL)))
        return made


# ---- teachers ----

Style = Literal["free", "phrases"]


@dataclass(frozen=True)
class Teacher:
    """What a teacher does. Shares are of texts, but `lies`, which is of claims.

    Attributes:
        style: Of its texts: free English, or the phrases of the build's claims.
        leaks: Texts that also speak of time, order, progress or the other picture.
        lies: Claims that are false.
        believes: It lies of a picture in the same way each time, and judges by what it believes.
        vacuous: Its texts are true and say nothing.
        decoys: Its texts hold harmless sentences with words that can also speak of order.
        biased: It names the second picture; of two pictures it describes the one with less done first.
        refuses: Requests that are refused.
        cut: Texts that end in the middle.
    """

    style: Style = "free"
    leaks: float = 0.0
    lies: float = 0.0
    believes: bool = False
    vacuous: bool = False
    decoys: bool = False
    biased: bool = False
    refuses: float = 0.0
    cut: float = 0.0


TEACHERS: Mapping[str, Teacher] = {
    "truthful": Teacher(),
    "truthful_phrases": Teacher(style="phrases"),
    "decoys": Teacher(decoys=True),
    "biased": Teacher(biased=True),
    "leaking": Teacher(leaks=1.0),
    "lying": Teacher(lies=0.2),
    "lying_phrases": Teacher(style="phrases", lies=0.2),
    "believing": Teacher(lies=0.2, believes=True),
    "vacuous": Teacher(vacuous=True),
    "failing": Teacher(refuses=0.1, cut=0.1),
}


@dataclass(frozen=True)
class Spoken:
    """What is wrong with a text that a teacher gave. `vacuous`: true, and without a claim."""

    false: bool = False
    leaks: bool = False
    vacuous: bool = False
    cut: bool = False
    refused: bool = False

    @property
    def true(self) -> bool:
        """Whether nothing is wrong with it; a text without a claim is true as well."""
        return not (self.false or self.leaks or self.cut or self.refused)


def plain(text: str) -> str:
    """A text as it is compared: without doubled white space, capitals and an end mark."""
    return " ".join(text.casefold().split()).rstrip(".。!")


@dataclass
class Describer:
    """Answers for a teacher; `spoken` says what is wrong with each text that it gave of a picture.

    `first` says it of the first response about a picture, of which there may be no text.
    """

    teacher: Teacher
    world: World
    spoken: dict[tuple[str, int, str], Spoken] = field(default_factory=dict)
    first: dict[tuple[str, int], Spoken] = field(default_factory=dict)
    _last: Spoken = field(default_factory=lambda: Spoken())

    def answer(self, asked: Asked) -> Reply:
        said = self._said(asked)
        for one in asked.seen if asked.round == "describe" else ():
            self.first.setdefault((one.episode_id, one.frame), self._last)
        return said

    def _said(self, asked: Asked) -> Reply:
        teacher, key = self.teacher, (asked.question, *((one.episode_id, one.frame) for one in asked.seen))
        if drawn("refuses", *key) < teacher.refuses:
            refusal = chosen(REFUSALS, *key)
            for one in asked.seen:
                self._note(one, refusal, Spoken(refused=True))
            kind = int(3 * drawn("kind", *key))
            return (Reply(refusal), Reply("", refusal=refusal), Reply("", finish="content_filter"))[kind]
        if asked.round == "describe":
            return self._finished(self._text(asked.seen[0], asked.seen[0], *key), asked.seen, *key)
        if asked.round == "both":
            about = sorted(asked.seen, key=_progress) if teacher.biased else asked.seen
            one, two = (self._text(*pair, *key) for pair in zip(asked.seen, about, strict=True))
            return self._finished(f"img1: {one}\nimg2: {two}", asked.seen, *key)
        return Reply(f"closer to completion: {self._judged(asked, key)}")

    def _judged(self, asked: Asked, key: Sequence[object]) -> str:
        if self.teacher.biased:
            return "img2"
        if self.teacher.believes:
            return compared(self.world.language, asked, key)
        one, two = map(_progress, asked.seen)
        return "img2" if two > one else "img1"

    def _text(self, shown: Seen, about: Seen, *key: object) -> str:
        """A text of the picture `shown`, which is about another one where the teacher mixes them up."""
        teacher, language = self.teacher, self.world.language
        draws = (about.episode_id, about.frame) if teacher.believes else key
        claims = language.lied(about, teacher.lies, *draws) if teacher.lies else language.claims(about)
        if teacher.vacuous:
            text = " ".join(dict.fromkeys((chosen(VACUOUS, *key), chosen(FILLERS, *key))))
        elif teacher.style == "phrases":
            text = language.said(claims)
        else:
            more = DECOYS if teacher.decoys else FILLERS
            text = f"{language.free(about, claims, *key)} {chosen(more, *key)}"
        leaks = drawn("leaks", *key) < teacher.leaks
        if leaks:
            text = f"{text} {chosen([one for kind in LEAKS.values() for one in kind], *key)}"
        self._note(shown, text, Spoken(not language.true(text, shown), leaks=leaks, vacuous=teacher.vacuous))
        return text

    def _finished(self, text: str, seen: Sequence[Seen], *key: object) -> Reply:
        if drawn("cut", *key) >= self.teacher.cut:
            return Reply(text)
        text = text[: int(len(text) * (0.3 + 0.6 * drawn("where", *key)))].rstrip()
        for one in seen:
            self._note(one, text, Spoken(cut=True))
        return Reply(text, finish="length")

    def _note(self, seen: Seen, text: str, spoken: Spoken) -> None:
        self.spoken[seen.episode_id, seen.frame, plain(text)] = self._last = spoken


@dataclass(frozen=True)
class Verifier:
    """The second model: it looks, and errs in a share `errs` of its yes and no.

    What it cannot check, such as a sentence about time, it confirms: so it gives no help to the check of leaks. Without
    a picture it compares what the texts claim, without errors, and guesses where they do not decide.
    """

    world: World
    errs: float = 0.05

    def answer(self, asked: Asked) -> Reply:
        key = (asked.question, *((one.episode_id, one.frame) for one in asked.seen))
        if asked.round == "confirm":
            true = self.world.language.true(asked.sentence, asked.seen[0])
            return Reply("yes" if true != (drawn("errs", *key) < self.errs) else "no")
        assert not asked.seen, "the blind judge was shown a picture"
        return Reply(f"closer to completion: {compared(self.world.language, asked, key)}")


def compared(language: Language, asked: Asked, key: Sequence[object]) -> str:
    """The answer by what the texts claim."""
    one, two = (done(language.read(half)) for half in asked.halves)
    if one is None or two is None or one == two:
        return "neither" if asked.neither else f"img{1 + int(2 * drawn('guess', *key))}"
    return "img2" if two > one else "img1"


def _progress(seen: Seen) -> float:
    return float(seen.state["progress"])


# ---- the server ----


class Model:
    """Both models behind one address: `teacher` describes and judges, `verifier` confirms and judges blind."""

    def __init__(self, world: World, teacher: Teacher, errs: float = 0.05) -> None:
        self.describer, self.verifier, self.reader = Describer(teacher, world), Verifier(world, errs), Reader(world)

    def answer(self, body: Mapping[str, Any]) -> Reply:
        asked = self.reader.asked(body)
        second = asked.round in ("confirm", "blind")
        said = (self.verifier if second else self.describer).answer(asked)
        tokens = TOKENS_OF_A_PICTURE * len(asked.seen) + len(asked.question) // LETTERS_OF_A_TOKEN
        answered = -(-len(said.text) // LETTERS_OF_A_TOKEN)
        return Reply(said.text, said.finish, said.refusal, asked.round, tokens, answered)


@contextmanager
def teaching(
    world: World, teacher: Teacher, errs: float = 0.05, latency: float = 0.0
) -> Iterator[tuple[Counts, Model]]:
    """A server with a teacher and a second model; its models are named `teacher` and `verifier` or anything else."""
    model = Model(world, teacher, errs)
    with answering(model.answer, latency) as counts:
        yield counts, model


if __name__ == "__main__":
    registry, dataset, split, name, *seconds = sys.argv[1:]
    with teaching(
        World(Path(registry), dataset, split), TEACHERS[name], latency=float(seconds[0]) if seconds else 0.0
    ) as (served, _):
        print(served.url, flush=True)
        sys.stdin.read()  # until whoever started it closes the pipe
