"""Whatever is done to the database: recording costs no lock, and runs nobody else's code."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from bouncers import bouncer
from conformance.databases import plain_role
from psycopg.conninfo import conninfo_to_dict
from waiting import eventually

from advlock import AsyncLocks

from .people import PATIENCE, Table
from .test_quiet import GRANT, tries

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import Server

    from .people import Person

    Make = Callable[..., Person]


@pytest.mark.parametrize("mode", [None, "transaction"])
def test_a_catalog_that_somebody_locks_costs_no_lock(
    person: Make,
    server: Server,
    database: str,
    table: Table,
    caplog: pytest.LogCaptureFixture,
    mode: str | None,
) -> None:
    """As VACUUM FULL does, or waits to do behind an open transaction; behind a pooler, too."""
    caplog.set_level("DEBUG", "advlock")
    with contextlib.ExitStack() as stack:
        dsn = database
        if mode is not None:
            pooler = stack.enter_context(bouncer(server, mode))
            dsn = pooler.dsn(str(conninfo_to_dict(database)["dbname"]))
        _lock_a_catalog(person(dsn), database, table, caplog)


def _lock_a_catalog(
    someone: Person, database: str, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    held = someone.take("held")
    session = held._ticket.session
    with psycopg.connect(database) as rude:
        rude.execute("LOCK TABLE pg_catalog.pg_class IN ACCESS EXCLUSIVE MODE")
        someone.use("meanwhile")  # the first name may have been recorded before the lock was there
        eventually(lambda: tries(caplog), within=PATIENCE)
        for _ in range(2):
            beat = session.pulse.confirmed
            eventually(lambda beat=beat: session.pulse.confirmed > beat, within=PATIENCE)
        held.check()
    table.has("held", "meanwhile")
    assert held._ticket.session is session
    someone.let_go(held)
    someone.close()


def test_a_trigger_of_somebody_who_may_only_make_one_does_not_run(
    person: Make, database: str, dsn: str, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    """`GRANT ALL` includes the right to have one's own function called by whoever inserts."""
    caplog.set_level("DEBUG", "advlock")
    admin: Any = table.admin
    with plain_role(database) as (role, _):
        admin.execute("CREATE TABLE public.stolen (who text)")
        admin.execute(f"GRANT INSERT ON public.stolen TO {role}")
        admin.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
        admin.execute(f"GRANT USAGE ON SCHEMA advlock TO {role}")
        admin.execute(GRANT.format("ALL", role))
        admin.execute(f"SET ROLE {role}")
        admin.execute(
            "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "INSERT INTO public.stolen VALUES (current_user); RETURN NULL; END $$"
        )
        admin.execute(
            "CREATE TRIGGER t BEFORE INSERT ON advlock.lock_name EXECUTE FUNCTION public.f()"
        )
        admin.execute("RESET ROLE")
        someone = person(dsn)
        someone.use("innocent")
        eventually(
            lambda: tries(caplog) or admin.execute("SELECT FROM public.stolen").fetchall(),
            within=PATIENCE,
        )
        assert admin.execute("SELECT * FROM public.stolen").fetchall() == []
        someone.close()
        admin.execute("DROP TABLE public.stolen; DROP FUNCTION public.f() CASCADE")


def test_no_operator_of_the_databases_owner_runs_behind_a_pooler(
    person: Make, server: Server, database: str, table: Table
) -> None:
    """Outside of the client's own transaction, the search_path is what the owner likes it to be."""
    admin: Any = table.admin
    name = str(conninfo_to_dict(database)["dbname"])
    admin.execute("CREATE SCHEMA evil")
    admin.execute("CREATE TABLE evil.seen (query text)")
    admin.execute(
        "CREATE FUNCTION evil.f(name, name) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO evil.seen VALUES (current_query()); "
        "RETURN $1::text OPERATOR(pg_catalog.=) $2::text; END $$"
    )
    admin.execute("CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.f)")
    admin.execute(f'ALTER DATABASE "{name}" SET search_path = evil, pg_catalog')
    try:
        with bouncer(server, "transaction") as pooler:
            someone = person(pooler.dsn(name))
            someone.use("innocent")
            table.has("innocent")
            someone.close()
        seen = admin.execute("SELECT query FROM evil.seen").fetchall()
        assert not [query for (query,) in seen if "lock_name" in query]
    finally:
        admin.execute(f'ALTER DATABASE "{name}" RESET search_path')
        admin.execute("SET search_path = pg_catalog")
        admin.execute("DROP SCHEMA evil CASCADE")
        admin.execute("RESET search_path")


async def recording(client: AsyncLocks) -> asyncio.Task[None]:
    """The task that records, as soon as there is one."""
    task = None
    while task is None:  # it is there for a few turns of the loop only
        await asyncio.sleep(0)
        task = client._sessions and client._sessions.recorder._task
    return task


def test_a_loop_may_be_closed_right_after_its_client(dsn: str, table: Table) -> None:
    """No task is left behind, of which the loop would complain."""
    assert table.count() == 0

    async def use() -> set[asyncio.Task[Any]]:
        client = AsyncLocks(dsn)
        async with client.hold("nightly"):
            await recording(client)
        await client.close()
        return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

    assert asyncio.run(use()) == set()


def test_a_recording_that_is_cancelled_is_made_up_for(dsn: str, table: Table) -> None:
    """Whoever cancels all tasks of a loop means others."""

    async def use() -> None:
        async with AsyncLocks(dsn) as client, client.hold("nightly"):
            (await recording(client)).cancel()
            await asyncio.to_thread(table.has, "nightly")

    asyncio.run(use())
