"""Prompts put to an engine, and what it said on disk as it comes: a killed run goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.engines.settings import Engine
from stcr_plugin.errors import DataError
from stcr_plugin.types import Prompt, Response

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SAID, ASKED = "said.jsonl", "asked.json"
_OF_PROMPTS = ("prompts_digest", "data_digest", "questions_digest")  # of all that was asked, in asked.json


def put(
    engine: Engine, prompts: Sequence[Prompt], out: Path, asked: Mapping[str, Any], pictures: Mapping[str, str]
) -> list[Response]:
    """What `engine` says to each of `prompts`, in their order; those that the folder `out` holds are not asked again.

    Writes said.jsonl, a line a prompt as it comes, and asked.json: `asked` (what decides what is said besides prompts
    and engine) with the engine's identity and digests of what was asked. `pictures`: the sums of those that are shown,
    see `picture_sums`. An answer is used again where engine and settings, the prompt's every word and its pictures are
    the same, whatever else is asked beside it; said.jsonl keeps those that are not asked for this time. Answers of
    another engine or other settings are set aside as said-DIGEST.jsonl, with a warning, and are back when these are.
    Raises DataError for two prompts with one item and order, for what the engine raises, and for a said.jsonl that
    holds anything else.
    """
    keys = [(prompt.item, prompt.order) for prompt in prompts]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"{out}: {twice[0]} is asked twice in {twice[1]} order; ask it once")
    texts = [dataclasses.asdict(prompt) for prompt in prompts]
    wanted = {
        key: artefacts.digest([text, [pictures[one.image] for one in prompt.shown]])
        for key, prompt, text in zip(keys, prompts, texts, strict=True)
    }
    header = {**asked, "engine": dict(engine.identity()), "prompts_digest": artefacts.digest(texts)}
    known = _earlier(out, header, wanted)
    left = [prompt for prompt, key in zip(prompts, keys, strict=True) if wanted[key] not in known]
    if left:
        with open(out / SAID, "a", encoding="utf-8") as file:
            for number, said in engine.say(left):
                key = left[number].item, left[number].order
                known[wanted[key]] = said
                file.write(_line(key, wanted[key], said))
                file.flush()
    return [known[wanted[key]] for key in keys]


def picture_sums(root: Path, shown: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of each picture's contents, which may be replaced under the same path. `pictures` of `put`.

    shown: path relative to `root` -> whose picture it is, for the DataError of one that cannot be read.
    """
    from stcr_plugin.registry.picture_store import read

    sums = {}
    for image in sorted(shown):
        try:
            sums[image] = artefacts.sha256_of(read(root, image))
        except DataError as error:
            reason = str(error).removeprefix(f"{image}: ")
            raise DataError(
                f"{Path(root) / image}: picture of {shown[image]} is not readable ({reason}); write it anew"
            ) from error
    return sums


def write_answers(path: Path, answers: Iterable[DataclassInstance]) -> None:
    """A line an answer, whole or not at all. A log-probability of minus infinity is kept, as `-Infinity`."""
    lines = (json.dumps(dataclasses.asdict(answer), ensure_ascii=False) for answer in answers)
    artefacts.write_text(path, "".join(f"{line}\n" for line in lines))


def _earlier(out: Path, header: dict[str, Any], wanted: Mapping[tuple[str, str], str]) -> dict[str, Response]:
    """Digest of a prompt -> what this very engine said to it, with said.jsonl and asked.json made ready for more.

    A process may be killed between any two steps, for no header ever stands above others' answers.
    """
    path, note = out / SAID, out / ASKED
    before = artefacts.read_json(note) if note.exists() else None
    if path.exists() and _deciding(before) != _deciding(header):
        _set_aside(out, before, _deciding(before))
    if not path.exists():
        before = _brought_back(out, header)
    lines = _lines(path, wanted if before == header else {}) if path.exists() else []
    if lines is None:
        _set_aside(out, before, before)
    if before != header:
        artefacts.write_json(note, header)
    known = {digest: said for _, digest, said in lines or ()}
    others = {key for key, _, _ in lines or () if key in wanted and wanted[key] not in known}
    if others:
        logging.getLogger(__name__).warning(
            "%s: %d answers are to other words or pictures, asking anew", path, len(others)
        )
    return known


def _deciding(header: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What decides an answer besides the prompt's words and pictures, of which its line has a digest."""
    return None if header is None else {key: value for key, value in header.items() if key not in _OF_PROMPTS}


def _aside(out: Path, of: Mapping[str, Any] | None) -> tuple[Path, Path]:
    """Where the answers that `of` decided, and their header, lie while others are asked for."""
    name = artefacts.digest(of)[:12]
    return out / f"said-{name}.jsonl", out / f"asked-{name}.json"


def _set_aside(out: Path, header: Mapping[str, Any] | None, of: Mapping[str, Any] | None) -> None:
    kept, note = _aside(out, of)
    artefacts.write_json(note, header)
    (out / SAID).replace(kept)
    logging.getLogger(__name__).warning(
        "%s: answers of another model, data or settings are kept as %s, asking anew", out, kept.name
    )


def _brought_back(out: Path, header: Mapping[str, Any]) -> dict[str, Any] | None:
    """The header of answers that were set aside and are wanted again, None where there are none."""
    kept, note = _aside(out, _deciding(header))
    if not kept.exists():
        return None
    before: dict[str, Any] = artefacts.read_json(note)
    artefacts.write_json(out / ASKED, before)
    kept.replace(out / SAID)
    note.unlink()
    return before


def _lines(path: Path, wanted: Mapping[tuple[str, str], str]) -> list[tuple[tuple[str, str], str, Response]] | None:
    """(item and order, digest of the prompt, what was said) of each line but one that was cut, which is dropped.

    Lines of earlier versions have no digest and are given that of `wanted`; None where it does not know them.
    """
    data = path.read_bytes()
    artefacts.write_bytes(path, data[: data.rfind(b"\n") + 1])
    lines = []
    try:
        for row in artefacts.read_jsonl(path):
            key = row.pop("item"), row.pop("order")
            lines.append((key, row.pop("prompt", None) or wanted.get(key), Response(**row)))
    except (DataError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not what an engine said ({error}); delete the file, run again") from error
    known = [(key, digest, said) for key, digest, said in lines if digest]
    if len(known) < len(lines):
        return None
    artefacts.write_text(path, "".join(_line(*line) for line in known))
    return known


def _line(key: tuple[str, str], digest: str, said: Response) -> str:
    row = {"item": key[0], "order": key[1], "prompt": digest, **dataclasses.asdict(said)}
    return json.dumps(row, ensure_ascii=False) + "\n"
