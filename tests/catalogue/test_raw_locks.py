"""Locks taken by SQL as the tools send it are named from what `pg_locks` shows."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest

from advlock import Key
from advlock._catalogue._catalogue import Catalogue
from catalogue.conftest import identify, learn

if TYPE_CHECKING:
    from psycopg.abc import Query

Shop = psycopg.Connection[Any]


class Taken(NamedTuple):
    """How a tool takes a lock, and what that is called then."""

    sql: str
    name: str
    tables: str = ""
    certain: bool = True


# The arguments are spelled as the tools spell them, and computed by the server where they do so.
RAW = [
    Taken("72707369", "Prisma Migrate: any prisma migrate command"),
    Taken("7241865325823964", "node-pg-migrate: migration"),
    Taken("3853314791062309107", "Kysely: migration"),
    Taken("4097083626", "goose: migration"),
    Taken("9628173550095224", "tern: tern migrate"),
    Taken("75474063", "Sqitch: sqitch deploy"),
    Taken("12388221127840347", "pgroll: set-up"),
    Taken("12340078987004321", "pgBackRest: backup"),
    Taken("hashtext('pg_backup')", "WAL-G: backup-push"),
    Taken("hashtext('gp_backup')", "WAL-G for Greenplum: backup-push"),
    Taken("2686470616", "Atlas: atlas migrate apply"),
    Taken("-8575985245963001000", "Supabase Storage: migration of the database of tenants"),
    Taken("hashtext('auth_index_worker')::bigint", "Supabase Auth: creation of indexes"),
    Taken("5705964304097144966", "Hatchet: analysis of the tables of its statistics"),
    Taken("41730001", "Marten: assignment of tenants"),
    *(
        Taken(f"hashtext('pg_partman {text}')", f"pg_partman: {call}()")
        for text, call in {
            "run_maintenance": "run_maintenance",
            "drop_partition_time": "drop_partition_time",
            "drop_partition_id": "drop_partition_id",
            "undo_partition": "undo_partition",
            "run_maintenance procedure": "run_maintenance_proc",
            "reapply_constraints": "reapply_constraints_proc",
            "run_analyze": "run_analyze",
        }.items()
    ),
    Taken(
        "hashtext('pg_partman partition_data_proc'), hashtext('public.orders')",
        "pg_partman: partitioning of one table (partition_data_proc() of public.orders)",
        "CREATE TABLE orders (id int) PARTITION BY RANGE (id)",
    ),
    Taken(
        "hashtext('electric_slot_default')",
        "Electric: replication; one server of several (electric_slot_default)",
    ),
    Taken(
        "hashtext('electric_slot_eu')",
        "Electric: replication; one server of several (electric_slot_eu)",
        "CREATE PUBLICATION electric_publication_eu",
    ),
    Taken("hashtext('pgqueuer_statistics')", "pgqueuer: aggregation of statistics"),
    Taken(
        "hashtext('pgmq.queue_' || 'mail')",
        "pgmq: creation or removal of a queue (queue mail)",
        "CREATE SCHEMA pgmq; CREATE TABLE pgmq.q_mail ()",
    ),
    Taken(
        "('x' || encode(sha224((current_database() || '.pgboss.' || 'pgboss')::bytea), 'hex'))"
        "::bit(64)::bigint",
        "pg-boss: migration, queues or maintenance (schema pgboss)",
    ),
    Taken(
        "('x' || encode(sha224((current_database() || '.pgboss.' || 'jobs' || 'create-queue')"
        "::bytea), 'hex'))::bit(64)::bigint",
        "pg-boss: migration, queues or maintenance (schema jobs, create-queue)",
        "CREATE SCHEMA jobs; CREATE TABLE jobs.job ()",
    ),
    Taken("77433833903597", "Flyway: migration (public.flyway_schema_history)"),
    Taken("-755096828, -977423767", "liquibase-sessionlock: migration"),
    Taken("-3797183428", "OpenTofu: creation of a workspace"),
    Taken("1", "SpiceDB: garbage collection", "CREATE TABLE relation_tuple ()"),
    Taken("3", "Coder: roll-up of statistics", "CREATE TABLE workspace_builds ()"),
    Taken("1001", "n8n: synchronisation of roles", "CREATE TABLE workflow_entity ()"),
    Taken("-1", "Terraform: creation", "CREATE SEQUENCE global_states_id_seq"),
    Taken(
        "16185446, CAST(-2147483648 + 'orders'::regclass::oid::bigint AS integer)",
        "pg_repack: pg_repack (table public.orders)",
        "CREATE TABLE orders ()",
    ),
    Taken(
        "'\"es\".subscriptions'::regclass::oid::int, 12",
        "Commanded EventStore: one subscriber of a subscription (row 12 of es.subscriptions)",
        "CREATE SCHEMA es; CREATE TABLE es.subscriptions (); CREATE TABLE es.stream_events ()",
    ),
    Taken("4711", "Que: a running job (row 4711)", "CREATE TABLE que_jobs ()", certain=False),
    Taken(
        "2, 7",
        "graph-node: work on a subgraph (write to deployment 7)",
        "CREATE TABLE deployment_schemas ()",
        certain=False,
    ),
]


def take(connection: Shop, arguments: str) -> None:
    """Take a session-level lock as SQL has it."""
    query: Query = f"SELECT pg_advisory_lock({arguments})".encode()
    connection.execute(query)


def test_all_at_once(shop: Shop, fresh: str) -> None:
    """Forty locks of other people's, in one database: each is named, and surely if it can be."""
    assert len(RAW) >= 40
    for tables in {taken.tables for taken in RAW} - {"", "CREATE TABLE orders ()"}:
        shop.execute(tables.encode())
    for taken in RAW:
        take(shop, taken.sql)
    found = identify(fresh, shop)
    assert len(found) == len(RAW)
    firsts = {str(known[0]): known[0].certain for known in found.values() if known}
    for taken in RAW:
        (name,) = (name for name in firsts if name.startswith(taken.name))
        assert firsts[name] == taken.certain, name
    for columns in found:
        assert Key.from_pg(*columns).objsubid == columns[2]


