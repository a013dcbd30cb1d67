"""The training data as LLaMA-Factory will read and tokenise it; each picture is checked once, not per sample."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stcr_plugin import artefacts
from stcr_plugin.episodes import picture_files
from stcr_plugin.errors import ConfigError, DataError, StcrError
from stcr_plugin.logits import IGNORE
from stcr_plugin.preflight.model import Model
from stcr_plugin.preflight.resolve import Resolved
from stcr_plugin.registry import manifest as manifests
from stcr_plugin.registry import picture_store

if TYPE_CHECKING:
    from PIL.Image import Image

_CHUNK = 64  # pictures that a process takes at once
_WORTH_A_PROCESS = 2000  # a process takes a second to start


@dataclass(frozen=True)
class Fault:
    """What is wrong with one picture or row."""

    kind: Literal["picture", "replaced", "turned", "row", "dropped", "supervised"]
    where: str
    what: str


@dataclass(frozen=True)
class Sample:
    """Counts of one sample: a conversation, of which a ranking row makes two.

    Attributes:
        tokens: All; `prompt` of them come before the first supervised one, `supervised` are supervised.
        patches: Those of all its `pictures`.
    """

    where: str
    tokens: int
    prompt: int
    supervised: int
    pictures: int
    patches: int


@dataclass(frozen=True)
class Data:
    """What is known of the training data.

    Attributes:
        rows: Dataset -> how many it has.
        samples: Those that were tokenised, evenly spread over each dataset.
        pictures: All that the rows name; `decoded` of them were decoded whole.
        newest: Time (seconds) of the latest change of a picture's file.
        largest: Most pixels of a picture on disk.
        cached: Time of the oldest tokenised cache that LLaMA-Factory would use again for these files.
    """

    rows: Mapping[str, int]
    samples: tuple[Sample, ...]
    faults: tuple[Fault, ...]
    pictures: int
    decoded: int
    newest: float
    largest: int
    cached: float | None


@dataclass(frozen=True)
class Look:
    """One picture: its size in pixels (0, 0 where it cannot be read), time of change, and what is wrong with it."""

    size: tuple[int, int]
    changed: float
    fault: str = ""
    kind: Literal["picture", "replaced", "turned"] = "picture"


def read_data(resolved: Resolved, model: Model, images: int | None = None, *, samples: int | None = None) -> Data:
    """Every dataset of the recipe. `images`, `samples`: decode, or tokenise, only so many, evenly spread.

    Raises ConfigError for a dataset that is unknown, and DataError for one that cannot be read.
    """
    names = list(resolved.data.dataset)
    loaded = {name: _rows(name, resolved) for name in names}
    first: dict[str, str] = {}
    for name, rows in loaded.items():
        for number, paths in enumerate(rows["_images"], 1):
            for path in paths or ():
                if isinstance(path, str):
                    first.setdefault(path, f"{name}, row {number}")
    sums = _sums(names, resolved)
    chosen = set(spread_evenly(list(first), images))
    looks = _look(list(first), resolved.data.media_dir, chosen, sums=sums)
    faults = [Fault(look.kind, f"{path} ({first[path]})", look.fault) for path, look in looks.items() if look.fault]
    tokenised, more = _tokenised(loaded, looks, resolved, model=model, samples=samples)
    return Data(
        rows={name: len(rows) for name, rows in loaded.items()},
        samples=tuple(tokenised),
        faults=(*faults, *more),
        pictures=len(first),
        decoded=len(chosen),
        newest=max((look.changed for look in looks.values()), default=0.0),
        largest=max((look.size[0] * look.size[1] for look in looks.values()), default=0),
        cached=_tokenised_before(loaded.values()),
    )


def spread_evenly(items: Sequence[Any], most: int | None) -> list[Any]:
    """At most `most` of `items`, evenly spaced, the first among them; all where it is None."""
    if most is None or most >= len(items):
        return list(items)
    return [items[number * len(items) // most] for number in range(most)]


def _rows(name: str, resolved: Resolved) -> Any:
    """The rows of one dataset, in LLaMA-Factory's own form, by its own functions."""
    import datasets
    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.data.parser import get_dataset_list

    arguments = copy.copy(resolved.data)
    arguments.streaming, arguments.preprocessing_num_workers = False, None
    try:
        attributes = get_dataset_list([name], arguments.dataset_dir)[0]
        return _load_single_dataset(attributes, resolved.model, arguments, _Alone())
    except (ValueError, KeyError, TypeError, AttributeError, OSError, datasets.exceptions.DatasetsError) as error:
        reason = _broken_row(name, Path(arguments.dataset_dir)) or " ".join(str(error.__cause__ or error).split())
        raise ConfigError(
            "dataset",
            f"{name} of {arguments.dataset_dir} cannot be read: {reason}",
            f"use one that {arguments.dataset_dir}/dataset_info.json lists, or build it with `stcr data build`",
        ) from None


