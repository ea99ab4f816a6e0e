"""Who holds, who waits, in which order, and since when."""

from __future__ import annotations

import json
import pickle
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from bouncers import bouncer
from psycopg.conninfo import conninfo_to_dict
from waiting import eventually

import advlock
from advlock import Key, _label
from advlock._inspect import _stuck
from advlock._inspect._naming import Namer
from advlock._inspect._read import Limits, parse, snapshot

from .seeing import timed_out, tree_of, window_to

if TYPE_CHECKING:
    from servers import Server

    from advlock._inspect._window import Window
    from advlock.inspect import Holder, LockTree, Waiter

    from .seeing import Scene

NOW = 1_800_000_000.0


def test_a_queue_is_in_its_order_and_says_who_blocks_whom(scene: Scene, window: Window) -> None:
    """Waiters stand as they came; each knows the holder and those ahead of it."""
    holder = scene.connect(application_name="holder")
    holder.execute("SELECT pg_advisory_lock(77)")
    first = scene.waiting("SELECT pg_advisory_lock(77)", application_name="first")
    second = scene.waiting("SELECT pg_advisory_lock_shared(77)", application_name="second")
    pids = [session.info.backend_pid for session in (holder, first, second)]
    seen = window.look()
    tree = tree_of(seen, Key.of(77))
    assert [one.application for one in tree.waiters] == ["first", "second"]
    assert [one.shared for one in tree.waiters] == [False, True]
    assert tree.waiters[0].blocked_by == (pids[0],)
    assert set(tree.waiters[1].blocked_by) == set(pids[:2])
    assert all(one.waiting and one.since is not None for one in tree.waiters)
    assert tree.waiters[0].since <= tree.waiters[1].since <= seen.at  # type: ignore[operator]
    first.close()
    second.close()


def test_one_session_is_one_holder(scene: Scene, window: Window) -> None:
    """A session that holds a lock twice, and in both modes, is one exclusive holder."""
    session, other = scene.connect(), scene.connect()
    for function in ("pg_advisory_lock_shared", "pg_advisory_lock", "pg_advisory_lock_shared"):
        session.execute(f"SELECT {function}(7, -7)")  # type: ignore[call-overload]
    (holder,) = tree_of(window.look(), Key.of((7, -7))).holders
    assert (holder.pid, holder.shared) == (session.info.backend_pid, False)
    with advlock.Locks(scene.dsn) as locks:
        assert [one.shared for one in locks.holders((7, -7))] == [False]
    for each in (session, other):
        each.execute("SELECT pg_advisory_unlock_all()")
        each.execute("SELECT pg_advisory_lock_shared(8)")
    holders = tree_of(window.look(), Key.of(8)).holders
    assert {one.pid for one in holders} == {s.info.backend_pid for s in (session, other)}
    assert all(one.shared for one in holders)


def test_what_a_session_does_is_seen(scene: Scene, window: Window) -> None:
    """Its role, state, query and times; with `connected`, a process id means one session."""
    session = scene.connect(application_name="\x1b[31mred")
    session.execute("BEGIN")
    session.execute("SELECT pg_advisory_xact_lock(9) -- for the \x1b[31minvoice")
    seen = window.look()
    (holder,) = tree_of(seen, Key.of(9)).holders
    assert holder.user == session.info.user
    assert holder.state == "idle in transaction"
    assert (holder.query or "").endswith("-- for the \x1b[31minvoice")
    times = (holder.connected, holder.transaction, holder.state_since)
    assert all(one is not None and one <= seen.at for one in times)
    assert holder.flags[0] == _stuck.IN_TRANSACTION
    assert "\x1b" not in holder.application  # the server's own doing; the query is as it was sent
    session.execute("ROLLBACK")
    assert window.look().trees == ()


def test_over_tcp_the_client_has_an_address(server: Server, scene: Scene, window: Window) -> None:
    """The address and the port, as `ss` on that host shows them."""
    tcp = server.tcp_dsn(str(conninfo_to_dict(scene.dsn)["dbname"]))
    with psycopg.connect(tcp, autocommit=True) as session:
        session.execute("SELECT pg_advisory_lock(10)")
        (holder,) = tree_of(window.look(), Key.of(10)).holders
        asked = "SELECT client_port FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        (port,) = session.execute(asked).fetchone() or (0,)
    assert holder.client == f"127.0.0.1:{port}"


