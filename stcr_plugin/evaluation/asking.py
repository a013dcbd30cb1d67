"""Prompts put to an engine, and what it said on disk as it comes: a killed run goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.errors import DataError
from stcr_plugin.evaluation.engine import Engine
from stcr_plugin.types import Prompt, Said

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SAID, ASKED = "said.jsonl", "asked.json"


def put(engine: Engine, prompts: Sequence[Prompt], out: Path, asked: Mapping[str, Any]) -> list[Said]:
    """What `engine` says to each of `prompts`, in their order; those that the folder `out` holds are not asked again.

    Writes said.jsonl, a line a prompt as it comes, and asked.json: `asked` (what decides what is said besides prompts
    and engine, such as the contents of the pictures) with the engine's identity and a digest of the prompts. Where an
    earlier asked.json says otherwise, its answers are replaced, with a warning. Raises DataError for two prompts with
    one item and order, for what the engine raises, and for a said.jsonl that holds anything else.
    """
    keys = [(prompt.item, prompt.order) for prompt in prompts]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"{out}: {twice[0]} is asked twice in {twice[1]} order; ask it once")
    digest = artefacts.digest([dataclasses.asdict(prompt) for prompt in prompts])
    known = _earlier(out, {**asked, "engine": dict(engine.identity()), "prompts_digest": digest})
    left = [prompt for prompt, key in zip(prompts, keys, strict=True) if key not in known]
    if left:
        with open(out / SAID, "a", encoding="utf-8") as file:
            for number, said in engine.say(left):
                prompt = left[number]
                known[prompt.item, prompt.order] = said
                row = {"item": prompt.item, "order": prompt.order, **dataclasses.asdict(said)}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
    return [known[key] for key in keys]


def picture_sums(root: Path, shown: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of each picture's contents, which may be replaced under the same path. Part of `asked` of `put`.

    shown: path relative to `root` -> whose picture it is, for the DataError of one that cannot be read.
    """
    from stcr_plugin.registry.pictures import read

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


def _earlier(out: Path, asked: dict[str, Any]) -> dict[tuple[str, str], Said]:
    """The whole lines of an earlier run that asked the same; a line that was cut is dropped from the file."""
    path, header = out / SAID, out / ASKED
    if path.exists() and header.exists() and artefacts.read_json(header) == asked:
        data = path.read_bytes()
        artefacts.write_bytes(path, data[: data.rfind(b"\n") + 1])
        return _read(path)
    if path.exists():
        logging.getLogger(__name__).warning(
            "%s: answers of another model, data or settings; asking anew and replacing them", out
        )
    artefacts.write_bytes(path, b"")  # before the header, so that no header ever stands above others' answers
    artefacts.write_json(header, asked)
    return {}


def _read(path: Path) -> dict[tuple[str, str], Said]:
    try:
        return {(row.pop("item"), row.pop("order")): Said(**row) for row in artefacts.read_jsonl(path)}
    except (DataError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not what an engine said ({error}); delete the file, run again") from error
