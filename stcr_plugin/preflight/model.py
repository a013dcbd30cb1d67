"""The model of a recipe without its weights: configuration, processor, and parameters counted on the meta device."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.engines.loading import OWN_CODE, OWN_CODE_FIX, own_code
from stcr_plugin.errors import ConfigError, StcrError
from stcr_plugin.frameworks.stcr_block import StcrSettings
from stcr_plugin.preflight.resolve import Resolved
from stcr_plugin.weight_files import refuse_broken_weights

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Weights:
    """Parameters, counted, and their bytes as LLaMA-Factory loads them (before any quantisation).

    Attributes:
        linear: Those of linear layers that quantisation to 4 or 8 bits would replace, all of them frozen.
        cast: Trainable float32 parameters of linear layers, which autocast copies to 16 bits.
        shapes: (rows, columns) of each trainable matrix.
    """

    total: int
    total_bytes: int
    trainable: int
    trainable_bytes: int
    linear: int
    linear_bytes: int
    cast: int
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Blocks:
    """Equal blocks of a transformer, `count` of them, each with attention and a feed-forward part.

    Attributes:
        width: Elements of the residual stream.
        heads, kv_heads, head: How many heads for queries, and for keys and values, each of `head` elements.
        inner: Elements of the feed-forward part; `gated`: it has three matrices instead of two.
        fused: Queries, keys and values come out of one matrix.
        normed_heads: Queries and keys are normed.
        window: Tokens that see each other in all blocks but `whole`, where all do; 0 without windows.
        parameters: Of all blocks.
    """

    count: int
    width: int
    heads: int
    kv_heads: int
    head: int
    inner: int
    gated: bool
    fused: bool
    normed_heads: bool
    rms: bool
    window: int
    whole: int
    parameters: int
    trainable: bool
    adapted: bool


@dataclass(frozen=True)
class Model:
    """The model of a recipe.

    Attributes:
        name: As in the recipe.
        folder: Where its configuration is.
        substitute: Why another model of its architecture is used, "" where it is itself.
        parameters: Of the model itself, without adapters; `vision_parameters` are those of the vision tower.
        merge: Patches of one image token.
        residual_bytes: Bytes of an element of the residual stream.
    """

    name: str
    folder: Path
    substitute: str
    config: Any
    tokenizer: Any
    processor: Any
    weights: Weights
    text: Blocks
    vision: Blocks | None
    vocabulary: int
    parameters: int
    vision_parameters: int
    merge: int
    patch_values: int
    residual_bytes: int

    @property
    def has_weights(self) -> bool:
        return any(any(self.folder.glob(pattern)) for pattern in WEIGHTS)


def read_model(resolved: Resolved, settings: StcrSettings, spare: Path) -> Model:
    """The model that the recipe names; the embedded base that its `prepare` would build is written below `spare`.

    Raises ConfigError where there is none on this machine, or it is not a vision-language model.
    """
    from llamafactory.model.loader import load_tokenizer
    from transformers import AutoConfig

    name = str(resolved.model.model_name_or_path)
    folder, substitute = _folder(name, settings, spare)
    arguments = copy.copy(resolved.model)
    arguments.model_name_or_path, arguments.trust_remote_code = str(folder), False
    try:
        refuse_broken_weights(folder)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with _silent("llamafactory.model.loader"):
            loaded = load_tokenizer(arguments)
    except StcrError:
        raise
    except Exception as error:  # the folder is somebody else's: a wrong value in it can raise anything
        if asks := own_code(folder):
            raise ConfigError(asks, OWN_CODE, OWN_CODE_FIX) from None
        reason = error.__cause__ or error
        what = f"configuration or tokenizer cannot be loaded: {' '.join(str(reason).split())}"
        raise ConfigError(name, what) from None
    if loaded["processor"] is None:
        fix = "copy preprocessor_config.json and the like there"
        raise ConfigError(folder, "holds no processor that can be loaded", fix)
    return _counted(name, folder, substitute, config=config, loaded=loaded, resolved=resolved)


def _folder(name: str, settings: StcrSettings, spare: Path) -> tuple[Path, str]:
    """Where the model's configuration is, and why another model is used."""
    from transformers.utils import cached_file

    if Path(name).is_dir():
        return Path(name), ""
    if settings.prepare.base:
        from stcr_plugin.config import load
        from stcr_plugin.embedded.architecture import write_checkpoint
        from stcr_plugin.embedded.base import BaseConfig

        base = load(BaseConfig, settings.prepare.base)
        if Path(base.out) == Path(name):
            substitute = f"{settings.prepare.base} builds it first; an untrained one of its architecture was checked"
            return write_checkpoint(spare / "base", base.architecture), substitute
    try:
        return Path(cached_file(name, "config.json", local_files_only=True)).parent, ""
    except OSError:
        raise ConfigError(
            name,
            "neither a folder here nor a model in the local cache",
            "get configuration and processor alone, a few megabytes: "
            f'`hf download {name} --exclude "*.safetensors" "*.bin" "*.pth" --local-dir DIR`, then '
            "`stcr check RECIPE model_name_or_path=DIR`",
        ) from None


