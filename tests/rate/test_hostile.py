"""What somebody else made of the table: nothing of it runs, and nothing of it is believed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from conformance.databases import plain_role
from postgres.helpers import one
from waiting import eventually

from advlock import ConfigError, Locks, _schema, _schema_sql
from advlock._rate import _plan, _sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

# Who writes down whose rights it has.
THIEF = """
CREATE TABLE public.stolen (who text);
GRANT ALL ON public.stolen TO PUBLIC;
CREATE FUNCTION public.thief() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.stolen VALUES (current_user); RETURN NULL; END $$;
CREATE FUNCTION public.steal() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.stolen VALUES (current_user); RETURN 4; END $$;
"""
TRIGGER = """
CREATE TRIGGER t BEFORE INSERT ON advlock.rate_grant EXECUTE FUNCTION public.thief();
"""
FORGERIES = {
    "a trigger": TRIGGER,
    "a view": """
        DROP TABLE advlock.migration;
        CREATE VIEW advlock.migration AS SELECT public.steal() AS version;
        GRANT SELECT ON advlock.migration TO PUBLIC;
    """,
    "a policy": """
        ALTER TABLE advlock.rate_grant ENABLE ROW LEVEL SECURITY;
        CREATE POLICY w ON advlock.rate_grant FOR INSERT WITH CHECK (public.steal() > 0);
    """,
}
NOTHING = "SELECT 1 WHERE false"


@pytest.fixture
def mallory(table: Connection[Any], database: str) -> Iterator[str]:
    """A role that may make what it likes, and code of it that is called on occasion."""
    with plain_role(database) as (role, _):
        grant = f"GRANT CREATE ON SCHEMA public TO {role}; SET ROLE {role}; {THIEF} RESET ROLE"
        table.execute(grant.encode())
        try:
            yield role
        finally:
            table.execute("DROP SCHEMA IF EXISTS advlock CASCADE")
            table.execute("DROP TABLE public.stolen")
            table.execute("DROP FUNCTION public.thief, public.steal CASCADE")


def verbs(dsn: str) -> list[object]:
    """Call all that there is, and return what came of it."""
    told: list[object] = []
    with Locks(dsn) as locks:
        limit = locks.rate_limit("x", 5, 60)
        for verb in (limit.try_acquire, limit.test, limit.stats, limit.reset, limit.acquire):
            try:
                told.append(verb())
            except ConfigError as error:
                told.append(error)
    return told


def stolen(admin: Connection[Any]) -> list[str]:
    """Whose rights were used."""
    return [who for (who,) in admin.execute("SELECT who FROM public.stolen")]


def untrusted(told: list[object], role: str) -> bool:
    """Whether all of it was refused, and the error says why."""
    return all(isinstance(it, ConfigError) and f"belongs to {role}" in str(it) for it in told)


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_schema_that_somebody_planted_is_not_used(
    table: Connection[Any], dsn: str, mallory: str, forgery: str
) -> None:
    """Whoever may make schemas made ours: nothing of his runs with a superuser's rights."""
    plant(table, mallory, forgery)
    assert untrusted(verbs(dsn), mallory)
    assert stolen(table) == []


@pytest.mark.parametrize("forgery", ["a trigger", "a view"])
def test_without_the_question_it_is_used(
    table: Connection[Any],
    dsn: str,
    mallory: str,
    forgery: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: there is something that would have run."""
    plant(table, mallory, forgery)
    monkeypatch.setattr(_schema_sql, "TRUSTED", NOTHING)
    monkeypatch.setattr(_sql, "UNTOUCHED", NOTHING)
    monkeypatch.setattr(_sql, "PREPARE_UNTOUCHED", f"PREPARE advlock_rate_untouched AS {NOTHING}")
    verbs(dsn)
    assert set(stolen(table)) == {one(table, "SELECT current_user")}


def plant(admin: Connection[Any], role: str, forgery: str) -> None:
    """Have the role make our schema, and what is in it."""
    admin.execute("DROP SCHEMA advlock CASCADE")
    admin.execute(_schema.text().encode())
    admin.execute(FORGERIES[forgery].encode())
    admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA advlock TO {role}".encode())
    for table in _schema.TABLES:
        admin.execute(f"ALTER TABLE advlock.{table} OWNER TO {role}".encode())
    admin.execute(f"ALTER SCHEMA advlock OWNER TO {role}".encode())


def may_trigger(admin: Connection[Any], role: str) -> bytes:
    """Do as `GRANT ALL` does; return what makes a trigger as that role."""
    admin.execute(f"GRANT USAGE ON SCHEMA advlock TO {role}".encode())
    admin.execute(f"GRANT ALL ON advlock.rate_grant TO {role}".encode())
    return f"SET LOCAL ROLE {role}; {TRIGGER}".encode()


def test_a_foreign_key_is_refused(table: Connection[Any], dsn: str, mallory: str) -> None:
    """It calls the triggers of whoever made it."""
    may_trigger(table, mallory)
    key = "FOREIGN KEY (a, b) REFERENCES advlock.rate_grant ON DELETE CASCADE"
    table.execute(
        f"SET ROLE {mallory}; CREATE TABLE public.f (a int8, b int8, {key}); RESET ROLE".encode()
    )
    with Locks(dsn) as locks, pytest.raises(ConfigError, match="RI_ConstraintTrigger"):
        locks.rate_limit("x", 5, 60).try_acquire()
    table.execute("DROP TABLE public.f")


def race(admin: Connection[Any], dsn: str, database: str, trigger: bytes) -> list[object]:
    """Make a trigger while somebody asks: it is committed when he waits for the table."""
    told: list[object] = []

    def take() -> None:
        try:
            told.append(limit.acquire(wait="20s"))
        except ConfigError as error:
            told.append(error)

    with Locks(dsn) as locks, psycopg.connect(database) as attacker:
        limit = locks.rate_limit("x", 5, 60)
        limit.acquire()
        attacker.execute(trigger)
        thread = threading.Thread(target=take)
        thread.start()
        waits = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'relation' AND NOT granted"
        eventually(lambda: one(admin, waits), within=20)
        attacker.commit()
        thread.join(20)
    return told


def test_nobody_makes_a_trigger_in_between(
    table: Connection[Any], dsn: str, database: str, mallory: str
) -> None:
    """It is looked for under the lock that keeps others from making one."""
    told = race(table, dsn, database, may_trigger(table, mallory))
    assert untrusted(told, mallory)
    assert stolen(table) == []


def test_without_that_lock_it_runs(
    table: Connection[Any],
    dsn: str,
    database: str,
    mallory: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: the question alone is answered by what was there before."""
    monkeypatch.setattr(_sql, "STILL", NOTHING)
    monkeypatch.setattr(_plan, "_GUARD", ())
    race(table, dsn, database, may_trigger(table, mallory))
    assert stolen(table)


def test_an_owners_own_trigger_is_his_own_business(
    table: Connection[Any], dsn: str, database: str
) -> None:
    """A superuser's audit of all tables keeps nobody from permits; nor the owner's rights do."""
    table.execute(
        "CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RETURN new; END $$"
    )
    table.execute(
        "CREATE TRIGGER t BEFORE INSERT ON advlock.rate_grant FOR EACH ROW "
        "EXECUTE FUNCTION public.audit()"
    )
    with plain_role(database) as (role, theirs):
        table.execute(f"GRANT USAGE ON SCHEMA advlock TO {role}".encode())
        table.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA advlock TO {role}".encode())
        assert not [it for it in (*verbs(dsn), *verbs(theirs)) if isinstance(it, ConfigError)]
    table.execute("DROP FUNCTION public.audit CASCADE")
