"""The fixtures of tests/cli/test_cron_*.py, which name this file as a plug-in.

`crons` runs a test on every server of this run, and `crons_once`, for what the server has no part
in, on the newest one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .crons import Crons

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conformance.pooled import Pools
    from psycopg import Connection

pytest_plugins = ["conformance.pooled_fixtures"]


@pytest.fixture
def crons(dsn: str, admin: Connection[Any], tmp_path: Path) -> Iterator[Crons]:
    """Schedulers, on each server."""
    made = Crons(dsn, admin, tmp_path)
    yield made
    made.close()


@pytest.fixture
def crons_once(pools: Pools, tmp_path: Path) -> Iterator[Crons]:
    """Schedulers, on the newest server only."""
    made = Crons(pools.database, pools.admin, tmp_path)
    yield made
    made.close()
