"""Which of a few pictures of one task is closest to completion: for one user, or for a batch of rewards.

Every two pictures are compared in both orders, with the prompt that the model was trained on, and the orders are
averaged: a preference for a position cancels out, and shows where the two orders disagree.
"""

from __future__ import annotations

import dataclasses
import io
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.calibration_results import Temperature
from stcr_plugin.engines.local import LocalEngine
from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.sealed import sealed
from stcr_plugin.engines.settings import AskSettings, Engine
from stcr_plugin.engines.subject import subject
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.calibrate import temperature_for
from stcr_plugin.samples.questions import why_unusable
from stcr_plugin.scoring.bradley_terry import Comparison, bradley_terry, outcome
from stcr_plugin.scoring.parsing import answered
from stcr_plugin.scoring.reasoning import behind_reasoning
from stcr_plugin.types import ORDERS, Answer, Pair, Prompt, Query, Response

if TYPE_CHECKING:
    from PIL.Image import Image

    from stcr_plugin.types import Picture

FEWEST, MOST = 2, 8
ROOT = Path("/")
"""The folder of pictures of an engine for `judge`, which names them by their whole paths."""
Opened = tuple[Engine, AskSettings]
"""An engine, which keeps its model loaded over many calls, and its settings: of `opened`, or of engines.engine_for."""

_NAMED = "name a picture file, or a frame of a video as VIDEO@SECONDS"
_VIDEO_AT = re.compile(r"(?P<video>.+)@(?P<seconds>\d+(?:\.\d+)?)")
_JUDGMENT = re.compile(r"closer[\s_-]+to[\s_-]+completion|[更最]接近(?:任务)?完成", re.IGNORECASE)
_LEAST = 1e-9  # two probabilities that are nearer to each other are the same


@dataclass(frozen=True)
class Reply:
    """The response to two pictures in one order.

    Attributes:
        shown: The positions, from 0, of the pictures shown as img1 and img2.
        chosen: The position of the named picture; None for "neither" or an answer that names none.
        probability: Of the picture at `shown[1]` against the one at `shown[0]`, 0..1; None where the model's names
            were not compared.
        text: What it wrote, with its reasons where it gave some.
    """

    shown: tuple[int, int]
    chosen: int | None
    probability: float | None
    text: str


@dataclass(frozen=True)
class Judgement:
    """What a model makes of some pictures, whose positions are counted from 0.

    Attributes:
        closest: The position of the picture closest to completion; None where the answers favour none.
        probabilities: Of each picture that it is the closest one, from log-probabilities; of three and more from the
            Bradley-Terry scores of all pairs, as the first of a Plackett-Luce order (Luce 1959, Individual Choice
            Behavior). None where the model wrote and nothing could be compared; then `closest` rests on votes.
        heard: The responses, two per pair of pictures.
        disagreeing: Pairs of positions whose two orders choose different pictures.
        unparsed: Answers that name no picture.
        cut: Of these, cut at the most tokens before they named one.
        refused: Of these, refused by a content filter or by the model.
        temperature: What the log-odds of the answers were divided by, 1 without a calibration.
    """

    task: str
    pictures: tuple[str, ...]
    mode: str
    closest: int | None
    probabilities: tuple[float, ...] | None
    heard: tuple[Reply, ...]
    disagreeing: tuple[tuple[int, int], ...]
    unparsed: int
    cut: int = 0
    refused: int = 0
    temperature: float = 1.0


def judge(
    model: Path | str | Opened,
    pictures: Sequence[Path | str | Image | Picture],
    task: str,
    settings: AskSettings | None = None,
    *,
    ties: bool = False,
    calibration: Temperature | None = None,
) -> Judgement:
    """Which of 2 to 8 `pictures` of `task` is closest to completion. As `judge_all`, which is faster for many."""
    return judge_all(model, [(pictures, task)], settings, ties=ties, calibration=calibration)[0]


