"""The locks of extensions that have an `objsubid` of their own; PostgreSQL's are 1 and 2. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from advlock._catalogue._entry import Structural

if TYPE_CHECKING:
    from collections.abc import Callable

_CITUS: Final = "citusdata/citus@a3d5708:src/include/distributed/resource_lock.h"
_OPERATIONS: Final = {
    0: "recovery of transactions",
    1: "non-blocking split of a shard",
    2: "create_distributed_table_concurrently()",
    3: "creation of the default colocation group",
    4: "monitor of background tasks",
}


def _wide(what: str) -> Callable[[int, int], str]:
    """Say it of an id of 64 bits, whose halves are classid and objid."""
    return lambda classid, objid: f"{what} {classid << 32 | objid}"


def _colocated(classid: int, objid: int) -> str:
    return f"colocation group {objid}, shard index {classid}"


def _operation(_classid: int, objid: int) -> str:
    return _OPERATIONS.get(objid, f"operation {objid}")


def _ddl(classid: int, objid: int) -> str:
    return f"class {classid}, object {objid}"


def _job(classid: int, _objid: int) -> str:
    return f"job {classid}"


def _citus(objsubid: int, meaning: str, about: Callable[[int, int], str]) -> Structural:
    traces = ("extension:citus",)
    how = f"objsubid {objsubid}"
    return Structural("Citus", how, meaning, _CITUS, traces, objsubid=objsubid, about=about)


STRUCTURAL: Final = (
    _citus(4, "metadata of a shard", _wide("shard")),
    _citus(5, "a shard", _wide("shard")),
    _citus(6, "a job", _wide("job")),
    _citus(7, "rebalancing", _wide("colocation group or table")),
    _citus(8, "metadata of colocated shards", _colocated),
    _citus(9, "an operation", _operation),
    _citus(10, "clean-up", _wide("operation")),
    _citus(12, "logical replication, of older versions", _wide("id")),
    _citus(13, "placement of rebalanced shards", _wide("colocation group or table")),
    _citus(14, "background task", _wide("task")),
    _citus(15, "DDL, one at a time in all nodes", _ddl),
    _citus(16, "move or copy of a shard", _wide("shard")),
    Structural(
        "TimescaleDB",
        "objsubid 29749",
        "background job, up to version 2.25",
        "timescale/timescaledb@8c3dca5b5:src/utils.h",
        ("extension:timescaledb",),
        objsubid=29749,
        about=_job,
    ),
)
