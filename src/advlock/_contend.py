"""A contended acquire: what the plan `_plan.contend` yields, done in both worlds."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from advlock import _observe, _plan
from advlock._aloop import by
from advlock._ledger import QUEUED
from advlock._plan import Expired, Refused, SessionLost, Waited
from advlock._signing import Signature
from advlock._waiter import new_waiter, wait
from advlock.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from advlock._acore import AsyncCore
    from advlock._asession import AsyncSession
    from advlock._client import Client
    from advlock._core import Core
    from advlock._ledger import Ticket
    from advlock._session import Session


def _wait_for(client: Client, ticket: Ticket, left: float | None) -> _plan.SessionPlan[bool]:
    pooled = client._pooler is not None
    sign = Signature(ticket) if client._signs else None
    return _plan.wait_for(ticket, left, client._bounds, pooled=pooled, sign=sign)


# -- sync ------------------------------------------------------------------------------------------


def contend(
    client: Core,
    ticket: Ticket,
    deadline: float | None,
    plan: _plan.ClientPlan[bool] | None = None,
) -> bool:
    """Acquire a lock that was not free at once; tell whether it is held now.

    Args:
        client: Whose lock it is.
        ticket: What to acquire.
        deadline: When to give up, in `time.monotonic` seconds; None for never.
        plan: How; `_plan.contend` without it.

    Raises:
        Expired: `deadline` passed while the server was being asked.
    """
    if plan is None:
        _observe.waits(client, ticket)
        plan = _plan.contend(ticket)
    try:
        client._sessions.enlist(ticket)
        step = next(plan)
        while True:
            try:
                answer = _do(client, step, ticket, deadline)
            except DatabaseUnavailable as error:
                step = plan.throw(error)
            else:
                step = plan.send(answer)
            client._check_open()
    except StopIteration as stop:
        return bool(stop.value)
    finally:
        client._sessions.dismiss(ticket)


def _do(client: Core, step: _plan.ClientStep, ticket: Ticket, deadline: float | None) -> Any:
    match step:
        case _plan.Try():
            return client._try(ticket, deadline)
        case _plan.Wait():
            return _wait_on_server(client, ticket, deadline)
        case _plan.Turn():
            return _wait_for_turn(client, ticket, deadline)
        case _plan.Nap(seconds):
            return _nap(ticket, seconds, deadline)


def _wait_for_turn(client: Core, ticket: Ticket, deadline: float | None) -> bool:
    while ticket.state is QUEUED:
        client._check_open()
        if not wait(ticket.waker, deadline):
            return False
    return True


def _nap(ticket: Ticket, seconds: float, deadline: float | None) -> bool:
    now = time.monotonic()
    if deadline is not None and now >= deadline:
        return False
    if ticket.waker is None:
        ticket.waker = new_waiter()
    wait(ticket.waker, now + seconds if deadline is None else min(deadline, now + seconds))
    return True


def _wait_on_server(client: Core, ticket: Ticket, deadline: float | None) -> Waited:
    if client._pinned or not client._can_wait_on_server:
        return Waited.IMPOSSIBLE
    if deadline is not None and deadline <= time.monotonic():
        return Waited.TIME_IS_UP
    session = client._sessions.lease(ticket, deadline)
    if session is None:
        return Waited.NO_SESSION
    left = None if deadline is None else deadline - time.monotonic()
    return _wait_on(client, session, ticket, left, deadline)


def _wait_on(
    client: Core, session: Session, ticket: Ticket, left: float | None, deadline: float | None
) -> Waited:
    limit = None if deadline is None else deadline + client._grace
    try:
        if session.fetch(_wait_for(client, ticket, left), limit):
            client._book(ticket, session)
            return Waited.GRANTED
        client._sessions.retire(session)
    except SessionLost:
        return Waited.BROKEN
    except Refused as refusal:
        session.close("waiting on the server failed")
        return client._no_waiting(refusal)
    except BaseException:
        session.close("its caller stopped waiting")
        raise
    return Waited.TIME_IS_UP


# -- async -----------------------------------------------------------------------------------------


async def acontend(
    client: AsyncCore,
    ticket: Ticket,
    deadline: float | None,
    plan: _plan.ClientPlan[bool] | None = None,
) -> bool:
    """Acquire a lock that was not free at once; tell whether it is held now; as `contend`."""
    if plan is None:
        _observe.waits(client, ticket)
        plan = _plan.contend(ticket)
    sessions = client._bind()
    sessions.enlist()
    try:
        step = next(plan)
        while True:
            try:
                answer = await _ado(client, step, ticket, deadline)
            except DatabaseUnavailable as error:
                step = plan.throw(error)
            else:
                step = plan.send(answer)
            client._check_open()
    except StopIteration as stop:
        return bool(stop.value)
    finally:
        sessions.dismiss()


async def _ado(
    client: AsyncCore, step: _plan.ClientStep, ticket: Ticket, deadline: float | None
) -> Any:
    match step:
        case _plan.Try():
            return await client._try(ticket, deadline)
        case _plan.Wait():
            return await _await_on_server(client, ticket, deadline)
        case _plan.Turn():
            await by(deadline, ticket.waker)
            client._check_open()
            return True
        case _plan.Nap(seconds):
            return await _anap(client, ticket, seconds, deadline)


async def _anap(client: AsyncCore, ticket: Ticket, seconds: float, deadline: float | None) -> bool:
    loop = client._bind().loop
    now = loop.time()
    if deadline is not None and now >= deadline:
        return False
    ticket.waker = loop.create_future()
    with contextlib.suppress(Expired):
        await by(now + seconds if deadline is None else min(deadline, now + seconds), ticket.waker)
    return True


async def _await_on_server(client: AsyncCore, ticket: Ticket, deadline: float | None) -> Waited:
    sessions = client._bind()
    if client._pinned or not client._can_wait_on_server:
        return Waited.IMPOSSIBLE
    if deadline is not None and deadline <= sessions.loop.time():
        return Waited.TIME_IS_UP
    session = await sessions.lease(deadline)
    if session is None:
        return Waited.NO_SESSION
    left = None if deadline is None else deadline - sessions.loop.time()
    return await _await_on(client, session, ticket, left, deadline)


async def _await_on(
    client: AsyncCore,
    session: AsyncSession,
    ticket: Ticket,
    left: float | None,
    deadline: float | None,
) -> Waited:
    limit = None if deadline is None else deadline + client._grace
    try:
        if await by(limit, session.fetch(_wait_for(client, ticket, left))):
            client._book(ticket, session)
            return Waited.GRANTED
        client._bind().retire(session)
    except SessionLost:
        return Waited.BROKEN
    except Refused as refusal:
        session.end("waiting on the server failed")
        return client._no_waiting(refusal)
    except Expired:
        session.end("its caller stopped waiting")  # also where the lock is granted by now
        await session.stopped()
        raise
    except BaseException:
        session.end("its caller stopped waiting")
        raise
    return Waited.TIME_IS_UP
