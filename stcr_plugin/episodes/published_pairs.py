"""The rows of a file of published pairs -> each pair once, in the orders in which it was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stcr_plugin.types import ORDERS, Closer, GivenPair, Order

UnusablePart = tuple[int, str, str, str]
"""Row, part of it, what, reason."""


@dataclass(frozen=True)
class PublishedRow:
    """A row that can be used: which two pictures of `folder` are img1 and img2, which of them (0 or 1) is closer.

    closer: None where neither is. details: the published texts of img1 and img2, "" where there is none.
    """

    number: int
    folder: str
    images: tuple[str, str]
    closer: int | None
    task: str
    details: tuple[str, str] = ("", "")


@dataclass
class PictureFolder:
    """Pictures in the order of their frames, and the pairs of them that were published."""

    path: str
    names: tuple[str, ...]
    pairs: list[GivenPair] = field(default_factory=list)


def pair_up(rows: Sequence[PublishedRow], folder: PictureFolder) -> list[UnusablePart]:
    """Make the pairs of `folder` from its rows; what cannot be used."""
    place = {name: index for index, name in enumerate(folder.names)}
    same: dict[tuple[int, int], list[PublishedRow]] = {}
    for row in rows:
        earlier, later = sorted(place[name] for name in row.images)
        same.setdefault((earlier, later), []).append(row)
    bad: list[UnusablePart] = []
    for (earlier, later), alike in same.items():
        closer = {None if row.closer is None else row.images[row.closer] for row in alike}
        if len(closer) > 1:
            among = ", among rows " + " and ".join(str(row.number) for row in alike)
            bad += [(row.number, among, "row", "rows of the same pair contradict each other") for row in alike]
            continue
        chosen: dict[Order, PublishedRow] = {}
        described: PublishedRow | None = None
        for row in alike:
            order: Order = "forward" if place[row.images[0]] == earlier else "backward"
            first = next(iter(chosen.values()), row)
            if order in chosen:
                bad.append((row.number, "", "row", f"the same pair in the same order as row {chosen[order].number}"))
            elif row.task != first.task:
                bad.append((row.number, "", "row", f"the same pair as row {first.number}, for another task"))
            else:
                chosen[order] = row
                if described and any(row.details) and _in_time(row, place) != _in_time(described, place):
                    reason = f"not that of row {described.number}, the swapped pair, which is used for both"
                    bad.append((row.number, "", "description", reason))
                described = described or (row if any(row.details) else None)
        name = closer.pop()
        judged: Closer = "neither" if name is None else "earlier" if place[name] == earlier else "later"
        orders = tuple(order for order in ORDERS if order in chosen)
        details = _in_time(described, place) if described else ("", "")
        folder.pairs.append(
            GivenPair(earlier, later, alike[0].task, closer=judged, orders=orders, descriptions=details)
        )
    return bad


def _in_time(row: PublishedRow, place: Mapping[str, int]) -> tuple[str, str]:
    """The descriptions of the earlier and of the later picture."""
    one, two = row.details
    return (one, two) if place[row.images[0]] < place[row.images[1]] else (two, one)