def _broken_row(name: str, folder: Path) -> str:
    """The first row that LLaMA-Factory cannot convert, and why; "" where none of the known reasons holds."""
    try:
        entry = artefacts.read_json(folder / manifests.DATASET_INFO)[name]
        file = folder / entry["file_name"]
        rows = artefacts.read_jsonl(file) if file.suffix == ".jsonl" else artefacts.read_json(file)
        columns = entry.get("columns") or {}
        for number, row in enumerate(rows, 1):
            images = row.get(columns.get("images", "images"))
            if isinstance(images, list) and not all(isinstance(image, str | dict) for image in images):
                return f"row {number} has a null, or another value that is not a path, in its images"
            for turn in row.get(columns.get("messages", "conversations")) or ():
                if isinstance(turn, dict) and any(isinstance(value, list) for value in turn.values()):
                    return (
                        f"row {number} has content in parts, as OpenAI's API takes it; LLaMA-Factory reads one text "
                        "with <image> for each picture, and the paths in `images`"
                    )
    except DataError as error:
        return f"{error.where}: {error.problem}; {error.fix}"
    except (KeyError, TypeError, AttributeError):
        return ""
    return ""


class _Alone:
    """What LLaMA-Factory's loader asks of the training arguments, for one process."""

    local_process_index = 0
    dataloader_num_workers = 0


def _sums(names: Iterable[str], resolved: Resolved) -> dict[str, str]:
    """Path of a picture of a build of ours -> its SHA-256 when it was built."""
    registry, media = Path(resolved.data.dataset_dir), resolved.data.media_dir
    sums: dict[str, str] = {}
    builds = set()
    for name in names:
        try:
            builds.add(manifests.build_name(registry, name))
        except StcrError:
            continue  # another's, which has no sums
    for build in sorted(builds):
        manifest = manifests.read_manifest(registry, build)
        for row in manifests.frame_rows(registry, manifest):
            in_tar = picture_store.IN_TAR in row["image"]
            sums[row["image"] if in_tar else os.path.join(media, row["image"])] = row["sha256"]
    return sums


# ---- pictures ----


