"""What no lock can prevent: the server lets go while the holder is cut off from it.

Then the holder believes until its trust ends, and not longer; the fencing token does the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from advlock._liveness import Bounds

from .history import check
from .scene import Scene, scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import Server

LIVENESS = 5.0  # the successor has to come while the holder believes
SLACK = 0.2  # seconds, between two looks of a worker on a busy machine


@pytest.fixture
def stage(server: Server, tmp_path: Path) -> Iterator[Scene]:
    """A server that a holder can be cut off from."""
    if server.cluster is None:
        pytest.skip("the binaries of the server of ADVLOCK_TEST_DSN are out of reach")
    with scene(server.cluster.bindir, tmp_path) as made:
        yield made


def terminated_behind_a_cut_network(stage: Scene) -> None:
    """No packet passes, and an administrator ends the session."""
    stage.network.cut()
    stage.terminate_holder()


def restarted_behind_a_cut_network(stage: Scene) -> None:
    """No packet passes, and the server crashes."""
    stage.network.cut()
    stage.pair.restart("immediate")


def reset_on_the_server_side_only(stage: Scene) -> None:
    """What is between them hangs up on the server, and says nothing to the holder."""
    stage.proxy.strike("reset", "up", scope="present")


def terminated_behind_a_slow_network(stage: Scene) -> None:
    """An administrator ends the session, and the news takes its time."""
    stage.proxy.strike("delay", "down", 1.5, 0.0, scope="present")
    stage.terminate_holder()


def closed_on_the_server_side_only(stage: Scene) -> None:
    """The server reads the end of the stream, and what it says then gets lost."""
    stage.proxy.strike("drop", "down", scope="present")
    stage.proxy.strike("half-close", "up", scope="present")


@pytest.mark.parametrize(
    ("cut_off", "way", "world"),
    [
        (terminated_behind_a_cut_network, "far", "sync"),
        (terminated_behind_a_cut_network, "far", "async"),
        (restarted_behind_a_cut_network, "far", "async"),
        (terminated_behind_a_slow_network, "proxied", "sync"),
        (reset_on_the_server_side_only, "proxied", "sync"),
        (closed_on_the_server_side_only, "proxied", "async"),
    ],
)
def test_the_overlap_is_bounded_and_the_token_stops_late_writes(
    stage: Scene, cut_off: Callable[[Scene], None], way: str, world: str
) -> None:
    """Both believe, for no longer than trust lasts; the token of the old one is refused."""
    bound = f"--liveness={LIVENESS}"
    holder = stage.enter(way, world, bound)
    stage.await_event("token", holder)
    successor = stage.enter("direct", "sync", bound)
    stage.await_waiter()
    cut_off(stage)
    stage.await_event("token", successor)
    stage.await_event("lost", holder)

    found = check(stage.history.holds())
    (overlap,) = found
    assert overlap.kind == "overlap", found
    assert (overlap.earlier.worker, overlap.later.worker) == (holder.name, successor.name)
    assert 0 < overlap.seconds < Bounds(LIVENESS).trust + SLACK
    _late_write_is_refused(stage, overlap.earlier.token or 0, overlap.later.token or 0)


def _late_write_is_refused(stage: Scene, old: int, new: int) -> None:
    """The table does what the lock cannot."""
    write = "UPDATE account SET balance = %(value)s, fence = %(token)s WHERE fence < %(token)s"
    with stage.pair.connect() as session:
        session.execute("CREATE TEMPORARY TABLE account AS SELECT 0 AS balance, 0::bigint AS fence")
        early = session.execute(write, {"value": 1, "token": old}).rowcount
        in_time = session.execute(write, {"value": 2, "token": new}).rowcount
        late = session.execute(write, {"value": 3, "token": old}).rowcount
        assert (early, in_time, late) == (1, 1, 0)
        assert session.execute("SELECT balance FROM account").fetchone() == (2,)
