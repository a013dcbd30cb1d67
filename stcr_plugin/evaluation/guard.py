"""The general-ability guard: yes/no questions about what one picture shows, asked before and after training.

In the manner of POPE (Li et al. 2023, arXiv 2305.10355): half of the questions name what is there, half what is not,
drawn at random, from what is frequent, or from what is easily confused. Training on order must not cost this. A model
that never learned such questions, as the embedded tiny base, has nothing to lose here, and its figures say so.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.engines.cache import picture_sums, put, write_answers
from stcr_plugin.engines.settings import AskSettings, Engine
from stcr_plugin.engines.subject import subject
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.report import tables
from stcr_plugin.samples.general import Label, Question, draw_number, names_in, questions_about
from stcr_plugin.scoring import metrics
from stcr_plugin.types import Episode, Prompt, Response, Shown

if TYPE_CHECKING:
    from stcr_plugin.episodes.tabletop import Visible

GUARD, ANSWERS, REPORT, QUESTIONS = "guard.json", "answers.jsonl", "guard.md", "questions.jsonl"
EPISODES = 200  # scenes to ask about, where nobody says
_APART = 2_000_003  # scenes of their own: demonstrations and the base's lessons have other seeds


@dataclass(frozen=True)
class Reply:
    """A question with what was chosen; None where the text says neither yes nor no, or both."""

    question: Question
    chosen: Label | None
    said: Response


# ---- questions about our own scenes ----


def scene_questions(out: Path, episodes: int, seed: int, language: str = "en") -> list[Question]:
    """Questions about one frame of each of `episodes` simulated demonstrations, whose pictures are written to `out`.

    Per picture up to three things that are there and can be seen, and as many for each kind of things that are not.
    random: any. popular: those that stand in most of the pictures. adversarial: a colour of one thing here with the
    shape of another before one that shares its colour or its shape alone, and of these what often stands beside what
    is here. Nothing is asked of which the colours would leave a doubt. The same seed gives the same questions.
    """
    from PIL import Image

    from stcr_plugin.episodes.tabletop import TabletopConfig, TabletopSource
    from stcr_plugin.progress_bar import progress

    if episodes < 1:
        raise ConfigError(f"episodes {episodes}: at least 1 is needed to ask about")
    source = TabletopSource(TabletopConfig(seen=episodes, heldout=0), seed + _APART)
    scenes: dict[str, tuple[Visible, ...]] = {}
    for episode in progress(source.episodes(), "guard: drawing", "pictures", total=episodes):
        assert isinstance(episode, Episode)
        index = draw_number(seed, episode.episode_id) % episode.n_frames
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
                raise DataError(f"{where}: {images / picture} is no file; name the folder of its pictures (--images)")
            known, kinds, first = found.setdefault((picture, text), (label, [], where))
            if known != label:
                raise DataError(f"{where}: the label is {label}, but {known} in {first}, to the same question")
            if kind not in kinds:
                kinds.append(kind)
    if not found:
        raise DataError(f"{', '.join(map(str, files))}: no questions there")
    return [Question(*key, label, tuple(kinds)) for key, (label, kinds, _) in found.items()]


def _pope_row(row: Any, where: str) -> tuple[str, str, Label]:
    given = {key: row.get(key) for key in ("image", "text", "label")} if isinstance(row, dict) else {}
    texts = [value for value in given.values() if isinstance(value, str) and value]
    if len(texts) != 3:
        raise DataError(f"{where}: a row of POPE has the texts image, text and label; mend or drop it")
    if given["label"] not in ("yes", "no"):
        raise DataError(f"{where}: label {given['label']!r} is neither yes nor no; mend or drop it")
    return texts[0], texts[1], given["label"]


# ---- asking ----


def guard(
    model_dir: Path | None,
    out: Path,
    episodes: int = EPISODES,
    seed: int = 0,
    settings: AskSettings | None = None,
    pope: Sequence[Path] = (),
    images: Path | None = None,
    resamples: int = 2000,
    name: str | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Ask the model yes/no questions, and write the figures into the folder `out`; the row of guard.json.

    The questions are of `episodes` own scenes, or those of the files `pope`, whose pictures lie in `images`. `engine`
    is asked instead of the model in `model_dir`; it looks for pictures in `images`, or for own scenes in `out`.
    Writes said.jsonl and asked.json (see asking.put), answers.jsonl, guard.json and guard.md, and of own scenes the
    pictures and questions.jsonl, in POPE's format. A killed run goes on. Raises DataError for what cannot be used.
    """
    if pope and images is None:
        raise ConfigError("POPE's files name pictures: give their folder (--images)")
    out = Path(out)
    folder = Path(images) if pope and images else out
    who = subject(model_dir, folder, settings, engine, mode="direct")
    settings, engine = who.settings, who.engine
    with artefacts.locked(out / ".lock"):
        questions = read_pope(pope, folder) if pope else scene_questions(out, episodes, seed, settings.language)
        if not pope:
            artefacts.write_jsonl(out / QUESTIONS, _pope_rows(questions))
        names = names_in(settings.language)
        prompts = [_prompt(question, names) for question in questions]
        pictures = picture_sums(folder, {one.picture: f"the question {one.text!r}" for one in questions})
        digest = artefacts.digest([[dataclasses.asdict(question) for question in questions], pictures])
        said = put(engine, prompts, out, {"questions_digest": digest, "settings": settings.decides}, pictures)
        replies = [_reply(*one, names) for one in zip(questions, said, strict=True)]
        write_answers(out / ANSWERS, replies)
        row = {
            **who.names(name),
            "questions": [str(file) for file in pope] if pope else f"{episodes} scenes, seed {seed}",
            "questions_digest": digest,
            "n_pictures": len(pictures),
            "unit": "percent",
            "kinds": _by_kind(replies, resamples, seed),
            "settings": dataclasses.asdict(settings),
            "seed": seed,
            "resamples": resamples,
            "engine": dict(engine.identity()),
            "provenance": artefacts.provenance(),
        }
        artefacts.write_text(out / REPORT, f"# General ability: {tables.cell(row['name'])}\n\n{_table([row], replies)}")
        artefacts.write_json(out / GUARD, row)
    return row


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


