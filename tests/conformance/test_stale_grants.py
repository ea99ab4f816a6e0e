"""A lock that was granted too long ago is not handed out: the server may have let go since."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from routes import not_pinned

from advlock import DatabaseUnavailable
from advlock._liveness import Pulse

from .helpers import is_waiting, no_locks, one, soon

if TYPE_CHECKING:
    from .helpers import Admin
    from .worlds import World

TAKE = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"


class Freeze:
    """Lets answers be read after the time of trust, as by a process that was stopped meanwhile."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.answers = 0  # so many from now on
        confirm = Pulse.confirm

        def late(pulse: Pulse, start: float) -> None:
            if self.answers:
                self.answers -= 1
                pulse.confirmed = start - pulse.bounds.trust
            else:
                confirm(pulse, start)

        patch.setattr(Pulse, "confirm", late)


async def check_believed(world: World, client: Any, name: str, entered: Any) -> None:
    """What was entered is believed in, or is an error that says to try again; which then helps."""
    actor = world.actor()
    if isinstance(entered, BaseException):
        assert type(entered) is DatabaseUnavailable
        assert "try again" in str(entered)
        again = client.hold(name, wait=5)
        held = await actor.enter(again)
        assert not held.lost
        await actor.exit(again)
    else:
        assert not entered.lost


@pytest.mark.parametrize("way", ["hold", "attempt"])
@pytest.mark.parametrize("lease", [None, 5])
async def test_a_try_that_was_answered_long_ago(
    world: World,
    dsn: str,
    name: str,
    admin: Admin,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    lease: float | None,
) -> None:
    """Frozen with the request under way."""
    freeze, client, actor = Freeze(monkeypatch), world.client(dsn, lease=lease), world.actor()
    await actor.enter(warm := client.hold(f"{name}-warm"))
    await actor.exit(warm)
    freeze.answers = 1
    context = getattr(client, way)(name)
    (entered,) = await asyncio.gather(actor.enter(context), return_exceptions=True)
    await check_believed(world, client, name, entered)
    await actor.call(client.close)
    await no_locks(admin)


@not_pinned("it polls there: a grant that was waited for is the answer to a try")
async def test_a_wait_that_was_answered_long_ago(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen with the grant under way, and with its confirmation."""
    freeze, client, actor = Freeze(monkeypatch), world.client(dsn), world.actor()
    one(rival, TAKE, name)
    context = client.hold(name)
    pending = actor.entering(context)
    await is_waiting(admin, name)
    freeze.answers = 2
    rival.execute("SELECT pg_advisory_unlock_all()")
    (entered,) = await asyncio.gather(soon(pending), return_exceptions=True)
    await check_believed(world, client, name, entered)
    await actor.call(client.close)
    await no_locks(admin)
