"""What a simulated teacher writes of a tabletop picture, and how it is read back.

True and false claims, in phrases and in free English, sentences that leak the order, and sentences of no weight.

The sentences of LEAKS were written before anyone looked at the words that the leak check knows, and are not changed by
what it catches: they measure it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from stcr_plugin.episodes.tabletop import PHASES, TabletopSource
from stcr_plugin.samples.cot import Phrases
from stcr_plugin.types import Claim, State

LEAKS: Mapping[str, Sequence[str]] = {
    "time": (
        "This was taken near the end of the episode.",
        "The robot started a few seconds ago.",
        "The demonstration has been running for a while.",
        "It is early in the recording.",
        "The grasp happened moments ago.",
        "The arm is about to close its fingers.",
        "Soon the object will be lifted.",
        "The gripper has not yet touched the object.",
        "The arm has already passed over the pad.",
        "By now the object has left the table.",
        "A moment later the fingers would meet the object.",
        "We are roughly ten seconds in.",
        "The motion has only just begun.",
        "Shortly afterwards the hand opens.",
        "This looks like the opening moment.",
    ),
    "order": (
        "This is the first frame of the two.",
        "This is the last picture of the sequence.",
        "It is the second image in the pair.",
        "It follows the frame with the open gripper.",
        "This comes before the grasp.",
        "What precedes this is the reach.",
        "This view belongs after the lifting step.",
        "The previous step was the approach.",
        "Next the arm goes down.",
        "It is the initial state.",
        "It is the final state.",
        "This is an intermediate frame.",
        "Chronologically this one is at the front.",
    ),
    "progress": (
        "The task is nearly complete.",
        "About 60% of the work is done.",
        "The robot is halfway through.",
        "Little remains to be done.",
        "The goal has almost been reached.",
        "The job is finished.",
        "There is still a long way to go.",
        "The task is far from being solved.",
        "This is closer to completion.",
        "Good headway has been made.",
        "The robot is at an advanced stage of the job.",
        "Success is within reach.",
        "Progress is low here.",
        "The robot is on the verge of completing its assignment.",
        "Most of the steps lie behind the robot.",
        "The work has barely started.",
        "Only placing is left.",
        "The robot has made more ground here.",
    ),
    "other picture": (
        "Compared with the other picture, the hand is lower.",
        "In img2 the object is higher.",
        "The hand is closer to the object than in the other image.",
        "Unlike its counterpart, the gripper is closed here.",
        "Both frames show the same table.",
        "The object has moved since img1.",
        "The gripper is lower than before.",
        "In the companion view the pad is empty.",
        "Relative to the other shot, the arm is further right.",
        "The remaining photo has the hand at the side.",
        "Of the two, this one has the object on the pad.",
        "The arm has shifted from where it was.",
        "The distance to the pad has shrunk.",
        "The pair differs in the height of the object.",
    ),
}
"""What a sentence speaks of -> sentences."""

FILLERS = (
    "A robot arm comes in from the side.",
    "The pad lies flat on the table.",
    "The wall is plain and light.",
    "The table has a fine grain.",
    "The fingers point down.",
    "The arm is grey.",
    "The scene is lit evenly.",
    "A shadow lies below the object.",
)
"""True of every picture, and of no weight for the judgment."""

DECOYS = (
    "The pad is in front of the arm.",
    "One finger is to the left of the other.",
    "The two fingers point down.",
    "There is a second finger beside it.",
    "The first thing that one sees is the arm.",
    "The table ends before the wall.",
    "The arm is the last thing at the edge of the picture.",
    "The hand is next to the arm's end.",
    "The object is closer to the table's edge than to the wall.",
    "The wall is behind the table.",
    "The camera looks at the table from the front.",
    "The grain of the table runs across the whole picture.",
)
"""The same, with words that can also speak of time or order."""

VACUOUS = (
    "A robot arm and some things on a table are visible.",
    "There is a gripper over a wooden table.",
    "A mechanical arm, a pad and an object can be seen.",
    "A workspace with a manipulator lies in view.",
)
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I cannot assist with this request.",
    "Sorry, I am unable to view images.",
)

_FREE: Mapping[str, Sequence[str]] = {
    "gripper": ("The gripper is {value}.", "The fingers of the gripper are {value}.", "The robot's hand is {value}."),
    "reach": (
        "The hand is about {value} cm from the {thing}.",
        "There are roughly {value} cm between the gripper and the {thing}.",
        "The {thing} lies some {value} cm away from the hand.",
    ),
    "goal": (
        "The {thing} is about {value} cm from the {pad}.",
        "Between the {thing} and the {pad} there are some {value} cm.",
        "Measured along the table, the {pad} is around {value} cm from the {thing}.",
    ),
    "height": (
        "The {thing} is about {value} cm above the table.",
        "The lower side of the {thing} is roughly {value} cm above the table.",
        "The {thing} has a height of some {value} cm over the table.",
    ),
}
"""Family of a claim -> free English; nobody names the phase in it, which cannot be seen."""

_FALSE_BY = (-12, -9, -6, 6, 9, 12)  # centimetres


def drawn(*key: object) -> float:
    """A number in [0, 1) that depends on `key` alone."""
    data = hashlib.sha256("\x1f".join(map(str, key)).encode("utf-8", "replace")).digest()
    return int.from_bytes(data[:8], "big") / 2**64


def chosen(options: Sequence[str], *key: object) -> str:
    return options[int(drawn("chosen", *key) * len(options))]


@dataclass(frozen=True)
class Seen:
    """What a picture shows."""

    episode_id: str
    frame: int
    state: State
    thing: str
    pad: str


@dataclass(frozen=True)
class Language:
    """Claims <-> texts."""

    source: TabletopSource
    phrases: Phrases

    def claims(self, seen: Seen) -> tuple[Claim, ...]:
        return tuple(self.source.claims(seen.state))

    def lied(self, seen: Seen, share: float, *key: object) -> tuple[Claim, ...]:
        """The claims of a picture, each false with probability `share`."""
        return tuple(
            self._false(seen, claim, *key) if drawn("lie", claim.name, *key) < share else claim
            for claim in self.claims(seen)
        )

    def _false(self, seen: Seen, claim: Claim, *key: object) -> Claim:
        values: Sequence[str | int]
        if claim.name == "phase":
            values = PHASES
        elif claim.name == "gripper":
            values = ("open", "closed")
        else:
            values = [int(claim.value) + by for by in _FALSE_BY if int(claim.value) + by >= 0]
        others = [one for value in values if not self.source.holds(one := Claim(claim.name, value), seen.state)]
        return others[int(drawn("false", claim.name, *key) * len(others))]

    def free(self, seen: Seen, claims: Sequence[Claim], *key: object) -> str:
        """The claims in free English, in a drawn order."""
        known = [claim for claim in claims if claim.name in _FREE]
        known.sort(key=lambda claim: drawn("order", claim.name, *key))
        return " ".join(
            chosen(_FREE[claim.name], claim.name, *key).format(value=claim.value, thing=seen.thing, pad=seen.pad)
            for claim in known
        )

    def said(self, claims: Sequence[Claim]) -> str:
        """The claims in the phrases of the build's source."""
        return self.phrases.say(claims) + "."

    def read(self, text: str) -> list[Claim]:
        """Every claim that `text` states, in phrases or in free English; what states none is left out."""
        found = []
        for sentence in re.split(r"(?<=[.。!?])\s+|\n+", text.strip()):
            free = self._free_claim(sentence.strip())
            phrases = sentence.strip().rstrip(".。")
            pieces = self.phrases.read_pieces(phrases[:1].lower() + phrases[1:])
            found += [free] if free else [claim for claim in pieces if claim and self._meant(claim)]
        return found

    def true(self, text: str, seen: Seen) -> bool:
        """Whether every claim in `text` holds for the picture."""
        return all(self.source.holds(claim, seen.state) for claim in self.read(text))

    def _meant(self, claim: Claim) -> bool:
        """The phrase of a phase is its value alone, which any text fits."""
        return claim.name != "phase" or claim.value in PHASES

    def _free_claim(self, sentence: str) -> Claim | None:
        for family, pattern in self._patterns:
            if match := pattern.fullmatch(sentence):
                value = match["value"]
                return Claim(family, int(value) if value.isdigit() else value)
        return None

    @cached_property
    def _patterns(self) -> list[tuple[str, re.Pattern[str]]]:
        slots = {r"\{value\}": r"(?P<value>\d+|open|closed)", r"\{thing\}": r"[a-z ]+", r"\{pad\}": r"[a-z ]+ pad"}
        made = []
        for family, sentences in _FREE.items():
            for sentence in sentences:
                pattern = re.escape(sentence.rstrip("."))
                for slot, meant in slots.items():
                    pattern = pattern.replace(slot, meant)
                made.append((family, re.compile(pattern + r"[.。]?")))
        # "The cube is about 9 cm from the red pad" is about the goal, not about the hand.
        return sorted(made, key=lambda one: one[0] != "goal")


