"""One stage through whichever framework trains it: prepare what is missing, check the chain, train, keep the record."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts
from stcr_plugin.config import from_mapping, load
from stcr_plugin.errors import ConfigError, StcrError
from stcr_plugin.frameworks.recipe import datasets, media_dir, starting_point
from stcr_plugin.frameworks.refusals import (
    refuse_more_than_the_answer,
    refuse_to_mix_a_curriculum,
    refuse_to_overwrite,
    refuse_to_stream_in_vain,
    refuse_what_cannot_work,
)
from stcr_plugin.frameworks.stcr_block import Evaluate, StcrSettings
from stcr_plugin.records import parent_record, read_record

if TYPE_CHECKING:
    from stcr_plugin.embedded.base import BaseConfig
    from stcr_plugin.frameworks.adapters import Start
    from stcr_plugin.frameworks.stage_record import Record

Train = Callable[[dict[str, Any], list[Any]], None]

# What torchrun sets; a command started from a rank must not inherit it.
_LAUNCHER_VARIABLES = ("FORCE_TORCHRUN", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK",
                       "MASTER_ADDR", "MASTER_PORT", "ROLE_RANK", "ROLE_WORLD_SIZE")  # fmt: skip


def run_stage(args: dict[str, Any], callbacks: list[Any] | None, train: Train, backend: str = "llamafactory") -> None:
    """Train one stage. `args` is the recipe with its `stcr:` block.

    train: the framework's own training, which is given the recipe without that block, and all callbacks.

    Writes `stage.json` into output_dir when it starts and when it has ended; a killed stage goes on. Raises
    ConfigError, DataError or ChainError before anything is trained, DataError where the disk is full or a picture
    cannot be read, StcrError where the loss is no number, and SystemExit (launch.INTERRUPTED) when a signal came.
    """
    from stcr_plugin.frameworks.adapters import AdapterConfig, settled, start_of
    from stcr_plugin.frameworks.batches import BatchWatch
    from stcr_plugin.frameworks.interruption import Interruption
    from stcr_plugin.frameworks.stage_record import Record, go_on
    from stcr_plugin.frameworks.training_logs import name_run, tracked

    recipe = dict(args)
    block = args.pop("stcr")
    if not isinstance(block, Mapping):
        raise ConfigError(
            f"the recipe's `stcr:` block is {block!r}; it holds `key: value` lines, at least name and mode"
        )
    settings = from_mapping(StcrSettings, block, "the recipe's `stcr:` block")
    refuse_what_cannot_work(args)
    refuse_more_than_the_answer(args)
    refuse_to_stream_in_vain(args)
    refuse_to_overwrite(args)
    registry = Path(args.setdefault("dataset_dir", "data_registry"))
    from_stage = settings.starts_from == "stage"
    parent = parent_record(starting_point(args), args["template"], settings.name) if from_stage else None
    _prepare(settings, args, registry)
    start = start_of(args, settings.adapter, from_stage)
    manifests = manifests_of(args, registry)
    build = next(iter(manifests), None)
    go_on(args)
    start = settled(start)
    args.update(start.keys)
    opening = {"backend": backend, **_opening(settings, recipe, start, parent, args, manifests)}
    record = Record(Path(args["output_dir"]), opening, resumed=bool(args.get("resume_from_checkpoint")))
    interruption = Interruption()
    watch = BatchWatch(settings.bad_pictures, settings.bad_pictures_at_most, media_dir(args, registry), record)
    # The watch comes last, for a collator that is put in front later sees the samples first: as they are on the disk.
    ours = [interruption, record, AdapterConfig(start.below)]
    ours += [*_callbacks(settings, build, registry, args, record), watch]
    name_run(args, settings.name)
    record.start()
    # Until the record says how it ended: once one rank has left, torchrun sends SIGTERM to the others.
    with interruption.listening():
        try:
            with tracked(args, record.values["log_run_id"]), _trainer_made_known(ours, opening["chain_step_at_start"]):
                train(args, [*(callbacks or []), *ours])
        except StcrError as error:
            # One of a dataloader worker arrives behind that worker's traceback.
            kind = type(error)
            said = str(error).rpartition(f"{kind.__module__}.{kind.__name__}: ")[2].strip()
            record.end("failed", said)
            raise kind(said) from error
        except SystemExit:
            if interruption.signal:
                record.end("interrupted", interruption.words)
                print(f"stcr: {interruption.words}", file=sys.stderr, flush=True)
            raise
        except BaseException as error:
            record.end("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", _in_words(error))
            raise
    record.finish()


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _prepare(settings: StcrSettings, args: Mapping[str, Any], registry: Path) -> None:
    """Build data and base where the recipe names them and they are missing; other ranks wait at the lock."""
    configs = settings.prepare.data or ()
    for config in (configs,) if isinstance(configs, str) else configs:
        from stcr_plugin.registry.build import build, load_data_config

        data = load_data_config(config)
        if {f"{data.name}_{key}" for key in data.datasets} & set(datasets(args)):
            build(data, registry)
    if settings.prepare.base:
        from stcr_plugin.embedded.base import BaseConfig

        base = load(BaseConfig, settings.prepare.base)
        if Path(args["model_name_or_path"]) == Path(base.out):
            _build_base(settings.prepare.base, base, registry)


def _build_base(config: str, base: BaseConfig, registry: Path) -> None:
    """`stcr base build` in a process of its own, since one process trains one model; a finished one is left alone."""
    from stcr_plugin.embedded.base import check_prior

    out = Path(base.out)
    with artefacts.locked(out.with_name(f".{out.name}.lock")):
        if (read_record(out) or {}).get("finished"):
            check_prior(base)
            return
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in _LAUNCHER_VARIABLES and not key.startswith("TORCHELASTIC")
        }
        command = [sys.executable, "-m", "stcr_plugin.cli", "base", "build", config, "--registry", str(registry)]
        done = subprocess.run(command, env=environment)
        if done.returncode:
            raise StcrError(f"{config}: the base could not be built (exit code {done.returncode}); see the log above")


def manifests_of(args: Mapping[str, Any], registry: Path) -> dict[str, dict[str, Any]]:
    """Build -> manifest, of the training sets in their order; those that the plugin did not build have none.

    Raises ConfigError for a training set of ours that cannot be trained on as the recipe would have it.
    """
    from stcr_plugin.registry.manifest import build_name, read_manifest

    manifests: dict[str, dict[str, Any]] = {}
    for dataset in datasets(args):
        try:
            build = build_name(registry, dataset)
        except ConfigError:
            continue  # another's, such as general data that is mixed in
        manifest = manifests.setdefault(build, read_manifest(registry, build))
        refuse_to_mix_a_curriculum(args, dataset, manifest["config"]["datasets"].get(dataset[len(build) + 1 :], {}))
        if manifest["frames"]["format"] == "none":
            raise ConfigError(
                f"dataset: {dataset} was built without pictures (frames.format: none), to count and plan; build it "
                "with frames.format png or jpeg"
            )
    return manifests


def _opening(
    settings: StcrSettings,
    recipe: dict[str, Any],
    start: Start,
    parent: Mapping[str, Any] | None,
    args: Mapping[str, Any],
    manifests: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The stage record as it stands before training."""
    from stcr_plugin.engines.settings import MAX_PIXELS, MIN_PIXELS

    digest = artefacts.model_digest(start.parent) if Path(start.parent).is_dir() else None
    return {
        "name": settings.name,
        "mode": settings.mode,
        "template": args["template"],
        "parent": start.parent,
        "parent_stage": parent["name"] if parent else None,
        "parent_digest": digest,
        "base": parent["base"] if parent else start.parent,
        "base_digest": parent["base_digest"] if parent else digest,
        "adapter": start.row(),
        # Steps that the stages before this one trained, which logs count on from.
        "chain_step_at_start": parent.get("chain_step_at_start", 0) + parent.get("steps", 0) if parent else 0,
        "seed": args.get("seed", 42),
        "image_max_pixels": args.get("image_max_pixels", MAX_PIXELS),
        "image_min_pixels": args.get("image_min_pixels", MIN_PIXELS),
        "datasets": datasets(args),
        "data": [{"build": build, "config_digest": of["config_digest"]} for build, of in manifests.items()],
        "recipe": recipe,
        "settings": asdict(settings),
        "provenance": artefacts.provenance(),
        "finished": False,
    }


