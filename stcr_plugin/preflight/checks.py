"""The checks: each takes a plan and yields verdicts. A new one is a function and a row of CHECKS."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stcr_plugin import records
from stcr_plugin.errors import StcrError
from stcr_plugin.frameworks.numbering import TEMPLATES
from stcr_plugin.logits import IGNORE
from stcr_plugin.preflight import duration, memory, pitfalls, stage_checks
from stcr_plugin.preflight.data import Data, Encoder, Size
from stcr_plugin.preflight.model import Model
from stcr_plugin.preflight.plan import Asked, Plan, read_plan
from stcr_plugin.preflight.verdict import Report, Verdict, error, ok, shortened, warning
from stcr_plugin.records import StageRecord
from stcr_plugin.types import Prompt, Shown

_SIDE = 112  # pixels of a side of the pictures that templates are compared with


def preflight(recipe: str, overrides: Sequence[str] = (), asked: Asked | None = None) -> Report:
    """Check a training before it starts. Nothing is trained, no weight is loaded."""
    plan, found = read_plan(recipe, overrides, asked or Asked())
    skipped = []
    for name, check, needs in CHECKS:
        if plan is None or any(getattr(plan, need) is None for need in needs):
            skipped.append(name)
        else:
            found += check(plan)
    if skipped:
        found.append(warning("not checked", ", ".join(skipped), "fix the problems above, then check again"))
    return Report(recipe, tuple(found))


def _of(plan: Plan) -> tuple[Model, Data]:
    assert plan.model is not None
    assert plan.data is not None
    return plan.model, plan.data


# ---- the model and its template ----


def model(plan: Plan) -> Iterator[Verdict]:
    """Which model, and how much of it is trained."""
    assert plan.model is not None
    read, weights = plan.model, plan.model.weights
    kind = plan.resolved.finetuning.finetuning_type
    yield ok(
        "model",
        f"{read.config.model_type}, {read.parameters / 1e6:,.1f} million parameters "
        f"({read.vision_parameters / 1e6:,.1f} of the vision tower), {kind}: "
        f"{weights.trainable / 1e6:,.1f} million are trained ({100 * weights.trainable / weights.total:.1f} %)",
        parameters=read.parameters,
        vision_parameters=read.vision_parameters,
        trained=weights.trainable,
    )
    if read.substitute:
        yield warning(
            "model", f"does not exist yet: {read.substitute}", "check again once it is built", where=read.name
        )
    elif not read.has_weights:
        what = "has no weights: configuration and processor were checked, a training needs the rest"
        yield warning("model", what, "`hf download` the whole model there", where=str(read.folder))


def template(plan: Plan) -> Iterator[Verdict]:
    """Training, evaluation and serving make the same tokens of a question."""
    assert plan.model is not None
    read, name = plan.model, plan.recipe.template
    unlike = _unlike(plan, read, name)
    if unlike is None:
        what = "the processor has no chat template, so evaluation could not write a question"
        yield error("template", what, "copy chat_template.jinja (or .json) of the model there", where=str(read.folder))
    elif unlike:
        fitting = ", ".join(other for other in TEMPLATES if _unlike(plan, read, other) == "")
        fix = f"set template to the one of this model: {fitting}" if fitting else "use a model that one of ours fits"
        yield error("template", f"{name}: {unlike}", fix, where="template")
    else:
        yield ok("template", f"{name} writes a question token by token as the model's own chat template does")


def _unlike(plan: Plan, read: Model, name: str) -> str | None:
    """How the template `name` differs from the model's chat template, "" where it does not; None without one."""
    from PIL import Image

    from stcr_plugin.engines.picture_loading import fit
    from stcr_plugin.engines.prompts import conversation

    if not getattr(read.processor, "chat_template", None):
        return None
    question, pixels = "Which of img1 and img2 is closer to completion?", _pixels(plan)
    prompt = Prompt("", "", "forward", shown=(Shown("1"), Shown("2")), labels=("img1", "img2"), question=question)
    picture = fit(Image.new("RGB", (_SIDE, _SIDE)), *pixels)
    resolved = dataclasses.replace(plan.resolved, data=_with_template(plan.resolved.data, name))
    row = {
        "_prompt": [{"role": "user", "content": f"<image><image>{question}"}],
        "_response": [{"role": "assistant", "content": "img1"}],
        **dict.fromkeys(("_system", "_tools", "_videos", "_audios")),
    }
    try:
        text = conversation(read.processor, prompt)
        asked = read.processor(text=[text], images=[picture, picture])["input_ids"][0]
        ((ids, labels),) = Encoder(resolved, read).tokens(row, [Size(_SIDE, _SIDE)] * 2)
    except (ValueError, TypeError, KeyError, AttributeError, StcrError) as refusal:
        return f"cannot be written with this model's processor ({' '.join(str(refusal).split())[:160]})"
    taught = [token for token, label in zip(ids, labels, strict=True) if label == IGNORE]
    asked = [int(token) for token in asked]
    if taught == asked:
        return ""
    place = next(
        (k for k, (one, other) in enumerate(zip(taught, asked, strict=False)) if one != other),
        min(len(taught), len(asked)),
    )
    seen = [read.tokenizer.decode(ids[max(0, place - 3) : place + 8]) for ids in (taught, asked)]
    return f"writes {seen[0]!r} where the model's own chat template has {seen[1]!r} (token {place + 1})"


