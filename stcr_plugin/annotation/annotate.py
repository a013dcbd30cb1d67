"""The pairs of a build -> annotated texts on disk, chunk by chunk. A killed run goes on where it stopped.

Each chunk has a folder with the responses and, once it is finished, its rows and an account with a digest of all that
decides them. A finished chunk is not read again; another model or setting finds another digest, and the chunk is made
again of the responses that still fit.
"""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from stcr_plugin import artefacts
from stcr_plugin.annotation import forms
from stcr_plugin.annotation.annotation_settings import AnnotateSettings
from stcr_plugin.annotation.decisions import ReviewedRows, being_alone, decisions_file
from stcr_plugin.annotation.recorded import ClaimCheck, Recorded, unchecked
from stcr_plugin.annotation.rounds import FAILED, Plan, PrintedPair, annotated
from stcr_plugin.annotation.summary import (
    AnnotationSummary,
    ChunkAccount,
    Estimate,
    ModelUse,
    Use,
    figures_of,
    joined,
)
from stcr_plugin.annotation.teachers import Asking, Teacher, Teachers
from stcr_plugin.engines.cache import picture_digests
from stcr_plugin.engines.server import ServerEngine, StoppedError
from stcr_plugin.errors import DataError
from stcr_plugin.pairs import spread
from stcr_plugin.progress_bar import Progress, progress
from stcr_plugin.provenance import provenance
from stcr_plugin.registry import parquet
from stcr_plugin.registry.manifest import MANIFEST, Manifest, pair_rows, read_manifest, teaches_ties, unknown_split
from stcr_plugin.samples.annotations import Annotation

FIRST = 20  # pairs, of which the estimate is made
CHUNK = 512  # pairs, or the whole episodes that reach it
AT_ONCE = 3  # chunks, where servers answer
ROWS = "rows.jsonl"
_CODE = ("annotation", "scoring", "samples")


@dataclass(frozen=True)
class AnnotateRequest:
    """What to annotate, and by whom.

    Attributes:
        registry: Folder of the build.
        dataset: Name of the build.
        describer: Who describes and judges.
        second: Who confirms and judges without pictures; None for the describer itself.
        limit: As many pairs at most, spread evenly over episodes; None for all.
        seed: Draws the pairs of `limit`.
    """

    registry: Path
    dataset: str
    split: str
    describer: Teacher
    second: Teacher | None = None
    settings: AnnotateSettings = field(default_factory=AnnotateSettings)
    limit: int | None = None
    seed: int = 0


def annotate(
    request: AnnotateRequest, out: Path, *, go_on: Callable[[Estimate], bool] = lambda estimate: True
) -> AnnotationSummary:
    """Ask for texts about every pair of a split, check them, and write annotations.jsonl and summary.json into `out`.

    The rows are in the order of the build's pair files. What a server gives no reply to is a row that was not
    accepted, with the verdict "failed"; the same command asks for it again.

    Args:
        request: Pairs, models and settings.
        out: Folder of the results.
        go_on: Called with an estimate after the first pairs; where it returns False, the run ends with them.

    Raises:
        ConfigError: For an unknown build, split or language.
        DataError: For pictures that cannot be read.
        ServerError: Where no prompt can have a reply.
    """
    out, registry = Path(out), Path(request.registry)
    manifest = read_manifest(registry, request.dataset)
    if request.split not in manifest.splits:
        raise unknown_split(manifest, request.split)
    teachers = Teachers(request.describer, request.second)
    _share_servers(teachers)
    plan = Plan(request.settings, forms.FORMS[request.settings.questions], teaches_ties(manifest))
    wanted = _limited(request, manifest)
    of = manifest.counts.splits[request.split].pairs if wanted is None else len(wanted)
    work = _Work(request, manifest, plan, teachers=teachers)
    with artefacts.locked(out / ".lock", out), progress(None, "annotate: asking", "responses") as bar:
        run = _Run(work, out, of=of, bar=bar)
        chunks = _chunks(_printed_pairs(registry, manifest, request.split, wanted=wanted))
        chunk = next(chunks, [])
        if not chunk:
            raise DataError(f"{manifest.name}, split {request.split}", "has no pairs", "name another split")
        # The first pairs alone, whose responses are used again in their whole chunk.
        run.one(0, chunk if run.finished(0, chunk) else chunk[:FIRST])
        first = run.accounts[0]
        if first.figures.pairs == of or go_on(_estimate(first, of, teachers)):
            run.all(enumerate(chain([chunk], chunks)), AT_ONCE if teachers.side_by_side else 1)
        return _finish(work, run, out, of=of)


def _share_servers(teachers: Teachers) -> None:
    """Go on after a prompt without a reply; two models of one server share its places and its pace."""
    engines = [one.engine for one in teachers.by_role.values() if isinstance(one.engine, ServerEngine)]
    for engine in engines:
        engine.goes_on = True
        if engine.server.url == engines[0].server.url:
            engine.traffic = engines[0].traffic
    teachers.end("")


