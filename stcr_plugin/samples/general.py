"""General ability on the simulator: yes/no questions about one picture, used by the guard and by replay in training.

After POPE (Li et al. 2023, arXiv 2305.10355): half of the questions name a thing in the picture, half one that is not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from stcr_plugin import artefacts
from stcr_plugin.config import nearest, read_yaml
from stcr_plugin.errors import ConfigError
from stcr_plugin.samples.questions import PROMPTS
from stcr_plugin.types import Episode, Pair

if TYPE_CHECKING:
    from stcr_plugin.episodes.tabletop import TabletopSource, Visible

Label = Literal["yes", "no"]
Thing = tuple[str, str]
"""Colour and shape."""

YESNO_FILE = PROMPTS / "yesno.yaml"
KINDS = ("random", "popular", "adversarial")
SEEN_SHARE, SEEN_PIXELS = 0.6, 16  # of a thing that counts as present: its visible share and pixels, at least
SHOWN = "img1: <image>\n"  # one picture as the guard shows it (evaluation/prompts.content), before the question
ALIKE = 80.0  # colours nearer than this (Euclidean, RGB 0..255) are not distinguished with certainty


@dataclass(frozen=True)
class Question:
    """One question about one picture.

    Attributes:
        picture: Path relative to the folder of the pictures.
        text: The question.
        label: Its answer.
        kinds: The sets that it is in, such as "random"; a question with the answer yes is in all of them.
    """

    picture: str
    text: str
    label: Label
    kinds: tuple[str, ...]

    @property
    def item(self) -> str:
        return f"{self.picture}: {self.text}"


def questions_about(scenes: Mapping[str, tuple[Visible, ...]], seed: int, language: str) -> list[Question]:
    """The questions about some pictures.

    Per picture up to three things that are in it and can be seen, and per kind as many things that are not.
    random: any. popular: those that are in most of the pictures. adversarial: the colour of one thing in it with the
    shape of another, then one that shares only a colour or a shape, and of these what often occurs together with the
    things in it. No question is asked that the colours would leave in doubt.

    Args:
        scenes: Picture -> the things in it.
        seed: Draws the things.
        language: Of the questions.

    Raises:
        ConfigError: For an unknown language.
    """
    words = _words_of(language)
    inside = {name: {(one.colour, one.shape) for one in things} for name, things in scenes.items()}
    frequent = Counter(thing for things in inside.values() for thing in things)
    beside = Counter((one, other) for things in inside.values() for one in things for other in things)
    questions = []
    for name, things in scenes.items():
        # In another order for each picture, so that ties are not always broken the same way.
        order = {thing: random_number(seed, f"{name} {thing}") for thing in _all_things()}
        present = _present(things, order)
        absent = sorted((thing for thing in order if _surely_absent(thing, things)), key=order.__getitem__)
        colours, shapes = {one.colour for one in things}, {one.shape for one in things}

        def confused(thing: Thing, name: str = name, colours: set[str] = colours, shapes: set[str] = shapes) -> Any:
            together = sum(beside[thing, other] for other in inside[name])
            return -(thing[0] in colours) - (thing[1] in shapes), -together

        negatives = {
            "random": absent,
            "popular": sorted(absent, key=lambda thing: -frequent[thing]),
            "adversarial": sorted(absent, key=confused),
        }
        kinds: dict[Thing, list[str]] = {}
        for kind in KINDS:
            for thing in negatives[kind][: len(present)]:
                kinds.setdefault(thing, []).append(kind)
        questions += [Question(name, _text(words, thing), "yes", kinds=KINDS) for thing in present]
        questions += [Question(name, _text(words, thing), "no", kinds=tuple(of)) for thing, of in kinds.items()]
    return questions


def _present(things: Sequence[Visible], order: Mapping[Thing, int]) -> list[Thing]:
    """The things of a picture to ask about: the first three in `order`, which has no shape of group `shapes`."""
    visible = {(one.colour, one.shape) for one in things if _surely_present(one)}
    return sorted(visible & order.keys(), key=order.__getitem__)[:3]


def _all_things() -> list[Thing]:
    from stcr_plugin.episodes.tabletop import SEEN_COLOURS, SHAPES

    return [(colour, shape) for colour in SEEN_COLOURS for shape in (*SHAPES, "pad")]


def _surely_present(thing: Visible) -> bool:
    """Whether enough of it is seen, and no other colour's name would fit its shade better."""
    from stcr_plugin.episodes.tabletop import SEEN_COLOURS

    nearest_name = min(SEEN_COLOURS, key=lambda name: math.dist(SEEN_COLOURS[name], thing.rgb))
    return thing.share >= SEEN_SHARE and thing.pixels >= SEEN_PIXELS and nearest_name == thing.colour


