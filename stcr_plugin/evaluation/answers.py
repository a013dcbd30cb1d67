"""What a model said -> which image it named."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from stcr_plugin.evaluation.prompts import NEITHER, choice
from stcr_plugin.types import Answer, Prompt, Query, Said

# Applied to NFKC-normalised lower case, where full-width colons and digits are already plain ones.
_KEY = re.compile(r"closer[\s_-]+to[\s_-]+completion[\s\"'`*_]*:")
_NAME = re.compile(r"(?<![a-z0-9])(?:img|image)[\s_-]*([0-9]+)(?![a-z0-9])[\"'`*_]*(\s*:)?")
_MARKUP = " \t\"'`*_>#-"
_ONE = r"[\"'`*_]*(?<![a-z0-9])(?:img|image)[\s_-]{0,3}[12](?![a-z0-9])[\"'`*_]*"
# Both images named, as those of which neither is meant.
_BOTH = re.compile(
    rf"(?<![a-z0-9])neither\s+(?:of\s+)?{_ONE}\s*(?:,|nor|or|and)\s*{_ONE}"
    rf"|{_ONE}\s*(?:和|与|跟|及|、|,|and)\s*{_ONE}\s*(?:两者|两张图片?|二者)?(?:都|均)(?:不|没)"
)
# Not the "neither" of "neither the cube nor the gripper has moved", which speaks of things.
_NEITHER = re.compile(r"(?<![a-z0-9])neither(?![a-z0-9])(?![^.\n]{0,100}(?<![a-z0-9])nor(?![a-z0-9]))|都不")


def answered(query: Query, prompt: Prompt, said: Said) -> Answer:
    """What `said` chooses: the likeliest name where names were compared, else the one that the text names."""
    if said.logprobs:  # without a text two names were equally likely, which names no image
        named = max(said.logprobs, key=said.logprobs.__getitem__) if said.text else None
    else:
        named = parse(said.text, prompt.names)
    return Answer(
        query.pair.pair_id,
        query.pair.episode_id,
        query.order,
        query.answer,
        choice(named, prompt.names),
        said.text,
        **{f"logprob_{choice(name, prompt.names)}": score for name, score in said.logprobs.items()},
        prompt_tokens=said.prompt_tokens,
        completion_tokens=said.completion_tokens,
    )


def parse(text: str, names: Sequence[str] = ("img1", "img2")) -> str | None:
    """The one of `names` that `text` says is closer to completion; None (unparsed) where it names none or several.

    The last `closer to completion:` line decides (also `closer_to_completion`, in JSON, Markdown, full-width signs
    and any case); where nothing follows the colon, the next line that has words. A text without that key counts only
    if it names exactly one image, and not as a heading (`img1: ...`), which opens a description and chooses nothing.
    A name is `img1`, `img 1`, `image 1`; a third image (`img3`) makes the answer unparsed.

    With "neither" among the names, it is an answer too, in the same places: `neither`, `neither img1 nor img2`, 都不,
    `img1和img2都不`. An image beside it (`img1 or neither`) makes the answer unparsed. Raises nothing.
    """
    ties = NEITHER in names
    plain = unicodedata.normalize("NFKC", text).lower().replace("\r", "\n")
    keys = list(_KEY.finditer(plain))
    if keys:
        lines = (line for line in plain[keys[-1].end() :].split("\n") if line.strip(_MARKUP))
        plain = next(lines, "")
    elif any(colon for _, colon in _NAME.findall(plain)):
        return None
    if ties:
        plain = _BOTH.sub(" neither ", plain)
    numbers = {number for number, _ in _NAME.findall(plain)}
    if ties and _NEITHER.search(plain):
        return None if numbers else "neither"
    return names[int(number) - 1] if len(numbers) == 1 and (number := numbers.pop()) in ("1", "2") else None
