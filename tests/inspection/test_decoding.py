"""Numbers of pg_locks become keys, and the keys are those that were locked."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advlock import Key
from advlock._inspect._naming import Namer
from advlock._inspect._read import parse, snapshot

from .seeing import window_to

if TYPE_CHECKING:
    from psycopg import Connection

    from advlock._inspect._window import Window

    from .seeing import Scene

BIGINTS = st.integers(-(2**63), 2**63 - 1)
HALVES = st.integers(-(2**31), 2**31 - 1)
# Those at the edges come up in every run.
EDGES = [-(2**63), 2**63 - 1, -1, 0, 2**32 - 1, -(2**32), 2**31, -(2**31)]
CORNERS = [(-(2**31), 2**31 - 1), (-1, -1), (0, 0), (2**31 - 1, -(2**31))]
LOCK = """
SELECT count(CASE WHEN shared THEN pg_advisory_lock_shared(key) ELSE pg_advisory_lock(key) END)
FROM unnest(%s::bigint[], %s::bool[]) AS ask(key, shared)
"""
LOCK_PAIRS = """
SELECT count(CASE WHEN shared THEN pg_advisory_lock_shared(a, b) ELSE pg_advisory_lock(a, b) END)
FROM unnest(%s::int[], %s::int[], %s::bool[]) AS ask(a, b, shared)
"""


def lock_all(
    session: Connection[Any],
    bigints: dict[int, bool],
    pairs: dict[tuple[int, int], bool],
) -> None:
    """Lock these in one session; the values say whether in shared mode."""
    session.execute(LOCK, ([*bigints], [*bigints.values()]))
    columns = ([a for a, _ in pairs], [b for _, b in pairs])
    session.execute(LOCK_PAIRS, (*columns, [*pairs.values()]))


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.dictionaries(BIGINTS, st.booleans(), max_size=80),
    st.dictionaries(st.tuples(HALVES, HALVES), st.booleans(), max_size=80),
)
def test_every_form_is_read_back(
    scene: Scene,
    window: Window,
    bigints: dict[int, bool],
    pairs: dict[tuple[int, int], bool],
) -> None:
    """What was locked is what is seen: each key, its space and its mode, and unsigned columns."""
    bigints |= dict.fromkeys(EDGES, False)
    pairs |= dict.fromkeys(CORNERS, True)
    session = scene.one()
    lock_all(session, bigints, pairs)
    seen = window.look()
    session.execute("SELECT pg_advisory_unlock_all()")
    found = {tree.key.parts: tree for tree in seen.trees if tree.key is not None}
    assert found.keys() == {*bigints, *pairs}
    modes: dict[Any, bool] = {**bigints, **pairs}
    for parts, tree in found.items():
        assert tree.key == Key.of(parts)
        assert 0 <= tree.classid < 2**32
        assert 0 <= tree.objid < 2**32
        (holder,) = tree.holders
        assert (holder.pid, holder.shared) == (session.info.backend_pid, modes[parts])


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(3, 2**15 - 1))
def test_a_lock_of_an_extension_has_no_key(classid: int, objid: int, objsubid: int) -> None:
    """What SQL cannot take (Citus, TimescaleDB) keeps its three numbers, and is no `Key`."""
    held = f'[[7, null, "5", false, [{classid}, {objid}, {objsubid}]]]'
    row = ("1.5", "shop", "me", "UTF8", None, held, None, None, None, '{"5": "shop"}', *[None] * 3)
    (tree,) = snapshot(parse(row), Namer()).trees
    assert (tree.classid, tree.objid, tree.objsubid) == (classid, objid, objsubid)
    assert tree.key is None
    assert [holder.pid for holder in tree.holders] == [7]


def test_the_same_numbers_in_another_database_are_another_lock(
    scene: Scene, window: Window
) -> None:
    """By default only ours is there; with all databases each says which one it is of."""
    number = secrets.randbelow(2**62)
    here, there = scene.connect(), scene.connect(dbname="postgres")
    for session in (here, there):
        session.execute("SELECT pg_advisory_lock(%s)", (number,))
    (tree,) = window.look().trees
    assert (tree.database, tree.holders[0].pid) == (here.info.dbname, here.info.backend_pid)
    with window_to(scene.dsn, all_databases=True) as wide:
        every = {tree.database: tree for tree in wide.look([number]).trees}
    assert every.keys() == {here.info.dbname, "postgres"}
    assert every["postgres"].holders[0].pid == there.info.backend_pid
