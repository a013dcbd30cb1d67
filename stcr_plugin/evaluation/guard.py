"""The general-ability guard: yes/no questions about what one picture shows, asked before and after training.

In the manner of POPE (Li et al. 2023, arXiv 2305.10355): half of the questions name what is there, half what is not,
drawn at random, from what is frequent, or from what is easily confused. Training on order must not cost this. A model
that never learned such questions, as the embedded tiny base, has nothing to lose here, and its figures say so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.engines.cache import collect_responses, picture_digests, write_answers
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.provenance import provenance
from stcr_plugin.results import Guard, GuardComparison, GuardDifference
from stcr_plugin.samples.general import Label, Question, names_in, questions_about, random_number
from stcr_plugin.scoring import yes_no
from stcr_plugin.scoring.yes_no import Reply
from stcr_plugin.types import Episode, Prompt, Response, Shown

if TYPE_CHECKING:
    from stcr_plugin.episodes.tabletop import Visible

GUARD, ANSWERS, QUESTIONS = Guard.file, "answers.jsonl", "questions.jsonl"
EPISODES = 200  # own scenes, by default
_APART = 2_000_003  # added to the seed: demonstrations and the base's lessons have other scenes


# ---- questions about our own scenes ----


def scene_questions(out: Path, episodes: int, seed: int, language: str = "en") -> list[Question]:
    """Questions about one frame of each of `episodes` simulated demonstrations, whose pictures are written to `out`.

    Per picture up to three things that are there and can be seen, and as many for each kind of things that are not.
    random: any. popular: those that are in most of the pictures. adversarial: a colour of one thing here with the
    shape of another before one that shares its colour or its shape alone, and of these what often stands beside what
    is here. Nothing is asked of which the colours would leave a doubt. The same seed gives the same questions.
    """
    from PIL import Image

    from stcr_plugin.episodes.tabletop import TabletopConfig, TabletopSource
    from stcr_plugin.progress_bar import progress

    if episodes < 1:
        raise ConfigError(f"episodes {episodes}", "must be at least 1")
    source = TabletopSource(TabletopConfig(seen=episodes, heldout=0), seed + _APART)
    scenes: dict[str, tuple[Visible, ...]] = {}
    for episode in progress(source.episodes(), "guard: drawing", "pictures", total=episodes):
        assert isinstance(episode, Episode)
        index = random_number(seed, episode.episode_id) % episode.n_frames
        name = f"pictures/{episode.episode_id}.png"
        scenes[name] = source.things(episode, index)
        (picture,) = source.frames(episode, [index])
        artefacts.write_bytes(out / name, _png(Image.fromarray(picture)), durable=False)
    return questions_about(scenes, seed, language)


def _png(picture: Any) -> bytes:
    import io

    data = io.BytesIO()
    picture.save(data, "png")
    return data.getvalue()


# ---- questions that others have published ----


def read_pope(files: Sequence[Path], images: Path) -> list[Question]:
    """The questions in POPE's own files: a JSON object a line, of question_id, image, text and label (yes or no).

    A file's kind is its name's last part, as in coco_pope_random.json; a question that several files hold is asked
    once. `images` is the folder that the images lie in. Raises DataError naming the file and the row that cannot be
    used.
    """
    found: dict[tuple[str, str], tuple[Label, list[str], str]] = {}
    for file in files:
        kind = file.stem.rpartition("_")[2]
        for number, row in enumerate(artefacts.read_jsonl(file), 1):
            where = f"{file}, row {number}"
            picture, text, label = _pope_row(row, where)
            if not artefacts.inside(images, picture).is_file():
                raise DataError(
                    where, f"{images / picture} is not a file", "name the folder of its pictures (--images)"
                )
            known, kinds, first = found.setdefault((picture, text), (label, [], where))
            if known != label:
                raise DataError(where, f"the label is {label}, but {known} in {first}, to the same question")
            if kind not in kinds:
                kinds.append(kind)
    if not found:
        raise DataError(", ".join(map(str, files)), "no questions in it")
    return [Question(*key, label, tuple(kinds)) for key, (label, kinds, _) in found.items()]


def _pope_row(row: Any, where: str) -> tuple[str, str, Label]:
    given = {key: row.get(key) for key in ("image", "text", "label")} if isinstance(row, dict) else {}
    texts = [value for value in given.values() if isinstance(value, str) and value]
    if len(texts) != 3:
        raise DataError(where, "a row of POPE has the texts image, text and label", "fix or drop it")
    if given["label"] not in ("yes", "no"):
        raise DataError(where, f"label {given['label']!r} is neither yes nor no", "fix or drop it")
    return texts[0], texts[1], given["label"]


# ---- evaluation ----


def guard(
    request: EvalRequest, out: Path, *, episodes: int = EPISODES, pope: Sequence[Path] = (), images: Path | None = None
) -> Guard:
    """Evaluate a model on yes/no questions, and write guard.json into the folder `out`.

    The engine of `request` must look for pictures in `images`, or for own scenes in `out`. Writes also said.jsonl and
    asked.json (see engines/cache.py), answers.jsonl, and of own scenes the pictures and questions.jsonl in POPE's form.
    A killed run goes on.

    Args:
        request: Model and settings; data and registry are not used.
        out: Folder of the results.
        episodes: How many own scenes the questions are about.
        pope: Files of questions to use instead.
        images: Folder of the pictures that these name.

    Raises:
        ConfigError: `pope` without `images`.
        DataError: The model or the questions cannot be used.
    """
    if pope and images is None:
        raise ConfigError("--pope", "POPE's files name pictures", "give their folder with --images")
    out, seed = Path(out), request.seed
    folder = Path(images) if pope and images else out
    subject = request.subject(folder, mode="direct")
    settings, engine = subject.settings, subject.engine
    with artefacts.locked(out / ".lock"):
        questions = (
            read_pope(pope, folder) if pope else scene_questions(out, episodes, seed, language=settings.language)
        )
        if not pope:
            artefacts.write_jsonl(out / QUESTIONS, _pope_rows(questions))
        names = names_in(settings.language)
        prompts = [_prompt(question, names) for question in questions]
        pictures = picture_digests(folder, {one.picture: f"the question {one.text!r}" for one in questions})
        digest = artefacts.digest([[dataclasses.asdict(question) for question in questions], pictures])
        header = {"questions_digest": digest, "settings": settings.decides}
        responses = collect_responses(engine, prompts, out, asked=header, pictures=pictures)
        replies = [yes_no.reply(*one, names) for one in zip(questions, responses, strict=True)]
        write_answers(out / ANSWERS, replies)
        result = Guard(
            **subject.names(request.name),
            questions=tuple(str(file) for file in pope) if pope else f"{episodes} scenes, seed {seed}",
            questions_digest=digest,
            n_pictures=len(pictures),
            kinds=yes_no.by_kind(replies, request.resamples, seed),
            settings=dataclasses.asdict(settings),
            seed=seed,
            resamples=request.resamples,
            engine=dict(engine.identity()),
            provenance=provenance(),
        )
        result.write(out / GUARD)
    return result


def _prompt(question: Question, names: tuple[str, str]) -> Prompt:
    return Prompt(
        item=question.item,
        episode_id=question.picture,
        order="",
        shown=(Shown(question.picture),),
        labels=("img1",),
        question=question.text,
        names=names,
        answer="{name}",
    )


def _pope_rows(questions: Sequence[Question]) -> list[dict[str, Any]]:
    return [
        {
            "question_id": number,
            "image": question.picture,
            "text": question.text,
            "label": question.label,
            "kinds": question.kinds,
        }
        for number, question in enumerate(questions, 1)
    ]


def compare(runs: Sequence[Path], out: Path | None = None) -> GuardComparison:
    """The guards in the folders `runs`, and how accurate each is beside the first, on the same questions.

    Written to the folder `out` as compare.json, if it is given.

    Raises:
        DataError: A folder holds no finished guard, or the questions or the way of answering differ.
    """
    if len(runs) < 2:
        raise ConfigError("--compare", "needs two runs of `stcr guard` or more", "name the one before training first")
    found = [Guard.read(Path(run) / GUARD) for run in runs]
    for run, one in zip(runs, found, strict=True):
        for same, what in (
            (one.questions_digest == found[0].questions_digest, "other questions"),
            (
                one.settings.get("generate") == found[0].settings.get("generate"),
                "answers that came about in another way",
            ),
        ):
            if not same:
                raise DataError(run, f"has {what} than {runs[0]}", "run `stcr guard` with the same options on all")
    replies = [read_replies(Path(run) / ANSWERS) for run in runs]
    differences = tuple(
        GuardDifference(one.name, str(run), yes_no.differences(own, replies[0], one.resamples, seed=one.seed))
        for run, one, own in zip(runs[1:], found[1:], replies[1:], strict=True)
    )
    result = GuardComparison(runs=tuple(found), differences=differences, provenance=provenance())
    if out:
        result.write(Path(out) / GuardComparison.file)
    return result


def read_replies(path: Path) -> list[Reply]:
    """The replies in an answers.jsonl of a guard. Raises DataError where it holds anything else."""
    try:
        return [
            Reply(
                Question(**row["question"] | {"kinds": tuple(row["question"]["kinds"])}),
                row["chosen"],
                Response(**row["said"]),
            )
            for row in artefacts.read_jsonl(path)
        ]
    except (KeyError, TypeError) as error:
        raise DataError(path, f"not the answers of a guard ({error})", "delete the file, run again") from error