def _surely_absent(thing: Thing, things: Sequence[Visible]) -> bool:
    """Whether nothing of that shape is in the picture, covered or not, in that colour or in a similar one."""
    from stcr_plugin.episodes.tabletop import SEEN_COLOURS

    colour, shape = thing
    same = [one for one in things if one.shape == shape]
    return all(one.colour != colour and math.dist(one.rgb, SEEN_COLOURS[colour]) >= ALIKE for one in same)


def _text(words: Mapping[str, Any], thing: Thing) -> str:
    colour, shape = (str(words["words"].get(word, word)) for word in thing)
    named = str(words["thing"]).format(colour=colour, shape=shape)
    return str(words["question"]).format(thing=named, a="an" if named[0] in "aeiou" else "a")


@cache
def _texts() -> dict[str, Any]:
    return read_yaml(YESNO_FILE)


def _words_of(language: str) -> dict[str, Any]:
    texts = _texts()
    if language not in texts:
        raise ConfigError(YESNO_FILE, f"no question in language {language!r}, {nearest(language, list(texts))}")
    found: dict[str, Any] = texts[language]
    return found


def names_in(language: str) -> tuple[str, str]:
    """The words for yes and no."""
    yes, no = _words_of(language)["names"]
    return str(yes), str(no)


def random_number(seed: int, text: str) -> int:
    """A large random number, the same for the same `seed` and `text`."""
    return int(artefacts.digest([seed, text])[:16], 16)


# ---- replay: the same questions as training rows ----


def general_rows(
    source: TabletopSource,
    episodes: Mapping[str, Episode],
    pairs: Sequence[Pair],
    *,
    languages: Sequence[str],
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of a training set (sharegpt, see registry/parquet.SAMPLES) about the pictures of `pairs`, in random order.

    Per picture as many questions with the answer no as yes, up to three each, and over all of them each thing is as
    often absent as present, so that the question alone does not give its answer away. A picture of several pairs
    counts once, with the first of them. A row has the guard's question, and its order is "".
    """
    import numpy as np

    from stcr_plugin.progress_bar import progress

    pictures = {
        image: (pair, frame)
        for pair in reversed(pairs)
        for image, frame in ((pair.earlier_image, pair.earlier), (pair.later_image, pair.later))
    }
    scenes = {
        image: source.things(episodes[pair.episode_id], frame)
        for image, (pair, frame) in progress(pictures.items(), "general: reading scenes", "pictures")
    }
    rows = []
    for number, language in enumerate(languages):
        own = {image: things for at, (image, things) in enumerate(scenes.items()) if at % len(languages) == number}
        answers = dict(zip(("yes", "no"), names_in(language), strict=True))
        for question in _balanced(own, seed, language):
            pair, _ = pictures[question.picture]
            rows.append(
                {
                    "messages": [
                        {"role": "user", "content": f"{SHOWN}{question.text}"},
                        {"role": "assistant", "content": answers[question.label]},
                    ],
                    "images": [question.picture],
                    "pair_id": pair.pair_id,
                    "episode_id": pair.episode_id,
                    "order": "",
                    "answer": question.label,
                    "kind": "general",
                    "language": language,
                }
            )
    order = np.random.default_rng(random_number(seed, "general")).permutation(len(rows))
    return [rows[position] for position in order.tolist()]


def _balanced(scenes: Mapping[str, tuple[Visible, ...]], seed: int, language: str) -> Iterator[Question]:
    """Questions about pictures (name -> the things in it): each thing has as many answers no as yes.

    Where that is impossible, for a thing in most of the pictures, as nearly as possible.
    """
    words = _words_of(language)
    orders = {name: {thing: random_number(seed, f"{name} {thing}") for thing in _all_things()} for name in scenes}
    shown = {name: _present(things, orders[name]) for name, things in scenes.items()}
    owed = Counter(thing for present in shown.values() for thing in present)
    for name, present in shown.items():
        order = orders[name]
        absent = [thing for thing in order if _surely_absent(thing, scenes[name])]
        chosen = sorted(absent, key=lambda thing: (-owed[thing], order[thing]))[: len(present)]
        owed.subtract(chosen)
        yield from (Question(name, _text(words, thing), "yes", kinds=()) for thing in present)
        yield from (Question(name, _text(words, thing), "no", kinds=()) for thing in chosen)