def _look(paths: Sequence[str], media: str, whole: set[str], *, sums: Mapping[str, str]) -> dict[str, Look]:
    """Look at every picture, decoding those in `whole` to the last byte, in several processes where it pays."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from stcr_plugin.progress_bar import progress

    chunks = [
        [(path, media, path in whole, sums.get(path, "")) for path in paths[start : start + _CHUNK]]
        for start in range(0, len(paths), _CHUNK)
    ]
    processes = min(len(os.sched_getaffinity(0)), len(paths) // _WORTH_A_PROCESS)
    looks: dict[str, Look] = {}
    with progress(len(paths), "check: decoding", "pictures") as bar:
        if processes < 2:
            for chunk in chunks:
                looks |= looked_at(chunk)
                bar.update(len(chunk))
        else:
            # Not forked: the threads of the libraries that are loaded by now would be lost in the child.
            with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
                for chunk, found in zip(chunks, pool.map(looked_at, chunks), strict=True):
                    looks |= found
                    bar.update(len(chunk))
    return looks


def looked_at(chunk: Sequence[tuple[str, str, bool, str]]) -> dict[str, Look]:
    """(path, folder that tar names are relative to, decode whole, expected SHA-256 or "") -> what was seen."""
    return {path: _one(path, media, whole, expected=expected) for path, media, whole, expected in chunk}


def _one(path: str, media: str, whole: bool, *, expected: str) -> Look:
    in_tar = picture_store.IN_TAR in path
    file = Path(media, path.partition("#")[0]) if in_tar else Path(path)
    try:
        changed = file.stat().st_mtime
        data = picture_store.read(media, path) if in_tar else file.read_bytes()
        image = picture_files.header(data, path)
        if whole:
            picture_files.loaded(image, path)
    except FileNotFoundError:
        return Look((0, 0), 0.0, "no such file; copy it there, set media_dir, or build again")
    except (DataError, OSError) as error:
        reason = (error.problem if isinstance(error, DataError) else "") or str(error)
        return Look((0, 0), 0.0, f"{reason}; replace it, or leave its rows out, for training would stop at it")
    if expected and artefacts.sha256_of(data) != expected:
        fault = "is not the picture that was built; delete it and build again"
        return Look(image.size, changed, fault, "replaced")
    if (mark := picture_files.orientation(image)) > 1:
        return Look(image.size, changed, f"is marked as held in another way (EXIF orientation {mark})", "turned")
    return Look(image.size, changed)


# ---- tokens ----


@dataclass(frozen=True)
class Size:
    """A picture of which only the size is known."""

    width: int
    height: int


def _tokenised(
    loaded: Mapping[str, Any], looks: Mapping[str, Look], resolved: Resolved, *, model: Model, samples: int | None
) -> tuple[list[Sample], list[Fault]]:
    from stcr_plugin.progress_bar import progress

    encoder = Encoder(resolved, model)
    tokenised: list[Sample] = []
    faults: list[Fault] = []
    for name, rows in loaded.items():
        for number in progress(spread_evenly(range(len(rows)), samples), f"{name}: counting tokens", "samples"):
            where, row = f"{name}, row {number + 1}", rows[number]
            if len(row["_prompt"]) % 2 != 1 or len(row["_response"]) != encoder.answers:
                faults.append(Fault("dropped", where, "is not an exchange of turns that ends with an answer"))
                continue
            try:
                sizes = _sizes(row["_images"] or (), looks)
                if sizes is None:
                    continue  # its picture is a fault already
                made = encoder.encode(where, row, sizes)
            except (ValueError, TypeError, KeyError, AttributeError, StcrError) as error:
                faults.append(Fault("row", where, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
                continue
            tokenised += [sample for sample, _ in made]
            faults += [Fault("supervised", where, fault) for _, fault in made if fault]
    return tokenised, faults


def _sizes(images: Iterable[Any], looks: Mapping[str, Look]) -> list[Size] | None:
    sizes = []
    for image in images:
        if isinstance(image, str):
            size = looks[image].size
        else:
            data = image if isinstance(image, bytes) else image["bytes"]
            size = picture_store.decode(data, "a picture inside the rows").size
        if size == (0, 0):
            return None
        sizes.append(Size(*size))
    return sizes


class Encoder:
    """LLaMA-Factory's own processors with the recipe's template, shown sizes of pictures instead of pictures.

    What they make of pictures depends on their sizes alone, so a blank one of each size is processed once.

    Attributes:
        answers: How many a row of the recipe's stage has.
    """

    def __init__(self, resolved: Resolved, model: Model) -> None:
        from llamafactory.data import template as templates
        from llamafactory.data.processor.pairwise import PairwiseDatasetProcessor
        from llamafactory.data.processor.supervised import SupervisedDatasetProcessor

        from stcr_plugin.frameworks.llamafactory.template import register

        register(templates)
        arguments = copy.copy(resolved.data)
        arguments.cutoff_len = 2**31  # lengths are held against the recipe's afterwards
        self.template = copy.copy(templates.get_template_and_fix_tokenizer(model.tokenizer, arguments))
        self.template.cutoff_len = None
        self.template.mm_plugin = copy.copy(self.template.mm_plugin)
        self.process = self.template.mm_plugin._get_mm_inputs
        self.template.mm_plugin._get_mm_inputs = self._inputs
        self.template.mm_plugin._get_mm_token_metadata = lambda *_: None  # then LLaMA-Factory asks _get_mm_inputs
        self.known: dict[tuple[Size, ...], Any] = {}
        self.tokenizer, self.model = model.tokenizer, model
        self.image_token = _image_token(self.template.mm_plugin, model)
        self.answers = 2 if resolved.finetuning.stage == "dpo" else 1
        self.processors = {
            answers: kind(
                template=self.template, tokenizer=model.tokenizer, processor=model.processor, data_args=arguments
            )
            for answers, kind in ((1, SupervisedDatasetProcessor), (2, PairwiseDatasetProcessor))
        }

    def encode(self, where: str, row: Mapping[str, Any], sizes: Sequence[Size]) -> list[tuple[Sample, str]]:
        """The samples of a row, one for each answer, and what is wrong with what each supervises."""
        return [
            self._counted(where, {**row, "_response": [answer]}, len(sizes), tokens=tokens)
            for answer, tokens in zip(row["_response"], self.tokens(row, sizes), strict=True)
        ]

    def _counted(
        self, where: str, row: Mapping[str, Any], pictures: int, *, tokens: tuple[list[int], list[int]]
    ) -> tuple[Sample, str]:
        ids, labels = tokens
        if max(ids) >= self.model.vocabulary:
            word = self.tokenizer.decode([max(ids)])
            raise ValueError(
                f"{word!r} is token {max(ids)}, and the model's vocabulary has {self.model.vocabulary}: the tokenizer "
                "is another model's"
            )
        supervised = [label for label in labels if label != IGNORE]
        prompt = next((place for place, label in enumerate(labels) if label != IGNORE), len(labels))
        patches = ids.count(self.image_token) * self.model.merge
        counts = Sample(where, len(ids), prompt, supervised=len(supervised), pictures=pictures, patches=patches)
        return counts, self._misled(row, supervised)

    def tokens(self, row: Mapping[str, Any], sizes: Sequence[Size]) -> list[tuple[list[int], list[int]]]:
        """input_ids and labels of each answer, [tokens] each."""
        found = self.processors[len(row["_response"])]._encode_data_example(
            prompt=row["_prompt"],
            response=row["_response"],
            system=row["_system"],
            tools=row["_tools"],
            images=list(sizes),
            videos=row["_videos"] or [],
            audios=row["_audios"] or [],
        )
        return [(list(ids), list(labels)) for ids, labels in zip(found[::2], found[1::2], strict=True)]

    def _misled(self, row: Mapping[str, Any], supervised: Sequence[int]) -> str:
        """Why the supervised tokens are not the answers, each with its end of turn."""
        end = self.template.stop_words[-1] if self.template.stop_words else self.tokenizer.eos_token
        turns = [*row["_prompt"][1::2], *row["_response"]]
        due = "".join(f"{turn['content']}{end}" for turn in turns)
        found = self.tokenizer.decode(supervised, skip_special_tokens=False)
        if self.image_token in supervised:
            return f"{supervised.count(self.image_token)} of {len(supervised)} supervised tokens are of pictures"
        return "" if found == due else f"supervised is {found[-60:]!r} where the answer is {due[-60:]!r}"

    def _inputs(self, images: Sequence[Any], videos: Any, audios: Any, processor: Any, **more: Any) -> Any:
        key = tuple(images)
        if key not in self.known or videos or audios:
            blank = [_blank(size) for size in images]
            found = self.process(blank, videos, audios, processor, **more)
            # Pixels are large, and nothing below asks for them.
            self.known[key] = {name: value for name, value in found.items() if "pixel" not in name}
        return self.known[key]


def _blank(size: Size) -> Image:
    from PIL import Image

    return Image.new("RGB", (size.width, size.height))


def _image_token(plugin: Any, model: Model) -> int:
    token = getattr(model.config, "image_token_id", None)
    return int(token if token is not None else model.tokenizer.convert_tokens_to_ids(plugin.image_token))


# ---- caches ----


def _tokenised_before(loaded: Iterable[Any]) -> float | None:
    """When the oldest tokenised file in the caches of these datasets was written."""
    folders = {Path(file["filename"]).parent for rows in loaded for file in rows.cache_files}
    times = [file.stat().st_mtime for folder in sorted(folders) for file in _tokenised_files(folder)]
    return min(times, default=None)


def _tokenised_files(folder: Path) -> Iterator[Path]:
    import pyarrow as pa

    for file in sorted(folder.glob("cache-*.arrow")):
        try:
            with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
                if "input_ids" in stream.schema.names:
                    yield file
        except (OSError, pa.ArrowInvalid):
            continue
