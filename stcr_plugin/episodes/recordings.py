"""What the sources of recorded episodes share: checks of their annotations, and exclusions made from errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from stcr_plugin.artefacts import digest, inside
from stcr_plugin.episodes.stored_values import shown, single, whole
from stcr_plugin.errors import DataError, NoPathError
from stcr_plugin.types import Claim, Episode, Exclusion, Segment, State

if TYPE_CHECKING:
    from stcr_plugin.episodes.proprioception import Vectors
    from stcr_plugin.types import Picture

T = TypeVar("T")
_LONGEST = 10**9  # frames
_DEPTH = frozenset({"depth", "disparity"})
_MASKS = frozenset({"mask", "masks", "segmentation", "seg"})
COLOUR_WORDS = frozenset({"rgb", "color", "colour"})


class Unclaimed:
    """Base of the sources that state nothing about single frames, so that their pairs only become weak samples."""

    def claims(self, state: State) -> tuple[Claim, ...]:
        return ()

    def holds(self, claim: Claim, state: State) -> bool:
        return False


def check_indices(episode: Episode, indices: Sequence[int]) -> None:
    """Raises DataError unless `indices` are frames of `episode`, strictly ascending."""
    if any(not 0 <= index < episode.n_frames for index in indices) or list(indices) != sorted(set(indices)):
        raise DataError(
            f"episode {episode.episode_id}", f"frames {list(indices)} do not ascend from 0 to {episode.n_frames - 1}"
        )


def record_of(records: Mapping[str, T], episode: Episode, where: Path) -> T:
    """The record of an episode that was listed before. Raises DataError where it is gone."""
    record = records.get(episode.episode_id)
    if record is None:
        raise DataError(where, f"has no episode {episode.episode_id!r}", "restore the data, or build again")
    return record


def readable_id(name: str) -> str:
    """An episode's id made of any name, a path or a text: safe as a file name, and another one for another name."""
    readable = re.sub(r"[^\w.+=@-]+", "_", name.replace("/", "-"))[:60].lstrip(".")
    return f"{readable or 'pictures'}-{digest(name)[:8]}"


def named_frames(pictures: Iterator[Picture], where: str, indices: Sequence[int]) -> Iterator[Picture]:
    """`pictures`, with errors that name the episode (`where`) and the frame."""
    for index in indices:
        try:
            yield next(pictures)
        except DataError as error:
            raise DataError(f"{where}, frame {index}: {error.where}", error.problem, error.fix) from None


def exclusion(what: str, where: str, error: DataError, files: Sequence[Path] = ()) -> Exclusion:
    """The Exclusion that an error becomes: at `where`, or at the one of `files` that the error is about."""
    place = error.where if error.where in map(str, files) else where
    return Exclusion(what, place, reason_of(error) if error.where == place else str(error))


def reason_of(error: DataError) -> str:
    """An error without its place: reasons are counted, so they must not differ by file."""
    return str(DataError("", error.problem, error.fix))


def inside_download(root: Path, relative: str) -> Path:
    """`artefacts.inside`, with advice where a link of the Hugging Face cache leaves the folder."""
    try:
        return inside(root, relative)
    except NoPathError:
        raise
    except DataError as error:
        if ".." in Path(relative).parts or Path(relative).is_absolute():
            raise
        raise DataError(
            error.where,
            f"{error.problem}. The files of a snapshot in the Hugging Face cache are links that leave it",
            "download real ones: `hf download REPO --repo-type dataset --local-dir FOLDER`; then set root to FOLDER",
        ) from None


def action_segment(action: Any, n_frames: int) -> Segment:
    """The segment of an `action_config` entry `{start_frame, end_frame, action_text}`, half-open. Raises ValueError."""
    if not isinstance(action, Mapping):
        raise ValueError(f"a segment of action_config is {shown(action)}, not a mapping")
    text = check_text("action_text", single(action.get("action_text")))
    start, end = (whole(key, action.get(key), least=-_LONGEST) for key in ("start_frame", "end_frame"))
    if not 0 <= start < end <= n_frames:
        raise ValueError(f"the segment {text!r} is frames [{start}, {end}) of an episode of {n_frames}")
    return Segment(text, start, end)


def words_of(camera: str) -> frozenset[str]:
    """The words in a camera's name, whether it is written front_depth, FrontDepth or frontDepth."""
    return frozenset(word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", camera))


def named_as(camera: str) -> str:
    """What the name of a camera says that it shows instead of colour: "a depth map", "masks", or "" for nothing."""
    words = words_of(camera)
    if words & COLOUR_WORDS:
        return ""
    return "a depth map" if words & _DEPTH else "masks" if words & _MASKS else ""


def check_text(name: str, value: Any) -> str:
    """`value` if it is a text that can be written as UTF-8, without a NUL. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"its {name} {str(value)[:40]!r} is not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"its {name} {value[:40]!r} is not UTF-8; save the file as UTF-8") from None
    if "\0" in value:
        raise ValueError(f"its {name} {value[:40]!r} holds a NUL character, which no text has")
    return value


def check_finite(vectors: Vectors, where: str) -> Vectors:
    """`vectors` [T, D] if all of them are finite. Raises DataError naming the first frame with another value."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise DataError(f"{where}, frame {bad[0]}", "a reading is not a finite number")
    return vectors
