"""An engine that describes the pictures of the toy build from their true states, and may lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stcr_plugin import artefacts
from stcr_plugin.engines.sealed import unsealed
from stcr_plugin.registry.ground_truth import config_of, source_of
from stcr_plugin.registry.manifest import read_manifest, read_pairs
from stcr_plugin.samples.cot import load_phrases
from stcr_plugin.types import Claim, Prompt, Query, Response


class Describer:
    """Describes each picture from its true state; a share of its claims is false. Its answers are right, or wrong."""

    def __init__(self, registry: Path, lies: float = 0.0, wrong: bool = False, language: str = "en") -> None:
        config = config_of(read_manifest(registry, "toy"))
        self.pairs = {pair.pair_id: pair for pair in read_pairs(registry, "toy", "heldout")}
        self.source, episodes = source_of(config, {pair.episode_id for pair in self.pairs.values()})
        self.states = {name: self.source.states(episode) for name, episode in episodes.items()}
        self.phrases = load_phrases("tabletop")[language]
        self.lies, self.wrong, self.lied, self.said = lies, wrong, 0, 0

    def identity(self) -> Mapping[str, Any]:
        return {"engine": "describer", "lies": self.lies, "wrong": self.wrong}

    def respond(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
        for number, prompt in enumerate(map(unsealed, prompts)):
            query = Query(self.pairs[prompt.item], "forward" if prompt.order == "forward" else "backward")
            frames = (query.pair.earlier, query.pair.later)
            shown = frames if query.order == "forward" else frames[::-1]
            halves = [self.describe(prompt, query.pair.episode_id, frame) for frame in shown]
            chosen = query.answer if not self.wrong else {"img1": "img2", "img2": "img1"}[query.answer]
            text = f"spatial details: img1: {halves[0]}. img2: {halves[1]}.\ncloser to completion: {chosen}"
            yield number, Response(text)

    def describe(self, prompt: Prompt, episode: str, frame: int) -> str:
        state = self.states[episode][frame]
        random = artefacts.rng(prompt.item, prompt.order, frame)
        claims = []
        for claim in self.source.claims(state):
            lie = random.random() < self.lies
            self.lied, self.said = self.lied + lie, self.said + 1
            claims.append(Claim(claim.name, _false(claim)) if lie else claim)
        return self.phrases.say(claims)


def _false(claim: Claim) -> str | int:
    if isinstance(claim.value, int):
        return claim.value + 30
    return {"open": "closed", "closed": "open"}.get(claim.value, "place" if claim.value != "place" else "approach")
