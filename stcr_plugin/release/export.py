"""A finished stage -> a folder to share and serve: weights, processor, records of the chain, and a model card."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts, records
from stcr_plugin.config import nearest
from stcr_plugin.engines.loading import adapter_base, assembled
from stcr_plugin.engines.settings import MAX_PIXELS, MIN_PIXELS
from stcr_plugin.errors import ChainError, ConfigError, DataError, StcrError
from stcr_plugin.provenance import provenance
from stcr_plugin.records import BASE_MADE, StageRecord
from stcr_plugin.release.lineage import lineage
from stcr_plugin.release.pixels import serving_limits, with_limits
from stcr_plugin.release.server_commands import asking, client, served_name, serving
from stcr_plugin.report.model_card import Card, CardStage, HubMetadata, model_card
from stcr_plugin.report.serving_words import Limits, Size
from stcr_plugin.results import Controls, Evaluation, Guard

CHAIN, README, CLIENT = "stcr_chain.json", "README.md", "client.py"
DTYPES = ("auto", "float32", "bfloat16", "float16")
_CONFIG, _GENERATION = "config.json", "generation_config.json"
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_SHARD = "5GB"


@dataclass(frozen=True)
class Exported:
    """An exported folder.

    Attributes:
        name: At a server.
        how: "copied" (the files of the weights are the stage's own), "merged" or "cast".
        digest: Its artefacts.model_digest.
        limits: Picture sizes at a server.
        heads: Size of the language model's attention heads; None where its configuration does not say.
        missing: Results that the card lacks.
    """

    out: Path
    name: str
    how: str
    dtype: str
    digest: str
    limits: Limits | None
    heads: int | None
    missing: tuple[str, ...]


def export(
    run: Path,
    out: Path,
    *,
    dtype: str = "auto",
    registry: Path = Path("data_registry"),
    name: str | None = None,
    hub: HubMetadata | None = None,
) -> Exported:
    """Write a finished stage as a folder to share and serve, whole or not at all.

    Full weights are copied unchanged. A LoRA adapter, or a stack of them, is merged into its base in the base's own
    precision, in main memory on the CPU. Besides the weights the folder has: the processor with limits on pixels under
    which a server sees what was trained on (see `pixels`), configurations with `use_cache: true`, stage.json (for
    `stcr eval` and a next stage), stcr_chain.json (records and results of the whole chain, digests of all files),
    client.py and README.md, the model card.

    Args:
        run: Folder of the stage.
        out: The folder to write; empty or missing.
        dtype: One of DTYPES, which the weights are cast to.
        registry: Where the builds are that are not where the stage's record says.
        name: Of the served model; by default the stage's.
        hub: For the card. A base model or license that is not given is taken from the files of the chain, if known.

    Raises:
        ChainError: `run` is not the folder of a finished stage.
        ConfigError: The dtype is unknown, or `out` is not empty.
        DataError: The weights are not those of the record or cannot be read, or the disk is full.
        StcrError: Another process exports to `out` now.
    """
    run, out = Path(run), Path(out) if Path(out).name else Path(out).resolve()
    if dtype not in DTYPES:
        raise ConfigError("dtype", repr(dtype), nearest(dtype, DTYPES))
    _refuse_existing(out)
    record = _finished(run)
    lock = out.with_name(f".{out.name}.lock")
    with artefacts.locked(lock, alone=out):
        try:
            _refuse_existing(out)  # again, for another process may have written it meanwhile
            return _exported(run, out, record, dtype=dtype, registry=registry, name=name, hub=hub or HubMetadata())
        finally:
            lock.unlink()


def _refuse_existing(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(out, "exists already", "delete it, or name another folder (--out)")


def _exported(
    run: Path, out: Path, record: StageRecord, *, dtype: str, registry: Path, name: str | None, hub: HubMetadata
) -> Exported:
    stages = lineage(run)
    source = {"folder": run.name, "model_digest": stages[-1].digest}
    if record.model_digest not in (None, stages[-1].digest):
        problem = "its files are not those that the stage left (model_digest in stage.json)"
        raise DataError(run, problem, "restore them or train it again")
    name = served_name(name or str(record.name))
    most, least = record.image_max_pixels or MAX_PIXELS, record.image_min_pixels or MIN_PIXELS
    with artefacts.whole_folder(out, replace=False) as part:
        with artefacts.room_for(out, lambda: _bytes(run)):
            how = _write_weights(run, part, dtype)
        limits = _write_processor(run, part, pixels=(least, most), sizes=_sizes(stages, registry))
        _write_config(part)
        _write_tokenizer_config(part)
        final, heads = _dtype(part), _heads(part)
        text, missing = model_card(
            Card(
                stages=stages,
                name=name,
                folder=out.name,
                how=how,
                limits=limits,
                pixels=(least, most),
                registry=registry,
                hub=HubMetadata(hub.base_model or _base_model(stages), hub.license or _license(stages), hub.datasets),
                serving=serving(out.name, name, mode=str(record.mode), dtype=final, limits=limits, heads=heads),
            )
        )
        artefacts.write_text(part / README, text)
        artefacts.write_text(part / CLIENT, client(name, str(record.mode), most=most, least=least))
        if (run / BASE_MADE).is_file():
            shutil.copyfile(run / BASE_MADE, part / BASE_MADE)
        digest = artefacts.model_digest(part)
        more = {**record.more, "exported_from": source}
        records.write(part, dataclasses.replace(record, model_digest=digest, more=more))
        made = {"how": how, "dtype": final, "from": source, "model_digest": digest, "name": name}
        files = {path.name: artefacts.sha256(path) for path in sorted(part.iterdir())}
        asked = asking(str(record.mode), most=most, least=least)
        whole = {"export": {**made, "asking": asked, "files": files}, "stages": [_row(stage) for stage in stages]}
        artefacts.write_json(part / CHAIN, whole | {"provenance": provenance()})
    return Exported(out, name, how, dtype=final, digest=digest, limits=limits, heads=heads, missing=missing)


def _row(stage: CardStage) -> dict[str, Any]:
    """A stage as stcr_chain.json has it: its record, and its results by the names of their files."""
    kinds = ((Evaluation, stage.evaluations), (Controls, stage.controls), (Guard, stage.guards))
    return {
        "name": stage.name,
        "record": stage.record.row if stage.record else {},
        "digest": stage.digest,
        "measured": {kind.file: [one.row() for one in found] for kind, found in kinds} if stage.digest else {},
    }


def _finished(run: Path) -> StageRecord:
    record = records.read(run)
    if record is None:
        what = "holds no stage.json" if run.is_dir() else "does not exist"
        raise ChainError(run, what, "give the output folder of a finished stage")
    if not record.finished:
        raise ChainError(run, f"the stage {record.name!r} did not finish", "train it to its end first")
    return record


# ---- files ----


def _write_weights(run: Path, part: Path, dtype: str) -> str:
    """Write weights, config.json and generation_config.json. Returns how they were made, see `Exported.how`."""
    merges = adapter_base(run) is not None
    if not merges and any(run.glob("*.safetensors")) and dtype in ("auto", _dtype(run)):
        for path in _matching(run, (*_WEIGHTS, _CONFIG, _GENERATION)):
            shutil.copyfile(path, part / path.name)
        return "copied"
    import torch

    # float32 throughout where that is wanted; else as the model was loaded in training, then cast.
    model = assembled(run, torch.float32 if dtype == "float32" else "auto")
    if dtype not in ("auto", "float32"):
        model.to(getattr(torch, dtype))
    model.save_pretrained(part, max_shard_size=_SHARD)
    if (own := _bottom(run) / _GENERATION).is_file():  # transformers leaves out defaults
        shutil.copyfile(own, part / _GENERATION)
    return "merged" if merges else "cast"


def _write_processor(run: Path, part: Path, *, pixels: tuple[int, int], sizes: list[Size]) -> Limits | None:
    """Tokenizer and processor, the latter with the limits of serving, in the files of transformers 4 and of 5."""
    for path in _matching(run, artefacts.PROCESSOR_FILES):
        shutil.copyfile(path, part / path.name)
    whole, flat = part / "processor_config.json", part / "preprocessor_config.json"
    nested = artefacts.read_json(whole) if whole.is_file() else {}
    found = nested.get("image_processor") or (artefacts.read_json(flat) if flat.is_file() else {})
    limits = serving_limits(found, *pixels, sizes=sizes)
    if limits is None:
        return None
    found = with_limits(found, limits)
    artefacts.write_json(flat, found | ({"processor_class": nested["processor_class"]} if nested else {}))
    if "image_processor" in nested:
        artefacts.write_json(whole, {**nested, "image_processor": found})
    return limits


def _write_config(part: Path) -> None:
    """Set `use_cache: true`: training saves false, with which a server generates in quadratic time.

    `rope_parameters` of transformers 5 is written under the names of transformers 4 too, which without them silently
    takes another position encoding.
    """
    config = artefacts.read_json(part / _CONFIG)
    text = config.get("text_config")
    for one in (config, *([text] if text else [])):
        one["use_cache"] = True
        if isinstance(rope := one.get("rope_parameters"), dict) and "rope_theta" in rope:
            one |= {"rope_scaling": rope, "rope_theta": rope["rope_theta"]}
    artefacts.write_json(part / _CONFIG, config)
    path = part / _GENERATION
    if path.is_file():
        artefacts.write_json(path, artefacts.read_json(path) | {"use_cache": True})


def _write_tokenizer_config(part: Path) -> None:
    """Write keys that transformers 4 can read: it has no list of extra tokens and no TokenizersBackend."""
    path = part / "tokenizer_config.json"
    if not path.is_file():
        return
    config = artefacts.read_json(path)
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    artefacts.write_json(path, config)


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _bottom(run: Path) -> Path:
    """The folder of the whole model below all adapters."""
    below = adapter_base(run)
    return run if below is None else _bottom(below)


def _bytes(run: Path) -> int:
    return sum(path.stat().st_size for path in _matching(_bottom(run), ("*.safetensors", "pytorch_model*.bin")))


def _dtype(folder: Path) -> str:
    """The dtype in config.json, by the key of transformers 5 or 4."""
    config = artefacts.read_json(folder / _CONFIG)
    inner = config.get("text_config") or {}
    found = next((one[key] for one in (config, inner) for key in ("dtype", "torch_dtype") if one.get(key)), "float32")
    return str(found)


def _heads(folder: Path) -> int | None:
    """The size of the language model's attention heads, by config.json of transformers 5 or 4."""
    config = artefacts.read_json(folder / _CONFIG)
    inner = config | (config.get("text_config") or config.get("llm_config") or {})
    if inner.get("head_dim"):
        return int(inner["head_dim"])
    hidden, heads = inner.get("hidden_size"), inner.get("num_attention_heads")
    return int(hidden) // int(heads) if hidden and heads else None


# ---- where it came from ----


def _sizes(stages: list[CardStage], registry: Path) -> list[Size]:
    """Sizes of the first picture of each training set that can still be read."""
    from stcr_plugin.registry.manifest import dataset_rows
    from stcr_plugin.registry.picture_store import decode, read

    found: list[Size] = []
    for record in (stage.record for stage in stages if stage.record):
        for dataset in record.datasets:
            for place in dict.fromkeys((record.registry, registry)):
                try:
                    row = next(iter(dataset_rows(place, dataset)))
                    found.append(decode(read(place, row["images"][0]), row["images"][0]).size)
                    break
                except (StcrError, StopIteration, KeyError, IndexError):
                    continue  # the registry of another build, or the data are gone
    return list(dict.fromkeys(found))


def _base_model(stages: list[CardStage]) -> str | None:
    """The Hub's name of the base, where the first stage was started by that name, not from a folder."""
    first = next((stage.record for stage in stages if stage.record), None)
    return first.parent if first and first.parent_digest is None else None


def _license(stages: list[CardStage]) -> str | None:
    """The license in the card of the base model, where its folder has one."""
    import yaml
    from huggingface_hub.repocard import metadata_load

    path = stages[0].folder / README
    if stages[0].record or not stages[0].digest or not path.is_file():  # a trainer's card beside a stage has none
        return None
    try:
        found = metadata_load(path) or {}
    except (ValueError, yaml.YAMLError):
        return None
    return str(found["license"]) if found.get("license") else None