def _reply(question: Question, said: Response, names: tuple[str, str]) -> Reply:
    if said.logprobs:  # without a text both were equally likely
        yes, no = (said.logprobs[name] for name in names)
        return Reply(question, None if yes == no else "yes" if yes > no else "no", said)
    return Reply(question, parse(said.text), said)


_YES = re.compile(r"(?<![a-z])yes(?![a-z])|是|有")
_NO = re.compile(r"(?<![a-z])(?:no|not)(?![a-z])|n't(?![a-z])|否|没有|不")


def parse(text: str) -> Label | None:
    """Whether `text` says yes or no, in English or Chinese; None where it says neither. Raises nothing.

    A word that it begins with decides; else its first line that has words, where that says one of them and not the
    other. POPE's own script takes every answer that does not say no or not for a yes; this does not.
    """
    plain = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    line = next((line.strip(" \t\"'`*_>#-.") for line in plain.splitlines() if line.strip(" \t\"'`*_>#-.")), "")
    if found := re.match(r"(yes|no)(?![a-z])(?!\s+or\s)|(是|有)(?![否没不])|(否|没有|不)", line):
        return "yes" if found[1] == "yes" or found[2] else "no"
    no = bool(_NO.search(line))
    yes = bool(_YES.search(_NO.sub(" ", line.replace("不是", "不"))))
    return None if yes == no else "yes" if yes else "no"


# ---- figures ----

_FIGURES: Mapping[str, tuple[str, str, Callable[[Mapping[str, int]], tuple[int, int]]]] = {
    "accuracy": (
        "accuracy %",
        "right answers; no answer is a wrong one",
        lambda n: (n["tp"] + n["tn"], n["n"]),
    ),
    "precision": ("precision %", "of those answered yes, right ones", lambda n: (n["tp"], n["yes"])),
    "recall": ("recall %", "of what is there, answered yes", lambda n: (n["tp"], n["there"])),
    "f1": (
        "F1 %",
        "harmonic mean of precision and recall",
        lambda n: (2 * n["tp"], n["yes"] + n["there"]),
    ),
    "yes_ratio": ("yes %", "answered yes; 50 is unbiased", lambda n: (n["yes"], n["n"])),
    "unparsed_rate": ("unparsed %", "said neither yes nor no, or both", lambda n: (n["unparsed"], n["n"])),
}
"""Name -> heading, meaning, and (part, whole) of it. As POPE defines them, with yes as the positive answer."""


