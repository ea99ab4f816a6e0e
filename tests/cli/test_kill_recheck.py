"""The last look before a session is ended: without it, the wrong one dies."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually

from advlock import _dsn
from advlock._inspect import _kill, _kill_sql
from advlock._inspect._window import Window
from advlock._plan import Script, SessionPlan, Step

from .lock_scene import pid_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

    from advlock._inspect._kill import Target

    from .lock_scene import Scene

pytest_plugins = ["cli.lock_fixtures"]


@pytest.fixture
def window(dsn: str) -> Iterator[Window]:
    """A session that looks."""
    with Window(_dsn.Dsn(dsn, "test")) as made:
        yield made


def shown(window: Window, number: int) -> Target:
    """What `kill` would show of the lock's holder."""
    seen = window.look()
    trees = [tree for tree in seen.trees if tree.key and tree.key.value == number]
    (target,) = _kill.targets(trees, seen.trees)
    return target


def reused(target: Target, other: Connection[Any]) -> Target:
    """The same, had the process number been given to another session since."""
    session = dataclasses.replace(target.session, pid=pid_of(other))
    return dataclasses.replace(target, session=session)


def test_a_process_number_that_was_reused(scene: Scene, window: Window, number: int) -> None:
    """Number, lock, role and application are the same; the session is younger, so it is spared."""
    scene.hold(f"SHARED: {number}")
    target = shown(window, number)
    later = scene.hold(f"SHARED: {number}")
    told = window.ask(_kill.signal(reused(target, later)))
    assert told.outcome == "another"
    assert scene.alive(later)


def test_without_the_last_look_the_wrong_session_dies(
    scene: Scene, window: Window, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same statement, without the comparison of sessions."""
    scene.hold(f"SHARED: {number}")
    target = shown(window, number)
    later = scene.hold(f"SHARED: {number}")
    careless = _kill_sql.SIGNAL.replace("NOT (seen.same AND seen.locked)", "NOT seen.locked")
    assert careless != _kill_sql.SIGNAL
    monkeypatch.setattr(_kill_sql, "SIGNAL", careless)
    window.ask(_kill.signal(reused(target, later)))
    eventually(lambda: not scene.alive(later))


def test_a_role_whose_name_is_no_text_here_is_no_obstacle(
    scene: Scene, window: Window, number: int
) -> None:
    """Roles are shared by databases of all encodings; its session is known by when it began."""
    holder = scene.hold(f"SHARED: {number}")
    target = shown(window, number)
    session = dataclasses.replace(target.session, user="gr\ufffd\ufffde")
    odd = dataclasses.replace(target, session=session)
    later = scene.hold(f"SHARED: {number}")
    assert window.ask(_kill.signal(reused(odd, later))).outcome == "another"
    assert window.ask(_kill.signal(odd)).outcome == "sent"
    eventually(lambda: not scene.alive(holder))
    assert scene.alive(later)


@pytest.mark.parametrize(
    "change",
    [
        {"classid": 1},
        {"objid": 1},
        {"objsubid": 2},
        {"database": "postgres"},
    ],
)
def test_another_lock_of_the_same_session_does_not_count(
    scene: Scene, window: Window, number: int, change: dict[str, Any]
) -> None:
    """It is to hold this very lock: all three numbers, in this database."""
    holder = scene.hold(str(number))
    target = shown(window, number)
    other = dataclasses.replace(target.tree, **change)
    told = window.ask(_kill.signal(dataclasses.replace(target, tree=other)))
    assert told.outcome == "released"
    assert scene.alive(holder)


def test_who_waits_is_not_who_holds(scene: Scene, window: Window, number: int) -> None:
    """A session that was shown as a waiter and holds the lock by now is not ended as a waiter."""
    holder = scene.hold(str(number))
    target = shown(window, number)
    session = dataclasses.replace(target.session, waiting=True)
    told = window.ask(_kill.signal(dataclasses.replace(target, session=session)))
    assert told.outcome == "released"
    assert scene.alive(holder)


def test_we_do_not_end_ourselves(window: Window, number: int) -> None:
    """Not even if the session that looks, which holds nothing by itself, had that lock."""

    def take() -> SessionPlan[None]:
        yield Script((Step("SELECT pg_catalog.pg_advisory_lock($1)", (str(number),)),))

    window.ask(take())
    assert window.ask(_kill.signal(shown(window, number))).outcome == "ourselves"
    assert shown(window, number).session.pid == window.pid


def test_a_session_that_is_gone_is_no_error(scene: Scene, window: Window, number: int) -> None:
    """pg_terminate_backend, which would warn, is not even called."""
    holder = scene.hold(str(number))
    target = shown(window, number)
    holder.close()
    eventually(lambda: not scene.alive(holder))
    assert window.ask(_kill.signal(target)).outcome == "gone"
    assert window.ask(_kill.still(target)) == (False, False)
