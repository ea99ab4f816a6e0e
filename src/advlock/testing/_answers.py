"""The answers to our own statements, by the constants that the clients send."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Final

from advlock import _names_sql, _sql
from advlock._semaphore import _sql as semaphore_sql
from advlock.testing import _looking
from advlock.testing._locking import Patience
from advlock.testing._protocol import BOOL, FLOAT8, INT4, INT8, TEXT
from advlock.testing._somebody import ACTIVITY
from advlock.testing._statements import Statement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advlock.testing._backend import Backend
    from advlock.testing._protocol import Rows
    from advlock.testing._statements import Params
    from advlock.testing._table import Row

_SUFFIX: Final = 0xFFFF  # in which the keys of a semaphore differ (`_sql.DECLARING_BATCH`)
_SEQUENCE: Final = 1 << 47  # see `_sql.DRAW_TOKEN`
TIMELINE: Final = "00000001"
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')


def _integers(array: str | None) -> list[int]:
    return [int(one) for one in (array or "{}").strip("{}").split(",") if one]


def _texts(array: str | None) -> list[str]:
    return [re.sub(r"\\(.)", r"\1", one) for one in _QUOTED.findall(array or "")]


# -- setting up ------------------------------------------------------------------------------------


def _apply(backend: Backend, params: Params) -> int:
    names, values, owner = params
    settings = dict(zip(_texts(names), _texts(values), strict=True))
    for name, value in settings.items():
        backend.set(name, value, local=backend.pid != int(owner or 0))
    return len(settings)


def _set_up(backend: Backend, params: Params) -> Rows:
    holds = any(row.granted and row.session is backend for row in backend.table.rows())
    server = (False, backend.server.system, TIMELINE)
    return [(backend.pid, *server, holds, _apply(backend, params))]


def _set_for_looking(backend: Backend, params: Params) -> Rows:
    return [(backend.pid, _apply(backend, params))]


def _three_settings(backend: Backend, settings: dict[str, str]) -> Rows:
    return [tuple(backend.set(name, value, local=True) for name, value in settings.items())]


def _briefly(lock: str, statement: str) -> Statement:
    settings = {"search_path": "pg_catalog", "lock_timeout": lock, "statement_timeout": statement}
    return Statement(lambda backend, _: _three_settings(backend, settings), (TEXT,) * 3)


def _name_session(backend: Backend, params: Params) -> Rows:
    name, local = params
    wanted = (local or "").lower() in {"t", "true"}
    return [(backend.set("application_name", name or "", local=wanted),)]


# -- locks -----------------------------------------------------------------------------------------


def _ask(backend: Backend, params: Params) -> Rows:
    asked = zip(_integers(params[0]), _integers(params[1]), strict=True)
    return [(_ask_one(backend, code, value),) for code, value in asked]


def _ask_one(backend: Backend, code: int, value: int) -> bool:
    if code >= _sql.DECLARE:
        return _declare(backend, value, first=code == _sql.DECLARE_FIRST)
    tag = backend.tag(value, pair=bool(code & _sql.PAIR))
    if code & _sql.JOIN:
        waited = any(not row.granted for row in backend.table.rows_of(tag))
        return not waited and backend.try_lock(tag, shared=True)
    shared = bool(code & _sql.TRY_SHARED)
    if code & _sql.UNLOCK:
        return backend.table.release(backend, tag, shared=shared)
    return backend.try_lock(tag, shared=shared)


def _alike(backend: Backend, value: int) -> Iterator[Row]:
    """List the locks that differ from a key in its last 16 bits at most."""
    for row in backend.table.rows(backend.database):
        if not row.tag.pair and row.tag.value & ~_SUFFIX == value & ~_SUFFIX:
            yield row


def _declare(backend: Backend, value: int, *, first: bool) -> bool:
    tag = backend.tag(value)
    if not backend.try_lock(tag, shared=True):
        return False
    others = {row.tag.value & _SUFFIX for row in _alike(backend, value)} - {value & _SUFFIX}
    if others - ({0} if first else set()):
        backend.table.release(backend, tag, shared=True)
        return False
    return True


def _look_at_slots(backend: Backend, params: Params) -> Rows:
    agreed = int(params[0] or 0)
    slots = {value: slot for slot, value in enumerate(_integers(params[1]))}
    rows: Rows = []
    for row in backend.table.rows(backend.database):
        value = row.tag.value
        alike = value & ~_SUFFIX == agreed & ~_SUFFIX
        if not row.tag.pair and (value in slots or alike):
            rows.append((slots.get(value), value & _SUFFIX, row.granted))
    return rows


def _own_locks(backend: Backend, _: Params) -> Rows:
    rows = backend.table.rows()
    own = [row.tag for row in rows if row.granted and row.session is backend]
    return [(tag.value, 2 if tag.pair else 1) for tag in own]


# -- waiting ---------------------------------------------------------------------------------------


def _prepare_to_wait(backend: Backend, params: Params) -> Rows:
    code, key, wait, timeout, name = params
    settings = {
        "advlock.op": code,
        "advlock.key": key,
        "advlock.wait": wait,
        "advlock.granted": "",
        "tcp_user_timeout": timeout,
    }
    told = [backend.set(setting, value or "") for setting, value in settings.items()]
    named = None if name is None else backend.set("application_name", name)
    return [(*told, named)]


def _wait(backend: Backend, _: Params) -> Any:
    """Wait as `_sql.WAIT` does, but in one go, so that nobody's place in the queue is lost."""
    code = int(backend.at.get("advlock.op"))
    tag = backend.tag(int(backend.at.get("advlock.key")), pair=code >= _sql.PAIR)
    wait = backend.at.get("advlock.wait")
    seconds = float(wait) if wait else None
    if seconds is not None and seconds < 0.001:  # noqa: PLR2004 - a thousandth is the last slice
        return
    if (yield from backend.wait_for(tag, Patience(seconds), shared=bool(code & 1))):
        backend.set("advlock.granted", "yes")


