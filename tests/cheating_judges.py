"""Judges that seem right without comparing what two pictures show, and recordings with codes that they can read.

Recordings: a red disc rises over a still background. Three codes of true progress are burnt in: a grey block in a
corner, a block in the background that is too faint to see, and the blue of the disc itself.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from stcr_plugin.config import from_mapping
from stcr_plugin.engines.oracles import Oracle
from stcr_plugin.engines.picture_loading import Pictures
from stcr_plugin.engines.sealed import inside
from stcr_plugin.engines.settings import AskSettings, Engine
from stcr_plugin.evaluation.control_list import CONTROLS
from stcr_plugin.evaluation.controls import controls
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.registry.manifest import read_pairs
from stcr_plugin.samples.questions import paraphrases
from stcr_plugin.types import Pair, Prompt, Response, Shown

SIDE, FRAMES, EPISODES = 64, 20, 12
UP, THERE_AND_BACK = "up", "there_and_back"
_CORNER = (slice(0, 6), slice(0, 6))
_FAINT = (slice(28, 36), slice(8, 16))
_REVERSED_TASK = re.compile(r"undo this|put the \w+ down")


# ---- recordings ----


def build_recordings(root: Path) -> Path:
    """The registry with the builds UP, in which progress only rises, and THERE_AND_BACK, in which it falls again."""
    from PIL import Image

    from stcr_plugin.registry.build import DataConfig, build

    progress = {
        UP: [*range(FRAMES)],
        THERE_AND_BACK: [*range(0, FRAMES, 2), *range(FRAMES - 1, 0, -2)],
    }
    for name, numbers in progress.items():
        rows = []
        for episode in range(EPISODES):
            own = f"{name}-{episode:02}"
            folder = root / name / own
            folder.mkdir(parents=True)
            for frame, done in enumerate(numbers):
                Image.fromarray(_frame(done, episode, frame)).save(folder / f"{frame:03}.png")
            (root / name / f"{own}.csv").write_text("progress\n" + "".join(f"{number}\n" for number in numbers))
            rows.append(f"{own},lift the {'cup' if episode % 2 else 'ball'},{own},5,{own}.csv\n")
        (root / name / "table.csv").write_text("episode,task,path,fps,states\n" + "".join(rows))
        config = {
            "name": name,
            "source": {"kind": "frames", "root": str(root / name), "table": "table.csv"},
            "frames": {"width": SIDE, "height": SIDE},
            "splits": {"heldout": {"fraction": 1.0}},
            "pairs": {"per_episode": 3, "min_frames": 4, "label": "progress"},
            "inverse_tasks": {"lift the {thing}": "put the {thing} down"},
        }
        build(from_mapping(DataConfig, config, "test"), root / "registry")
    return root / "registry"


def _frame(done: int, episode: int, frame: int) -> np.ndarray:
    background = np.random.default_rng(episode).integers(90, 110, (SIDE, SIDE, 1))
    sensor = np.random.default_rng([episode, frame]).integers(-2, 3, (SIDE, SIDE, 3))
    picture = (background + sensor).astype(np.uint8)
    picture[_FAINT] = 100 + done // 4
    picture[_CORNER] = 60 + 8 * done
    row, column = np.ogrid[:SIDE, :SIDE]
    disc = (row - (52 - 2 * done)) ** 2 + (column - 28 - episode % 8) ** 2 <= 25
    picture[disc] = (220, 20, 10 * done)
    return picture


# ---- judges ----

Seen = np.ndarray
Read = Callable[[Seen], "float | None"]
"""A picture -> how far along it seems; None where that cannot be read."""
Rule = Callable[[Prompt, Sequence[Seen]], "bool | None"]
"""The prompt and its pictures -> whether the second one is closer; None for no preference."""


_SEEN: dict[tuple[Path, str, str, str], Seen] = {}


def _seen(pictures: Pictures, shown: Shown, item: str) -> Seen:
    """The picture as every engine opens it. All judges are shown the same ones, so each is opened once."""
    key = (pictures.registry, inside(shown.image), shown.change, inside(shown.other))
    if key not in _SEEN:
        _SEEN[key] = np.asarray(pictures.open(shown, item))
    return _SEEN[key]


class PixelJudge:
    """An engine that opens its pictures as every engine does, and judges by `rule`.

    By log-probabilities, or in text with `writes`; without a preference both places are as likely, or it writes the
    second.
    """

    def __init__(self, name: str, registry: Path, rule: Rule, *, writes: bool = False) -> None:
        self.name, self.rule, self.writes = name, rule, writes
        self.pictures = Pictures(registry, AskSettings())

    def identity(self) -> Mapping[str, Any]:
        return {"engine": self.name}

    def respond(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
        for number, prompt in enumerate(prompts):
            second = self.rule(prompt, [_seen(self.pictures, one, prompt.item) for one in prompt.shown])
            share = 0.5 if second is None else 0.9 if second else 0.1
            text = prompt.answer.format(name=prompt.names[1 if second is None else int(second)])
            if self.writes:
                yield number, Response(text)
            else:
                logprobs = {prompt.names[0]: math.log(1 - share), prompt.names[1]: math.log(share)}
                yield number, Response("" if second is None else text, logprobs)


def compares(read: Read, otherwise: Rule | None = None) -> Rule:
    """Compares what `read` makes of the two pictures; by `otherwise` where that says nothing of one."""

    def rule(prompt: Prompt, seen: Sequence[Seen]) -> bool | None:
        values = [read(one) for one in seen]
        if len(values) < 2 or None in values or values[0] == values[1]:
            return otherwise(prompt, seen) if otherwise else None
        return bool(values[1] > values[0])

    return rule


def _disc(seen: Seen) -> np.ndarray:
    return (seen[..., 0] > 180) & (seen[..., 1] < 60)


def height(seen: Seen) -> float | None:
    """How high the disc is; None where none is seen."""
    rows, columns = np.nonzero(_disc(seen))
    seen_whole = len(rows) >= 10 and max(rows.std(), columns.std()) < 4
    return -float(rows.mean()) if seen_whole else None


def blue(seen: Seen) -> float | None:
    return None if height(seen) is None else float(seen[_disc(seen)][:, 2].mean())


def corner(seen: Seen) -> float | None:
    block = seen[_CORNER]
    return None if block.std() > 1 or block.mean() == 128 else float(block.mean())


def faint(seen: Seen) -> float | None:
    block = seen[_FAINT]
    return None if block.std() > 1 or not 99 < block.mean() < 106 else float(block.mean())


def reads_task(rule: Rule) -> Rule:
    """The other picture where the task is to undo something."""

    def asked(prompt: Prompt, seen: Sequence[Seen]) -> bool | None:
        second = rule(prompt, seen)
        return second if second is None or not _REVERSED_TASK.search(prompt.question) else not second

    return asked


looks = reads_task(compares(height))


def one_picture(prompt: Prompt, seen: Sequence[Seen]) -> bool | None:
    """The second picture alone, against the middle of the way."""
    found = height(seen[1]) if seen else None
    return None if found is None else found > -(52 - FRAMES)


def coin(prompt: Prompt, seen: Sequence[Seen]) -> bool | None:
    """By all that it is given, but for the random texts, so that it falls the same way in every run."""
    return hashlib.sha256(b"".join([prompt.question.encode(), *(one.tobytes() for one in seen)])).digest()[0] % 2 == 0


def by_question(prompt: Prompt, seen: Sequence[Seen]) -> bool | None:
    return hashlib.sha256(prompt.question.encode()).digest()[0] % 2 == 0


def by_name(prompt: Prompt, seen: Sequence[Seen]) -> bool | None:
    """Frame numbers in the paths of the pictures, else the order by name, else the second."""
    numbers = [int(found[1]) for one in prompt.shown if (found := re.search(r"(\d+)\.png$", one.image))]
    if len(numbers) == 2:
        return numbers[1] > numbers[0]
    return prompt.order != "backward"


def nearest(prompt: Prompt, seen: Sequence[Seen]) -> bool | None:
    """The picture that is nearer to the question."""
    return not prompt.question_first


def agrees(prompt: Prompt, seen: Sequence[Seen]) -> bool | None:
    """With a suggestion, and looks where there is none."""
    found = re.search(r"I think it is (\w+)\.$", prompt.question)
    return found[1] == prompt.names[1] if found else looks(prompt, seen)


def by_heart(prompt: Prompt, seen: Sequence[Seen]) -> bool | None:
    """Looks where the prompt is one of training, to the letter, and names the second picture else."""
    texts = [re.escape(text).replace(r"\{task\}", ".+") for text in paraphrases("direct", "en")]
    known = any(re.fullmatch(text, prompt.question) for text in texts) and not prompt.question_first
    return looks(prompt, seen) if known else True


class Memory:
    """All pictures of the recordings with their place in the file."""

    def __init__(self, registry: Path, pairs: Sequence[Pair]) -> None:
        places = {pair.earlier_image: pair.earlier for pair in pairs}
        places |= {pair.later_image: pair.later for pair in pairs}
        opened = Pictures(registry, AskSettings())
        self.known: list[tuple[np.ndarray, int]] = []
        for image, place in places.items():
            for change in ("", "mirror"):
                self.known.append((_seen(opened, Shown(image, change), "memory"), place))
        self.exact = {picture.tobytes(): place for picture, place in self.known[::2]}
        self.small = np.stack([_small(picture) for picture, _ in self.known])
        self.found: dict[bytes, float | None] = {}  # what is seen again is not searched for again

    def same(self, seen: Seen) -> float | None:
        return self.exact.get(seen.tobytes())

    def nearest(self, seen: Seen) -> float | None:
        """The most similar picture, mirrored or not; none where half of the picture differs from it."""
        if (key := seen.tobytes()) not in self.found:
            apart = (np.abs(self.small - _small(seen)) > 12).mean(axis=1)
            found = int(apart.argmin())
            self.found[key] = None if apart[found] > 1 / 2 else self.known[found][1]
        return self.found[key]


def _small(picture: Seen) -> np.ndarray:
    return picture.reshape(16, SIDE // 16, 16, SIDE // 16, 3).mean(axis=(1, 3)).reshape(-1)


def _counter(registry: Path) -> PixelJudge:
    """Knows that questions come in twos, and counts them."""
    asked = count()
    return PixelJudge("counter", registry, lambda prompt, seen: next(asked) % 2 == 0)


@dataclass(frozen=True)
class Judge:
    """A row of the table in docs/cheats.md."""

    title: str
    make: Callable[[Path], Engine]
    writes: bool = False


def _pixels(title: str, rule: Rule, writes: bool = False) -> Judge:
    return Judge(title, lambda registry: PixelJudge(title, registry, rule, writes=writes), writes)


def _pairs(registry: Path) -> list[Pair]:
    return [pair for dataset in (UP, THERE_AND_BACK) for pair in read_pairs(registry, dataset, "heldout")]


def _oracle(title: str, name: str) -> Judge:
    return Judge(title, lambda registry: Oracle(name, _pairs(registry)))


def _remembers(title: str, read: Callable[[Memory], Read], also: Callable[[Rule], Rule] = lambda rule: rule) -> Judge:
    def make(registry: Path) -> Engine:
        return PixelJudge(title, registry, also(compares(read(Memory(registry, _pairs(registry))))))

    return Judge(title, make)


JUDGES: Mapping[str, Judge] = {
    "looks": _pixels("*looks, and reads the task*", looks),
    "writes": _pixels("*the same, only writes: the second picture where it sees nothing*", looks, writes=True),
    "second": _oracle("always the second picture", "position-only"),
    "coin": _pixels("a coin", coin),
    "nearest": _pixels("the picture nearer to the question", nearest),
    "agrees": _pixels("agrees with a suggestion, and looks where there is none", agrees),
    "by heart": _pixels("looks where the prompt is one of training, else the second picture", by_heart),
    "text": _pixels("the words of the question alone", by_question),
    "clock": _oracle("the clock (`chronological`, which is given the order)", "chronological"),
    "names": _pixels("frame numbers in paths, else the order, if it were given them", by_name),
    "counter": Judge("counts: of two questions the first is forward", lambda registry: _counter(registry)),
    "one": _pixels("one picture: is the second one over halfway?", one_picture),
    "corner": _pixels("a code in a corner", compares(corner)),
    "corner first": _pixels("a code in a corner, and looks where there is none", compares(corner, looks)),
    "faint": _pixels("a code in the background, too faint to see", compares(faint)),
    "exact": _remembers("place in the file, by the exact pixels", lambda memory: memory.same),
    "near": _remembers("place in the file, by the most similar picture", lambda memory: memory.nearest),
    "near, task": _remembers("the same, and reads the task", lambda memory: memory.nearest, reads_task),
    "blue": _pixels("a code in the colour of what moves, and reads the task", reads_task(compares(blue))),
}
"""Name -> row of the table; the first two do not cheat."""


# ---- the table ----

COLUMNS = (
    *("plain", "worst_variant", "question_first", "suggested_first", "suggested_second", "mirrored", "same_picture"),
    *("text_only", "blank_first", "blank_second", "noise", "masked_change", "masked_elsewhere", "masked_border"),
    *("reversed", "inverse_task", "undone", "non_monotone"),
)
PAGE = Path(__file__).parents[1] / "docs" / "cheats.md"
_TABLE = re.compile(r"(?<=<!-- table of cheats -->\n).*?(?=<!-- end of the table -->)", re.DOTALL)
_CELLS = {"holds": "holds", "fails": "**fails**", "not shown": "not shown", "not applicable": "-"}


def all_verdicts(registry: Path, out: Path) -> dict[str, dict[str, str]]:
    return {name: verdicts(registry, out / name, judge) for name, judge in JUDGES.items()}


def verdicts(registry: Path, out: Path, judge: Judge) -> dict[str, str]:
    """Column -> verdict of the control of that name."""
    request = EvalRequest(
        engine=judge.make(registry),
        dataset=UP,
        registry=registry,
        settings=AskSettings(mode="direct", generate=judge.writes),
        resamples=200,
    )
    only = [name for name in COLUMNS if name in CONTROLS]
    also = [f"{THERE_AND_BACK}:heldout=non_monotone"]
    return {row.name: row.verdict for row in controls(request, out, only=only, also=also).rows}


def table(found: Mapping[str, Mapping[str, str]]) -> str:
    """Of the verdicts on every judge."""
    heads = ["judge", *(f"`{name}`" for name in COLUMNS), "exposed"]
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for name, judge in JUDGES.items():
        own = [column for column in COLUMNS if column not in ("inverse_task", "undone", "non_monotone")]
        exposed = "yes" if "fails" in [found[name][column] for column in own] else "no"
        cells = [judge.title, *(_CELLS[found[name][column]] for column in COLUMNS), exposed]
        lines.append("| " + " | ".join(cells) + " |")
    return "".join(f"{line}\n" for line in lines)


def published() -> str:
    found = _TABLE.search(PAGE.read_text(encoding="utf-8"))
    assert found, "docs/cheats.md has no table"
    return found[0]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = table(all_verdicts(build_recordings(Path(folder)), Path(folder) / "out"))
    PAGE.write_text(_TABLE.sub(lambda _: made, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(made)
