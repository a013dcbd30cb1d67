"""A row of messages -> the text of its conversation, by the model's own chat template, in parts trained on or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stcr_plugin.config import nearest
from stcr_plugin.engines.chat_templates import rendered
from stcr_plugin.engines.prompts import end_of_turn
from stcr_plugin.errors import ConfigError, DataError
from stcr_plugin.frameworks.numbering import TEMPLATES, number_images

IMAGE = "<image>"


def segments(processor: Any, messages: Sequence[Mapping[str, str]]) -> list[tuple[str, bool]]:
    """(text, is it trained on), whose texts joined are the conversation, with one token for each picture.

    Each assistant turn's text up to its end of turn is trained on. The line feed that follows opens the next turn.

    Raises:
        DataError: The last turn is not the assistant's.
        ConfigError: The chat template writes a turn differently once it is no longer the last.
    """
    turns = _with_parts(messages)
    if not turns or turns[-1]["role"] != "assistant":
        raise DataError(
            "a conversation", f"ends with {turns[-1]['role'] if turns else 'nothing'}, not with the assistant"
        )
    turn_end = end_of_turn(processor.tokenizer)
    found: list[tuple[str, bool]] = []
    written = ""
    for number, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        asked = rendered(processor, turns[:number], add_generation_prompt=True)
        whole = rendered(processor, turns[: number + 1])
        end = whole.rfind(turn_end) + len(turn_end)
        if not (asked.startswith(written) and whole.startswith(asked) and end > len(asked)):
            raise ConfigError(
                "the model's chat template",
                "writes a turn differently once another follows it, so the answer's tokens are not known",
                "use an Instruct model's template, not a Thinking model's",
            )
        found += [(asked[len(written) :], False), (whole[len(asked) : end], True)]
        written = whole[:end]
    return found


def refuse_another_template(processor: Any, template: str) -> None:
    """Raises ConfigError where the model's chat template opens a conversation differently than `template`."""
    system = TEMPLATES[template].system
    expected = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    opened = rendered(processor, [{"role": "user", "content": [{"type": "text", "text": "?"}]}])
    if opened != f"{expected}<|im_start|>user\n?<|im_end|>\n":
        fits = [name for name, one in TEMPLATES.items() if opened.startswith("<|im_start|>system") == bool(one.system)]
        raise ConfigError(
            "template",
            f"{template!r}, but the model's chat template opens a conversation with {opened[:80]!r}",
            nearest(fits[0] if fits else template, [name for name in TEMPLATES if name != template]),
        )


def _with_parts(messages: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """The turns with their texts split at `<image>` into content parts, pictures numbered as the template does it."""
    opening = [message for message in messages[:1] if message["role"] == "system"]
    spoken = messages[len(opening) :]
    contents = number_images([message["content"] for message in spoken])
    texts = [*(message["content"] for message in opening), *contents]
    return [{"role": message["role"], "content": _parts(text)} for message, text in zip(messages, texts, strict=True)]


def _parts(text: str) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(text.split(IMAGE)):
        parts += [{"type": "image"}] * bool(number)
        parts += [{"type": "text", "text": piece}] if piece else []
    return parts