def _counted(
    name: str, folder: Path, substitute: str, *, config: Any, loaded: Mapping[str, Any], resolved: Resolved
) -> Model:
    import torch
    from transformers import AutoModelForImageTextToText

    known = type(config) in AutoModelForImageTextToText._model_mapping
    if not known or not hasattr(config, "vision_config"):
        what = f"{config.model_type!r} is not a vision-language model"
        raise ConfigError(name, what, "give one that takes pictures and text")
    built = AutoModelForImageTextToText._model_mapping[type(config)]
    try:
        config = built.config_class.from_pretrained(folder, local_files_only=True)
        dtype = getattr(config, "dtype", None) or torch.float32
        bare = _on_meta(built, config, dtype)
    except Exception as error:  # as above
        what = f"no model can be made by it: {type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(folder / "config.json", what, "copy config.json of the original model there") from None
    vision_name = next((key for key in ("visual", "vision_tower") for part, _ in bare.named_modules()
                        if part.endswith(key)), "")  # fmt: skip
    vision_parameters = sum(value.numel() for key, value in bare.named_parameters() if _within(key, vision_name))
    parameters = sum(value.numel() for value in bare.parameters())
    trained = _made_trainable(bare, config, resolved)
    if resolved.deepspeed and _is_true(resolved.deepspeed, "bf16", "fp16"):
        trained.to(torch.bfloat16)
    text = config.get_text_config()
    vision_config = config.vision_config
    processor = loaded["processor"]
    embedding = trained.get_input_embeddings().weight
    return Model(
        name=name,
        folder=folder,
        substitute=substitute,
        config=config,
        tokenizer=loaded["tokenizer"],
        processor=processor,
        weights=_weights(trained),
        text=_blocks(trained, text, "", outside=vision_name),
        vision=_blocks(trained, vision_config, vision_name, outside="") if vision_name else None,
        vocabulary=int(text.vocab_size),
        parameters=parameters,
        vision_parameters=vision_parameters,
        merge=int(getattr(processor.image_processor, "merge_size", 0) or 1 / config.downsample_ratio) ** 2,
        patch_values=3 * _area(vision_config.patch_size) * int(getattr(vision_config, "temporal_patch_size", 1)),
        residual_bytes=embedding.element_size(),
    )


def _on_meta(built: Any, config: Any, dtype: Any) -> Any:
    import torch

    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            model = built(copy.deepcopy(config))
    finally:
        torch.set_default_dtype(default)
    model.tie_weights()
    return model