def judge_all(
    model: Path | str | Opened,
    asked: Sequence[tuple[Sequence[Path | str | Image | Picture], str]],
    settings: AskSettings | None = None,
    *,
    ties: bool = False,
    calibration: Temperature | None = None,
) -> list[Judgement]:
    """The judgement of each (pictures, task), all in one run of batches.

    model: a model's folder, loaded for this call, or what `opened` gives, which stays loaded; an engine of another make
    must have ROOT for the folder of its pictures. pictures: files, "VIDEO@SECONDS" (counted from its first frame), PIL
    images or uint8 arrays [height, width, 3], RGB. settings: of a folder alone, completed by the model's stage. ties:
    "neither" is offered, as in the training of a build that teaches ties. calibration: Scales the log-odds of both
    orders, for this model and these settings; it changes no choice between two pictures.

    A model that reasons (mode cot) is left to write; then, where the engine can begin its turn, its names are compared
    behind its own reasons, so that the probability is that of a model which has just given them.
    Raises ConfigError for too few or too many pictures and for a task that cannot be asked about, DataError for a
    picture that cannot be read, and what the engine raises.
    """
    engine, asking = opened(Path(model), settings) if isinstance(model, Path | str) else model
    temperature = temperature_for(calibration, engine, asking, ties=ties)
    for pictures, task in asked:
        if not FEWEST <= len(pictures) <= MOST:
            raise ConfigError(f"{len(pictures)} pictures", f"{FEWEST} to {MOST} can be judged", "name as many")
        if reason := why_unusable(task):
            raise ConfigError("task", reason, "name what is being done in a few words")
    with tempfile.TemporaryDirectory(prefix="stcr-judge-") as made:
        files = [_files(pictures, Path(made) / str(number)) for number, (pictures, _) in enumerate(asked)]
        queries = [
            Query(_pair(task, images, first, second=second), order)
            for images, (_, task) in zip(files, asked, strict=True)
            for first, second in combinations(range(len(images)), 2)
            for order in ORDERS
        ]
        answers = iter(_answers(engine, queries, asking, ties=ties))
    return [
        _judgement(
            task,
            tuple(_name(one, place) for place, one in enumerate(pictures)),
            asking,
            answers=answers,
            temperature=temperature,
        )
        for pictures, task in asked
    ]


def opened(model_dir: Path | str, settings: AskSettings | None = None) -> Opened:
    """The model in a folder, loaded when it is first asked, with `settings` completed by its stage.

    Raises DataError for a folder that is none, or whose stage.json cannot be used.
    """
    model_dir = Path(model_dir)
    if not model_dir.is_dir():
        raise DataError(model_dir, "no such folder", "give a model's folder, such as a stage's output")
    asked = subject(model_dir, ROOT, settings).settings
    return LocalEngine(model_dir, ROOT, asked), asked


def _pair(task: str, images: Sequence[str], first: int, second: int) -> Pair:
    """Always of one id, so that a question is put in the same words whenever it is put."""
    return Pair("judge", "judge", "", task, first, second, 0.0, earlier_image=images[first], later_image=images[second])


def _answers(engine: Engine, queries: Sequence[Query], settings: AskSettings, ties: bool) -> list[Answer]:
    prompts = prompts_for(queries, settings, ties=ties)
    answers = [answered(*one) for one in zip(queries, prompts, _said(engine, prompts), strict=True)]
    if settings.mode != "cot" or settings.generate:
        return answers
    reasons = ["" if answer.lost else _reasons(answer.text) for answer in answers]
    places = [place for place, text in enumerate(reasons) if text]
    again = [dataclasses.replace(prompts[place], begin=reasons[place], reasons=False) for place in places]
    try:
        compared = _said(engine, again) if again else []
    except ConfigError:  # not every engine lets its model's turn be begun
        return answers
    for place, prompt, response in zip(places, again, compared, strict=True):
        scored = answered(queries[place], prompt, response)
        scores = {name: getattr(scored, name) for name in ("logprob_img1", "logprob_img2", "logprob_neither")}
        answers[place] = dataclasses.replace(answers[place], **scores)
    return answers


def _said(engine: Engine, prompts: Sequence[Prompt]) -> list[Response]:
    found = dict(engine.respond(sealed(prompts)))
    return [found[number] for number in range(len(prompts))]


def _reasons(text: str) -> str:
    """What a reasoned answer says before its judgment, "" where it says none behind its reasoning."""
    start = len(text) - len(behind_reasoning(text) or "")
    found = list(_JUDGMENT.finditer(text, start))
    return text[: found[-1].start()] if found else ""


def _judgement(
    task: str, pictures: tuple[str, ...], settings: AskSettings, *, answers: Iterator[Answer], temperature: float
) -> Judgement:
    """Of the next answers, two a pair of pictures."""
    pairs = list(combinations(range(len(pictures)), 2))
    both = [[next(answers) for _ in ORDERS] for _ in pairs]
    outcomes = [outcome(of_pair, temperature) for of_pair in both]
    every = [answer for of_pair in both for answer in of_pair]
    chances = _chances(len(pictures), pairs, outcomes)
    compared = all(answer.logprob_img1 is not None for answer in every)
    first, second = sorted(chances, reverse=True)[:2]
    open_ = first - second < _LEAST or all(answer.chosen in (None, "neither") for answer in every)
    replies = [
        _reply(pair, answer, temperature) for pair, of_pair in zip(pairs, both, strict=True) for answer in of_pair
    ]
    choices = [
        (pair, {_chosen(pair, answer) for answer in of_pair}, all(answer.chosen for answer in of_pair))
        for pair, of_pair in zip(pairs, both, strict=True)
    ]
    return Judgement(
        task=task,
        pictures=pictures,
        mode=settings.mode or "direct",
        closest=None if open_ else chances.index(first),
        probabilities=tuple(chances) if compared else None,
        heard=tuple(replies),
        disagreeing=tuple(pair for pair, chosen, parsed in choices if parsed and len(chosen) > 1),
        unparsed=sum(answer.chosen is None for answer in every),
        cut=sum(answer.lost == "cut" for answer in every),
        refused=sum(answer.lost == "refused" for answer in every),
        temperature=temperature,
    )


