"""A database and a role whose settings and functions are against us."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from .databases import connect, fresh_database, plain_role

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from servers import Server

# What a DBA may have set for everybody, with good reason, and what nobody would.
SETTINGS = {
    "idle_session_timeout": "1s",
    "statement_timeout": "50ms",
    "lock_timeout": "50ms",
    "idle_in_transaction_session_timeout": "1s",
    "transaction_timeout": "1s",
    "client_connection_check_interval": "0",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "synchronous_commit": "off",
    "search_path": "evil, public, pg_catalog",
    "client_min_messages": "debug5",
    "client_encoding": "LATIN1",
    "session_replication_role": "replica",
    "row_security": "off",
    "temp_file_limit": "1MB",
    "work_mem": "64kB",
    "default_table_access_method": "heap",
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "plan_cache_mode": "force_generic_plan",
    "plpgsql.extra_errors": "all",
    "plpgsql.extra_warnings": "all",
    "plpgsql.variable_conflict": "use_column",
    "enable_nestloop": "off",
    "enable_hashjoin": "off",
    "jit_above_cost": "0",
    "debug_parallel_query": "on",
    "deadlock_timeout": "1ms",
    "track_activities": "off",
}
OF_THE_DATABASE = ("idle_session_timeout", "lock_timeout", "DateStyle", "synchronous_commit")
# What stands before pg_catalog in the search path. All of it says what we would like to hear, or
# nonsense.
SHADOWS = """
CREATE SCHEMA evil;
CREATE FUNCTION evil.yes(int8) RETURNS bool LANGUAGE sql AS 'SELECT true';
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['pg_try_advisory_lock', 'pg_try_advisory_lock_shared',
                                'pg_advisory_unlock', 'pg_advisory_unlock_shared'] LOOP
        EXECUTE format('CREATE FUNCTION evil.%I(int8) RETURNS bool LANGUAGE sql AS ''SELECT true''',
                       name);
        EXECUTE format('CREATE FUNCTION evil.%I(int, int) RETURNS bool LANGUAGE sql
                        AS ''SELECT true''', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['pg_advisory_lock', 'pg_advisory_lock_shared'] LOOP
        EXECUTE format('CREATE FUNCTION evil.%I(int8) RETURNS void LANGUAGE sql AS ''''', name);
        EXECUTE format('CREATE FUNCTION evil.%I(int, int) RETURNS void LANGUAGE sql AS ''''', name);
    END LOOP;
END $$;
CREATE FUNCTION evil.pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION evil.pg_is_in_recovery() RETURNS bool LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION evil.set_config(text, text, bool) RETURNS text LANGUAGE sql AS 'SELECT ''yes''';
CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT ''yes''';
CREATE FUNCTION evil.nextval(regclass) RETURNS int8 LANGUAGE sql AS 'SELECT 1::int8';
CREATE FUNCTION evil.pg_current_xact_id() RETURNS xid8 LANGUAGE sql AS $$SELECT '1'::xid8$$;
CREATE FUNCTION evil.to_regclass(text) RETURNS regclass LANGUAGE sql AS 'SELECT NULL::regclass';
CREATE FUNCTION evil.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE sql
    AS 'SELECT $1[1] WHERE false';
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql
    AS $$SELECT 'epoch'::timestamptz$$;
CREATE FUNCTION evil.never(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION evil.never(name, text) RETURNS bool LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION evil.never(int8, int8) RETURNS bool LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION evil.never(oid, oid) RETURNS bool LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION evil.zero(int8, int8) RETURNS int8 LANGUAGE sql AS 'SELECT 0::int8';
CREATE FUNCTION evil.zero(int8, int) RETURNS int8 LANGUAGE sql AS 'SELECT 0::int8';
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.never);
CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = text, FUNCTION = evil.never);
CREATE OPERATOR evil.= (LEFTARG = int8, RIGHTARG = int8, FUNCTION = evil.never);
CREATE OPERATOR evil.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = evil.never);
CREATE OPERATOR evil.& (LEFTARG = int8, RIGHTARG = int8, FUNCTION = evil.zero);
CREATE OPERATOR evil.| (LEFTARG = int8, RIGHTARG = int8, FUNCTION = evil.zero);
CREATE OPERATOR evil.>> (LEFTARG = int8, RIGHTARG = int, FUNCTION = evil.zero);
CREATE OPERATOR evil.<< (LEFTARG = int8, RIGHTARG = int, FUNCTION = evil.zero);
CREATE VIEW evil.pg_locks AS SELECT * FROM pg_catalog.pg_locks WHERE false;
CREATE VIEW evil.pg_settings AS SELECT * FROM pg_catalog.pg_settings WHERE false;
CREATE VIEW evil.pg_database AS SELECT * FROM pg_catalog.pg_database WHERE false;
CREATE TABLE public.pg_locks ();
CREATE CAST (int8 AS text) WITH INOUT AS IMPLICIT;
CREATE CAST (int4 AS text) WITH INOUT AS IMPLICIT;
CREATE CAST (text AS int8) WITH INOUT AS IMPLICIT;
CREATE CAST (text AS int4) WITH INOUT AS IMPLICIT;
"""
# Types, too: a cast to `text` finds the first one in the search path.
SHADOW_TYPES = """
CREATE TYPE evil.text AS (one int, two int);
CREATE DOMAIN evil.int8 AS pg_catalog.int8 CHECK (VALUE = 0);
CREATE DOMAIN evil.oid AS pg_catalog.oid CHECK (VALUE = 0);
CREATE DOMAIN evil.pg_lsn AS pg_catalog.pg_lsn;
"""
# What is too odd to go with all the rest.
ODDITIES: dict[str, tuple[dict[str, str], str]] = {
    "an error ends the session": ({"exit_on_error": "on"}, ""),
    # Not 64 kB: that is as much as the locks of other tests on this server, which pg_locks lists.
    "no temporary files": ({"temp_file_limit": "0", "work_mem": "1MB"}, ""),
    "types of the same names": (
        {"search_path": "evil, public, pg_catalog"},
        f"CREATE SCHEMA evil; {SHADOW_TYPES}",
    ),
}


@contextmanager
def hostile_role(
    server: Server, settings: Mapping[str, str] = SETTINGS, prepare: str = SHADOWS
) -> Iterator[str]:
    """Make a role with `settings` in a database that `prepare` was run in; yield its DSN.

    Most of the settings are the role's, some the database's. The role may make a schema.
    """
    with fresh_database(server) as superuser, plain_role(superuser) as (role, dsn):
        database = sql.Identifier(conninfo_to_dict(superuser)["dbname"])
        with connect(superuser) as session:
            session.execute(prepare or "SELECT 1")
            session.execute(
                sql.SQL("GRANT ALL ON SCHEMA public TO {}").format(sql.Identifier(role))
            )
            if "evil" in prepare:
                session.execute(
                    sql.SQL("GRANT USAGE ON SCHEMA evil TO {}").format(sql.Identifier(role))
                )
            session.execute(
                sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, sql.Identifier(role))
            )
            for name, value in known(session, settings).items():
                whose = sql.SQL("ROLE {}").format(sql.Identifier(role))
                if name in OF_THE_DATABASE:
                    whose = sql.SQL("DATABASE {}").format(database)
                session.execute(
                    sql.SQL("ALTER {} SET {} = {}").format(
                        whose, sql.SQL(name), value_of(name, value)
                    )
                )
        yield make_conninfo(dsn, application_name=f"hostile-{secrets.token_hex(4)}")


def known(session: psycopg.Connection[object], settings: Mapping[str, str]) -> dict[str, str]:
    """Those that this version of the server has, or that an extension will bring."""
    names = {str(name) for (name,) in session.execute("SELECT name FROM pg_settings")}
    return {name: value for name, value in settings.items() if name in names or "." in name}


def value_of(name: str, value: str) -> sql.Composable:
    """A setting's value as ALTER has it: a list must not be quoted as a whole."""
    return sql.SQL(value) if name == "search_path" else sql.Literal(value)
