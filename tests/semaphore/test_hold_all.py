"""`hold_all` among processes: overlapping sets in any order, and nobody waits for ever."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from .crew import Crew, doubles

if TYPE_CHECKING:
    from psycopg import Connection

_SECONDS = 1.2


@pytest.mark.parametrize("count", [3, 6])
def test_overlapping_sets_in_any_order(dsn: str, admin: Connection[Any], count: int) -> None:
    """Threads' and tasks' clients take random sets, some shared: all go on, and none is double."""
    prefix = uuid.uuid4().hex[:8]
    names = [f"{prefix}-{n}" for n in range(count)]
    with Crew(dsn, admin, together=True) as crew:
        members = [crew.start(how, _SECONDS, *names) for how in ("all", "async-all") * 2]
        said = crew.said()  # raises where one of them does not come to an end
        assert [member.returncode for member in members] == [0] * 4
        assert said == ["ready"] * 4
        rows = crew.rows()
        assert {row.who for row in rows} == {member.pid for member in members}
        assert not doubles(rows)
        assert any(row.shared for row in rows)
        assert any(not row.shared for row in rows)