def figures(replies: Sequence[Reply]) -> dict[str, float | None]:
    """The figures of POPE, in percent; precision is None where nothing was answered yes."""
    counts = _counts(replies)
    return {
        key: 100 * part / whole if whole else None
        for key, (part, whole) in ((key, ratio(counts)) for key, (_, _, ratio) in _FIGURES.items())
    }


def intervals(replies: Sequence[Reply], resamples: int = 2000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % interval of each figure, by the bootstrap over pictures (metrics.pooled_interval); some may have none."""
    pictures = {picture: _counts(group) for picture, group in _by_picture(replies).items()}
    found = {
        key: metrics.pooled_interval({name: ratio(counts) for name, counts in pictures.items()}, resamples, seed)
        for key, (_, _, ratio) in _FIGURES.items()
    }
    return {key: bounds for key, bounds in found.items() if bounds}


def _counts(replies: Sequence[Reply]) -> dict[str, int]:
    pairs = Counter((reply.question.label, reply.chosen) for reply in replies)
    return {
        "n": len(replies),
        "there": sum(count for (label, _), count in pairs.items() if label == "yes"),
        "yes": sum(count for (_, chosen), count in pairs.items() if chosen == "yes"),
        "unparsed": sum(count for (_, chosen), count in pairs.items() if chosen is None),
        "tp": pairs["yes", "yes"],
        "tn": pairs["no", "no"],
    }


def _by_picture(replies: Sequence[Reply]) -> dict[str, list[Reply]]:
    found: dict[str, list[Reply]] = {}
    for reply in replies:
        found.setdefault(reply.question.picture, []).append(reply)
    return found


def _groups(replies: Sequence[Reply]) -> dict[str, list[Reply]]:
    """Kind -> its replies; "all" counts a question once for each kind that it stands in, so that it is balanced too."""
    kinds = dict.fromkeys(kind for reply in replies for kind in reply.question.kinds)
    groups = {kind: [reply for reply in replies if kind in reply.question.kinds] for kind in kinds}
    return groups | {"all": [reply for group in groups.values() for reply in group]}


def _by_kind(replies: Sequence[Reply], resamples: int, seed: int) -> dict[str, Any]:
    return {
        kind: {"n": len(group), **figures(group), "intervals": intervals(group, resamples, seed)}
        for kind, group in _groups(replies).items()
    }


# ---- words ----


def _table(rows: Sequence[Mapping[str, Any]], replies: Sequence[Reply]) -> str:
    """Markdown: each row's figures by kind; what always yes, always no and a coin give; what a figure means."""
    heads = ["model", "negatives", *(heading for heading, _, _ in _FIGURES.values()), "questions"]
    lines = [
        [
            tables.cell(row["name"]),
            tables.cell(kind),
            *(_shown(found, key) for key in _FIGURES),
            str(found["n"]),
        ]
        for kind in rows[0]["kinds"]
        for row, found in ((row, row["kinds"][kind]) for row in rows)
    ]
    always = {
        f"always {word}": figures([dataclasses.replace(reply, chosen=word) for reply in _groups(replies)["all"]])
        for word in ("yes", "no")
    }
    lines += [[word, "all", *(tables.figure(found, key) for key in _FIGURES), ""] for word, found in always.items()]
    there = always["always yes"]["accuracy"] or 0.0
    coin = {"accuracy": 50, "precision": there, "recall": 50, "f1": 100 * there / (50 + there), "yes_ratio": 50}
    lines += [["a coin", "all", *(tables.figure(coin | {"unparsed_rate": 0}, key) for key in _FIGURES), ""]]
    pictures = rows[0]["n_pictures"]
    return "\n\n".join(
        [
            f"Yes/no questions about {pictures} pictures in the manner of POPE (arXiv 2305.10355). Intervals: 95 %, "
            f"bootstrap over pictures, {rows[0]['resamples']} resamples. A model whose figures are those of the last "
            "three lines was not able to answer such questions, so nothing can be said of what training cost it.",
            tables.markdown(heads, lines),
            tables.markdown(
                ["figure", "what it counts"], [[heading, meaning] for heading, meaning, _ in _FIGURES.values()]
            ),
            "",
        ]
    )


def words(row: Mapping[str, Any]) -> str:
    """The row of a guard.json in a line a kind."""
    return "\n".join(
        f"{row['name']}, {kind}: " + ", ".join(f"{_FIGURES[key][0]} {_shown(found, key)}" for key in _FIGURES)
        for kind, found in row["kinds"].items()
    )


def compare(runs: Sequence[Path], out: Path | None = None) -> str:
    """Markdown: the guards in the folders `runs` side by side, and what each differs from the first by.

    The difference of accuracy is paired: the same questions, and an interval by the bootstrap over pictures. Written
    to `out` as compare.md and compare.json, if it is given. Raises DataError where a folder holds no finished guard,
    or the questions are not the same.
    """
    if len(runs) < 2:
        raise ConfigError("give two runs of `stcr guard` or more, the one before training first")
    rows = [artefacts.read_json(Path(run) / GUARD) for run in runs]
    for run, row in zip(runs, rows, strict=True):
        for key, what in (("questions_digest", "other questions"), ("generate", "answers come by in another way")):
            if {**row, **row["settings"]}[key] != {**rows[0], **rows[0]["settings"]}[key]:
                raise DataError(f"{run}: {what} than in {runs[0]}; ask all with the same options")
    replies = [read_replies(Path(run) / ANSWERS) for run in runs]
    differences = [
        {"name": row["name"], "run": str(run), "kinds": _differences(others, replies[0], row["resamples"], row["seed"])}
        for run, row, others in zip(runs[1:], rows[1:], replies[1:], strict=True)
    ]
    lines = [
        [tables.cell(one["name"]), kind, _points(found["points"], found["interval"])]
        for one in differences
        for kind, found in one["kinds"].items()
    ]
    text = "\n\n".join(
        [
            f"# General ability before and after: {tables.cell(', '.join(row['name'] for row in rows))}",
            _table(rows, replies[0]).rstrip(),
            f"## Accuracy minus that of {tables.cell(rows[0]['name'])}",
            "In points, on the same questions. An interval without 0 is a change; one with it may hide one as large "
            "as its ends.",
            tables.markdown(["model", "negatives", "difference"], lines),
            "",
        ]
    )
    if out:
        artefacts.write_json(
            Path(out) / "compare.json",
            {"runs": rows, "differences": differences, "provenance": artefacts.provenance()},
        )
        artefacts.write_text(Path(out) / "compare.md", text)
    return text


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
        raise DataError(f"{path}: not the answers of a guard ({error}); delete the file, run again") from error


def _differences(mine: Sequence[Reply], first: Sequence[Reply], resamples: int, seed: int) -> dict[str, Any]:
    """Kind -> points of accuracy more than `first`, with its interval."""
    before = {reply.question.item: _right(reply) for reply in first}
    found = {}
    for kind, group in _groups(mine).items():
        sums = {
            picture: (sum(_right(one) - before[one.question.item] for one in replies), len(replies))
            for picture, replies in _by_picture(group).items()
        }
        lead = sum(part for part, _ in sums.values())
        found[kind] = {
            "points": 100 * lead / len(group),
            "interval": metrics.pooled_interval(sums, resamples, seed),
        }
    return found


def _right(reply: Reply) -> bool:
    return reply.chosen == reply.question.label


def _shown(found: Mapping[str, Any], key: str) -> str:
    return tables.with_interval(found, key).replace("episodes", "pictures")  # which are the clusters here


def _points(points: float, interval: Sequence[float] | None) -> str:
    low, high = interval or (None, None)
    return f"{points:+.1f}" + (f" ({low:+.1f} to {high:+.1f})" if low is not None and high is not None else "")
