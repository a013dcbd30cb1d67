"""The pairs of a training set as GRPO asks about them: both orders in turn, with what is true of their frames."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from stcr_plugin.engines.prompts import prompts_for
from stcr_plugin.engines.settings import AskSettings
from stcr_plugin.errors import ConfigError, StcrError
from stcr_plugin.evaluation.descriptions import TrueStates, true_states
from stcr_plugin.frameworks.recipe import Recipe
from stcr_plugin.registry.manifest import dataset_rows, read_manifest, read_pairs, teaches_ties
from stcr_plugin.registry.picture_store import IN_TAR
from stcr_plugin.scoring.pair_rewards import PARTS, SampledAnswer, claims_true, true_share
from stcr_plugin.scoring.parsing import answered
from stcr_plugin.types import ORDERS, Pair, Prompt, Query, Response

_KINDS = ("cot", "weak")


@dataclass(frozen=True)
class AskedPairs:
    """Pairs, how they are asked about, and what is true of them.

    Attributes:
        media: What the names of pictures are relative to.
        truth: None where claims are not held against the state.
        unknown: Why not, where a reason is asked for.
    """

    pairs: tuple[Pair, ...]
    media: str
    ask: AskSettings
    ties: bool
    truth: TrueStates | None
    unknown: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that a reward has here."""
        return tuple(name for name in PARTS if self.truth or name != claims_true.__name__)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each pair: its number, and the earlier and the later picture."""
        shown = [(pair.earlier_image, pair.later_image) for pair in self.pairs]
        return [{"pair": number, "images": [self._path(image) for image in both]} for number, both in enumerate(shown)]

    def prompt(self, number: int, place: int) -> tuple[Query, Prompt]:
        """How the pair `number` is asked about at the place `place` of its group: orders take turns."""
        query = Query(self.pairs[number], ORDERS[place % 2])
        return query, prompts_for([query], self.ask, ties=self.ties)[0]

    def scored(self, query: Query, prompt: Prompt, response: Response) -> SampledAnswer:
        """What counts of a response."""
        answer = answered(query, prompt, response)
        return SampledAnswer(
            answer.right, true_share(self.truth.against(query, prompt, answer)) if self.truth else None
        )

    def _path(self, image: str) -> str:
        return image if IN_TAR in image else os.path.join(self.media, image)


def asked_pairs(recipe: Recipe, at_most: int | None = None) -> AskedPairs:
    """The pairs of the recipe's training set.

    Raises:
        ConfigError: It is not one set of CoT or weak samples that `stcr data build` made, in one language.
    """
    if len(recipe.datasets) != 1:
        raise ConfigError("dataset", f"names {len(recipe.datasets)} sets, and stage: grpo asks about one", "name one")
    (dataset,) = recipe.datasets
    manifest = read_manifest(recipe.registry, dataset)
    rule = manifest.rules.get(dataset)
    if rule is None or rule.kind not in _KINDS:
        what = f"{dataset} is of kind {rule.kind if rule else 'unknown'}, and stage: grpo asks about the pairs of a set"
        raise ConfigError("dataset", what, f"name a set of kind {' or '.join(_KINDS)}")
    languages: dict[str, str] = {}
    for row in dataset_rows(recipe.registry, dataset):
        languages.setdefault(row["pair_id"], row["language"])
    if len(spoken := sorted(set(languages.values()))) != 1:
        what = f"{dataset} asks in {' and '.join(spoken)}, and stage: grpo asks in one language"
        raise ConfigError("dataset", what, "build a set with one of `languages`")
    of_split = [pair for pair in read_pairs(recipe.registry, dataset, rule.split) if pair.pair_id in languages]
    pairs = [pair for pair in of_split if set(pair.orders) == set(ORDERS)][:at_most]
    if not pairs:
        raise ConfigError("dataset", f"{dataset} has no pair that may be shown in both orders", "name another set")
    ask = AskSettings(
        mode=recipe.settings.mode,
        generate=True,
        image_max_pixels=recipe.image_max_pixels,
        image_min_pixels=recipe.image_min_pixels,
        language=spoken[0],
    )
    truth, unknown = None, ""
    if ask.mode == "cot":
        try:
            truth = true_states(recipe.registry, dataset, pairs, language=ask.language)
        except StcrError as error:
            unknown = str(error)
    return AskedPairs(tuple(pairs), recipe.media_dir, ask, teaches_ties(manifest), truth, unknown)