def _with_template(data: Any, name: str) -> Any:
    import copy

    data = copy.copy(data)
    data.template = name
    return data


# ---- the data ----


def pictures(plan: Plan) -> Iterator[Verdict]:
    """Every picture exists and decodes to its last byte."""
    _, data = _of(plan)
    bad = [fault for fault in data.faults if fault.kind == "picture"]
    yield from shortened([error("pictures", fault.what, where=fault.where) for fault in bad])
    turned = [fault for fault in data.faults if fault.kind == "turned"]
    fix = "turn its pixels (`mogrify -auto-orient FILE`): training shows it as stored, `judge` and `data build` turn it"
    yield from shortened([warning("pictures", fault.what, fix, where=fault.where) for fault in turned])
    if not bad:
        count = "all" if data.decoded == data.pictures else f"{data.decoded}"
        yield ok("pictures", f"{count} of {data.pictures} were decoded to the last byte", pictures=data.pictures)


def rows(plan: Plan) -> Iterator[Verdict]:
    """Every row makes a sample."""
    _, data = _of(plan)
    bad = [fault for fault in data.faults if fault.kind == "row"]
    fix = "fix the row or leave it out"
    yield from shortened([error("rows", fault.what, fix, where=fault.where) for fault in bad])
    lost = [fault for fault in data.faults if fault.kind == "dropped"]
    fix = "fix or delete it, for LLaMA-Factory leaves it out silently"
    yield from shortened([warning("rows", fault.what, fix, where=fault.where) for fault in lost])
    listed = ", ".join(f"{name} {count}" for name, count in data.rows.items())
    if not data.samples and not bad and not any(fault.kind == "picture" for fault in data.faults):
        yield error("rows", f"there is no sample to train on ({listed})", "name datasets with rows")
    elif data.samples:
        two = " answers, two of each row," if plan.answers == 2 else ""
        yield ok("rows", f"{listed}; {len(data.samples)}{two} tokenised", rows=dict(data.rows))


def cache(plan: Plan) -> Iterator[Verdict]:
    """What LLaMA-Factory tokenised before was made of the present pictures."""
    _, data = _of(plan)
    replaced = [fault for fault in data.faults if fault.kind == "replaced"]
    yield from shortened([error("cache", fault.what, where=fault.where) for fault in replaced])
    kept = plan.resolved.data.tokenized_path
    if kept and Path(kept).is_dir():
        fix = "delete that folder, or name another"
        made = Path(kept).stat().st_mtime
        if data.newest > made:
            yield error("cache", "was tokenised before a picture changed", fix, where=f"tokenized_path: {kept}")
        else:
            what = "is trained on as it is, whatever dataset, template and sizes the recipe says"
            yield warning("cache", what, fix, where=f"tokenized_path: {kept}")
    elif data.cached is not None and data.newest > data.cached and not plan.resolved.data.overwrite_cache:
        what = "a picture changed after these datasets were tokenised, and its old size would be used again"
        yield error("cache", what, "set overwrite_cache: true for one run, or delete the cache")
    elif not replaced:
        yield ok("cache", "no picture changed after the datasets were built or tokenised")


