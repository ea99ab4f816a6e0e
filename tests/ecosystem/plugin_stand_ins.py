"""What tests/conformance asks of the server about its clients, answered by the memory server.

The promises are shown by watching the server from outside, with SQL that no client of ours sends.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import servers
from conformance import helpers

from advlock.testing._protocol import BOOL, INT4, INT8, TEXT
from advlock.testing._statements import Statement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from advlock.testing._table import Row

_CANCEL = "SELECT pg_cancel_backend(%s)"
_TERMINATE = "SELECT pg_terminate_backend(%s)"
_WORD = 0xFFFFFFFF


def _rows(backend: Any) -> Iterator[tuple[Row, tuple[int, int, int], str]]:
    for row in backend.table.rows(backend.database):
        tag = row.tag
        mode = "ShareLock" if row.shared else "ExclusiveLock"
        yield row, (tag.value >> 32 & _WORD, tag.value & _WORD, 2 if tag.pair else 1), mode


def _all_locks(backend: Any, _: Any) -> list[Any]:
    found = [
        (row.session.pid, *columns, mode, row.granted, row.session.application)  # type: ignore[attr-defined]
        for row, columns, mode in _rows(backend)
    ]
    return sorted(found, key=lambda one: (not one[5], one[0]))


def _entries(backend: Any, params: Any) -> list[Any]:
    wanted = tuple(map(int, params))
    return [
        (row.session.pid, row.granted, mode)  # type: ignore[attr-defined]
        for row, columns, mode in _rows(backend)
        if columns == wanted
    ]


def _backends(backend: Any, params: Any) -> list[Any]:
    return [(one.pid,) for one in backend.server.backends if one.application == params[0]]


def _these(backend: Any, pids: Iterable[str]) -> list[Any]:
    wanted = {int(pid) for pid in pids if pid}
    return [one for one in backend.server.backends if one.pid in wanted]


def _end(backend: Any, pids: Iterable[str]) -> int:
    found = _these(backend, pids)
    for one in found:
        one.terminate("57P01", "terminating connection due to administrator command")
    return len(found)


def _cancel(backend: Any, params: Any) -> list[Any]:
    for one in _these(backend, params):
        one.cancel()
    return [(True,)]


def statements() -> dict[str, Statement]:
    """The statements, by their texts as they arrive."""
    known = {
        servers._ADVISORY_LOCKS: Statement(
            _all_locks,
            (INT4, INT8, INT8, INT4, TEXT, BOOL, TEXT),
            names=tuple(field.name for field in fields(servers.LockRow)),
        ),
        helpers._ENTRIES: Statement(_entries, (INT4, BOOL, TEXT)),
        helpers._BACKENDS: Statement(_backends, (INT4,)),
        helpers._END: Statement(
            lambda backend, params: [(_end(backend, params[0].strip("{}").split(",")),)], (INT8,)
        ),
        _CANCEL: Statement(_cancel, (BOOL,)),
        _TERMINATE: Statement(lambda backend, params: [(bool(_end(backend, params)),)], (BOOL,)),
    }
    return {_numbered(text): answer for text, answer in known.items()}


def _numbered(text: str) -> str:
    numbers = itertools.count(1)
    return re.sub("%s", lambda _: f"${next(numbers)}", text)
