"""One stage through LLaMA-Factory: prepare what is missing, check the chain, train, and keep the record."""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.config import from_mapping, load, nearest
from stcr_plugin.errors import ChainError, ConfigError, StcrError
from stcr_plugin.frameworks.llamafactory.settings import Evaluate, StcrSettings
from stcr_plugin.frameworks.llamafactory.template import TEMPLATES
from stcr_plugin.frameworks.stage import RECORD, parent_record, read_record, weights_digest

RunExp = Callable[..., None]

KNOWN_VERSIONS = ("0.9.3", "0.9.4", "0.9.5")
# LLaMA-Factory's other trainers do not run the callbacks that the plugin needs: switch -> why it is refused.
REFUSED = {
    "use_mca": "Megatron-Core's trainer",
    "use_hyper_parallel": "HyperParallel's trainer",
    "use_megatron_bridge": "Megatron-Bridge's trainer",
}
# What torchrun sets; a command started from a rank must not inherit it.
_LAUNCHER_VARIABLES = ("FORCE_TORCHRUN", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK",
                       "MASTER_ADDR", "MASTER_PORT", "ROLE_RANK", "ROLE_WORLD_SIZE")  # fmt: skip


def wrap_run_exp(tuner: Any) -> None:
    """Give LLaMA-Factory's `run_exp` the `stcr:` block; a recipe without one runs as if we were not here."""
    from llamafactory.extras.env import VERSION

    original: RunExp | None = getattr(tuner, "run_exp", None)
    found = list(inspect.signature(original).parameters) if original else None
    if VERSION not in KNOWN_VERSIONS or found != ["args", "callbacks"]:
        warnings.warn(
            f"stcr_plugin knows LLaMA-Factory {', '.join(KNOWN_VERSIONS)} and found {VERSION} with "
            f"run_exp({', '.join(found) if found else 'missing'}); STCR_AUTOLOAD=0 switches the plugin off",
            stacklevel=2,
        )
    if original is None:
        return

    @functools.wraps(original)
    def run_exp(args: Any = None, callbacks: Any = None) -> None:
        from llamafactory.hparams import read_args

        args = read_args(args)
        if not isinstance(args, dict) or "stcr" not in args:
            return original(args, callbacks)
        try:
            run_stage(args, callbacks, original)
        except StcrError as error:
            raise SystemExit(f"stcr: {error}") from None

    tuner.run_exp = run_exp


def train(recipe: str, overrides: Sequence[str] = ()) -> None:
    """`stcr train`: the same stage through LLaMA-Factory's own functions, without the start-up hook."""
    from omegaconf import OmegaConf

    if not Path(recipe).is_file():
        raise ConfigError(f"{recipe}: no such recipe; give the path of a YAML recipe such as recipes/stage1_cot.yaml")
    if _needs_torchrun():
        _train_under_torchrun(recipe, overrides)
        return
    from llamafactory.data import template
    from llamafactory.train import tuner

    from stcr_plugin.frameworks.llamafactory.template import register

    register(template)
    merged = OmegaConf.merge(OmegaConf.load(recipe), OmegaConf.from_dotlist(list(overrides)))
    args: dict[str, Any] = OmegaConf.to_container(merged, resolve=True)  # type: ignore[assignment]
    run_exp = getattr(tuner.run_exp, "__wrapped__", tuner.run_exp)
    if "stcr" not in args:
        raise ConfigError(
            f"{recipe}: has no `stcr:` block; add one with at least name and mode, or use llamafactory-cli"
        )
    run_stage(args, None, run_exp)


def _needs_torchrun() -> bool:
    """As `llamafactory-cli train` decides it; a process that torchrun has started is a rank already."""
    from llamafactory.extras.misc import get_device_count, is_env_enabled

    return "LOCAL_RANK" not in os.environ and (is_env_enabled("FORCE_TORCHRUN") or get_device_count() > 1)