def _callbacks(
    settings: StcrSettings, build: str | None, registry: Path, args: Mapping[str, Any], record: Record
) -> list[Any]:
    from stcr_plugin.frameworks.augmentation import Augmentation

    made: list[Any] = [Augmentation(settings.augment, media_dir(args, registry))] if settings.augment else []
    if settings.mask == "authors":
        from stcr_plugin.frameworks.mask import AuthorsMask

        made.append(AuthorsMask())
    if settings.evaluate:
        from stcr_plugin.engines.settings import MAX_PIXELS, MIN_PIXELS, AskSettings
        from stcr_plugin.evaluation.evaluate import spread
        from stcr_plugin.frameworks.callback import GapCallback
        from stcr_plugin.registry.manifest import read_manifest, read_pairs, teaches_ties

        evaluate = settings.evaluate
        ask = AskSettings(
            mode=settings.mode,
            batch_size=evaluate.batch_size,
            max_new_tokens=evaluate.max_new_tokens,
            generate=evaluate.generate,
            image_max_pixels=args.get("image_max_pixels", MAX_PIXELS),
            image_min_pixels=args.get("image_min_pixels", MIN_PIXELS),
            language=evaluate.language,
        )
        name = _evaluated(evaluate, build, args)
        pairs = spread(read_pairs(registry, name, evaluate.split), evaluate.pairs)
        made.append(
            GapCallback(
                pairs,
                registry,
                ask,
                record.add_figures,
                before=evaluate.before,
                after=evaluate.after,
                every_steps=evaluate.every_steps,
                ties=teaches_ties(read_manifest(registry, name)),
                missing=record.add_missing_figures,
            )
        )
    return made


def _evaluated(evaluate: Evaluate, build: str | None, args: Mapping[str, Any]) -> str:
    name = evaluate.dataset or build
    if name is None:
        raise ConfigError(
            f"dataset: {args['dataset']!r} was not built by `stcr data build`, so the callback has no pairs; "
            "set stcr.evaluate.dataset to a build's name, or stcr.evaluate to null"
        )
    return name


@contextmanager
def _trainer_made_known(callbacks: Sequence[Any], steps_before: int) -> Iterator[None]:
    """Tell our callbacks their trainer: transformers hands callbacks the model, not the trainer that logs."""
    from transformers import Trainer

    from stcr_plugin.frameworks.checkpoints import load_whole, save_whole
    from stcr_plugin.frameworks.frozen import rest_frozen_parts
    from stcr_plugin.frameworks.training_logs import keep_names
    from stcr_plugin.logits import keep_tail

    original = Trainer.__init__

    @functools.wraps(original)
    def init(trainer: Any, *args: Any, **kwargs: Any) -> None:
        original(trainer, *args, **kwargs)
        load_whole(trainer)
        save_whole(trainer)
        keep_names(trainer, steps_before)
        keep_tail(trainer)
        rest_frozen_parts(trainer.model)
        for callback in callbacks:
            callback.trainer = trainer

    Trainer.__init__ = init
    try:
        yield
    finally:
        Trainer.__init__ = original
