"""Prompts -> responses of an engine, kept on disk as they come, so that a killed run continues where it stopped."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.engines.prompts import prompt_row
from stcr_plugin.engines.sealed import sealed
from stcr_plugin.engines.settings import Engine
from stcr_plugin.errors import DataError
from stcr_plugin.types import Prompt, Response

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SAID, ASKED = "said.jsonl", "asked.json"
_OF_PROMPTS = ("prompts_digest", "data_digest", "questions_digest")  # keys of asked.json about the prompts
_Key = tuple[str, str]  # item and order of a prompt


def collect_responses(
    engine: Engine, prompts: Sequence[Prompt], out: Path, *, asked: Mapping[str, Any], pictures: Mapping[str, str]
) -> list[Response]:
    """The response of `engine` to each prompt, in their order; those that the folder `out` holds are used again.

    Writes said.jsonl, one line per prompt as it comes, and asked.json: `asked` with the engine's identity and digests
    of the prompts. A response is used again where engine, settings, the prompt's whole text and its pictures are the
    same, whatever else is asked with it; said.jsonl keeps the others. Responses of another engine or with other
    settings are kept as said-DIGEST.jsonl, with a warning, and used again when these come back.

    Args:
        engine: Gives the responses.
        prompts: What to ask.
        out: Folder of the files.
        asked: What decides a response besides prompts and engine, such as the settings.
        pictures: Digest of each picture that is shown, see `picture_digests`.

    Raises:
        DataError: For two prompts with one item and order, and for a said.jsonl with an unexpected format.
    """
    keys = [(prompt.item, prompt.order) for prompt in prompts]
    if len(set(keys)) < len(keys):
        item, order = next(key for key in keys if keys.count(key) > 1)
        raise DataError(out, f"{item} is asked twice in {order} order", "ask it once")
    texts = [prompt_row(prompt) for prompt in prompts]
    digests = {
        key: artefacts.digest(
            [text, [pictures[path] for one in prompt.shown for path in (one.image, one.other) if path]]
        )
        for key, prompt, text in zip(keys, prompts, texts, strict=True)
    }
    header = {**asked, "engine": dict(engine.identity()), "prompts_digest": artefacts.digest(texts)}
    known = _earlier(out, header, digests)
    missing = _either_order_first([p for p, key in zip(prompts, keys, strict=True) if digests[key] not in known])
    if missing:
        with open(out / SAID, "ab", buffering=0) as file:
            for number, response in engine.respond(sealed(missing)):
                key = missing[number].item, missing[number].order
                known[digests[key]] = response
                if response.lost != "failed":  # so that the next run asks it again
                    _append(file, _line(key, digests[key], response), out / SAID)
    return [known[digests[key]] for key in keys]


def _paths(prompt: Prompt) -> list[str]:
    return [path for one in prompt.shown for path in (one.image, one.other) if path]


def _either_order_first(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts of one item in a drawn order, so that an engine that counts does not know which is forward."""
    first = {prompt.item: number for number, prompt in reversed(list(enumerate(prompts)))}
    return sorted(
        prompts, key=lambda prompt: (first[prompt.item], artefacts.digest(["first", prompt.item, prompt.order]))
    )


def _append(file: FileIO, line: str, path: Path) -> None:
    """Raises DataError where the line cannot be written, such as on a full disk; the next run drops its part."""
    data = line.encode("utf-8", "replace")
    try:
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        raise DataError(
            path,
            f"could not write a response ({error.strerror or error})",
            "free space, then run the same command again to continue (the responses before it are kept)",
        ) from error