def _train_under_torchrun(recipe: str, overrides: Sequence[str]) -> None:
    from llamafactory.extras.misc import get_device_count

    ranks = os.environ.get("NPROC_PER_NODE") or str(max(1, get_device_count()))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", ranks]
    for option, variable in (("--nnodes", "NNODES"), ("--node_rank", "NODE_RANK"), ("--master_addr", "MASTER_ADDR")):
        if variable in os.environ:
            launcher += [option, os.environ[variable]]
    launcher += ["--master_port", os.environ.get("MASTER_PORT") or str(_free_port())]
    done = subprocess.run([*launcher, "-m", "stcr_plugin.cli", "train", recipe, *overrides])
    if done.returncode:
        raise StcrError(
            f"{recipe}: training under torchrun ended with exit code {done.returncode}; its log stands above"
        )


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_stage(args: dict[str, Any], callbacks: list[Any] | None, run_exp: RunExp) -> None:
    """Train one stage. `args` is the recipe with its `stcr:` block; `run_exp` LLaMA-Factory's own, unwrapped.

    Writes `stage.json` into output_dir when it starts and when it has finished. Raises ConfigError, DataError
    or ChainError before anything is trained.
    """
    recipe = dict(args)
    block = args.pop("stcr")
    if not isinstance(block, Mapping):
        raise ConfigError(
            f"the recipe's `stcr:` block is {block!r}; it holds `key: value` lines, at least name and mode"
        )
    settings = from_mapping(StcrSettings, block, "the recipe's `stcr:` block")
    _refuse_what_cannot_work(args)
    _refuse_a_finished_stage(args)
    registry = Path(args.setdefault("dataset_dir", "data_registry"))
    _prepare(settings, args, registry)
    parent = (
        parent_record(_starting_point(args), args["template"], settings.name)
        if settings.starts_from == "stage"
        else None
    )
    build = _build_of(_datasets(args)[0], registry)
    record = _Record(Path(args["output_dir"]), _opening(settings, recipe, parent, args, build, registry))
    ours = _callbacks(settings, build, registry, args, record)
    _set_cutoff(args)
    record.start()
    with _trainer_made_known(ours):
        run_exp(args, [*(callbacks or []), *ours])
    record.finish()


def _refuse_what_cannot_work(args: Mapping[str, Any]) -> None:
    if os.environ.get("USE_V1", "0").lower() in ("1", "true", "y"):
        raise ConfigError("USE_V1 is set: the plugin works with LLaMA-Factory's stable trainer; unset USE_V1")
    for switch, what in REFUSED.items():
        if args.get(switch):
            raise ConfigError(f"{switch}: {what} does not call the plugin's callbacks; remove {switch} from the recipe")
    if args.get("stage") != "sft":
        raise ConfigError(f"stage: {args.get('stage')!r}, but both STCR stages are supervised; set stage: sft")
    for key in ("model_name_or_path", "dataset", "output_dir", "template"):
        if not args.get(key):
            raise ConfigError(f"the recipe has no {key}; add it")
    if args["template"] not in TEMPLATES:
        raise ConfigError(
            f"template: {args['template']!r} does not number its pictures; {nearest(args['template'], list(TEMPLATES))}"
        )


def _refuse_a_finished_stage(args: Mapping[str, Any]) -> None:
    """LLaMA-Factory refuses a folder with weights too, but only after our record in it would read unfinished."""
    run = Path(args["output_dir"])
    record = read_record(run) or {}
    if record.get("finished") and not args.get("overwrite_output_dir"):
        raise ChainError(
            f"{run}: holds the finished stage {record.get('name')!r}; set overwrite_output_dir: true to train it "
            "anew, or another output_dir"
        )


def _datasets(args: Mapping[str, Any]) -> list[str]:
    names = args["dataset"]
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def _starting_point(args: Mapping[str, Any]) -> str:
    """What a stage starts from: the last adapter where there is one, else the model."""
    adapters = args.get("adapter_name_or_path")
    if adapters:
        return str((adapters.split(",") if isinstance(adapters, str) else list(adapters))[-1])
    return str(args["model_name_or_path"])


def _prepare(settings: StcrSettings, args: Mapping[str, Any], registry: Path) -> None:
    """Build data and base where the recipe names them and they are missing; other ranks wait at the lock."""
    if settings.prepare.data:
        from stcr_plugin.registry.build import build, load_data_config

        data = load_data_config(settings.prepare.data)
        if {f"{data.name}_{key}" for key in data.datasets} & set(_datasets(args)):
            build(data, registry)
    if settings.prepare.base:
        from stcr_plugin.base import BaseConfig

        base = load(BaseConfig, settings.prepare.base)
        if Path(args["model_name_or_path"]) == Path(base.out):
            _build_base(settings.prepare.base, Path(base.out), registry)


def _build_base(config: str, out: Path, registry: Path) -> None:
    """`stcr base build` in a process of its own, since one process trains one model."""
    with artefacts.locked(out.with_name(f".{out.name}.lock")):
        if (read_record(out) or {}).get("finished"):
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


def _build_of(dataset: str, registry: Path) -> str | None:
    """The build that a training set came from, None for one that the plugin did not build."""
    from stcr_plugin.registry.manifest import build_name

    try:
        return build_name(registry, dataset)
    except ConfigError:
        return None


