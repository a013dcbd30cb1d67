"""A finished stage -> a whole folder: weights, processor, the chain's records, and a card of what was measured."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts, records
from stcr_plugin.config import nearest
from stcr_plugin.engines.loading import adapter_base, assembled
from stcr_plugin.engines.settings import MAX_PIXELS, MIN_PIXELS
from stcr_plugin.errors import ChainError, ConfigError, DataError, StcrError
from stcr_plugin.records import RECORD, StageRecord
from stcr_plugin.release.card import Card, card
from stcr_plugin.release.lineage import Link, lineage
from stcr_plugin.release.pixels import Limits, Size, serving_limits, with_limits
from stcr_plugin.release.server_commands import client, served_name

CHAIN, README, CLIENT = "stcr_chain.json", "README.md", "client.py"
DTYPES = ("auto", "float32", "bfloat16", "float16")
_CONFIG, _GENERATION = "config.json", "generation_config.json"
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_SHARD = "5GB"


@dataclass(frozen=True)
class Exported:
    """An exported folder. name: at a server. how: "copied" (the files of the weights are the stage's own), "merged" or
    "cast". digest: artefacts.model_digest of it. missing: what the card has no figures of."""

    out: Path
    name: str
    how: str
    dtype: str
    digest: str
    limits: Limits | None
    missing: tuple[str, ...]


def export(
    run: Path,
    out: Path,
    dtype: str = "auto",
    registry: Path = Path("data_registry"),
    name: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
    datasets: tuple[str, ...] = (),
) -> Exported:
    """Write the stage in the folder `run` into the folder `out`, whole or not at all.

    Full weights are copied to the byte. A LoRA adapter, or a stack of them, is merged into its base in the base's own
    precision, in main memory on the CPU. `dtype` casts the result. `name` is that of the served model (default: the
    stage's). base_model, license and datasets go into the card as the Hub's identifiers; without them base and license
    are taken from what is on disk, where that says so, or left out. `registry` is looked in for data that do not lie
    where the stage's record says.

    Written besides: the processor with limits on pixels under which a server sees what was trained on (see `pixels`),
    `use_cache: true`, stage.json (so that `stcr eval` and a next stage know mode, template and pixels), stcr_chain.json
    (records and figures of the whole chain, digests of all files), client.py and README.md, the model card.
    Raises ChainError for a folder that is no finished stage, ConfigError for an unknown dtype or an `out` that is there
    already, DataError for weights that are not those of the record or cannot be read, and for a full disk.
    """
    run, out = Path(run), Path(out)
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r}: {nearest(dtype, DTYPES)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: is there already; delete it, or name another folder (--out)")
    record = _finished(run)
    links = lineage(run)
    source = {"folder": run.name, "model_digest": links[-1].digest}
    if record.model_digest not in (None, links[-1].digest):
        raise DataError(
            f"{run}: its files are not those that the stage left (model_digest in stage.json); restore them or train "
            "it again"
        )
    name = served_name(name or str(record.name))
    most, least = (int(getattr(record, key) or default) for key, default in _PIXELS)
    with artefacts.whole_folder(out, replace=False) as part:
        with artefacts.room_for(out, lambda: _bytes(run)):
            how = _write_weights(run, part, dtype)
        limits = _write_processor(run, part, least, most, _sizes(links, registry))
        _write_config(part)
        _write_tokenizer_config(part)
        told = Card(
            links=links,
            name=name,
            folder=out.name,
            how=how,
            dtype=_dtype(part),
            limits=limits,
            pixels=(least, most),
            registry=registry,
            base_model=base_model or _base_model(links),
            license=license or _license(links),
            datasets=datasets,
        )
        text, missing = card(told)
        artefacts.write_text(part / README, text)
        artefacts.write_text(part / CLIENT, client(name, str(record.mode), most, least))
        digest = artefacts.model_digest(part)
        artefacts.write_json(part / RECORD, {**record.row, "model_digest": digest, "exported_from": source})
        made = {"how": how, "dtype": told.dtype, "from": source, "model_digest": digest, "name": name}
        files = {path.name: artefacts.sha256(path) for path in sorted(part.iterdir())}
        stages = [
            {"name": link.name, "record": dict(link.record), "digest": link.digest, "measured": link.measured}
            for link in links
        ]
        whole = {"export": {**made, "files": files}, "stages": stages, "provenance": artefacts.provenance()}
        artefacts.write_json(part / CHAIN, whole)
    return Exported(out, name, how, told.dtype, digest, limits, missing)


_PIXELS = (("image_max_pixels", MAX_PIXELS), ("image_min_pixels", MIN_PIXELS))


def _finished(run: Path) -> StageRecord:
    record = records.read(run)
    if record is None:
        what = "holds no stage.json" if run.is_dir() else "does not exist"
        raise ChainError(f"{run}: {what}; give the output folder of a finished stage")
    if not record.finished:
        raise ChainError(f"{run}: the stage {record.name!r} did not finish; train it to its end first")
    return record


# ---- files ----


def _write_weights(run: Path, part: Path, dtype: str) -> str:
    """Weights, config.json and generation_config.json. Returns how they came about."""
    merges = adapter_base(run) is not None
    own = _bottom(run)
    if not merges and any(run.glob("*.safetensors")) and dtype in ("auto", _dtype(run)):
        for path in _matching(run, (*_WEIGHTS, _CONFIG, _GENERATION)):
            shutil.copyfile(path, part / path.name)
        return "copied"
    import torch

    # In float32 throughout where that is asked for; else as the model was loaded in training, then cast.
    model = assembled(run, torch.float32 if dtype == "float32" else "auto")
    if dtype not in ("auto", "float32"):
        model.to(getattr(torch, dtype))
    model.save_pretrained(part, max_shard_size=_SHARD)
    if (own / _GENERATION).is_file():  # as it stands, for transformers leaves out what it takes for a default
        shutil.copyfile(own / _GENERATION, part / _GENERATION)
    return "merged" if merges else "cast"


def _write_processor(run: Path, part: Path, least: int, most: int, sizes: list[Size]) -> Limits | None:
    """Tokenizer and processor, the latter with the limits of serving, in the files of transformers 4 and of 5."""
    for path in _matching(run, artefacts.PROCESSOR_FILES):
        shutil.copyfile(path, part / path.name)
    whole, flat = part / "processor_config.json", part / "preprocessor_config.json"
    nested = artefacts.read_json(whole) if whole.is_file() else {}
    found = nested.get("image_processor") or (artefacts.read_json(flat) if flat.is_file() else {})
    limits = serving_limits(found, least, most, sizes)
    if limits is None:
        return None
    found = with_limits(found, limits)
    artefacts.write_json(flat, found | ({"processor_class": nested["processor_class"]} if nested else {}))
    if "image_processor" in nested:
        artefacts.write_json(whole, {**nested, "image_processor": found})
    return limits


def _write_config(part: Path) -> None:
    """`use_cache: true`, for training saves false, and a server that believes it generates in quadratic time.

    What transformers 5 calls `rope_parameters` stands there under the names of transformers 4 too, which would take
    another position encoding without a word where it misses them.
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
    """In words that transformers 4 reads too: it stops at a list of extra tokens, and knows no TokenizersBackend."""
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
    """What config.json says that the weights are, in the spelling of transformers 5 or 4."""
    config = artefacts.read_json(folder / _CONFIG)
    inner = config.get("text_config") or {}
    found = next((one[key] for one in (config, inner) for key in ("dtype", "torch_dtype") if one.get(key)), "float32")
    return str(found)


# ---- what is known of where it came from ----


def _sizes(links: list[Link], registry: Path) -> list[Size]:
    """Sizes of the first picture of each training set that is still here."""
    from stcr_plugin.registry.manifest import dataset_rows
    from stcr_plugin.registry.picture_store import decode, read

    found: list[Size] = []
    for link in links:
        own = Path(str((link.record.get("recipe") or {}).get("dataset_dir") or registry))
        for dataset in link.record.get("datasets") or ():
            for place in dict.fromkeys((own, registry)):
                try:
                    row = next(iter(dataset_rows(place, dataset)))
                    found.append(decode(read(place, row["images"][0]), row["images"][0]).size)
                    break
                except (StcrError, StopIteration, KeyError, IndexError):
                    continue  # another's, or not here any more
    return list(dict.fromkeys(found))


def _base_model(links: list[Link]) -> str | None:
    """The Hub's name of the model at the bottom, where the first stage was started by that name, not from a folder."""
    first = next((link.record for link in links if link.record), {})
    return str(first["parent"]) if first.get("parent") and first.get("parent_digest") is None else None


def _license(links: list[Link]) -> str | None:
    """What the card of the model at the bottom says, where it lies on this machine."""
    import yaml

    path = Path(links[0].folder) / README
    if links[0].record or not links[0].digest or not path.is_file():  # a trainer's card beside a stage knows of none
        return None
    _, mark, rest = path.read_text(encoding="utf-8").partition("---\n")
    try:
        found: Any = yaml.safe_load(rest.partition("\n---")[0]) if mark else None
    except yaml.YAMLError:
        return None
    return str(found["license"]) if isinstance(found, Mapping) and found.get("license") else None
