"""A signal handler that raises at every moment of a failing `hold`, or of a loss: nothing is left.

By chance, along every route: test_interruptions.py.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest
from interrupting import Interrupter
from routes import direct_only
from waiting import eventually

from advlock import LockLost, Locks, LockTimeout
from advlock._plan import Expired
from advlock._session import Session

from .helpers import holding, terminate

if TYPE_CHECKING:
    from .helpers import Admin


@direct_only("nobody waits for a pooler here")
def test_time_is_up_while_the_server_is_asked(
    dsn: str, name: str, rival: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where locks are polled for, as behind a transaction pooler, that is what ends a wait."""
    rival.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    ask = Locks._try

    def answered_late(*args: Any) -> bool:
        with interrupter.paused():
            ask(*args)
        raise Expired

    monkeypatch.setattr(Locks, "_try", answered_late)
    interrupter = Interrupter("_core.py", "_ledger.py")
    with Locks(dsn) as client:

        def section() -> None:
            with contextlib.suppress(LockTimeout), client.hold(name, wait=0):
                raise AssertionError

        section()
        for where in interrupter.each(section):
            eventually(lambda: not len(client._ledger), message=f"nobody who asks since {where}")
        monkeypatch.setattr(Locks, "_try", ask)
        rival.execute("SELECT pg_advisory_unlock_all()")
        with client.hold(name, wait=5):
            pass


class Lost:
    """A client whose session has ended with its lock, which nobody knows; and one who waits."""

    def __init__(self, dsn: str, name: str, admin: Admin) -> None:
        self.client = Locks(dsn)
        self.held = self.client._hold(name, owned=False)
        self.told: list[object] = []
        self.held.on_lost(self.told.append)
        self.got = threading.Event()
        self._waiter = threading.Thread(target=self._wait, args=(name,), daemon=True)
        self._waiter.start()
        eventually(lambda: len(self.client._ledger.tickets()) == 2)
        terminate(admin, *holding(admin, name))
        eventually(self.held._ticket.session.wire.has_news)

    def _wait(self, name: str) -> None:
        with self.client.hold(name):
            self.got.set()

    def ends_well(self, where: str) -> None:
        """Expect that the one is told, once, and the other goes on."""
        assert self.held.lost, where
        assert self.got.wait(5), where
        eventually(lambda: self.told, message=where)
        self._waiter.join(5)
        assert self.told == [self.held], where
        assert not len(self.client._ledger), where
        with pytest.raises(LockLost):
            self.client._let_go(self.held)
        self.client.close()


@direct_only("a pooler takes its time to pass the end on")
def test_a_look_that_finds_the_end(
    dsn: str, name: str, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted while it writes that down: nobody is forgotten, and nobody is told twice."""
    monkeypatch.setattr(Session, "tend", lambda _: 60.0)  # or the watcher finds it first
    made: list[Lost] = []
    interrupter = Interrupter("_books.py", "_ledger.py", "_waiter.py", "_sessions.py")

    def section() -> None:
        with interrupter.paused():
            made[:] = [Lost(dsn, name, admin)]
        assert made[0].held.lost

    for where in interrupter.each(section):
        made[0].ends_well(where)
    made[0].ends_well("to its end")