def done(claims: Sequence[Claim]) -> float | None:
    """How far along a picture is by what is claimed of it, None where too little is.

    By the phase where it is named; within one, and without it, by what a reader can know: the hand has to come to the
    object and close, the object to rise, to come over the pad, to sink and to be let go.
    """
    value = {claim.name: claim.value for claim in claims}
    numbers = {name: int(value[name]) for name in ("reach", "goal", "height") if name in value}
    if "phase" in value:
        base = 10.0 * PHASES.index(str(value["phase"]))
        within = {
            "approach": -numbers.get("reach", 0) / 100,
            "grasp": 1.0 if value.get("gripper") == "closed" else 0.0,
            "lift": numbers.get("height", 0) / 100,
            "move": -numbers.get("goal", 0) / 100,
            "place": -numbers.get("height", 0) / 100
            + (1.0 + numbers.get("reach", 0) / 100 if value.get("gripper") == "open" else 0.0),
        }
        return base + within[str(value["phase"])]
    if "goal" not in numbers or "height" not in numbers:
        return None
    reach, goal, height = numbers.get("reach", 0), numbers["goal"], numbers["height"]
    on_pad = goal <= 3
    if height <= 1 and not on_pad:
        return (1.0 if value.get("gripper") == "closed" else 0.0) - reach / 100
    if height <= 1:
        return 5.0 + (1.0 + reach / 100 if value.get("gripper") == "open" else 0.0)
    return 4.0 - height / 100 if on_pad else 2.0 - goal / 100 + height / 1000
