"""What an engine is given: prompts whose ids, order and paths are sealed, since a server would not get them either.

A model gets pixels and words. An engine in this process opens the pictures by itself, so it must have their paths; a
judge that reads frame numbers out of them, or the pair's id, would pass for one that looks. `unsealed` is for those
that need the truth and say so: the opening of pictures, the oracles, responses read from a log, and error messages.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

from stcr_plugin.types import Prompt, Shown


class Sealed(str):
    """A random text in place of another one, `inside`."""

    inside: str


def sealed(prompts: Sequence[Prompt]) -> list[Prompt]:
    """`prompts` with random texts for item, episode, order and paths; only a picture that is shown twice keeps its own.

    A text that all prompts of one order shared would say as much as the order does.
    """
    paths = {path: _seal(path) for prompt in prompts for one in prompt.shown for path in (one.image, one.other) if path}
    return [
        replace(
            prompt,
            item=_seal(prompt.item),
            episode_id=_seal(prompt.episode_id),
            order=_seal(prompt.order),
            shown=tuple(Shown(paths[one.image], one.change, paths.get(one.other, "")) for one in prompt.shown),
        )
        for prompt in prompts
    ]


def unsealed(prompt: Prompt) -> Prompt:
    """`prompt` as it was before `sealed`; any other prompt as it is."""
    return replace(
        prompt,
        item=inside(prompt.item),
        episode_id=inside(prompt.episode_id),
        order=inside(prompt.order),
        shown=tuple(Shown(inside(one.image), one.change, inside(one.other)) for one in prompt.shown),
    )


def inside(text: str) -> str:
    """What a sealed text stands for; any other text itself."""
    return text.inside if isinstance(text, Sealed) else text


def named(prompt: Prompt) -> str:
    """The prompt in an error message: its item and order."""
    return f"{inside(prompt.item)}, {inside(prompt.order)}"


def _seal(text: str) -> Sealed:
    made = Sealed(secrets.token_hex(8))
    made.inside = text
    return made