def cutoff(plan: Plan) -> Iterator[Verdict]:
    """The longest sample fits into cutoff_len."""
    _, data = _of(plan)
    limit = int(plan.resolved.data.cutoff_len)  # LLaMA-Factory takes one off where it packs
    packing = bool(plan.resolved.data.packing)
    longest = max(data.samples, key=lambda sample: sample.tokens)
    least = longest.tokens + (1 if packing else 0)
    safe = -(-least // 8) * 8
    figures = {"longest": longest.tokens, "smallest_safe": safe, "cutoff_len": limit + packing}
    over = sum(sample.tokens > limit for sample in data.samples)
    if over:
        what = f"{over} of {len(data.samples)} samples are longer than {limit}, the longest takes {longest.tokens}"
        fix = f"set cutoff_len: {safe} or more, or image_max_pixels lower"
        yield Verdict("cutoff", "error", what, where=f"cutoff_len ({longest.where})", fix=fix, figures=figures)
        return
    seen = "" if len(data.samples) == plan.answers * sum(data.rows.values()) else f" of {len(data.samples)} checked"
    yield ok(
        "cutoff",
        f"the longest sample{seen} takes {longest.tokens} of {limit} tokens; the smallest safe cutoff_len is {safe}",
        **figures,
    )


def supervised(plan: Plan) -> Iterator[Verdict]:
    """Exactly the answer and its end of turn are trained on."""
    _, data = _of(plan)
    bad = [fault for fault in data.faults if fault.kind == "supervised"]
    fix = "remove train_on_prompt and mask_history, and use a template of the plugin"
    yield from shortened([error("supervised", fault.what, fix, where=fault.where) for fault in bad])
    if not bad:
        counts = [sample.supervised for sample in data.samples]
        share = 100 * sum(counts) / sum(sample.tokens for sample in data.samples)
        answers = "both answers and their" if plan.answers == 2 else "the answer and its"
        what = f"exactly {answers} end of turn, {share:.1f} % of all tokens; supervised tokens per sample"
        yield ok("supervised", what, tokens=dict(sorted(Counter(counts).items())))


def _pixels(plan: Plan) -> tuple[int, int]:
    return int(plan.resolved.model.image_max_pixels), int(plan.resolved.model.image_min_pixels)


def pixels(plan: Plan) -> Iterator[Verdict]:
    """Pictures have one size in training, in the stage before, in evaluation and on a server."""
    read, data = _of(plan)
    most, least = _pixels(plan)
    record = records.read(plan.start) or StageRecord()
    stages = {"image_max_pixels": (record.image_max_pixels, most), "image_min_pixels": (record.image_min_pixels, least)}
    differ = {key: both for key, both in stages.items() if both[0] not in (None, both[1])}
    for key, (before, mine) in differ.items():
        what = f"{mine} here, {before} in stage {record.name!r} that this one starts from"
        yield warning("pixels", what, f"set {key}: {before}, unless the change is intended", where=key)
    processor = read.processor.image_processor
    size = getattr(processor, "size", None) or {}
    own = getattr(processor, "max_pixels", None) or (size.get("longest_edge") if "longest_edge" in size else None)
    if own is not None and data.largest > int(own) and int(own) < most:
        what = f"the model's processor shrinks pictures to {own} pixels whatever image_max_pixels says"
        yield warning("pixels", what, f"set image_max_pixels: {own}", where="image_max_pixels")
    if own is not None and data.largest > most and int(own) > most:
        what = (
            f"training shrinks pictures of {data.largest} pixels to {most}, a server such as vLLM or SGLang only knows "
            f"the processor's {own}"
        )
        fix = "serve the export (`stcr export`), whose processor has the limits; `stcr eval` takes them from stage.json"
        yield warning("pixels", what, fix, where="image_max_pixels")
    if not differ:
        shrunk = "are shrunk to it" if data.largest > most else "are below it"
        yield ok(
            "pixels",
            f"image_max_pixels {most} in training, and in evaluation by stage.json; pictures of at most {data.largest} "
            f"pixels {shrunk}",
            image_max_pixels=most,
            image_min_pixels=least,
            largest=data.largest,
        )


# ---- the run ----


def steps(plan: Plan) -> Iterator[Verdict]:
    """How many samples and tokens are trained on."""
    _, data = _of(plan)
    count, training = plan.steps, plan.resolved.training
    if count is None:
        yield warning("steps", "their number is unknown in advance with packing or mixed datasets", "set max_steps")
        return
    seen = count * plan.batch
    tokens = plan.answers * sum(sample.tokens for sample in data.samples) / len(data.samples)
    epochs = f", {seen / plan.rows:.2f} epochs" if plan.rows else ""
    yield ok(
        "steps",
        f"{count} steps of {plan.batch} samples ({training.per_device_train_batch_size} on each of "
        f"{plan.resolved.gpus} GPUs, {training.gradient_accumulation_steps} times): {seen} samples{epochs}, "
        f"{seen * tokens / 1e6:,.1f} million tokens",
        steps=count,
        batch=plan.batch,
        samples=seen,
        epochs=seen / plan.rows if plan.rows else None,
        tokens=round(seen * tokens),
    )
    if plan.rows and plan.batch > plan.rows:
        yield warning("steps", f"a step takes {plan.batch} samples, and there are {plan.rows}", "lower the batch")
    warm = int(training.get_warmup_steps(count))
    if 2 * warm > count:
        what = f"{warm} of {count} steps warm up: the learning rate is hardly ever what the recipe says"
        yield warning("steps", what, "lower warmup_steps", where="warmup_steps")


def space(plan: Plan) -> Iterator[Verdict]:
    """What one GPU needs."""
    read, _ = _of(plan)
    finetuning, training = plan.resolved.finetuning, plan.resolved.training
    optimizer = str(getattr(training.optim, "value", training.optim))
    batch = plan.largest_batch
    assert batch is not None
    unknown = [key for key in ("use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon")
               if getattr(finetuning, key, False)]  # fmt: skip
    if unknown or not memory.known(optimizer):
        what = f"no estimate: there is no formula here for {unknown[0] if unknown else optimizer}"
        yield warning("memory", what, "measure one step", where="optim")
        return
    need = memory.estimate(plan.resolved, read, batch)
    gib = {field.name: getattr(need, field.name) / memory.GIB for field in dataclasses.fields(need)
           if field.name not in ("accumulated", "checkpointed")}  # fmt: skip
    peak, limit = need.peak / memory.GIB, plan.asked.gpu_memory
    parts = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in gib.items() if value >= 0.005)
    figures = {"peak_gib": peak, "limit_gib": limit, **{f"{name}_gib": value for name, value in gib.items()}}
    what = f"{peak:.2f} GiB on each GPU for {batch.tokens} tokens and {batch.patches} patches at once ({parts}); "
    what += "CUDA itself takes more"
    fix = "lower per_device_train_batch_size and raise gradient_accumulation_steps, use LoRA, ZeRO, or more GPUs"
    if limit is None:
        yield ok("memory", what, **figures)
    elif peak > limit:
        yield Verdict("memory", "error", f"{what}; there are {limit:g}", where="--gpu-memory", fix=fix, figures=figures)
    elif peak > 0.9 * limit:
        yield Verdict(
            "memory",
            "warning",
            f"{what}; that is over 90 % of {limit:g}",
            where="--gpu-memory",
            fix=fix,
            figures=figures,
        )
    else:
        yield ok("memory", f"{what}; there are {limit:g}", **figures)


