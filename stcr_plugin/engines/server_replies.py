"""What a server sends back -> a response, or what is wrong with it. Nothing in a reply is trusted to be well formed.

Fields: OpenAI's API reference, "The chat completion object", and what servers add to it: vLLM, SGLang and DeepSeek put
a reasoning beside the content, Azure and others say in several ways that a content filter refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from stcr_plugin.scoring.reasoning import behind_reasoning
from stcr_plugin.types import Lost, Response

_REASONING = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
_THOUGHTS = ("reasoning", "thinking", "redacted_thinking", "thought")  # types of a content's parts
_CUT = ("length", "max_tokens", "model_length", "max_output_tokens", "abort")
_REFUSED = ("content_filter", "safety", "image_safety", "prohibited_content", "recitation", "refusal", "sensitive")
_FILTER = re.compile(
    r"content[ _-]?(?:management[ _-]?)?(?:filter|polic)|usage polic|responsible_?ai|data_?inspection|moderation"
    r"|(?:inappropriate|sensitive|unsafe|harmful)[ _-]?(?:content|image)|safety[ _-]?(?:system|filter)|flagged"
    r"|敏感|不安全|违规|违禁",
    re.I,
)
_MOST_TOKENS = 10**9  # of one reply; a greater number counts nothing
_SHORTEST_KEY = 8  # a shorter one, such as EMPTY, protects nothing and may be part of an answer


@dataclass(frozen=True)
class ServerReply:
    """A response, whether words of a reasoning came beside it, and what its first token could have been.

    Attributes:
        tokens: Text of a token -> its natural log-probability; empty where the server gives none.
    """

    response: Response
    reasoned: bool = False
    tokens: Mapping[str, float] = field(default_factory=dict)

    @property
    def silent(self) -> bool:
        """Whether it holds no words that could be an answer."""
        return self.response.lost == "refused" or not (behind_reasoning(self.response.text) or "").strip()


def read_reply(data: bytes, key: str = "") -> ServerReply | None:
    """The first choice of a reply; None where the reply is cut, or holds none. The client does not check replies.

    A choice without text is an empty response where all of its words went into a reasoning. A text in parts is joined.
    `key` is masked where the server repeats it.
    """
    row = _json(data)
    if isinstance(row, Mapping) and row.get("error") and not row.get("choices"):
        return ServerReply(refusal) if (refusal := refused(data, key)) else None
    try:
        choice = row["choices"][0]
        message, usage = choice["message"], row.get("usage")
        finish = _finish(choice.get("finish_reason"))
        reasoned = any(message.get(name) for name in _REASONING) or _counted(usage, "completion_tokens_details") > 0
        refusal_text = _joined(message.get("refusal"))
        if finish == "error" or not ("content" in message or refusal_text or reasoned or finish in _REFUSED + _CUT):
            return None
        text = refusal_text or _joined(message.get("content"))
        reasoned = reasoned or any(_is_thought(part) for part in _parts(message.get("content")))
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    if text is None:
        return None
    reasoned = reasoned or behind_reasoning(text) is None
    lost: Lost = "refused" if refusal_text or finish in _REFUSED else "cut" if finish in _CUT else ""
    asked, wrote = _tokens(usage, "prompt_tokens"), _tokens(usage, "completion_tokens")
    return ServerReply(Response(masked(text, key), {}, asked, wrote, lost), reasoned, _first_tokens(choice))


def refused(data: bytes, key: str = "") -> Response | None:
    """The response where the error `data` says that a content filter refused the prompt; None for another error."""
    row = _json(data)
    error = row.get("error") if isinstance(row, Mapping) else None
    row = _without_input(row)
    text = json.dumps(error or row, ensure_ascii=False) if row is not None else data.decode("utf-8", "replace")
    return Response(words(data, key), lost="refused") if _FILTER.search(text[:20_000]) else None


def _without_input(row: Any) -> Any:
    """An error without the request that it repeats, as FastAPI's 422 does, whose task text is not the server's word."""
    details = row.get("detail") if isinstance(row, Mapping) else None
    if not isinstance(details, Sequence) or isinstance(details, str):
        return row
    return [{key: one[key] for key in one if key != "input"} if isinstance(one, Mapping) else one for one in details]


def words(data: bytes, key: str = "") -> str:
    """A server's text in one line: its error's message where it has one, short and without the key."""
    text, row = data.decode("utf-8", "replace"), _json(data)
    row = row[0] if isinstance(row, list) and row else row
    error = row.get("error") or row.get("message") or row.get("detail") if isinstance(row, Mapping) else None
    if error:
        text = str(error.get("message") or error) if isinstance(error, Mapping) else str(error)
    return short(text, key)


def short(text: str, key: str = "") -> str:
    """`text` in one line of at most 300 characters, without the key."""
    text = " ".join(masked(text.encode("utf-8", "replace").decode(), key).split())
    text = "".join(one if one.isprintable() else "?" for one in text[:301])
    return f"{text[:300]}..." if len(text) > 300 else text or "(no text)"


def masked(text: str, key: str) -> str:
    """`text` with *** where it repeats the key."""
    return text.replace(key, "***") if len(key) >= _SHORTEST_KEY else text


def retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or as a date; 0 where it is not readable."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value.strip()):
        return min(float(value), 1e9)
    try:
        date = parsedate_to_datetime(value)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0


def _json(data: bytes) -> Any:
    """None where it is not JSON. A number of very many digits is none, as reading it would take long."""
    try:
        return json.loads(data, parse_int=lambda digits: int(digits) if len(digits) < 40 else None)
    except (ValueError, RecursionError):
        return None


def _finish(reason: Any) -> str:
    """A finish_reason as one word: SGLang's may be a mapping, Gemini's has its own reason behind a colon."""
    reason = reason.get("type") if isinstance(reason, Mapping) else reason
    return str(reason or "").partition(":")[0].strip().lower()


def _parts(content: Any) -> Sequence[Any]:
    """The parts of a content; () where it has none."""
    content = [content] if isinstance(content, Mapping) else content
    return content if isinstance(content, Sequence) and not isinstance(content, str) else ()


def _is_thought(part: Any) -> bool:
    return isinstance(part, Mapping) and (part.get("type") in _THOUGHTS or part.get("thought") is True)


def _joined(content: Any) -> str | None:
    """The text of a content without its parts of reasoning, "" for none; None where it is something else."""
    if isinstance(content, Mapping | Sequence) and not isinstance(content, str):
        kept = [part for part in _parts(content) if not _is_thought(part)]
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in kept]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else "" if content is None else None


def _first_tokens(choice: Mapping[str, Any]) -> dict[str, float]:
    """The likeliest first tokens of a choice with their log-probabilities; those that are not well formed are left out.

    Of tokens with the same text, as bytes of a letter may have, the likeliest counts.
    """
    try:
        rows = choice["logprobs"]["content"][0]["top_logprobs"]
        rows = [(row["token"], min(float(row["logprob"]), 0.0)) for row in rows if isinstance(row["token"], str)]
    except (KeyError, IndexError, TypeError, ValueError):
        return {}
    return dict(sorted(((text, value) for text, value in rows if value <= 0), key=lambda row: row[1]))


def _counted(usage: Any, name: str) -> int:
    """Tokens of reasoning in a part of `usage`."""
    details = usage.get(name) if isinstance(usage, Mapping) else None
    return _tokens(details, "reasoning_tokens") or 0


def _tokens(usage: Any, name: str) -> int | None:
    """A count; None where it is missing, or no count at all."""
    value = usage.get(name) if isinstance(usage, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_TOKENS:
        return None
    return int(value) if value == int(value) else None
