"""The locks whose keys follow from names that a database has. Pure.

Where a tool's table can be made by the tool itself, under that very lock, its key is computed for
every schema under the table's usual name, too: the first migration is a lock like any other.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from advlock import _hash
from advlock._catalogue import _hashes
from advlock._catalogue._entry import Computed
from advlock._catalogue._phash2 import phash2
from advlock._key import Key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advlock._catalogue._entry import Made
    from advlock._catalogue._facts import Facts

_RAILS: Final = 2053462845
_SQLX: Final = 0x3D32AD9E
_GOLANG: Final = 1486364155
FLYWAY: Final = 77431708279161  # 0x466C79776179, "Flyway"
_TERRAFORM_SCHEMA: Final = "terraform_remote_state"
_BOSS_KEYS: Final = ("", "create-queue", "delete-queue", "queue-stats", "queue-stats-insert")
_BOSS_TABLE_KEYS: Final = (
    "failJobsByTimeout",
    "failJobsByHeartbeat",
    "deletion",
    "cleanupDependencies",
)
_ENVIRONMENT: Final = re.compile(r"_(?:dev|test\d*|prod|production|staging|repo)$")
_ECTO_TESTS: Final = "its own tests (integration_test/pg/migrations_test.exs)"
_SLOT: Final = "electric_slot_"
_PUBLICATION: Final = "electric_publication_"


def utf8(text: str) -> bytes:
    """Return what a client hashes by itself: UTF-8, also of what is no text."""
    return text.encode("utf-8", "surrogatepass")


def _tables(facts: Facts, usual: str, *endings: str) -> Iterator[tuple[str, str]]:
    """Every schema with a table's usual name, and every table with a name that ends like one."""
    yield from dict.fromkeys(
        [
            *((schema, usual) for schema in facts.schemas),
            *((table.schema, table.name) for table in facts.named(usual, *endings)),
        ]
    )


def _hashtext(facts: Facts, text: str) -> Key | None:
    """Make the key that the server makes of a text; None if it has no such text."""
    data = facts.bytes(text)
    return None if data is None else Key.of(_hash.hashtext(data))


def _rails(facts: Facts) -> Made:
    if facts.database:
        yield Key.of(_RAILS * _hashes.crc32(utf8(facts.database))), ""


def _sqlx(facts: Facts) -> Made:
    if facts.database:
        yield Key.of(_SQLX * _hashes.crc32(utf8(facts.database))), ""


def _grafana(facts: Facts) -> Made:
    if facts.database:
        yield Key.of(_hashes.crc32(utf8(facts.database)) * _GOLANG & 0xFFFFFFFF), ""


def _golang_migrate(facts: Facts) -> Made:
    for schema, table in _tables(facts, "schema_migrations", "migrations"):
        data = utf8(f"{schema}\0{table}\0{facts.database}")
        yield Key.of(_hashes.crc32(data) * _GOLANG & 0xFFFFFFFF), f"{schema}.{table}"


def _flyway(facts: Facts) -> Made:
    for schema, table in _tables(facts, "flyway_schema_history", "schema_history", "flyway"):
        quoted = ".".join('"' + name.replace('"', '""') + '"' for name in (schema, table))
        yield Key.of(FLYWAY + _hashes.java(quoted)), f"{schema}.{table}"


def _liquibase(facts: Facts) -> Made:
    names = {"DATABASECHANGELOGLOCK", "databasechangeloglock"}
    names |= {table.name for table in facts.named("databasechangeloglock")}
    for schema in facts.schemas:
        for table in sorted(names):
            yield Key.of((_hashes.java(table), _hashes.java(schema))), f"{schema}.{table}"


def _pg_boss(facts: Facts) -> Made:
    jobs = {table.schema for table in facts.tables if table.name == "job"}
    for schema in sorted(jobs | {"pgboss"} if facts.database else ()):
        keys = list(_BOSS_KEYS)
        for table in facts.tables:
            if table.schema == schema:
                keys += (table.name + key for key in _BOSS_TABLE_KEYS)
        for key in keys:
            text = f"{facts.database}.pgboss.{schema}{key}"
            data = facts.bytes(text)
            # The text is cast to bytea, which takes a backslash for the start of an escape.
            if data is not None and "\\" not in text:
                of = f"schema {schema}" + (f", {key}" if key else "")
                yield Key.of(_hashes.digest("sha224", data, "big")), of