def time(plan: Plan) -> Iterator[Verdict]:
    """How long it takes, by the figures of the machines."""
    read, data = _of(plan)
    asked, count = plan.asked, plan.steps
    each = plan.answers * duration.operations(read, data, compares=plan.reference is not None)
    figures: dict[str, Any] = {"operations_per_sample": each}
    if count is None:
        yield warning("time", "unknown, as is the number of steps", "set max_steps")
        return
    total = each * count * plan.batch
    if asked.throughput is not None:
        rate, source = asked.throughput, f"{asked.throughput:g} samples per second as given"
    elif asked.tflops is not None and asked.mfu is not None:
        rate = asked.tflops * 1e12 * asked.mfu * plan.resolved.gpus / each
        source = f"{asked.mfu:.0%} of {asked.tflops:g} TFLOP/s on each of {plan.resolved.gpus} GPUs"
    else:
        what = f"{total / 1e15:,.2f} PFLOP in all; give --throughput, or --tflops and --mfu, for the hours"
        yield ok("time", what, **figures)
        return
    seconds = count * plan.batch / rate
    figures |= {"seconds": seconds, "samples_per_second": rate}
    yield ok("time", f"{_clock(seconds)} for {total / 1e15:,.2f} PFLOP at {source}; evaluation comes on top", **figures)


def _clock(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else f"{seconds / 60:,.1f} minutes"


# ---- the table ----

Check = Callable[[Plan], Iterable[Verdict]]

# Name, function, and the parts of the plan that it needs.
CHECKS: tuple[tuple[str, Check, tuple[str, ...]], ...] = (
    ("settings", pitfalls.settings, ()),
    ("model", model, ("model",)),
    ("template", template, ("model",)),
    ("rows", rows, ("data",)),
    ("pictures", pictures, ("data",)),
    ("cache", cache, ("data",)),
    ("cutoff", cutoff, ("samples",)),
    ("supervised", supervised, ("samples",)),
    ("pixels", pixels, ("model", "data")),
    ("steps", steps, ("samples",)),
    ("memory", space, ("model", "samples")),
    ("time", time, ("model", "samples")),
    ("chain", stage_checks.chain, ()),
    ("evaluation", stage_checks.evaluation, ()),
)
