"""The locks whose keys are the same everywhere. Pure; one entry a lock, by tool."""

from __future__ import annotations

from typing import Final

from advlock._catalogue._entry import Fixed
from advlock._key import Key

_CODER: Final = "coder/coder@0196944:coderd/database/lock.go"
_N8N: Final = "n8n-io/n8n@1a259c4:packages/@n8n/db/src/services/db-lock.service.ts"
_PARTMAN: Final = "pgpartman/pg_partman@83c22e3:sql/"
_HATCHET: Final = "hatchet-dev/hatchet@89d130f:pkg/repository/"
_CONCOURSE: Final = "concourse/concourse@95872ce:atc/db/lock/lock.go"
_CONCOURSE_TRACES: Final = ("resource_configs",)


def _fixed(  # noqa: PLR0913, PLR0917 - the columns of a table, in the order people read them
    tool: str,
    key: int,
    meaning: str,
    source: str,
    traces: tuple[str, ...] = (),
    witness: str = "",
    how: str = "",
) -> Fixed:
    written = f"{how} = {key}" if how else str(key)
    return Fixed(tool, written, meaning, source, traces, witness, value=Key.of(key))


def _partman(key: int, text: str, meaning: str, path: str) -> Fixed:
    traces, how = ("extension:pg_partman",), f"hashtext('pg_partman {text}')"
    return _fixed("pg_partman", key, meaning, _PARTMAN + path, traces, "hashtext of a server", how)


MIGRATIONS: Final = (
    _fixed(
        "Prisma Migrate",
        72707369,
        "any prisma migrate command that changes something; one for all schemas",
        "prisma/prisma-engines@0425119:"
        "schema-engine/connectors/sql-schema-connector/src/flavour/postgres.rs",
        ("_prisma_migrations",),
        "prisma/orm#12999",
    ),
    _fixed(
        "goose",
        4097083626,
        "migration (the session locker's default; WithLockID changes it)",
        "pressly/goose@520411a:lock/session_locker_options.go",
        ("goose_db_version",),
        "computed anew",
        "crc32('goose')",
    ),
    _fixed(
        "node-pg-migrate",
        7241865325823964,
        "migration (--lock-value changes it)",
        "salsita/node-pg-migrate@55b10c2:src/runner.ts",
        ("pgmigrations",),
        "the tool, in our tests",
    ),
    _fixed(
        "Kysely",
        3853314791062309107,
        "migration",
        "kysely-org/kysely@478ec67:src/dialect/postgres/postgres-adapter.ts",
        ("kysely_migration",),
        "the tool, in our tests",
    ),
    _fixed(
        "tern",
        9628173550095224,
        "tern migrate",
        "jackc/tern@e73daa1:migrate/migrate.go",
        ("schema_version",),
    ),
    _fixed(
        "postgres-migrations",
        -8525285245963000605,
        "migration",
        "ThomWright/postgres-migrations@dbfc5cc:src/with-lock.ts",
        ("migrations",),
        "the tool, in our tests",
    ),
    _fixed(
        "Supabase Storage",
        -8525285245963000605,
        "migration of a tenant",
        "supabase/storage@4fa61fb:src/internal/database/migrations/migrate.ts",
        ("storage.migrations",),
    ),
    _fixed(
        "Supabase Storage",
        -8575985245963001000,
        "migration of the database of tenants",
        "supabase/storage@4fa61fb:src/internal/database/migrations/migrate.ts",
        (),
        "the source says …963000605, which JavaScript sends as …963001000",
    ),
    _fixed(
        "Sqitch",
        75474063,
        "sqitch deploy, revert or verify",
        "sqitchers/sqitch@0ab857e:lib/App/Sqitch/Engine/pg.pm",
        ("sqitch.changes",),
    ),
    _fixed(
        "pgroll",
        12388221127840347,
        "set-up of its own schema",
        "xataio/pgroll@cdbe9b0:pkg/state/state.go",
        ("pgroll.migrations",),
    ),
    _fixed(
        "Atlas",
        2686470616,
        "atlas migrate apply (--lock-name changes it)",
        "ariga/atlas@a5e0aec:cmd/atlas/internal/cmdapi/migrate.go",
        ("atlas_schema_revisions",),
        "ariga/atlas#2447",
        "fnv1_32('atlas_migrate_execute')",
    ),
    _fixed(
        "Atlas",
        361947982,
        "atlas migrate diff, in the development database",
        "ariga/atlas@a5e0aec:cmd/atlas/internal/cmdapi/cmdapi.go",
        (),
        "computed anew",
        "fnv1_32('atlas_migrate_diff')",
    ),
)

BACKUPS: Final = (
    _fixed(
        "pgBackRest",
        12340078987004321,
        "backup; one at a time in the whole cluster",
        "pgbackrest/pgbackrest@bd22b68:src/db/db.c",
    ),
    _fixed(
        "WAL-G",
        -1010065801,
        "backup-push",
        "wal-g/wal-g@43fb039:internal/databases/postgres/query_runner.go",
        (),
        "hashtext of a server",
        "hashtext('pg_backup')",
    ),
    _fixed(
        "WAL-G for Greenplum",
        771584809,
        "backup-push",
        "wal-g/wal-g@43fb039:internal/databases/greenplum/query_runner.go",
        (),
        "hashtext of a server",
        "hashtext('gp_backup')",
    ),
)