def _pgmq(facts: Facts) -> Made:
    for table in facts.tables:
        if table.schema == "pgmq" and table.name.startswith("q_"):
            queue = table.name.removeprefix("q_")
            key = _hashtext(facts, f"pgmq.queue_{queue}")
            if key is not None:
                yield key, f"queue {queue}"


def _pgqueuer_names(facts: Facts, usual: str) -> Iterator[str]:
    found = facts.named(usual)
    yield from dict.fromkeys([usual, *(t.name for t in found), *(str(t) for t in found)])


def _pgqueuer_statistics(facts: Facts) -> Made:
    for name in _pgqueuer_names(facts, "pgqueuer_statistics"):
        key = _hashtext(facts, name)
        if key is not None:
            yield key, name


def _pgqueuer_upgrade(facts: Facts) -> Made:
    for name in _pgqueuer_names(facts, "pgqueuer"):
        yield Key.of(_hashes.crc32(utf8(name))), name


def _opentofu(facts: Facts) -> Made:
    places = {(_TERRAFORM_SCHEMA, "states")}
    places |= {(table.schema, table.name) for table in facts.tables if table.name == "states"}
    for schema, table in sorted(places):
        yield Key.of(-_hashes.fnv1_32(utf8(f"{schema}\0{table}"))), f"{schema}.{table}"


def _electric(facts: Facts) -> Made:
    slots = {_SLOT + "default"}
    for name in facts.publications:
        if name.startswith(_PUBLICATION):
            slots.add(_SLOT + name.removeprefix(_PUBLICATION))
    for slot in sorted(slots):
        key = _hashtext(facts, slot)
        if key is not None:
            yield key, slot


def _wolverine_leader(facts: Facts) -> Made:
    for schema in facts.schemas:
        yield Key.of(_hashes.dotnet(schema)), f"schema {schema}"


def _wolverine_jobs(facts: Facts) -> Made:
    for schema in facts.schemas:
        yield Key.of(_hashes.dotnet(f"{schema}:scheduled-jobs")), f"schema {schema}"


def _ecto(facts: Facts) -> Made:
    # `mix phx.new my_app` makes the module MyApp.Repo and the databases my_app_dev, my_app_test, …
    app = _ENVIRONMENT.sub("", facts.database)
    if app.isascii() and app.isidentifier():
        repo = "".join(word.capitalize() for word in app.split("_")) + ".Repo"
        yield ecto(repo), repo


def ecto(repo: str) -> Key:
    """Return the key that Ecto makes of a repository's module, such as `MyApp.Repo`."""
    return Key.of(phash2("ecto", "nil", f"Elixir.{repo}"))


_GO_MIGRATE: Final = "golang-migrate/migrate@18966c7:database/util.go"
_WOLVERINE: Final = "JasperFx/wolverine@a4b6f5b:src/Persistence/Wolverine.Postgresql/"
_PGQUEUER: Final = "janbjorge/pgqueuer@12b99d9:pgqueuer/adapters/persistence/"