def _made_trainable(model: Any, config: Any, resolved: Resolved) -> Any:
    """`model` as LLaMA-Factory's own function sets it up for training: what is frozen, adapters, float32."""
    import torch
    from llamafactory.model import adapter
    from transformers.integrations import is_deepspeed_zero3_enabled

    arguments, finetuning = copy.copy(resolved.model), copy.copy(resolved.finetuning)
    if arguments.adapter_name_or_path and not finetuning.create_new_adapter:
        last = artefacts.read_json(Path(arguments.adapter_name_or_path[-1]) / "adapter_config.json")
        finetuning.lora_rank, finetuning.lora_alpha = last["r"], last["lora_alpha"]
        targets = last["target_modules"]
        finetuning.lora_target = [targets] if isinstance(targets, str) else sorted(targets)
        finetuning.use_dora, finetuning.additional_target = last.get("use_dora", False), last.get("modules_to_save")
    arguments.adapter_name_or_path = None  # those before are merged: they add no parameters
    finetuning.pissa_init = False  # only a choice of first values, which meta tensors have none of
    quantized = arguments.quantization_bit is not None
    if resolved.zero == 3 and not quantized:
        finetuning.pure_bf16 = True  # ZeRO-3 keeps the float32 copies itself; on this machine there is no ZeRO
    assert not is_deepspeed_zero3_enabled()
    with _silent("llamafactory"), torch.device("meta"):
        try:
            return adapter.init_adapter(config, model, arguments, finetuning, True)
        except ValueError as error:
            raise ConfigError(
                str(arguments.model_name_or_path),
                f"{resolved.finetuning.finetuning_type} training cannot be set up: {' '.join(str(error).split())}",
            ) from None


def _weights(model: Any) -> Weights:
    import torch

    parameters = list(model.parameters())
    trained = [one for one in parameters if one.requires_grad]
    heads = [model.get_output_embeddings(), model.get_input_embeddings()]
    # Adapters are inside the layers that they adapt, under names that the frozen matrix does not have.
    frozen = [
        module.weight
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module not in heads and not module.weight.requires_grad
    ]
    cast = [
        module.weight
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module.weight.requires_grad and module.weight.element_size() == 4
    ]
    return Weights(
        total=sum(one.numel() for one in parameters),
        total_bytes=sum(one.nbytes for one in parameters),
        trainable=sum(one.numel() for one in trained),
        trainable_bytes=sum(one.nbytes for one in trained),
        linear=sum(one.numel() for one in frozen),
        linear_bytes=sum(one.nbytes for one in frozen),
        cast=sum({id(one): one.numel() for one in cast}.values()),
        shapes=tuple(tuple(one.shape) for one in trained),
    )


def _blocks(model: Any, config: Any, inside: str, *, outside: str) -> Blocks:
    """The repeated blocks inside the module `inside`, or outside of `outside`, with sizes from `config`."""
    named = [(name, value) for name, value in model.named_parameters() if _is_block(name)]
    own = [(name, value) for name, value in named if (_within(name, inside) if inside else not _within(name, outside))]
    names = Counter(word for name, _ in own for word in name.split("."))
    width, heads = int(config.hidden_size), int(getattr(config, "num_attention_heads", 0) or config.num_heads)
    kv = int(getattr(config, "num_key_value_heads", None) or heads)
    whole = len(getattr(config, "fullatt_block_indexes", None) or ())
    count = int(getattr(config, "num_hidden_layers", 0) or config.depth)
    windows = bool(inside) and getattr(config, "window_size", None) and whole < count
    patches = (int(config.window_size) // int(config.patch_size)) ** 2 if windows else 0
    return Blocks(
        count=count,
        width=width,
        heads=heads,
        kv_heads=kv,
        head=int(getattr(config, "head_dim", None) or width // heads),
        inner=int(config.intermediate_size),
        gated="gate_proj" in names,
        fused="qkv" in names,
        normed_heads="q_norm" in names,
        rms=not any(name.endswith(("norm1.bias", "layernorm_before.bias")) for name, _ in own),
        window=patches,
        whole=whole if windows else count,
        parameters=sum(value.numel() for name, value in own if "lora_" not in name),
        trainable=any(value.requires_grad for name, value in own if "lora_" not in name),
        adapted=any("lora_" in name for name, _ in own),
    )


def _is_block(name: str) -> bool:
    """Whether a parameter belongs to one of many equal blocks: its name has a number in it."""
    return any(part.isdigit() for part in name.split(".")) and "merger" not in name


def _within(name: str, part: str) -> bool:
    return bool(part) and f".{part}." in f".{name}"


def _area(side: Any) -> int:
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    return int(height) * int(width)


def _is_true(deepspeed: Mapping[str, Any], *kinds: str) -> bool:
    return any((deepspeed.get(kind) or {}).get("enabled") is True for kind in kinds)


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """While this holds, a library's logger says nothing below an error."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