# ---- pairs and chunks ----


class _Id(NamedTuple):
    pair_id: str
    episode_id: str


def _limited(request: AnnotateRequest, manifest: Manifest) -> frozenset[str] | None:
    """The ids of the pairs that the limit leaves; None for all."""
    if request.limit is None:
        return None
    ids = [
        _Id(one.pair.pair_id, one.pair.episode_id)
        for one in _printed_pairs(Path(request.registry), manifest, request.split, wanted=None)
    ]
    return frozenset(one.pair_id for one in spread(ids, request.limit, request.seed))


def _printed_pairs(
    registry: Path, manifest: Manifest, split: str, *, wanted: frozenset[str] | None
) -> Iterator[PrintedPair]:
    """The pairs of a split, one shard of the build in memory at a time."""
    for shard in manifest.shards:
        if shard.split != split:
            continue
        folder = registry / manifest.name
        prints = {str(row["image"]): str(row["fingerprint"]) for row in parquet.read(folder / shard.frames)}
        for _, pair in pair_rows(folder / shard.pairs, registry):
            if wanted is None or pair.pair_id in wanted:
                yield PrintedPair(pair, prints.get(pair.earlier_image, ""), prints.get(pair.later_image, ""))


def _chunks(pairs: Iterator[PrintedPair]) -> Iterator[list[PrintedPair]]:
    """Whole episodes of CHUNK pairs or more, so that each picture is described once."""
    chunk: list[PrintedPair] = []
    for one in pairs:
        if len(chunk) >= CHUNK and one.pair.episode_id != chunk[-1].pair.episode_id:
            yield chunk
            chunk = []
        chunk.append(one)
    if chunk:
        yield chunk


# ---- the work on chunks ----


class _Work:
    """What the chunks of one run share."""

    def __init__(self, request: AnnotateRequest, manifest: Manifest, plan: Plan, *, teachers: Teachers) -> None:
        self.request, self.manifest, self.plan, self.teachers = request, manifest, plan, teachers
        self.registry = Path(request.registry)
        self.manifest_digest = artefacts.sha256(self.registry / manifest.name / MANIFEST)
        self._lock = threading.Lock()
        self._recorded: Recorded | None = None
        texts = sorted(Path(forms.__file__).parent.rglob("*.yaml"))
        self._decides = {
            "settings": request.settings.decides,
            "models": teachers.identity(),
            "names": [teachers.describer.name, teachers.verifier.name],
            "manifest": self.manifest_digest,
            "code": [artefacts.code_digest(*_CODE), *map(artefacts.sha256, texts)],
        }

    def chunk(self, folder: Path, pairs: Sequence[PrintedPair], moved: Callable[[], None]) -> ChunkAccount:
        """The account of a chunk, whose rows are in `folder` then; those that are there are used again."""
        if (known := self.finished(folder, pairs)) is not None:
            return known
        started = time.monotonic()
        bare = [one.pair for one in pairs]
        shown = {image: f"pair {one.pair_id}" for one in bare for image in (one.earlier_image, one.later_image)}
        asking = Asking(self.teachers, folder, picture_digests(self.registry, shown), moved)
        claim_check: ClaimCheck = unchecked
        unknown: dict[str, str] = {}
        if self.plan.makes("claims"):
            with self._lock:
                claim_check = self._record().checking(bare)
            unknown = {"claims": self._record().unknown} if self._record().unknown else {}
        rows = annotated(pairs, self.plan, asking, claim_check=claim_check)
        artefacts.write_jsonl(folder / ROWS, [row.row() for row in rows])
        account = ChunkAccount(
            digest=self._digest(pairs),
            rows_digest=artefacts.sha256(folder / ROWS),
            figures=figures_of(rows, FAILED),
            unchecked=unknown,
            use=asking.use(),
            seconds=round(time.monotonic() - started, 3),
        )
        account.write(folder / ChunkAccount.file)
        return account

    def _digest(self, pairs: Sequence[PrintedPair]) -> str:
        return artefacts.digest([self._decides, [dataclasses.asdict(one) for one in pairs]])

    def finished(self, folder: Path, pairs: Sequence[PrintedPair]) -> ChunkAccount | None:
        """The account of rows that are all there; not where a prompt had no reply, or a check can be made only now."""
        if not (folder / ChunkAccount.file).is_file() or not (folder / ROWS).is_file():
            return None
        known, rows_digest = ChunkAccount.read(folder / ChunkAccount.file), artefacts.sha256(folder / ROWS)
        if not known.complete or (known.digest, known.rows_digest) != (self._digest(pairs), rows_digest):
            return None
        if known.unchecked:
            with self._lock:
                return known if self._record().unknown else None
        return known

    def _record(self) -> Recorded:
        if self._recorded is None:
            self._recorded = Recorded(
                self.registry, self.manifest, self.request.split, language=self.request.settings.language
            )
        return self._recorded