def _confirm(backend: Backend, params: Params) -> Rows:
    timeout, name = params
    backend.set("tcp_user_timeout", timeout or "")
    return [(timeout, None if name is None else backend.set("application_name", name))]


# -- the rest --------------------------------------------------------------------------------------


def _holders(backend: Backend, params: Params) -> Rows:
    tag = backend.tag(int(params[0] or 0), pair=params[1] == "2")
    return holders(backend.table.rows_of(tag))


def holders(rows: Iterator[Row]) -> Rows:
    """Make the rows of `_sql.HOLDERS`: who holds it first, then the queue."""
    now = time.time()
    seen = ((row, row.session.activity()) for row in rows)  # type: ignore[attr-defined]
    return [(*who, row.granted, row.shared, row.since, now) for row, who in seen]


def _token(backend: Backend, _: Params) -> Rows:
    return [(TIMELINE, True, _SEQUENCE | next(backend.server.tokens), None)]


_BATCH: Final = Statement(_ask, (BOOL,))
KNOWN: Final[dict[str, Statement]] = {
    _sql.BATCH: _BATCH,
    _sql.DECLARING_BATCH: _BATCH,
    _sql.SET_UP: Statement(_set_up, (INT4, BOOL, INT8, TEXT, BOOL, INT8)),
    _sql.OWN_LOCKS: Statement(_own_locks, (INT8, INT4)),
    _sql.BACKEND_PID: Statement(lambda backend, _: [(backend.pid,)], (INT4,)),
    _sql.WAIT_FOR: Statement(_prepare_to_wait, (TEXT,) * 6),
    _sql.WAIT: Statement(_wait, tag="DO"),
    _sql.CONFIRM: Statement(_confirm, (TEXT,) * 2),
    _sql.BRIEFLY: _briefly("100ms", "1s"),
    _sql.HOLDERS: Statement(_holders, (*ACTIVITY, BOOL, BOOL, FLOAT8, FLOAT8), takes=(INT8, INT4)),
    _sql.DRAW_TOKEN: Statement(_token, (TEXT, BOOL, INT8, TEXT)),
    _sql.SET_APPLICATION_NAME: Statement(_name_session, (TEXT,)),
    semaphore_sql.LOOK: Statement(_look_at_slots, (INT8, INT8, BOOL)),
    # No names are recorded: there is no table for them.
    _names_sql.BRIEFLY: _briefly("10ms", "250ms"),
    _names_sql.LOOK: Statement(lambda *_: [], (TEXT,)),
    _looking.SET: Statement(_set_for_looking, (INT4, INT8)),
    **_looking.KNOWN,
}
