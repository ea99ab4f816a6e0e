"""The answers to those who look at all locks (`advlock._inspect`), as `advlock ps` does."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final

from advlock._catalogue import _sql as catalogue_sql
from advlock._inspect import _sql
from advlock.testing._protocol import FLOAT8, TEXT
from advlock.testing._statements import Statement

if TYPE_CHECKING:
    from advlock.testing._backend import Backend
    from advlock.testing._protocol import Rows
    from advlock.testing._statements import Params
    from advlock.testing._table import Row, Tag

SET: Final = _sql.SET
_WORD: Final = 0xFFFFFFFF


def _columns(tag: Tag) -> tuple[int, int, int]:
    return tag.value >> 32 & _WORD, tag.value & _WORD, 2 if tag.pair else 1


def _look(backend: Backend, params: Params) -> Rows:
    everywhere, wanted, _ = params
    rows = list(backend.table.rows(None if everywhere == "True" else backend.database))
    kept = None if wanted is None else set(wanted.replace('"', "").strip("{}").split(","))
    chosen = [row for row in rows if kept is None or "/".join(map(str, _columns(row.tag))) in kept]
    databases = {row.tag.database: row.tag.database for row in chosen}  # the name for the oid
    told = (
        _held(chosen),
        _waits(backend, chosen),
        _sessions(rows, chosen),
        None,
        databases or None,
    )
    texts = [json.dumps(one) if one else None for one in told]
    head = (time.time(), backend.database, backend.user, "UTF8", None)
    return [(*head, *texts, None, None, None)]


def _held(rows: list[Row]) -> list[Any]:
    keys: dict[tuple[Any, str, bool], list[int]] = defaultdict(list)
    for row in rows:
        if row.granted:
            keys[row.session, row.tag.database, row.shared] += _columns(row.tag)
    return [[who.pid, None, where, shared, told] for (who, where, shared), told in keys.items()]


def _waits(backend: Backend, rows: list[Row]) -> list[Any]:
    waits = sorted((row for row in rows if not row.granted), key=lambda row: row.since or 0.0)
    told = []
    for row in waits:
        who: Any = row.session
        blockers: list[Any] = backend.table.blockers(who)
        columns = (*_columns(row.tag), row.since, [one.pid for one in blockers])
        told.append([who.pid, row.tag.database, row.shared, *columns])
    return told


def _sessions(rows: list[Row], chosen: list[Row]) -> list[Any]:
    locks = Counter(session for session, _ in {(row.session, row.tag) for row in rows})
    seen: list[Any] = list(dict.fromkeys(row.session for row in chosen))
    return [[*who.activity(), locks[who] == 1] for who in seen]


def _facts(backend: Backend, _: Params) -> Rows:
    nothing = dict.fromkeys(("schemas", "extensions", "publications", "tables"))
    told = json.dumps({"database": backend.database, **nothing})
    return [("UTF8", base64.b64encode(told.encode()).decode())]


_LOOK: Final = Statement(_look, (FLOAT8, *(TEXT,) * 12))
KNOWN: Final[dict[str, Statement]] = {
    _sql.READABLE: Statement(lambda *_: [(None,)], (TEXT,)),
    catalogue_sql.FACTS: Statement(_facts, (TEXT,) * 2),
    **dict.fromkeys(_sql.LOOK.values(), _LOOK),
}
