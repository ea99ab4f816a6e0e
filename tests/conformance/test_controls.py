"""Controls: with the protection switched off, the very same checks fail.

A promise whose test cannot fail is not tested. Each control takes one protection away and expects
the check function of the promise to notice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from bouncers import bouncer
from routes import not_pinned

from advlock import (
    AsyncLocks,
    Locks,
    _aconnecting,
    _connecting,
    _ledger,
    _plan,
    _set_up,
    _sql,
    _wire,
)
from advlock._plan import Script, Step
from advlock._wire import Wire

from . import (
    test_connections,
    test_entries,
    test_exclusion,
    test_release,
    test_waiting,
)
from .helpers import turns_red
from .test_waiting import POLLS, table  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from servers import Server

    from .helpers import Admin, Sessions
    from .worlds import World

Patch = pytest.MonkeyPatch

# A check that fails half-way drops what it holds.
pytestmark = pytest.mark.filterwarnings("ignore:.*was never released:ResourceWarning")


@pytest.fixture
def off(monkeypatch: Patch) -> Patch:
    """Switch things off, until the test and its world are over."""
    return monkeypatch


async def test_promise_1_without_the_ledger(world: World, dsn: str, name: str, off: Patch) -> None:
    """When the client's books admit everybody, the server, asked by one session, does so, too."""
    off.setattr(_ledger._Slot, "admits", lambda *_: True)
    client = world.client(dsn)
    await turns_red(test_exclusion.check_one_at_a_time(world, [client], name, 10))


async def test_promise_1_without_the_server(world: World, dsn: str, name: str, off: Patch) -> None:
    """When the server's "no" is not heard, two clients are inside together."""
    verdicts = _wire.Answer.verdicts
    off.setattr(_wire.Answer, "verdicts", lambda answer: [True for _ in verdicts(answer)])
    clients = [world.client(dsn), world.client(dsn)]
    await turns_red(test_exclusion.check_one_at_a_time(world, clients, name, 60))


async def test_promise_1_without_making_way(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin, off: Patch
) -> None:
    """When a further share is a plain one, the server lets it past the writer who waits."""
    off.setattr(_sql, "JOIN", _sql.TRY_SHARED)
    await turns_red(test_exclusion.check_readers_make_way(world, dsn, name, rival, admin))


async def test_promise_2_without_the_release(
    world: World, dsn: str, name: str, admin: Admin, off: Patch
) -> None:
    """When the unlock is not sent, an exception in the body leaves the lock behind."""

    def forget(_: Any, ticket: Any) -> None:
        ticket.state = _ledger.GONE

    off.setattr(Locks if world.is_sync else AsyncLocks, "_release", forget)
    await turns_red(test_release.check_free_after_exception(world, dsn, name, admin))


@not_pinned("no waiter gets a session of its own there")
async def test_promise_3_without_the_shared_session(
    world: World,
    dsn: str,
    name: str,
    application: str,
    sessions: Sessions,
    admin: Admin,
    off: Patch,
) -> None:
    """When every lock waits on a session of its own, there is one for each."""
    off.setattr(_plan, "contend", _always_wait)
    kind = Locks if world.is_sync else AsyncLocks
    enter = kind._enter
    off.setattr(kind, "_enter", lambda *args: enter(*args) and False)
    off.setattr(kind, "max_connections", property(lambda _: 100, lambda *_: None), raising=False)
    await turns_red(
        test_connections.check_many_locks_one_backend(
            world, dsn, name, application, sessions, admin, 20
        )
    )


def _always_wait(_: Any) -> Any:
    waited = yield _plan.Wait()
    return waited is _plan.Waited.GRANTED


def _endless_wait(ticket: Any, *_: Any, **__: Any) -> Any:
    """Wait as one would at first: in one statement, which keeps its snapshot."""
    yield Script((Step("SELECT pg_catalog.pg_advisory_lock($1::int8)", (str(ticket.key.value),)),))
    return True


@POLLS
async def test_promise_5_without_slices(
    world: World,
    dsn: str,
    name: str,
    table: str,  # noqa: F811 - the fixture
    rival: Admin,
    admin: Admin,
    off: Patch,
) -> None:
    """When the wait is one statement, CREATE INDEX CONCURRENTLY in the holder waits for it."""
    off.setattr(_plan, "wait_for", _endless_wait)
    check = test_waiting.check_index_is_built(world, dsn, name, table, rival, admin, "3s")
    await turns_red(check)
    rival.execute(f"DROP INDEX IF EXISTS {table}_idx")


def _noisy_wait(ticket: Any, seconds: float | None, *_: Any, **__: Any) -> Any:
    """Wait with a lock_timeout that fails the statement."""
    milliseconds = 300 if seconds is None else max(1, int(seconds * 1000))
    steps = (
        Step(f"SELECT pg_catalog.set_config('lock_timeout', '{milliseconds}', false)", (), True),
        Step("SELECT pg_catalog.pg_advisory_lock($1::int8)", (str(ticket.key.value),)),
    )
    yield Script(steps)
    return True


@POLLS
async def test_promise_5_with_failing_statements(
    world: World, server: Server, dsn: str, name: str, rival: Admin, admin: Admin, off: Patch
) -> None:
    """When the wait ends in an error, the server's log has it."""
    off.setattr(_plan, "wait_for", _noisy_wait)
    await turns_red(test_waiting.check_log_is_quiet(world, server, dsn, name, rival, admin))


def _trusting_set_up(startup_pid: int, bounds: Any) -> Any:
    """Take whoever answers for the session that began."""
    greeting = yield from _set_up.set_up(startup_pid, bounds)
    return greeting._replace(backend_pid=startup_pid)


def _send_unprepared(wire: Wire, ops: Any) -> None:
    """Ask without a name that another client may have prepared on the same session."""
    codes = ",".join(str(op.code) for op in ops)
    values = ",".join(str(op.value) for op in ops)
    wire.send_script(Script((Step(_sql.BATCH, (f"{{{codes}}}", f"{{{values}}}")),)))


async def test_promise_6_without_the_pooler_check(
    world: World, server: Server, name: str, off: Patch
) -> None:
    """When nobody compares process ids, two get a lock through PgBouncer in transaction mode."""
    for module in (_connecting, _aconnecting):
        off.setattr(module, "set_up", _trusting_set_up)
    off.setattr(Wire, "send_ops", _send_unprepared)
    with bouncer(server, "transaction", default_pool_size=1) as pooler:
        clients = [world.client(pooler.dsn()) for _ in range(2)]
        await turns_red(test_exclusion.check_one_at_a_time(world, clients, name, 10))
        await world.close()


async def test_reentrance_without_the_depth(
    world: World, dsn: str, name: str, admin: Admin, off: Patch
) -> None:
    """When every exit of a re-entrant hold unlocks, the first one frees the lock."""
    client = world.client(dsn)
    unlocks = test_entries.Unlocks(client, off)
    off.setattr(_ledger.Ledger, "find_held", _shallow(_ledger.Ledger.find_held))
    await turns_red(test_entries.check_one_unlock(world, name, admin, unlocks, client))


def _shallow(find_held: Any) -> Any:
    def find(ledger: Any, key: Any, owner: Any) -> Any:
        ticket = find_held(ledger, key, owner)
        if ticket is not None:
            ticket.depth = 0
        return ticket

    return find
