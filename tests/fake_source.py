"""A source whose episodes are written by hand, for what real ones never contain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from stcr_plugin.errors import DataError
from stcr_plugin.types import Claim, Episode, Exclusion, Segment, State


def episode(episode_id: str, n_frames: int = 20, task: str = "stack cups", group: str = "", **more: Any) -> Episode:
    segments = more.pop("segments", (Segment(task, 0, n_frames),))
    return Episode("fake", episode_id, task, more.pop("fps", 10.0), n_frames, tuple(segments), group)


class FakeSource:
    """Frame i is a plain picture of grey i; its state says so. `unreadable` episodes fail at their 2nd picture."""

    kind = "tabletop"

    def __init__(
        self, listed: Sequence[Episode | Exclusion], unreadable: Sequence[str] = (), with_states: bool = True
    ) -> None:
        self.listed = listed
        self.unreadable = set(unreadable)
        self.with_states = with_states

    def episodes(self) -> Iterator[Episode | Exclusion]:
        yield from self.listed

    def frames(self, episode: Episode, indices: Sequence[int]) -> Iterator[np.ndarray]:
        for position, index in enumerate(indices):
            if episode.episode_id in self.unreadable and position == 1:
                raise DataError(f"frame {index} cannot be decoded")
            yield np.full((12, 16, 3), index, dtype=np.uint8)

    def states(self, episode: Episode) -> Sequence[State] | None:
        if not self.with_states:
            return None
        half = episode.n_frames // 2
        return [{"grey": i, "side": "left" if i < half else "right"} for i in range(episode.n_frames)]

    def claims(self, state: State) -> tuple[Claim, ...]:
        return (Claim("grey", state["grey"]), Claim("cup:blue", state["side"]))

    def holds(self, claim: Claim, state: State) -> bool:
        return claim in (Claim("grey", state["grey"]), Claim("cup:blue", state["side"]))
