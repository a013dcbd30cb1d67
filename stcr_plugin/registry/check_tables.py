"""What a check remembers of a build, pairs and the rows that use each picture, in temporary files and not in memory."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

from stcr_plugin.registry.manifest import pair_of
from stcr_plugin.types import Pair

_CACHE_KIB = 32_768


def _database(*statements: str) -> sqlite3.Connection:
    """A database of SQLite's own temporary file, which goes with the connection."""
    database = sqlite3.connect("")
    for statement in ("PRAGMA journal_mode=OFF", f"PRAGMA cache_size=-{_CACHE_KIB}", *statements):
        database.execute(statement)
    return database


class PairTable(Mapping[str, Pair]):
    """Pair id -> pair."""

    def __init__(self) -> None:
        self._database = _database("CREATE TABLE pair (pair_id TEXT PRIMARY KEY, row TEXT) WITHOUT ROWID")
        self._last: tuple[str, Pair] | None = None

    def add(self, pair: Pair) -> bool:
        """Keep the pair, whether its id is a new one. The last of several with one id counts."""
        new = pair.pair_id not in self
        self._database.execute("REPLACE INTO pair VALUES (?, ?)", (pair.pair_id, json.dumps(vars(pair))))
        self._last = None
        return new

    def __getitem__(self, pair_id: str) -> Pair:
        if self._last is None or self._last[0] != pair_id:  # rows of a pair lie together
            query = "SELECT row FROM pair WHERE pair_id = ?"
            found = self._database.execute(query, (pair_id,)).fetchone() if isinstance(pair_id, str) else None
            if found is None:
                raise KeyError(pair_id)
            self._last = (pair_id, pair_of(json.loads(found[0])))
        return self._last[1]

    def __contains__(self, pair_id: object) -> bool:
        query = "SELECT 1 FROM pair WHERE pair_id = ?"
        return isinstance(pair_id, str) and self._database.execute(query, (pair_id,)).fetchone() is not None

    def __iter__(self) -> Iterator[str]:
        return (pair_id for (pair_id,) in self._database.execute("SELECT pair_id FROM pair"))

    def __len__(self) -> int:
        return int(self._database.execute("SELECT COUNT(*) FROM pair").fetchone()[0])


class PictureUses:
    """Which rows of which files use each picture, and which pictures are in the index."""

    def __init__(self) -> None:
        self._database = _database(
            "CREATE TABLE used (image TEXT, file TEXT, row INTEGER)", "CREATE TABLE indexed (image TEXT)"
        )
        self._sorted = False

    def add(self, image: str, file: str, row: int) -> None:
        self._database.execute("INSERT INTO used VALUES (?, ?, ?)", (image, file, row))

    def add_indexed(self, image: str) -> None:
        self._database.execute("INSERT INTO indexed VALUES (?)", (image,))

    def __len__(self) -> int:
        """The number of pictures that are used."""
        return int(self._answer("SELECT COUNT(DISTINCT image) FROM used")[0][0])

    def rows(self, image: str) -> dict[str, list[int]]:
        """File -> its rows that use the picture, files in the order in which they were added."""
        found: dict[str, list[int]] = {}
        for file, row in self._answer("SELECT file, row FROM used WHERE image = ? ORDER BY rowid", image):
            found.setdefault(file, []).append(row)
        return found

    def used_twice(self, file: str) -> list[str]:
        """The pictures that several rows of the file use."""
        query = "SELECT image FROM used WHERE file = ? GROUP BY image HAVING COUNT(*) > 1 ORDER BY MIN(rowid)"
        return [image for (image,) in self._answer(query, file)]

    def not_indexed(self) -> list[str]:
        """The pictures that are used and not in the index."""
        return [image for (image,) in self._answer("SELECT image FROM used EXCEPT SELECT image FROM indexed")]

    def _answer(self, query: str, *values: str) -> list[Any]:
        if not self._sorted:  # after most rows are there, which is faster than with each of them
            self._database.execute("CREATE INDEX by_image ON used (image, file)")
            self._sorted = True
        return self._database.execute(query, values).fetchall()
