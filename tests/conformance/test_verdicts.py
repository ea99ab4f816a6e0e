"""What the server says of a wait is what `pg_locks` says of it, however the timeout races."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from routes import not_pinned

from advlock import _plan, _sql
from advlock._dsn import Dsn
from advlock._ledger import Ticket
from advlock._liveness import Bounds
from advlock._solo import SoloSession

from .helpers import holding, one

if TYPE_CHECKING:
    from .helpers import Admin

pytestmark = not_pinned("it polls there: the server has no wait to judge")

ROUNDS = 150
WAIT = 0.02  # seconds
STEP = 0.0003  # seconds by which the next aim is corrected


def check_verdicts(dsn: str, name: str, rival: Admin, admin: Admin) -> None:
    """Free the lock ever closer to the moment at which the wait gives up."""
    solo = SoloSession.open(Dsn(dsn, "the test"), application_name="verdicts", deadline=None)
    key, aim, verdicts = solo.key(name), WAIT, []
    try:
        for _ in range(ROUNDS):
            rival.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
            wait = _plan.wait_for(Ticket(key, name, shared=False, owner=None), WAIT, Bounds())
            release = threading.Thread(target=_release_after, args=(rival, name, aim))
            release.start()
            granted = solo._session.fetch(wait, None)
            release.join()
            assert bool(holding(admin, name)) is granted
            if granted:
                assert solo.unlock(key, shared=False)
                assert not holding(admin, name), "it was taken twice"
            aim += STEP if granted else -STEP
            verdicts.append(granted)
    finally:
        solo.close()
    assert {True, False} == set(verdicts), "the aim never came near"


def _release_after(rival: Admin, name: str, seconds: float) -> None:
    time.sleep(max(0.0, seconds))
    assert one(rival, "SELECT pg_advisory_unlock(hashtextextended(%s, 0))", name)


def test_the_verdict_is_what_the_server_holds(
    dsn: str, name: str, rival: Admin, admin: Admin
) -> None:
    """Granted means held, once; not granted means not held."""
    check_verdicts(dsn, name, rival, admin)


def test_without_asking_pg_locks_that_turns_red(
    dsn: str, name: str, rival: Admin, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a timeout that is believed leaves the lock with a wait that is over."""
    begin = _sql.WAIT.index("            IF EXISTS")
    end = _sql.WAIT.index("END IF;", begin) + len("END IF;")
    monkeypatch.setattr(_sql, "WAIT", _sql.WAIT[:begin] + "NULL;" + _sql.WAIT[end:])
    with pytest.raises(AssertionError) as caught:
        check_verdicts(dsn, name, rival, admin)
    assert "the aim never came near" not in str(caught.value)