COMPUTED: Final = (
    Computed(
        "Rails",
        "2053462845 * crc32(current_database())",
        "migration",
        "rails/rails@2a2db1e:activerecord/lib/active_record/migration.rb",
        ("ar_internal_metadata",),
        make=_rails,
    ),
    Computed(
        "sqlx",
        "0x3d32ad9e * crc32(current_database())",
        "migration",
        "launchbadge/sqlx@9d6bf66:sqlx-postgres/src/migrate.rs",
        ("_sqlx_migrations",),
        "element-hq/matrix-authentication-service#5297",
        make=_sqlx,
    ),
    Computed(
        "golang-migrate",
        "(crc32(schema '\\0' table '\\0' current_database()) * 1486364155) mod 2^32",
        "migration",
        _GO_MIGRATE,
        ("schema_migrations(dirty)",),
        "its own tests (database/util_test.go)",
        make=_golang_migrate,
    ),
    Computed(
        "Ecto",
        "phash2({ecto, nil, repo}), the repo being MyApp.Repo in a database my_app…",
        "migration (migration_lock: :pg_advisory_lock)",
        "elixir-ecto/ecto_sql@5e45b43:lib/ecto/adapters/postgres.ex",
        ("schema_migrations(inserted_at)",),
        _ECTO_TESTS,
        make=_ecto,
    ),
    Computed(
        "Grafana",
        "(crc32(current_database()) * 1486364155) mod 2^32",
        "migration of its own tables",
        "grafana/grafana@016e76c:pkg/services/sqlstore/migrator",
        ("migration_log",),
        "the same function as golang-migrate's",
        make=_grafana,
    ),
    Computed(
        "Flyway",
        '77431708279161 + String.hashCode(\'"schema"."table"\')',
        "migration",
        "flyway/flyway@c5e20fc:flyway-database/flyway-database-postgresql/src/main/java/"
        "org/flywaydb/database/postgresql/PostgreSQLAdvisoryLockTemplate.java",
        ("flyway_schema_history",),
        "hashCode by Java itself; flyway/flyway#1654 has a value of this family",
        make=_flyway,
    ),
    Computed(
        "liquibase-sessionlock",
        "(String.hashCode(table), String.hashCode(schema))",
        "migration",
        "blagerweij/liquibase-sessionlock@135aa45:"
        "src/main/java/com/github/blagerweij/sessionlock/PGLockService.java",
        ("DATABASECHANGELOGLOCK", "databasechangeloglock"),
        "hashCode by Java itself",
        make=_liquibase,
    ),
    Computed(
        "pg-boss",
        "first 8 bytes of sha224(current_database() '.pgboss.' schema what)",
        "migration, queues or maintenance",
        "timgit/pg-boss@55ee32f:src/plans.ts",
        ("pgboss.job",),
        "the tool, in our tests",
        make=_pg_boss,
    ),
    Computed(
        "pgmq",
        "hashtext('pgmq.queue_' name)",
        "creation or removal of a queue",
        "pgmq/pgmq@c8575e3:pgmq-extension/sql/pgmq.sql",
        ("extension:pgmq", "pgmq.meta"),
        make=_pgmq,
    ),
    Computed(
        "pgqueuer",
        "hashtext(statistics table)",
        "aggregation of statistics",
        _PGQUEUER + "qb.py",
        ("pgqueuer_statistics",),
        "the tool, in our tests",
        make=_pgqueuer_statistics,
    ),
    Computed(
        "pgqueuer",
        "crc32(queue table)",
        "pgq upgrade",
        _PGQUEUER + "schema_plan.py",
        ("pgqueuer",),
        "the tool, in our tests",
        make=_pgqueuer_upgrade,
    ),
    Computed(
        "OpenTofu",
        "-fnv1_32(schema '\\0' table)",
        "creation of a workspace",
        "opentofu/opentofu@f831fa1:internal/backend/remote-state/pg/client.go",
        ("global_states_id_seq",),
        "computed anew",
        make=_opentofu,
    ),
    Computed(
        "Electric",
        "hashtext('electric_slot_' stream)",
        "replication; one server of several",
        "electric-sql/electric@dc07a1e:packages/sync-service/lib/electric/postgres/"
        "replication_client/connection_setup.ex",
        (),
        "hashtext of a server",
        make=_electric,
    ),
    Computed(
        "Wolverine",
        "GetDeterministicHashCode(schema)",
        "leadership",
        _WOLVERINE + "PostgresqlNodePersistence.cs",
        ("wolverine_nodes",),
        make=_wolverine_leader,
    ),
    Computed(
        "Wolverine",
        "GetDeterministicHashCode(schema ':scheduled-jobs')",
        "scheduled jobs",
        _WOLVERINE + "PostgresqlBackedPersistence.cs",
        ("wolverine_nodes",),
        make=_wolverine_jobs,
    ),
)
