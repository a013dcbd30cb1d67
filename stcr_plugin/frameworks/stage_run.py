"""One stage through either framework: prepare what is missing, check the chain, train, keep the record."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stcr_plugin import artefacts, children, records
from stcr_plugin.config import load
from stcr_plugin.errors import ConfigError, StcrError
from stcr_plugin.frameworks.parents import parent_of, refuse_broken_parent, refuse_changed_parent, refuse_own_parent
from stcr_plugin.frameworks.ranks import is_first_rank
from stcr_plugin.frameworks.recipe import Recipe
from stcr_plugin.frameworks.refusals import (
    refuse_broken_streaming,
    refuse_more_than_the_answer,
    refuse_other_rows,
    refuse_pictures_elsewhere,
    refuse_to_mix_a_curriculum,
    refuse_to_overwrite,
    refuse_what_cannot_work,
)
from stcr_plugin.provenance import provenance
from stcr_plugin.records import StageRecord, TrainedBuild

if TYPE_CHECKING:
    from stcr_plugin.embedded.base import BaseConfig
    from stcr_plugin.frameworks.adapters import Start
    from stcr_plugin.frameworks.reference import Reference
    from stcr_plugin.frameworks.stage_record import Record
    from stcr_plugin.registry.manifest import Manifest

Train = Callable[[dict[str, Any], list[Any]], None]

LOCK = ".lock"

# What torchrun sets; a command started from a rank must not inherit it.
_LAUNCHER_VARIABLES = ("FORCE_TORCHRUN", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK",
                       "MASTER_ADDR", "MASTER_PORT", "ROLE_RANK", "ROLE_WORLD_SIZE")  # fmt: skip


def run_stage(recipe: Recipe, callbacks: list[Any] | None, train: Train, *, backend: str = "llamafactory") -> None:
    """Train one stage, and write `stage.json` into output_dir when it starts and ends; a killed stage continues.

    Args:
        recipe: The recipe of the stage.
        callbacks: Those of the caller, which come before the plugin's.
        train: The framework's own training, given the recipe's framework keys and all callbacks.
        backend: Its name in the record.

    Raises:
        ConfigError, DataError, ChainError: Before anything is trained.
        DataError: The disk is full or a picture cannot be read.
        StcrError: The loss is not a number, or another process trains in output_dir.
        SystemExit: A signal ended the training (`launch.INTERRUPTED`).
    """
    from stcr_plugin.frameworks.adapters import AdapterConfig, settled, start_of
    from stcr_plugin.frameworks.batches import BatchWatch
    from stcr_plugin.frameworks.reference import reference_of
    from stcr_plugin.frameworks.stage_record import Record, resumed
    from stcr_plugin.frameworks.training_logs import with_run_names
    from stcr_plugin.frameworks.training_output import ProgressLines, without_bars

    refuse_what_cannot_work(recipe, backend)
    refuse_more_than_the_answer(recipe)
    refuse_broken_streaming(recipe)
    refuse_own_parent(recipe)
    refuse_to_overwrite(recipe)
    settings = recipe.settings
    parent = parent_of(recipe)
    _prepare(recipe)
    start = start_of(recipe)
    reference = reference_of(recipe, start)
    manifests = manifests_of(recipe)
    refuse_broken_parent(recipe, start)
    digest = parent.digest if parent else _digest(start.parent)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        children.end_with_parent()
        if os.environ.get("LOCAL_RANK") == "0":
            children.end_with_launcher()
    with _alone_in(recipe.output_dir):
        refuse_to_overwrite(recipe)  # again, for another process may have finished it meanwhile
        recipe = resumed(recipe)
        refuse_changed_parent(recipe, digest)
        start = settled(start)
        keys = {**start.keys, **(reference.keys if reference else {})}
        recipe = without_bars(with_run_names(recipe.changed(keys)))
        record = Record(
            recipe.output_dir,
            _opening(
                recipe,
                start,
                parent.record if parent else None,
                digest=digest,
                manifests=manifests,
                backend=backend,
                reference=reference,
            ),
            resumed=bool(recipe.keys.get("resume_from_checkpoint")),
        )
        watch = BatchWatch(settings.bad_pictures, settings.bad_pictures_at_most, recipe.media_dir, record=record)
        # The watch comes last, for a collator that is put in front later sees the samples first: as they are on the
        # disk.
        ours = [record, AdapterConfig(start.below), ProgressLines(settings.name)]
        ours += [*_callbacks(recipe, next(iter(manifests), None), record), watch]
        record.start()
        _trained(recipe, record, ours, train=train, theirs=callbacks or [])
        record.finish()


@contextmanager
def _alone_in(run: Path) -> Iterator[None]:
    """The lock of a run's folder, which the first rank takes for all; a folder that was made for it alone goes with it.

    Raises StcrError where another process has it.
    """
    if not is_first_rank():
        yield
        return
    made = not run.exists()
    with artefacts.locked(run / LOCK, alone=run):
        try:
            yield
        finally:
            if made and [path.name for path in run.iterdir()] == [LOCK]:  # refused before anything was written
                (run / LOCK).unlink()
                with suppress(OSError):  # another process has come meanwhile
                    run.rmdir()


def _trained(recipe: Recipe, record: Record, ours: Sequence[Any], *, train: Train, theirs: Sequence[Any]) -> None:
    """Train, and let the record say how that ended if not well."""
    import datasets

    from stcr_plugin.frameworks import worker_errors
    from stcr_plugin.frameworks.interruption import Interruption
    from stcr_plugin.frameworks.training_logs import tracked
    from stcr_plugin.frameworks.training_output import log_line, short_output

    interruption = Interruption()
    ours = [interruption, *ours]
    # Until the record says how it ended: once one rank has left, torchrun sends SIGTERM to the others.
    with interruption.listening():
        try:
            with (
                tracked(recipe, str(record.now.log_run_id)),
                short_output(),
                worker_errors.kept(),
                _trainer_prepared(ours, record.now.chain_step_at_start),
                artefacts.room_for(recipe.output_dir, or_in=datasets.config.HF_DATASETS_CACHE),
            ):
                train(recipe.framework_keys(), [*theirs, *ours])
        except StcrError as error:
            record.end("failed", str(error))
            raise
        except SystemExit:
            if interruption.signal:
                record.end("interrupted", interruption.words)
                log_line(f"stcr: {interruption.words}")
            raise
        except BaseException as error:
            how = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            record.end(how, f"{type(error).__name__}: {error}".rstrip(": "))  # type: ignore[arg-type]
            raise


def _prepare(recipe: Recipe) -> None:
    """Build data and base where the recipe names them and they are missing; other ranks wait at the lock."""
    for config in recipe.data_configs:
        from stcr_plugin.registry.build import build, load_data_config

        data = load_data_config(config)
        if {f"{data.name}_{key}" for key in data.datasets} & set(recipe.datasets):
            build(data, recipe.registry)
    base_config = recipe.settings.prepare.base
    if base_config:
        from stcr_plugin.embedded.base import BaseConfig

        base = load(BaseConfig, base_config)
        if Path(recipe.model) == Path(base.out):
            _build_base(base_config, base, recipe.registry)


def _build_base(config: str, base: BaseConfig, registry: Path) -> None:
    """`stcr base build` in its own process, since one process trains one model; a finished one is left alone."""
    from stcr_plugin.embedded.base import check_prior

    out = Path(base.out)
    with artefacts.locked(out.with_name(f".{out.name}.lock")):
        if records.is_finished(out):
            check_prior(base)
            return
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in _LAUNCHER_VARIABLES and not key.startswith("TORCHELASTIC")
        }
        command = [sys.executable, "-m", "stcr_plugin.cli", "base", "build", config, "--registry", str(registry)]
        if code := children.run(command, env=environment):
            raise StcrError(config, f"the base could not be built (exit code {code})", "see the log above")


def manifests_of(recipe: Recipe) -> dict[str, Manifest]:
    """Build -> manifest, of the training sets in their order, without those that the plugin did not build.

    Raises:
        ConfigError: The recipe's settings do not fit a training set of ours.
    """
    from stcr_plugin.registry.manifest import build_name, read_manifest

    manifests: dict[str, Manifest] = {}
    refuse_other_rows(recipe)
    for dataset in recipe.datasets:
        try:
            build = build_name(recipe.registry, dataset)
        except ConfigError:
            continue  # not built by the plugin, such as general data that is mixed in
        manifest = manifests.setdefault(build, read_manifest(recipe.registry, build))
        rule = manifest.config["datasets"].get(dataset[len(build) + 1 :], {})
        refuse_to_mix_a_curriculum(recipe, dataset, rule)
        refuse_pictures_elsewhere(recipe, dataset)
        if manifest.frames.format == "none":
            raise ConfigError(
                "dataset",
                f"{dataset} was built without pictures (frames.format: none), to count and plan",
                "build it with frames.format png or jpeg",
            )
    return manifests


def _digest(model: str) -> str | None:
    return artefacts.model_digest(model) if Path(model).is_dir() else None


def _opening(
    recipe: Recipe,
    start: Start,
    parent: StageRecord | None,
    *,
    digest: str | None,
    manifests: Mapping[str, Manifest],
    backend: str,
    reference: Reference | None,
) -> StageRecord:
    """The stage record as it is before training; `digest` is that of the parent's files."""
    return StageRecord(
        backend=backend,
        name=recipe.settings.name,
        mode=recipe.settings.mode,
        template=recipe.template,
        parent=start.parent,
        parent_stage=parent.name if parent else None,
        parent_digest=digest,
        base=parent.base if parent else start.parent,
        base_digest=parent.base_digest if parent else digest,
        adapter=start.record,
        reference=reference.record(start.parent, digest) if reference else None,
        chain_step_at_start=parent.chain_step_at_start + (parent.steps or 0) if parent else 0,
        seed=recipe.seed,
        image_max_pixels=recipe.image_max_pixels,
        image_min_pixels=recipe.image_min_pixels,
        datasets=tuple(recipe.datasets),
        data=tuple(
            TrainedBuild(build, of.config_digest, {key: of.texts[key] for key in recipe.datasets if key in of.texts})
            for build, of in manifests.items()
        ),
        recipe=recipe.written,
        settings=asdict(recipe.settings),
        provenance=provenance(),
    )


