"""Who is asked about strips of frames, where the responses are kept, and what that took."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.engines.cache import collect_responses
from stcr_plugin.engines.settings import AskSettings, Engine
from stcr_plugin.evaluation.evaluate import cost_of, tokens_of
from stcr_plugin.evaluation.request import EvalRequest
from stcr_plugin.evaluation.strips import Strip
from stcr_plugin.provenance import provenance
from stcr_plugin.rankings import QueryCost
from stcr_plugin.types import Prompt, Response

ASKED = "asked"
"""The folder of the responses."""


@dataclass(frozen=True)
class Identified:
    """An engine whose identity was taken once: of a large model's files that is slow, and a ranking has many rounds."""

    engine: Engine
    known: Mapping[str, Any]

    def identity(self) -> Mapping[str, Any]:
        return self.known

    def respond(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
        return self.engine.respond(prompts)


@dataclass(frozen=True)
class Asked:
    """Where responses are kept, all that decides them besides the prompts, and what was asked so far."""

    engine: Identified
    settings: AskSettings
    seed: int
    out: Path
    data_digest: str
    exchanges: list[tuple[Prompt, Response]] = field(default_factory=list)

    @classmethod
    def of(cls, request: EvalRequest, out: Path, *, root: Path, data_digest: str) -> Asked:
        """The engine as it is given, with its settings; else the model's, with the settings of its stage."""
        of = request if request.engine else request.subject(root)
        assert of.engine
        engine = Identified(of.engine, of.engine.identity())
        return cls(engine, of.settings, request.seed, out=out / ASKED, data_digest=data_digest)

    def round(self, number: int) -> Asked:
        """The same with a folder of its own, which counts as one with this."""
        return dataclasses.replace(self, out=self.out / f"{number:03d}")

    def responses(self, prompts: Sequence[Prompt], pictures: Mapping[str, str]) -> list[Response]:
        """As `collect_responses`."""
        header = {"data_digest": self.data_digest, "settings": self.settings.decides, "seed": self.seed}
        found = collect_responses(self.engine, prompts, self.out, asked=header, pictures=pictures)
        self.exchanges.extend(zip(prompts, found, strict=True))
        return found

    @property
    def account(self) -> dict[str, Any]:
        """The fields of a result that say how it was asked, and what that took."""
        responses = [response for _, response in self.exchanges]
        return {
            "settings": dataclasses.asdict(self.settings),
            "seed": self.seed,
            "engine": dict(self.engine.known),
            "data_digest": self.data_digest,
            "provenance": provenance(),
            "cost": QueryCost(
                len(responses),
                sum(len(prompt.shown) for prompt, _ in self.exchanges),
                tokens=tokens_of(responses),
                money=cost_of(self.engine.engine, responses),
            ),
        }


def asked_about(request: EvalRequest, strips: Sequence[Strip], out: Path) -> tuple[Asked, dict[str, str]]:
    """How many strips are asked about, and the digests of their pictures."""
    pictures = [strip.sums() for strip in strips]
    digests = [strip.digest(own) for strip, own in zip(strips, pictures, strict=True)]
    asked = Asked.of(request, out, root=strips[0].root, data_digest=artefacts.digest(digests))
    return asked, {path: of for own in pictures for path, of in own.items()}
