"""The locks that have the number of a row, a table or a name in their keys. Pure.

Such a number says little by itself, so what is said of it is a guess, and most guesses are made
only where the tool's tables are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from advlock import _hash
from advlock._catalogue import _hashes
from advlock._catalogue._computed import FLYWAY
from advlock._catalogue._entry import Computed, PerRow
from advlock._catalogue._named import short_name
from advlock._key import Key

if TYPE_CHECKING:
    from advlock._catalogue._entry import Made
    from advlock._catalogue._facts import Facts

_WORD: Final = 0xFFFFFFFF
_MOST_ROWS: Final = 1 << 40  # more than any sequence has counted to
_REPACK: Final = 16185446
_PARTMAN: Final = {
    _hash.hashtext(b"pg_partman partition_data_proc"): "partition_data_proc()",
    _hash.hashtext(b"pg_partman undo_partition_proc"): "undo_partition_proc()",
}
_SOURCEGRAPH: Final = {
    _hashes.signed32(_hashes.fnv1_32(name.encode())): name
    for name in ("autoupgrade", "batches_apply", "codeintel")
}
_CONCOURSE: Final = {
    0: "check of resource configuration {}",
    1: "build {}",
    2: "task whose name has the crc32 {}",
    3: "creation of volume {}",
    7: "scheduling of job {}",
    8: "check in memory, crc32 {}",
    9: "get of a resource, crc32 of its name {}",
    10: "streaming of a volume, crc32 {}",
}
_GRAPH: Final = {1: "copy of deployment {}", 2: "write to deployment {}", 3: "prune of {}"}
_HATCHET_PARENT: Final = 10**12
_HATCHET_STRATEGY: Final = 10**6
# phash2 ends at 2^27, and Oban adds two of them. Small numbers are anybody's.
_PHASH: Final = range(1 << 20, 1 << 27)
_TWO_PHASHES: Final = range(1 << 20, 1 << 28)

Guess = tuple[str, bool] | None


def _halves(key: Key) -> tuple[int, int]:
    """Return both numbers of a pair, signed."""
    return _hashes.signed32(key.classid), _hashes.signed32(key.objid)


def _que(key: Key, _facts: Facts) -> Guess:
    return None if not 0 < key.value < _MOST_ROWS else (f"row {key.value}", False)


def _terraform(key: Key, _facts: Facts) -> Guess:
    return None if not 0 < key.value <= _WORD else (f"row {key.value}", False)


def _hatchet(key: Key, _facts: Facts) -> Guess:
    if not 0 < key.value < _MOST_ROWS * 2:
        return None
    parent = key.value - _HATCHET_PARENT
    if parent > 0:
        return f"parent strategy {parent}", False
    strategy, sort = divmod(key.value, _HATCHET_STRATEGY)
    return (f"strategy {strategy}, workflow {sort}" if strategy else f"strategy {sort}"), False


def _graph_node(key: Key, _facts: Facts) -> Guess:
    first, second = _halves(key)
    if first not in _GRAPH or second <= 0:
        return None
    return _GRAPH[first].format(second), False


def _concourse(key: Key, _facts: Facts) -> Guess:
    first, second = _halves(key)
    if first not in _CONCOURSE:
        return None
    return _CONCOURSE[first].format(second), False


def _commanded(key: Key, facts: Facts) -> Guess:
    table = facts.by_oid.get(key.classid)
    if table is None or table.name != "subscriptions":
        return None
    store = facts.any([f"{table.schema}.stream_events"])
    return f"row {key.objid} of {table}", store


def _repack(key: Key, facts: Facts) -> Guess:
    first, second = _halves(key)
    if first != _REPACK:
        return None
    # It adds -2147483648 to an oid to make a signed integer of it.
    oid = second + (1 << 31)
    table = facts.by_oid.get(oid)
    return (f"table with the oid {oid}", False) if table is None else (f"table {table}", True)


def _partman(key: Key, _facts: Facts) -> Guess:
    first, _ = _halves(key)
    if first not in _PARTMAN:
        return None
    return f"{_PARTMAN[first]} of a table that is not in sight", False


def _partman_parents(facts: Facts) -> Made:
    for table in facts.tables:
        data = facts.bytes(str(table)) if table.partitioned else None
        if data is not None:
            for first, what in _PARTMAN.items():
                yield Key.of((first, _hash.hashtext(data))), f"{what} of {table}"


def _sourcegraph(key: Key, _facts: Facts) -> Guess:
    first, second = _halves(key)
    if first not in _SOURCEGRAPH:
        return None
    return f"{_SOURCEGRAPH[first]} {second}", False


def _flyway(key: Key, _facts: Facts) -> Guess:
    if not -(1 << 31) <= key.value - FLYWAY < 1 << 31:
        return None
    return "history table that is not in sight", False


def _ecto(key: Key, _facts: Facts) -> Guess:
    return None if key.value not in _PHASH else ("perhaps, by its range", False)


def _oban(key: Key, _facts: Facts) -> Guess:
    return None if key.value not in _TWO_PHASHES else ("perhaps, by its range", False)


def _distributed(key: Key, _facts: Facts) -> Guess:
    name = short_name(key)
    return None if name is None else (f"name {name!r}", False)


PARENTS: Final = Computed(
    "pg_partman",
    "(hashtext('pg_partman ' procedure), hashtext(parent table))",
    "partitioning of one table",
    "pgpartman/pg_partman@83c22e3:sql/procedures",
    ("extension:pg_partman",),
    "hashtext of a server",
    make=_partman_parents,
)

PER_ROW: Final = (
    PerRow(
        "pg_repack",
        "(16185446, oid of the table - 2147483648)",
        "pg_repack",
        "reorg/pg_repack@ceda969:bin/pg_repack.c",
        pair=True,
        guess=_repack,
    ),
    PerRow(
        "pg_partman",
        "(hashtext('pg_partman ' procedure), hashtext(parent table))",
        "partitioning of one table",
        "pgpartman/pg_partman@83c22e3:sql/procedures",
        pair=True,
        guess=_partman,
    ),
    PerRow(
        "Commanded EventStore",
        "(oid of schema.subscriptions, subscription_id)",
        "one subscriber of a subscription",
        "commanded/eventstore@ccf2726:lib/event_store/sql/statements/try_advisory_lock.sql.eex",
        pair=True,
        guess=_commanded,
    ),
    PerRow(
        "Sourcegraph",
        "(fnv1_32(namespace), number)",
        "lock of one of its namespaces",
        "sourcegraph/sourcegraph-public-snapshot@0331303:internal/database/locker/locker.go",
        pair=True,
        guess=_sourcegraph,
    ),
    PerRow(
        "Flyway",
        "77431708279161 ± 2^31",
        "migration",
        "flyway/flyway@c5e20fc:flyway-database/flyway-database-postgresql/src/main/java/"
        "org/flywaydb/database/postgresql/PostgreSQLAdvisoryLockTemplate.java",
        pair=False,
        guess=_flyway,
    ),
    PerRow(
        "DistributedLock (.NET)",
        "a pair that is the spelling of up to 9 characters",
        "PostgresDistributedLock",
        "madelson/DistributedLock@3da3eaf:src/DistributedLock.Postgres/PostgresAdvisoryLockKey.cs",
        pair=True,
        guess=_distributed,
    ),
    PerRow(
        "Que",
        "que_jobs.id",
        "a running job",
        "que-rb/que@17fb2c3:lib/que/locker.rb",
        ("que_jobs",),
        pair=False,
        guess=_que,
    ),
    PerRow(
        "Terraform or OpenTofu",
        "states.id",
        "state of a workspace",
        "hashicorp/terraform@883c722:internal/backend/remote-state/pg/client.go",
        ("global_states_id_seq", "terraform_remote_state.states"),
        pair=False,
        guess=_terraform,
    ),
    PerRow(
        "graph-node",
        "(1, 2 or 3; deployment)",
        "work on a subgraph",
        "graphprotocol/graph-node@0888b93:store/postgres/src/advisory_lock.rs",
        ("deployment_schemas",),
        pair=True,
        guess=_graph_node,
    ),
    PerRow(
        "Concourse",
        "(0, 1, 2, 3, 7, 8, 9 or 10; id or crc32)",
        "its own work",
        "concourse/concourse@95872ce:atc/db/lock/lock.go",
        ("resource_configs",),
        pair=True,
        guess=_concourse,
    ),
    PerRow(
        "Hatchet",
        "strategy, 10^6 * strategy + workflow, or 10^12 + parent strategy",
        "concurrency of a strategy",
        "hatchet-dev/hatchet@89d130f:pkg/repository/scheduler_concurrency.go",
        ("v1_step_concurrency",),
        pair=False,
        guess=_hatchet,
    ),
    PerRow(
        "Ecto",
        "phash2({ecto, prefix, repo})",
        "migration (migration_lock: :pg_advisory_lock)",
        "elixir-ecto/ecto_sql@5e45b43:lib/ecto/adapters/postgres.ex",
        ("schema_migrations(inserted_at)",),
        pair=False,
        guess=_ecto,
    ),
    PerRow(
        "Oban",
        "phash2(prefix) + phash2([keys, states, query])",
        "insertion of a unique job",
        "oban-bg/oban@2939e31:lib/oban/engines/basic.ex",
        ("oban_jobs",),
        pair=False,
        guess=_oban,
    ),
)