class _Run:
    """The chunks of one run, in the folder `out`, with their accounts so far."""

    def __init__(self, work: _Work, out: Path, *, of: int, bar: Progress) -> None:
        self._work, self._out, self._of, self._bar = work, out, of, bar
        self._lock = threading.Lock()
        self._accounts: dict[int, ChunkAccount] = {}

    @property
    def accounts(self) -> list[ChunkAccount]:
        return [self._accounts[number] for number in sorted(self._accounts)]

    def folder(self, number: int) -> Path:
        return self._out / "chunks" / f"{number:05d}"

    def _moved(self) -> None:
        with self._lock:
            done = sum(one.figures.pairs for one in self._accounts.values())
            self._bar.update(note=f"{done} of {self._of} pairs done")

    def finished(self, number: int, pairs: Sequence[PrintedPair]) -> bool:
        return self._work.finished(self.folder(number), pairs) is not None

    def one(self, number: int, pairs: Sequence[PrintedPair]) -> None:
        account = self._work.chunk(self.folder(number), pairs, self._moved)
        with self._lock:
            self._accounts[number] = account

    def all(self, chunks: Iterator[tuple[int, Sequence[PrintedPair]]], at_once: int) -> None:
        """Work on `at_once` chunks at the same time. Where one fails, the others end once their requests are answered.

        So a server is busy with one chunk while the last requests of a round of another one are answered.
        """
        if at_once == 1:
            for number, pairs in chunks:
                self.one(number, pairs)
            return
        teachers = self._work.teachers
        with ThreadPoolExecutor(at_once) as pool:
            running: set[Future[None]] = set()
            try:
                for number, pairs in chunks:
                    running.add(pool.submit(teachers.or_end, partial(self.one, number, pairs)))
                    if len(running) == at_once:
                        done, running = wait(running, return_when=FIRST_COMPLETED)
                        _raise_first(done, running)
                _raise_first(running, set())
            except KeyboardInterrupt:
                teachers.end("now")
                raise


def _raise_first(done: set[Future[None]], running: set[Future[None]]) -> None:
    """Raise the error of one of these calls: not that of a call which was ended, where another one is there."""
    if any(future.exception() for future in done):
        errors = [error for future in done | running if (error := future.exception())]
        raise min(errors, key=lambda error: isinstance(error, StoppedError))


# ---- the whole ----


def _estimate(first: ChunkAccount, of: int, teachers: Teachers) -> Estimate:
    left = of - first.figures.pairs
    use = {role: _times(one, left / first.figures.pairs) for role, one in first.use.items()}
    total = _total(use.values())
    return Estimate(
        pairs=first.figures.pairs,
        left=left,
        requests=total.requests,
        tokens=None if total.uncounted else (total.prompt_tokens, total.completion_tokens),
        cost=_sum([teachers.cost(role, one) for role, one in use.items()]),
        seconds=first.seconds * left / first.figures.pairs,
    )


def _times(use: Use, factor: float) -> Use:
    return Use(**{name: round(value * factor) for name, value in dataclasses.asdict(use).items()})


def _total(uses: Iterable[Use]) -> Use:
    return sum(uses, Use())


def _sum(costs: Sequence[float | None]) -> float | None:
    known = [one for one in costs if one is not None]
    return sum(known) if len(known) == len(costs) else None


def _finish(work: _Work, run: _Run, out: Path, *, of: int) -> AnnotationSummary:
    """Write annotations.jsonl of the chunks' rows, with what people decided about them before, and the summary."""
    accounts, teachers, request = run.accounts, work.teachers, work.request
    texts = out / Annotation.file
    with being_alone(texts):
        with artefacts.whole_file(texts) as part, open(part, "wb") as whole:
            for number in range(len(accounts)):
                with open(run.folder(number) / ROWS, "rb") as rows:
                    shutil.copyfileobj(rows, whole)
        rows_digest = artefacts.sha256(texts)
        if decisions_file(texts).exists():
            ReviewedRows(texts).fold()
    uses = {role: _total(one.use.get(role, Use()) for one in accounts) for role in teachers.by_role}
    summary = AnnotationSummary(
        dataset=work.manifest.name,
        split=request.split,
        of=of,
        figures=joined([one.figures for one in accounts]),
        unchecked={check: why for one in accounts for check, why in one.unchecked.items()},
        describer=teachers.describer.name,
        verifier=teachers.verifier.name,
        models=tuple(
            ModelUse(role, teachers.by_role[role].name, use, teachers.cost(role, use)) for role, use in uses.items()
        ),
        seconds=round(sum(one.seconds for one in accounts), 3),
        settings=request.settings.decides,
        seed=request.seed,
        limit=request.limit,
        manifest_digest=work.manifest_digest,
        rows_digest=rows_digest,
        engines=teachers.identity(),
        provenance=provenance(),
    )
    summary.write(out / AnnotationSummary.file)
    return summary
