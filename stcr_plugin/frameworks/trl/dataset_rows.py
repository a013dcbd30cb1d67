"""Training sets for TRL's trainer: the files of dataset_info.json as rows of `messages` and `images`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.config import nearest
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.registry.manifest import DATASET_INFO, listed
from stcr_plugin.registry.picture_store import IN_TAR

_LOADERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}
# LLaMA-Factory's sharegpt entry: the keys that we read, and their defaults (data/parser.py, DatasetAttr).
_ENTRY = ("file_name", "formatting", "columns", "tags", "split")
_COLUMNS = {"messages": "conversations", "images": None, "system": None}
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
    "observation_tag": "observation",  # for calls of tools, which no row may have
    "function_tag": "function_call",
}
_MIXES = {
    "interleave_under": "first_exhausted",
    "interleave_over": "all_exhausted",
    "interleave_once": "all_exhausted_without_replacement",
}


def dataset(
    registry: str | Path,
    name: str,
    media_dir: str | Path | None = None,
    *,
    workers: int | None = None,
    cache: bool = True,
) -> Any:
    """The training set `name` of `registry`/dataset_info.json as a `datasets.Dataset`, one row a conversation.

    Columns: `messages`, a list of {role, content} with roles system, user and assistant and `<image>` for each
    picture; `images`, their paths, or positions in tar files below `media_dir` (default: the registry). No picture is
    opened. Raises ConfigError for an unknown set or one in another format than sharegpt, DataError for a broken row.
    """
    from datasets import Dataset, Features, Value, load_dataset

    entry = _entry(Path(registry), name)
    files = _files(Path(registry), name, str(entry["file_name"]))
    kinds = {_LOADERS.get(file.suffix, "") for file in files}
    if len(kinds) != 1 or "" in kinds:
        raise ConfigError(name, f"its files must have one format of {', '.join(_LOADERS)}; they are {files[:3]}")
    raw: Dataset = load_dataset(kinds.pop(), data_files=[str(file) for file in files], split="train")
    text = Value("string")
    how = {"name": name, "media": str(media_dir or registry), **_names(entry, raw.column_names, name)}
    return raw.map(
        _aligned,
        batched=True,
        with_indices=True,
        fn_kwargs=how,
        remove_columns=raw.column_names,
        features=Features({"messages": [{"role": text, "content": text}], "images": [text]}),
        num_proc=workers,
        load_from_cache_file=cache,
        desc=f"Reading {name}",
    )


def mixed(parts: Sequence[Any], strategy: str, shares: Sequence[float] | None, *, seed: int) -> Any:
    """Several training sets as one, as LLaMA-Factory mixes them (data/data_utils.py, merge_dataset)."""
    from datasets import concatenate_datasets, interleave_datasets

    if len(parts) == 1:
        return parts[0]
    if strategy == "concat":
        return concatenate_datasets(list(parts))
    return interleave_datasets(
        list(parts), probabilities=list(shares) if shares else None, seed=seed, stopping_strategy=_MIXES[strategy]
    )


def _entry(registry: Path, name: str) -> dict[str, Any]:
    path = registry / DATASET_INFO
    known = listed(registry)
    if name not in known:
        raise ConfigError(path, f"has no dataset {name!r}", nearest(name, list(known)))
    entry: dict[str, Any] = known[name]
    formatting = entry.get("formatting", "alpaca")
    if formatting != "sharegpt":
        raise ConfigError(
            path,
            f"{name} is in the {formatting} format, and the TRL backend reads sharegpt",
            "write its rows as messages, or train with --backend llamafactory",
        )
    odd = [key for key in entry if key not in _ENTRY] + (["split"] if entry.get("split", "train") != "train" else [])
    if odd or "file_name" not in entry:
        raise ConfigError(
            path,
            f"{name} {f'has {odd[0]}' if odd else 'has no file_name'}, which the TRL backend cannot read",
            f"use {', '.join(_ENTRY)}, or train with --backend llamafactory",
        )
    return entry


def _files(registry: Path, name: str, file_name: str) -> list[Path]:
    """A file, or those of a folder in the order of their names."""
    path = artefacts.inside(registry, file_name)
    if not path.exists():
        raise DataError(path, f"no such file, and dataset {name} is read from it", "build it again")
    return sorted(path.iterdir()) if path.is_dir() else [path]


def _names(entry: Mapping[str, Any], there: Sequence[str], name: str) -> dict[str, Any]:
    """The columns and tags of an entry. Where it has such a block, what the block leaves out has no default."""
    columns = entry.get("columns")
    columns = _COLUMNS if columns is None else {key: columns.get(key) for key in _COLUMNS} | dict(columns)
    tags = _TAGS if entry.get("tags") is None else {key: entry["tags"].get(key) for key in _TAGS} | entry["tags"]
    for what, given, known in (("columns", columns, _COLUMNS), ("tags", tags, _TAGS)):
        odd = [key for key in given if key not in known]
        if odd:
            raise ConfigError(
                name, f"{what} has {odd[0]!r}, which the TRL backend cannot read", nearest(odd[0], list(known))
            )
    missing = [column for column in columns.values() if column and column not in there]
    if missing or not columns["messages"]:
        lacks = missing[0] if missing else "messages"
        raise DataError(
            name,
            f"its files have no column {lacks!r}, they have {', '.join(there)}",
            "fix `columns` of its entry in dataset_info.json",
        )
    return {"columns": columns, "tags": tags}


def _aligned(
    batch: Mapping[str, list[Any]],
    indices: Sequence[int],
    name: str,
    media: str,
    columns: Mapping[str, str | None],
    tags: Mapping[str, str],
) -> dict[str, list[Any]]:
    def column(key: str) -> list[Any]:
        return batch[columns[key]] if columns[key] else [None] * len(indices)  # type: ignore[index]

    rows = zip(indices, column("messages"), column("system"), column("images"), strict=True)
    made = [
        (_messages(messages, system, tags, where=f"{name}, row {row}"), _images(images, media, f"{name}, row {row}"))
        for row, messages, system, images in rows
    ]
    return {"messages": [messages for messages, _ in made], "images": [images for _, images in made]}


def _messages(turns: Sequence[Any], system: str | None, tags: Mapping[str, str], *, where: str) -> list[dict[str, str]]:
    roles = {tags["user_tag"]: "user", tags["assistant_tag"]: "assistant", tags["system_tag"]: "system"}
    spoken = [(roles.get(turn[tags["role_tag"]]), turn[tags["content_tag"]]) for turn in turns]
    if spoken and spoken[0][0] == "system":
        system, spoken = spoken[0][1], spoken[1:]
    expected = ["user", "assistant"] * (len(spoken) // 2)
    if not spoken or [role for role, _ in spoken] != expected or any(content is None for _, content in spoken):
        raise DataError(
            where,
            f"its turns are {[turn[tags['role_tag']] for turn in turns]}",
            f"alternate {tags['user_tag']} and {tags['assistant_tag']}, each with text, and end with the latter",
        )
    opening = [("system", system)] if system else []
    return [{"role": str(role), "content": content} for role, content in [*opening, *spoken]]


def _images(images: Any, media: str, where: str) -> list[str]:
    names = [images] if isinstance(images, str) else list(images or ())
    if odd := [name for name in names if not isinstance(name, str)]:
        raise DataError(where, f"a picture is given as {type(odd[0]).__name__}", "give its path below media_dir")
    try:
        for name in names:
            artefacts.inside(media, name)
    except DataError as error:
        raise DataError(where, str(error), "or set media_dir to the folder that holds it") from None
    return [name if IN_TAR in name else os.path.join(media, name) for name in names]
