"""What a socket that nobody reads tells about the end of its session."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from .helpers import answers, one, send

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection
    from servers import Server

    Connect = Callable[..., Connection[Any]]

HANG_UP = select.EPOLLRDHUP


@pytest.fixture(params=["tcp", "unix"])
def session(
    request: pytest.FixtureRequest, server: Server, dsn: str, connect: Connect
) -> Connection[Any]:
    """Open a session over TCP, or over a Unix socket."""
    over_unix = str(conninfo_to_dict(dsn).get("host", "")).startswith("/")
    if request.param == "tcp":
        tcp = conninfo_to_dict(server.tcp_dsn("unused"))
        return connect(**{word: str(tcp[word]) for word in ("host", "port") if word in tcp})
    if not over_unix:
        pytest.skip("ADVLOCK_TEST_DSN names no Unix socket")
    return connect()


def test_the_end_of_a_session_wakes_who_waits_for_a_hang_up(
    session: Connection[Any], connect: Connect
) -> None:
    """A terminated backend is seen at once with EPOLLRDHUP alone, and stays to be seen."""
    watch = select.epoll()
    with watch:
        watch.register(session.fileno(), HANG_UP)
        assert watch.poll(0) == []
        one(connect(), "SELECT pg_terminate_backend(%s)", session.info.backend_pid)
        ((descriptor, events),) = watch.poll(5.0)
        assert descriptor == session.fileno()
        assert events & HANG_UP
        assert watch.poll(0) != []


def test_answers_do_not_wake_who_waits_for_a_hang_up(session: Connection[Any]) -> None:
    """An answer that lies there unread wakes who waits for input, and nobody else."""
    with select.epoll() as hang_ups, select.epoll() as inputs:
        hang_ups.register(session.fileno(), HANG_UP)
        inputs.register(session.fileno(), select.EPOLLIN)
        send(session, "SELECT repeat('x', 10000)")
        assert inputs.poll(5.0)
        assert hang_ups.poll(0) == []
        answers(session)