def _callbacks(recipe: Recipe, build: str | None, record: Record) -> list[Any]:
    made: list[Any] = []
    if recipe.settings.augment:
        from stcr_plugin.frameworks.augmentation import Augmentation

        made.append(Augmentation(recipe.settings.augment, recipe.media_dir))
    if recipe.settings.mask == "authors":
        from stcr_plugin.frameworks.mask import AuthorsMask

        made.append(AuthorsMask())
    if evaluate := recipe.settings.evaluate:
        from stcr_plugin.engines.settings import AskSettings
        from stcr_plugin.frameworks.callback import GapCallback, Schedule
        from stcr_plugin.pairs import spread
        from stcr_plugin.registry.manifest import read_manifest, read_pairs, teaches_ties

        name = evaluate.dataset or build
        if name is None:
            raise ConfigError(
                "dataset",
                f"{recipe.keys['dataset']!r} was not built by `stcr data build`, so the callback has no pairs",
                "set stcr.evaluate.dataset to a build's name, or stcr.evaluate to null",
            )
        ask = AskSettings(
            mode=recipe.settings.mode,
            batch_size=evaluate.batch_size,
            max_new_tokens=evaluate.max_new_tokens,
            generate=evaluate.generate,
            image_max_pixels=recipe.image_max_pixels,
            image_min_pixels=recipe.image_min_pixels,
            language=evaluate.language,
        )
        made.append(
            GapCallback(
                spread(read_pairs(recipe.registry, name, evaluate.split), evaluate.pairs),
                recipe.registry,
                ask,
                record=record.add,
                schedule=Schedule(evaluate.before, evaluate.after, evaluate.every_steps),
                ties=teaches_ties(read_manifest(recipe.registry, name)),
                name=recipe.settings.name,
            )
        )
    return made


@contextmanager
def _trainer_prepared(callbacks: Sequence[Any], steps_before: int) -> Iterator[None]:
    """Prepare the trainer that is made inside, and give it to our callbacks, which get only the model otherwise."""
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