def _opening(
    settings: StcrSettings,
    recipe: dict[str, Any],
    parent: Mapping[str, Any] | None,
    args: Mapping[str, Any],
    build: str | None,
    registry: Path,
) -> dict[str, Any]:
    """The stage record as it stands before training."""
    from stcr_plugin.evaluation.engine import MAX_PIXELS, MIN_PIXELS
    from stcr_plugin.registry.manifest import read_manifest

    start = _starting_point(args)
    digest = weights_digest(start)
    manifest = read_manifest(registry, build) if build else None
    return {
        "name": settings.name,
        "mode": settings.mode,
        "template": args["template"],
        "parent": start,
        "parent_stage": parent["name"] if parent else None,
        "parent_digest": digest,
        "base": parent["base"] if parent else start,
        "base_digest": parent["base_digest"] if parent else digest,
        "seed": args.get("seed", 42),
        "image_max_pixels": args.get("image_max_pixels", MAX_PIXELS),
        "image_min_pixels": args.get("image_min_pixels", MIN_PIXELS),
        "datasets": _datasets(args),
        "data": {"build": build, "config_digest": manifest["config_digest"]} if manifest else None,
        "recipe": recipe,
        "settings": asdict(settings),
        "provenance": artefacts.provenance(),
        "figures": [],
        "finished": False,
    }


def _without_resuming(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record's recipe without the keys that say how a killed run goes on."""
    recipe = record.get("recipe") or {}
    return {
        key: value for key, value in recipe.items() if key not in ("resume_from_checkpoint", "overwrite_output_dir")
    }


class _Record:
    """The stage record on disk, written by rank 0 alone."""

    def __init__(self, run: Path, opening: dict[str, Any]) -> None:
        self.path = run / RECORD
        self.writes = int(os.environ.get("RANK", "0")) == 0
        previous = read_record(run) or {}
        resumed = _without_resuming(previous) == _without_resuming(opening) and not previous.get("finished")
        self.values = {**opening, "figures": previous.get("figures", []) if resumed else []}
        self.started = 0.0

    def start(self) -> None:
        self.started = time.perf_counter()
        self._write()

    def add_figures(self, measurement: dict[str, Any]) -> None:
        # A run that was killed and resumed measures again what lay behind its checkpoint.
        step, when = measurement["step"], measurement["when"]
        kept = [
            row for row in self.values["figures"] if row["step"] < step or (row["step"] == step and row["when"] != when)
        ]
        self.values["figures"] = [*kept, measurement]
        self._write()
        if self.writes:
            artefacts.write_jsonl(self.path.with_name("stcr_figures.jsonl"), self.values["figures"])

    def finish(self) -> None:
        run = self.path.parent
        self.values["seconds"] = time.perf_counter() - self.started
        self.values["seconds_evaluating"] = sum(row["seconds"] for row in self.values["figures"])
        if self.writes:
            state = artefacts.read_json(run / "trainer_state.json")
            self.values["steps"] = state["global_step"]
        self.values["weights_digest"] = weights_digest(run) if self.writes else None
        self.values["finished"] = True
        self._write()

    def _write(self) -> None:
        if self.writes:
            artefacts.write_json(self.path, self.values)


def _callbacks(
    settings: StcrSettings, build: str | None, registry: Path, args: Mapping[str, Any], record: _Record
) -> list[Any]:
    from stcr_plugin.frameworks.llamafactory.augmentation import Augmentation

    made: list[Any] = [Augmentation(settings.augment)] if settings.augment else []
    if settings.evaluate:
        from stcr_plugin.evaluation.engine import MAX_PIXELS, MIN_PIXELS, AskSettings
        from stcr_plugin.evaluation.run import spread
        from stcr_plugin.frameworks.llamafactory.callback import GapCallback
        from stcr_plugin.registry.manifest import read_pairs

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
        pairs = spread(read_pairs(registry, _evaluated(evaluate, build, args), evaluate.split), evaluate.pairs)
        made.append(
            GapCallback(
                pairs,
                registry,
                ask,
                record.add_figures,
                before=evaluate.before,
                after=evaluate.after,
                every_steps=evaluate.every_steps,
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


def _set_cutoff(args: Mapping[str, Any]) -> None:
    from llamafactory.data.template import TEMPLATES as REGISTERED

    REGISTERED[args["template"]].cutoff_len = args.get("cutoff_len", 2048)


@contextmanager
def _trainer_made_known(callbacks: Sequence[Any]) -> Iterator[None]:
    """Tell our callbacks their trainer: transformers hands callbacks the model, not the trainer that logs."""
    from transformers import Trainer

    from stcr_plugin.frameworks.llamafactory.checkpoints import load_whole

    original = Trainer.__init__

    @functools.wraps(original)
    def init(trainer: Any, *args: Any, **kwargs: Any) -> None:
        original(trainer, *args, **kwargs)
        load_whole(trainer)
        for callback in callbacks:
            callback.trainer = trainer

    Trainer.__init__ = init
    try:
        yield
    finally:
        Trainer.__init__ = original