@pytest.mark.parametrize("taken", RAW, ids=lambda taken: taken.name)
def test_one_key_is_read_back(taken: Taken) -> None:
    """What the catalogue precomputes, `Key` spells: no negative columns, no lost sign."""
    if not taken.sql.lstrip("-").isdecimal():
        return
    key = Key.of(int(taken.sql))
    assert Key.from_pg(key.classid, key.objid, key.objsubid).parts == int(taken.sql)


def test_the_same_key_in_another_database_is_not_confused(
    shop: Shop, fresh: str, database: str
) -> None:
    """A key that is computed of one database's name is unknown in another one's catalogue."""
    text = "('x' || encode(sha224((current_database() || '.pgboss.pgboss')::bytea), 'hex'))"
    take(shop, f"{text}::bit(64)::bigint")
    ((columns, known),) = identify(fresh, shop).items()
    assert known[0].tool == "pg-boss"
    assert Catalogue(learn(database)).identify(*columns) == ()
    assert Catalogue().identify(*columns) == ()


def test_a_running_job_of_good_job_s_is_found_by_its_id(shop: Shop) -> None:
    """GoodJob's SQL and ours make the same key of a job's id, so that one can be asked for."""
    from advlock._catalogue._catalogue import formulas_of  # noqa: PLC0415 - see above

    job = str(uuid.uuid4())
    sql = "SELECT ('x' || substr(md5('good_jobs-' || %s::text), 1, 16))::bit(64)::bigint"
    ((value,),) = shop.execute(sql, [job])
    (ours,) = (key.value for known, key in formulas_of(job) if known.tool == "GoodJob")
    assert ours == value
