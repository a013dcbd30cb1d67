"""The models that write and check texts: one describes, a second one verifies; what they are asked is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from stcr_plugin.annotation.summary import Role, Use
from stcr_plugin.engines.cache import collect_responses
from stcr_plugin.engines.server import ServerEngine, StoppedError
from stcr_plugin.engines.settings import AskSettings, Engine
from stcr_plugin.types import Prompt, Response

T = TypeVar("T")
ROLES: tuple[Role, Role] = ("describer", "verifier")
Key = tuple[Role, str, str]
"""Who is asked, and item and order of the prompt."""


@dataclass(frozen=True)
class Teacher:
    """A model with the name it has in rows, and how it is asked."""

    name: str
    engine: Engine
    ask: AskSettings


@dataclass(frozen=True)
class Teachers:
    """Who describes and who verifies; without a second model the describing one verifies itself."""

    describer: Teacher
    second: Teacher | None = None

    @property
    def verifier(self) -> Teacher:
        return self.second or self.describer

    @property
    def by_role(self) -> dict[Role, Teacher]:
        return {"describer": self.describer, **({"verifier": self.second} if self.second else {})}

    @property
    def side_by_side(self) -> bool:
        """Whether several calls may run at the same time, each in a thread: a server takes them, a live model not."""
        return all(isinstance(one.engine, ServerEngine) for one in self.by_role.values())

    def at_once(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """The result of each call; with servers they run at the same time. Where one fails, the others end early."""
        if len(calls) < 2 or not self.side_by_side:
            return [call() for call in calls]
        with ThreadPoolExecutor(len(calls)) as pool:
            try:
                futures = [pool.submit(self.or_end, call) for call in calls]
                errors = [error for future in futures if (error := future.exception())]
                for error in sorted(errors, key=lambda error: isinstance(error, StoppedError)):
                    raise error
                return [future.result() for future in futures]
            except KeyboardInterrupt:
                self.end("now")
                raise

    def or_end(self, call: Callable[[], T]) -> T:
        """The result of a call; where it fails, the others end once their requests are answered."""
        try:
            return call()
        except BaseException:
            self.end("gently")
            raise

    def end(self, how: Literal["", "gently", "now"]) -> None:
        """End all calls of servers that are under way; "" lets new ones begin."""
        for one in self.by_role.values():
            if isinstance(one.engine, ServerEngine):
                one.engine.traffic.ended = how

    def identity(self) -> dict[str, Any]:
        """Role -> what decides its responses besides the prompts."""
        return {
            role: {"engine": dict(one.engine.identity()), "settings": one.ask.decides}
            for role, one in self.by_role.items()
        }

    def cost(self, role: Role, use: Use) -> float | None:
        """None without prices, and where tokens were not counted."""
        cost = getattr(self.by_role[role].engine, "cost", None)
        found: float | None = cost(use.prompt_tokens, use.completion_tokens) if cost and not use.uncounted else None
        return found


@dataclass
class Asking:
    """What is asked for one chunk: its folder, its pictures, and counts of what was asked so far.

    Attributes:
        out: Folder of the responses.
        pictures: Digest of each picture.
        moved: Called after each response, from any thread.
    """

    teachers: Teachers
    out: Path
    pictures: Mapping[str, str]
    moved: Callable[[], None]
    _counted: dict[Key, Response] = field(default_factory=dict)

    def ask(self, wanted: Mapping[Role, Sequence[Prompt]]) -> dict[Key, Response]:
        """(role, item, order) -> response. Prompts with equal item and order are one question.

        The prompts of each model are asked in one call, and those of two servers at the same time.
        """
        by_role: dict[Role, dict[tuple[str, str], Prompt]] = {}
        for role, prompts in wanted.items():
            mine = by_role.setdefault(role if self.teachers.second else "describer", {})
            mine.update({(prompt.item, prompt.order): prompt for prompt in prompts})
        roles = [role for role, prompts in by_role.items() if prompts]
        collected = self.teachers.at_once(
            [partial(self._collected, role, list(by_role[role].values())) for role in roles]
        )
        found: dict[Key, Response] = {}
        for role, responses in zip(roles, collected, strict=True):
            for (item, order), response in zip(by_role[role], responses, strict=True):
                self._counted[role, item, order] = response
                for known in ROLES if self.teachers.second is None else (role,):
                    found[known, item, order] = response
        return found

    def _collected(self, role: Role, prompts: Sequence[Prompt]) -> list[Response]:
        teacher = self.teachers.by_role[role]
        engine, asked = _Counting(teacher.engine, self.moved), {"settings": teacher.ask.decides}
        return collect_responses(engine, prompts, self.out / role, asked=asked, pictures=self.pictures)

    def use(self) -> dict[Role, Use]:
        """Role -> what was asked so far."""
        return {
            role: _use([response for key, response in self._counted.items() if key[0] == role])
            for role in self.teachers.by_role
        }


def _use(responses: Sequence[Response]) -> Use:
    counted = [(one.prompt_tokens, one.completion_tokens) for one in responses]
    return Use(
        requests=len(responses),
        failed=sum(one.lost == "failed" for one in responses),
        prompt_tokens=sum(asked or 0 for asked, _ in counted),
        completion_tokens=sum(wrote or 0 for _, wrote in counted),
        uncounted=sum(None in one for one in counted),
    )


class _Counting:
    """An engine that says when a response has come."""

    def __init__(self, engine: Engine, moved: Callable[[], None]) -> None:
        self._engine, self._moved = engine, moved

    def identity(self) -> Mapping[str, Any]:
        return self._engine.identity()

    def respond(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Response]]:
        for found in self._engine.respond(prompts):
            yield found
            self._moved()