def test_many_keys_of_one_session(scene: Scene, window: Window) -> None:
    """Locks that are alike cost one holder; each key is there once."""
    session = scene.connect()
    session.execute("SELECT count(pg_advisory_lock(n)) FROM generate_series(1, 2000) AS n")
    trees = window.look().trees
    assert [tree.key.value for tree in trees if tree.key] == list(range(1, 2001))
    assert len({id(tree.holders[0]) for tree in trees}) == 1
    assert [tree.objid for tree in window.look([5, 1999]).trees] == [5, 1999]


# -- since when ------------------------------------------------------------------------------------


def signed(name: str, since: float) -> str:
    """What a session of ours signs when it was granted one lock."""
    return _label.make(name, since=since)


def test_since_is_what_was_signed_about_this_lock(scene: Scene, window: Window) -> None:
    """A signature counts for the lock that it names, and says nothing about another one."""
    session = scene.connect(application_name=signed("nightly", NOW))
    keys = [Key.of("nightly"), Key.of("hourly")]
    for key in keys:
        session.execute("SELECT pg_advisory_lock(%s)", (key.value,))
    seen = window.look()
    assert tree_of(seen, keys[0]).holders[0].since == _label.moment(NOW)
    assert tree_of(seen, keys[1]).holders[0].since is None
    with advlock.Locks(scene.dsn) as locks:
        assert [one.since for key in keys for one in locks.holders(key)] == [
            _label.moment(NOW),
            None,
        ]


def test_since_is_never_the_age_of_a_query(scene: Scene, window: Window) -> None:
    """Of a stranger nobody knows since when it holds a lock."""
    session = scene.connect()
    session.execute("SELECT pg_advisory_lock(11)")
    assert tree_of(window.look(), Key.of(11)).holders[0].since is None


def test_a_waiter_of_ours_waits_longer_than_its_slice(scene: Scene, window: Window) -> None:
    """It asks the server anew every half a second, and still says when it came."""
    name = "sliced"
    holder = scene.connect()
    holder.execute("SELECT pg_advisory_lock(%s)", (Key.of(name).value,))
    with advlock.Locks(scene.dsn) as locks:
        before = time.time()
        waiting = threading.Thread(target=locks.hold(name)(lambda: None))
        waiting.start()
        waiter = eventually(lambda: _waiter(window, name))
        young = waiter.since
        # Until its second slice: `waitstart` is another one then.
        again = eventually(lambda: _later(window, name, young + timedelta(seconds=0.6)))
        assert again.since == young
        assert abs(young.timestamp() - before) < 5.0
        assert again.flags == ()
        holder.execute("SELECT pg_advisory_unlock_all()")
        waiting.join()


def _waiter(window: Window, name: str) -> Any:
    return next((w for tree in window.look([name]).trees for w in tree.waiters if w.since), None)


def _later(window: Window, name: str, moment: Any) -> Any:
    """Its waiter, once the server's clock is past `moment`."""
    seen = window.look([name])
    return _waiter(window, name) if seen.at > moment else None


# -- what is odd -----------------------------------------------------------------------------------


def read(held: list[Any], waits: list[Any], sessions: list[Any], **limits: float) -> list[LockTree]:
    """Read what a server might have said."""
    lists = (held, waits, sessions, [], {"5": "shop"}, [], [], [])
    row = (str(NOW), "shop", "me", "UTF8", "{}", *map(json.dumps, lists))
    return list(snapshot(parse(row), Namer(), limits=Limits(**limits)).trees)


def session_row(pid: int, **columns: Any) -> list[Any]:
    """A session, as the server tells of it."""
    told = {"application": "", "state": "idle", "since": NOW - 1, "query": "SELECT 1"}
    told |= columns
    times = [told["since"], NOW - 900, None, told["since"]]
    rest = [told["query"], told.get("snapshot", False), True]
    return [pid, told["application"], "app", None, None, told["state"], *times, *rest]


def holder_of(**columns: Any) -> Holder:
    """The only holder of the only lock."""
    return read([[7, None, "5", False, [0, 1, 1]]], [], [session_row(7, **columns)])[0].holders[0]


def waiter_of(waitstart: float | None, **columns: Any) -> Waiter:
    """The only waiter."""
    waits = [[7, "5", False, 0, 1, 1, waitstart, [8]]]
    return read([], waits, [session_row(7, **columns)])[0].waiters[0]