def _chances(pictures: int, pairs: Sequence[tuple[int, int]], outcomes: Sequence[tuple[float, float]]) -> list[float]:
    """The probability of each picture that it is the closest; of two that which their answers give."""
    import numpy as np

    if pictures == 2:
        return [1 - outcomes[0][0], outcomes[0][0]]
    made = [Comparison(*pair, *found) for pair, found in zip(pairs, outcomes, strict=True)]
    values = bradley_terry(pictures, made).values
    odds = np.exp(values - values.max())
    chances: list[float] = (odds / odds.sum()).tolist()
    return chances


def _reply(pair: tuple[int, int], answer: Answer, temperature: float) -> Reply:
    later, _ = outcome([answer], temperature)
    forward = answer.order == "forward"
    return Reply(
        shown=pair if forward else (pair[1], pair[0]),
        chosen=_chosen(pair, answer),
        probability=None if answer.logprob_img1 is None else later if forward else 1 - later,
        text=answer.text,
    )


def _chosen(pair: tuple[int, int], answer: Answer) -> int | None:
    """The place of the picture that an answer names."""
    shown = pair if answer.order == "forward" else (pair[1], pair[0])
    return {"img1": shown[0], "img2": shown[1]}.get(answer.chosen or "")


# ---- pictures ----


def _files(pictures: Sequence[Any], folder: Path) -> list[str]:
    """Each picture as a file that can be decoded, by its path below ROOT; what is none yet is written into `folder`."""
    from stcr_plugin.registry.picture_store import decode

    files = []
    for place, picture in enumerate(pictures):
        if isinstance(picture, Path | str):
            path = _file(str(picture), folder / f"{place}.png")
            try:
                decode(artefacts.file_bytes(path), str(picture))
            except OSError as error:
                raise DataError(str(picture), f"picture cannot be read ({error.strerror})") from None
            except DataError as error:
                raise DataError(error.where, error.problem, error.fix or _NAMED) from None
        else:
            path = _written(_image(picture, _name(picture, place)), folder / f"{place}.png")
        files.append(str(path.resolve().relative_to(ROOT)))
    if len(set(files)) < len(files):
        twice = next(str(picture) for picture, file in zip(pictures, files, strict=True) if files.count(file) > 1)
        raise DataError(twice, "given twice", "give each picture once")
    return files


def _file(name: str, frame: Path) -> Path:
    """The file of a picture; of VIDEO@SECONDS `frame`, which is written."""
    found = _VIDEO_AT.fullmatch(name)
    if Path(name).is_file() or found is None:
        if not Path(name).is_file():
            raise DataError(name, "no such picture file", _NAMED)
        return Path(name)
    return _written(_image(_frame(Path(found["video"]), float(found["seconds"])), name), frame)


def _frame(video: Path, seconds: float) -> Picture:
    """The frame that is shown `seconds` after the video's first one. Raises DataError for a time after its last one."""
    from stcr_plugin.episodes.video import frames_numbered, number_at

    return next(frames_numbered(video, [number_at(video, seconds)]))


def _image(picture: Image | Picture, name: str) -> Image:
    """A picture in memory as a file of it would be read."""
    from PIL import Image

    from stcr_plugin.episodes.picture_files import loaded, refuse_other_modes, upright

    if not isinstance(picture, Image.Image):
        shape = list(getattr(picture, "shape", ()))
        kind = str(getattr(picture, "dtype", type(picture).__name__))
        if kind != "uint8" or len(shape) != 3 or shape[2] != 3:
            problem = f"{kind} of shape {shape} is not a picture"
            raise DataError(name, problem, "give a uint8 array [height, width, 3] in RGB")
        return Image.fromarray(picture)
    refuse_other_modes(picture, name)
    return upright(loaded(picture, name))


def _written(image: Image, path: Path) -> Path:
    data = io.BytesIO()
    image.save(data, "PNG", compress_level=1)
    artefacts.write_bytes(path, data.getvalue(), durable=False)
    return path


def _name(picture: Any, place: int) -> str:
    return str(picture) if isinstance(picture, Path | str) else f"picture {place + 1}"
