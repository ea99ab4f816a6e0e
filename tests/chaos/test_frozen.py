"""A process is stopped, the server lets go, another is granted the lock, and the process goes on.

Its trust has not run out yet, so the clock cannot tell it; its socket can, at the first look.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from waiting import eventually

from advlock._liveness import Bounds

from .history import check
from .scene import scene

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Server

LIVENESS = 5.0
BOUNDS = Bounds(LIVENESS)


@pytest.mark.parametrize("world", ["sync", "async"])
@pytest.mark.parametrize(
    "how",
    [
        "idle",
        "asking",
        "goodbye",
        "asking goodbye",
        "curious asking",
        "curious asking goodbye",
    ],
)
def test_the_first_look_after_a_stop_sees_what_the_server_did(
    server: Server, tmp_path: Path, world: str, how: str
) -> None:
    """Also when it waited for an answer, and when the server has said goodbye but not hung up.

    The answer is one to a heartbeat, or else to what another thread or task has asked.
    A server that ends a session says so, then frees its locks, and hangs up last.
    """
    if server.cluster is None:
        pytest.skip("the binaries of the server of ADVLOCK_TEST_DSN are out of reach")
    bound = [f"--liveness={LIVENESS}"]
    curious = ["--curious"] if "curious" in how else []
    with scene(server.cluster.bindir, tmp_path) as stage:
        holder = stage.enter("proxied", world, *bound, *curious)
        stage.await_event("token", holder)
        successor = stage.enter("direct", world, *bound)
        stage.await_waiter()
        if "goodbye" in how:
            stage.proxy.strike("linger", "down", scope="present")
        if "asking" in how:  # with a goodbye: that comes in one piece with the answer
            stage.proxy.strike("freeze", "down", scope="present")
            time.sleep(1.5 * BOUNDS.heartbeat)  # until it has asked, and waits
        stopped_at = time.monotonic()
        stage.crew.freeze(holder)
        stage.proxy.heal()
        stage.terminate_holder()
        stage.await_event("token", successor)
        eventually(stage.proxy.ended, message="the proxy did not pass the server's goodbye on")
        assert time.monotonic() - stopped_at < 0.3 * BOUNDS.trust, "it is the clock that will tell"
        stage.crew.thaw(holder)
        stage.await_event("lost", holder)
        assert check(stage.history.holds()) == []