OURS = "advlock:nightly web-2:4242"
IN = "idle in transaction"


@pytest.mark.parametrize(
    ("columns", "flags"),
    [
        ({}, ()),
        ({"since": NOW - 601}, ("idle-pooled",)),
        ({"since": NOW - 599}, ()),
        ({"since": NOW - 601, "application": OURS}, ()),
        ({"since": NOW - 601, "state": "active"}, ()),
        ({"since": None, "state": None, "query": "<insufficient privilege>"}, ()),
        ({"state": IN}, ("idle-in-transaction",)),
        ({"state": f"{IN} (aborted)"}, ("idle-in-transaction",)),
        ({"state": IN, "snapshot": True}, ("idle-in-transaction", "holds-back-vacuum")),
        ({"state": IN, "query": "ROLLBACK TO SAVEPOINT advlock"}, ("pinned",)),
        ({"state": IN, "query": "SAVEPOINT advlock"}, ("pinned",)),
        ({"state": IN, "query": "RELEASE SAVEPOINT advlock"}, ("idle-in-transaction",)),
    ],
)
def test_what_is_odd_about_a_holder(columns: dict[str, Any], flags: tuple[str, ...]) -> None:
    """The rules, each with its neighbour on the other side of the line."""
    assert holder_of(**columns).flags == flags


@pytest.mark.parametrize(
    ("waitstart", "columns", "flags"),
    [
        (NOW - 301, {}, ("ghost",)),
        (NOW - 301, {"snapshot": True}, ("ghost", "holds-back-vacuum")),
        (NOW - 299, {"snapshot": True}, ()),
        (None, {}, ()),
    ],
)
def test_what_is_odd_about_a_waiter(
    waitstart: float | None, columns: dict[str, Any], flags: tuple[str, ...]
) -> None:
    """Who waits for minutes in one go may be a ghost."""
    assert waiter_of(waitstart, state="active", **columns).flags == flags


def test_since_when_a_waiter_waits() -> None:
    """What it signed; else how old its statement is, if it is ours; else what the server says."""
    ours = "\nDO LANGUAGE plpgsql $advlock$ …"
    signed_so = f"{OURS} ~{'t8x3k1'}"
    assert waiter_of(NOW - 1).since == _label.moment(NOW - 1)
    assert waiter_of(NOW - 1, query=ours, since=NOW - 40).since == _label.moment(NOW - 40)
    label = _label.parse(signed_so)
    assert label is not None
    assert waiter_of(NOW - 1, application=signed_so).since == label.waiting_since
    hidden = {"application": OURS, "state": None, "query": "<insufficient privilege>"}
    assert waiter_of(NOW - 0.3, **hidden).since is None


def test_behind_a_pooler_a_holder_is_pinned(server: Server, scene: Scene) -> None:
    """A transaction is around what a client holds there: pinned, not idle by mistake.

    The window looks through the same pooler, in transaction mode.
    """
    database = str(conninfo_to_dict(scene.dsn)["dbname"])
    with (
        bouncer(server, "transaction") as pooler,
        advlock.Locks(pooler.dsn(database)) as locks,
        locks.hold("nightly"),
        window_to(pooler.dsn(database)) as window,
    ):
        for _ in range(3):
            (tree,) = window.look(["nightly"]).trees
        assert tree.holders[0].flags == (_stuck.PINNED,)
        assert tree.name == "nightly"
        (beside,) = locks.inspect().trees
        assert (beside.name, beside.holders[0].flags) == ("nightly", (_stuck.PINNED,))


def test_what_is_seen_can_be_kept(scene: Scene, window: Window) -> None:
    """A snapshot survives being pickled, and is what it was; the error of a wait, too."""
    session = scene.connect()
    session.execute("SELECT pg_advisory_lock(13)")
    queued = scene.waiting("SELECT pg_advisory_lock(13)")
    seen = window.look()
    assert pickle.loads(pickle.dumps(seen)) == seen
    with advlock.Locks(scene.dsn) as locks:
        error = timed_out(locks, 13)
        again = pickle.loads(pickle.dumps(error))
        assert again.holders == error.holders
    assert [one.waiting for one in again.holders] == [False, True]
    queued.close()
