"""`advlock lead` through a connection pooler."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from waiting import eventually

from .helpers import WORKER, Cli, sessions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conformance.pooled import Pools

pytest_plugins = ["conformance.pooled_fixtures"]


@pytest.fixture(params=["transaction", "session"])
def pooled(pools: Pools, request: pytest.FixtureRequest) -> Iterator[Cli]:
    """The command, behind a pooler in each mode in which locks can be held."""
    started = Cli(pools.dsn(request.param))
    yield started
    started.close()


def test_one_leads_and_the_other_follows(pooled: Cli, pools: Pools, name: str) -> None:
    """The same hand-over, and a loss after which it campaigns again."""
    first = pooled.start("lead", "-q", name, "--", *WORKER)
    first.worker()
    second = pooled.start("lead", "-q", name, "--", *WORKER)
    first.send(signal.SIGTERM)
    assert first.line() == "child got TERM"
    assert first.code() == 0
    second.worker()
    assert len(sessions(pools.admin, name)) == 1
    pools.admin.execute("SELECT pg_terminate_backend(%s)", sessions(pools.admin, name))
    assert second.line() == "child got TERM"
    second.worker()
    second.send(signal.SIGTERM)
    assert second.code() == 0
    eventually(lambda: not sessions(pools.admin, name))
