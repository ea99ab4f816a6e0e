"""The fixtures of tests/conformance/test_pooled*.py, which name this file as a plug-in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .pooled import pools_before

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

    from .pooled import Pools

_TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def newest(pytestconfig: pytest.Config) -> Server:
    """The newest server of this run; what a pooler does, does not depend on the version."""
    suite: Any = pytestconfig.pluginmanager.get_plugin(str(_TESTS / "conftest.py"))
    chosen: Server = pytestconfig.stash[suite._servers][-1]
    chosen.start()
    return chosen


@pytest.fixture(scope="module")
def shared_pools(newest: Server) -> Iterator[Pools]:
    """What the tests of a module share."""
    with pools_before(newest) as made:
        yield made


@pytest.fixture
def pools(shared_pools: Pools) -> Iterator[Pools]:
    """The same, and a look at it when the test is over."""
    yield shared_pools
    shared_pools.check()


@pytest.fixture(scope="module")
def shared_pools_of_each(server: Server) -> Iterator[Pools]:
    """What the tests of a module share, on each server of this run."""
    with pools_before(server) as made:
        yield made


@pytest.fixture
def pools_of_each(shared_pools_of_each: Pools) -> Iterator[Pools]:
    """The same as `pools`, for what depends on the version."""
    yield shared_pools_of_each
    shared_pools_of_each.check()