def picture_digests(root: Path, shown: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of each picture's contents, which may be replaced under the same path.

    Args:
        root: Folder of the pictures.
        shown: Path relative to `root` -> what it belongs to, for the error.

    Raises:
        DataError: For a picture that cannot be read.
    """
    from stcr_plugin.registry.picture_store import read

    sums = {}
    for image in sorted(shown):
        try:
            sums[image] = artefacts.sha256_of(read(root, image))
        except DataError as error:
            reason = error.problem or error
            raise DataError(
                Path(root) / image, f"picture of {shown[image]} is not readable ({reason})", "write the dataset again"
            ) from error
    return sums


def write_answers(path: Path, answers: Iterable[DataclassInstance]) -> None:
    """One line per answer, the whole file or nothing. A log-probability of minus infinity is kept, as `-Infinity`."""
    artefacts.write_text(path, "".join(_json_line(_row(answer)) for answer in answers))


def _earlier(out: Path, header: dict[str, Any], digests: Mapping[_Key, str]) -> dict[str, Response]:
    """Digest of a prompt -> this engine's earlier response; said.jsonl and asked.json are made ready for more.

    The process may be killed between any two steps: a header is never beside responses to another one.
    """
    path, note = out / SAID, out / ASKED
    before = artefacts.read_json(note) if note.exists() else None
    if path.exists() and _deciding(before) != _deciding(header):
        _keep_aside(out, before, _deciding(before))
    if not path.exists():
        before = _bring_back(out, header)
    lines = _read_lines(path, digests if before == header else {}) if path.exists() else []
    if lines is None:
        _keep_aside(out, before, before)
    if before != header:
        artefacts.write_json(note, header)
    known = {digest: response for _, digest, response in lines or ()}
    changed = {key for key, _, _ in lines or () if key in digests and digests[key] not in known}
    if changed:
        logging.getLogger(__name__).warning(
            "%s: %d responses are to other questions or pictures, asking again", path, len(changed)
        )
    return known


def _deciding(header: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What decides a response besides the prompt's text and pictures, of which its line has a digest."""
    return None if header is None else {key: value for key, value in header.items() if key not in _OF_PROMPTS}


def _aside(out: Path, of: Mapping[str, Any] | None) -> tuple[Path, Path]:
    """Where responses decided by `of`, and their header, are kept while others are collected."""
    name = artefacts.digest(of)[:12]
    return out / f"said-{name}.jsonl", out / f"asked-{name}.json"


def _keep_aside(out: Path, header: Mapping[str, Any] | None, of: Mapping[str, Any] | None) -> None:
    kept, note = _aside(out, of)
    artefacts.write_json(note, header)
    (out / SAID).replace(kept)
    logging.getLogger(__name__).warning(
        "%s: responses of another model, data or settings are kept as %s, asking again", out, kept.name
    )


def _bring_back(out: Path, header: Mapping[str, Any]) -> dict[str, Any] | None:
    """The header of responses that were kept aside for `header`, None where there are none."""
    kept, note = _aside(out, _deciding(header))
    if not kept.exists():
        return None
    before: dict[str, Any] = artefacts.read_json(note)
    artefacts.write_json(out / ASKED, before)
    kept.replace(out / SAID)
    note.unlink()
    return before


def _read_lines(path: Path, digests: Mapping[_Key, str]) -> list[tuple[_Key, str, Response]] | None:
    """(key, digest, response) of each whole line of the file, which is written again without a cut one.

    Lines of earlier versions have no digest and get that of `digests`; None where it does not know them.
    """
    data = path.read_bytes()
    artefacts.write_bytes(path, data[: data.rfind(b"\n") + 1])
    lines = []
    try:
        for row in artefacts.read_jsonl(path):
            key = row.pop("item"), row.pop("order")
            lines.append((key, row.pop("prompt", None) or digests.get(key), Response(**row)))
    except (DataError, KeyError, TypeError) as error:
        raise DataError(path, f"not responses of an engine ({error})", "delete the file, then run again") from error
    known = [(key, digest, response) for key, digest, response in lines if digest]
    if len(known) < len(lines):
        return None
    artefacts.write_text(path, "".join(_line(*line) for line in known))
    return known


def _line(key: _Key, digest: str, response: Response) -> str:
    return _json_line({"item": key[0], "order": key[1], "prompt": digest, **_row(response)})


def _row(one: DataclassInstance) -> dict[str, Any]:
    """Fields and values; `lost` only where it says something, so that files without it stay as they were."""
    return dataclasses.asdict(one, dict_factory=lambda items: {k: value for k, value in items if value or k != "lost"})


def _json_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
