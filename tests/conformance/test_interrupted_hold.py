"""A signal handler that raises at every moment of a `hold` that times out: nothing stays behind.

By chance, along every route: test_interruptions.py.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from interrupting import Interrupter
from routes import direct_only
from waiting import eventually

from advlock import Locks, LockTimeout
from advlock._plan import Expired

if TYPE_CHECKING:
    import pytest

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
