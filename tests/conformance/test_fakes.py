"""Promise 6, on servers that cannot run here: where locks are stubs, none is handed out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fakes import UNSAFE, fake_server
from psycopg.conninfo import conninfo_to_dict

from .databases import fresh_database
from .test_unsafe import check_refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

    from .worlds import World


@pytest.fixture
def fresh(server: Server) -> Iterator[str]:
    """A database of this test alone."""
    with fresh_database(server) as dsn:
        yield dsn


# A server that refuses the set-up is told from one that goes through it and does nothing.
REFUSES = {"raises", "yugabyte", "redshift"}


@pytest.mark.parametrize("kind", UNSAFE)
async def test_a_server_whose_locks_are_none_is_refused(
    world: World, server: Server, fresh: str, name: str, kind: str
) -> None:
    """Stubs that say yes, say nothing, raise, or hide: UnsafeServer, and a PostgreSQL is named."""
    tcp = server.tcp_dsn(str(conninfo_to_dict(fresh)["dbname"]))
    with fake_server(UNSAFE[kind], fresh, tcp) as dsn:
        reason = "refused" if kind in REFUSES else "stub"
        await check_refused(world, dsn, name, reason=reason, advice="PostgreSQL server")
        await world.close()