APPLICATIONS: Final = (
    _fixed(
        "Apache Airflow",
        1,
        "migration of its own tables",
        "apache/airflow@000d385:airflow-core/src/airflow/utils/db.py",
        ("dag_run",),
    ),
    _fixed(
        "Apache Airflow",
        2,
        "critical section of the scheduler",
        "apache/airflow@000d385:airflow-core/src/airflow/utils/db.py",
        ("dag_run",),
    ),
    _fixed(
        "Mage",
        1,
        "migration of its own tables",
        "mage-ai/mage-ai@5640c79:mage_ai/orchestration/db/database_manager.py",
        ("pipeline_run",),
    ),
    _fixed(
        "SpiceDB",
        1,
        "garbage collection",
        "authzed/spicedb@96ab966:internal/datastore/postgres/locks.go",
        ("relation_tuple",),
    ),
    _fixed(
        "SpiceDB",
        2,
        "revision heartbeat",
        "authzed/spicedb@96ab966:internal/datastore/postgres/locks.go",
        ("relation_tuple",),
    ),
    *(
        _fixed("Coder", number, meaning, _CODER, ("workspace_builds",))
        for number, meaning in enumerate(
            (
                "set-up of a deployment",
                "set-up of an enterprise deployment",
                "roll-up of statistics",
                "purge of old rows",
                "report of notifications",
                "rotation of cryptographic keys",
                "reconciliation of prebuilt workspaces",
                "reconciliation of system roles",
                "statistics of boundary usage",
                "cron of chat automations",
            ),
            start=1,
        )
    ),
    _fixed(
        "graph-node",
        1,
        "migration of its own tables",
        "graphprotocol/graph-node@0888b93:store/postgres/src/advisory_lock.rs",
        ("deployment_schemas",),
    ),
    _fixed("Concourse", 5, "migration of its own tables", _CONCOURSE, _CONCOURSE_TRACES),
    _fixed("Concourse", 6, "scan of resources", _CONCOURSE, _CONCOURSE_TRACES),
    _fixed("n8n", 1001, "synchronisation of roles", _N8N, ("workflow_entity",)),
    _fixed("n8n", 1002, "refresh of trusted keys", _N8N, ("workflow_entity",)),
    _fixed("n8n", 1003, "compaction of insights", _N8N, ("workflow_entity",)),
    _fixed("n8n", 9999, "its own integration tests", _N8N, ("workflow_entity",)),
    _fixed(
        "authentik",
        1000,
        "migration of its own tables",
        "goauthentik/authentik@02976a4:lifecycle/migrate.py",
        ("authentik_core_user",),
        "goauthentik/authentik#23876",
    ),
    _fixed(
        "DBOS Transact",
        1234567890,
        "migration of its own tables; after 30 s it goes on without the lock",
        "dbos-inc/dbos-transact-py@6bc3032:dbos/_sys_db_postgres.py",
        ("dbos.workflow_status",),
    ),
    _fixed(
        "Marten",
        4004,
        "change of its own tables (ApplyChangesLockId)",
        "JasperFx/marten@c921fa5:src/Marten/StoreOptions.cs",
        ("mt_events", "mt_streams"),
    ),
    _fixed(
        "Marten",
        4444,
        "asynchronous daemon with several databases (DaemonLockId)",
        "JasperFx/jasperfx@4ee0695:src/JasperFx.Events/Daemon/DaemonSettings.cs",
        ("mt_events", "mt_streams"),
    ),
    _fixed(
        "Marten",
        41730001,
        "assignment of tenants to databases (ShardedTenancy)",
        "JasperFx/marten@c921fa5:src/Marten/Storage/ShardedTenancy.cs",
        ("mt_events", "mt_streams"),
    ),
    _fixed(
        "Wolverine",
        4006,
        "change of its own tables (MigrationLockId)",
        "JasperFx/wolverine@a4b6f5b:"
        "src/Persistence/Wolverine.Postgresql/PostgresqlBackedPersistence.cs",
        ("wolverine_nodes",),
    ),
    _fixed(
        "Supabase Auth",
        -810842502,
        "creation of indexes",
        "supabase/auth@bc32168:internal/indexworker/indexworker.go",
        ("auth.audit_log_entries",),
        "hashtext of a server",
        "hashtext('auth_index_worker')",
    ),
    _fixed(
        "Hatchet",
        5705964304097144966,
        "analysis of the tables of its statistics",
        _HATCHET + "olap.go",
        ("v1_step_concurrency",),
        "computed anew",
        "fnv1a_64('analyze-olap-tables')",
    ),
    _fixed(
        "Hatchet",
        7994014188390416643,
        "analysis of the tables of its tasks",
        _HATCHET + "task.go",
        ("v1_step_concurrency",),
        "computed anew",
        "fnv1a_64('analyze-task-tables')",
    ),
    _fixed(
        "Terraform",
        -1,
        "creation of a workspace",
        "hashicorp/terraform@883c722:internal/backend/remote-state/pg/client.go",
        ("global_states_id_seq",),
    ),
)

EXTENSIONS: Final = (
    _partman(-988976779, "run_maintenance", "run_maintenance()", "functions/run_maintenance.sql"),
    _partman(
        -264774437,
        "drop_partition_time",
        "drop_partition_time()",
        "functions/drop_partition_time.sql",
    ),
    _partman(
        487439991, "drop_partition_id", "drop_partition_id()", "functions/drop_partition_id.sql"
    ),
    _partman(-1869749899, "undo_partition", "undo_partition()", "functions/undo_partition.sql"),
    _partman(
        -1853951700,
        "run_maintenance procedure",
        "run_maintenance_proc()",
        "procedures/run_maintenance_proc.sql",
    ),
    _partman(
        -796481577,
        "reapply_constraints",
        "reapply_constraints_proc()",
        "procedures/reapply_constraints_proc.sql",
    ),
    _partman(-2081281770, "run_analyze", "run_analyze()", "procedures/run_analyze.sql"),
)

FIXED: Final = (*MIGRATIONS, *BACKUPS, *APPLICATIONS, *EXTENSIONS)
