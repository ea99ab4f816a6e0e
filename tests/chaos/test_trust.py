"""Packets are dropped and nothing else happens: the holder knows before the next one can have it.

Without the deadline it does not, and the checker says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from waiting import eventually

from .history import check
from .scene import scene

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Server

LIVENESS = 3.0


@pytest.mark.parametrize("world", ["sync", "async"])
@pytest.mark.parametrize("trust", [True, False], ids=["trust", "control"])
def test_dropped_packets(server: Server, tmp_path: Path, world: str, trust: bool) -> None:
    """Lost comes before granted, within the bound; a holder that does not ask overlaps."""
    if server.cluster is None:
        pytest.skip("the binaries of the server of ADVLOCK_TEST_DSN are out of reach")
    arguments = [f"--liveness={LIVENESS}", *([] if trust else ["--without-trust"])]
    with scene(server.cluster.bindir, tmp_path) as stage:
        holder = stage.enter("far", world, *arguments)
        stage.await_event("token", holder)
        successor = stage.enter("direct", world, *arguments)
        stage.await_waiter()
        stage.network.cut()
        stage.await_event("token", successor)
        if trust:
            stage.await_event("lost", holder)
            assert check(stage.history.holds()) == []
        else:
            (violation,) = eventually(lambda: check(stage.history.holds()))
            assert violation.kind == "overlap"
            assert violation.earlier.worker == holder.name
