"""A process whose signal handler raises in a release: `interrupted_release.py DSN NAME`.

It prints whether `Held.lost` answered, whether a thread span while all slept, and whether the lock
of another client was lost; then it ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advlock import Held, Locks
from advlock._liveness import Bounds
from advlock._wire import Wire

sys.path.insert(0, str(Path(__file__).parent.parent))

from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

LIVENESS = 3.0
AT_ONCE = 1.0


class Interruption(BaseException):
    """What a signal handler raises, as KeyboardInterrupt is raised."""


def interrupt_a_release(warm: Held, name: str) -> None:
    """Interrupt it when libpq has sent it, it is answered, and nobody has written that down."""
    send, session = Wire.send_ops, warm._ticket.session

    def interrupted(wire: Wire, ops: Any) -> None:
        Wire.send_ops = send  # type: ignore[method-assign]
        send(wire, ops)
        poll = select.poll()
        poll.register(wire.fd, select.POLLIN)
        poll.poll(5000)
        raise Interruption

    with contextlib.suppress(Interruption), warm._client.hold(name):
        Wire.send_ops = interrupted  # type: ignore[method-assign]
    eventually(lambda: not session._turn)


def answers(question: Callable[[], object]) -> bool:
    """Whether a question is answered soon."""
    asking = threading.Thread(target=question, daemon=True)
    asking.start()
    asking.join(AT_ONCE)
    return not asking.is_alive()


def main(dsn: str, name: str) -> None:
    """Interrupt, let a thread look and the watcher, and tell what happened meanwhile."""
    clients = [Locks(dsn, liveness=LIVENESS) for _ in range(3)]
    holds = [client.hold(f"{name}-{number}") for number, client in enumerate(clients)]
    looked_at, watched, bystander = (hold.__enter__() for hold in holds)
    interrupt_a_release(looked_at, name)
    answered = answers(lambda: looked_at.lost)
    interrupt_a_release(watched, name)
    busy = time.process_time()
    time.sleep(2 * Bounds(LIVENESS).trust)
    spun = time.process_time() - busy > 0.5
    facts = f"answered {answered}, spun {spun}, lost {bystander.lost}"
    print(facts, flush=True)  # noqa: T201 - the test reads it
    os._exit(0)  # a thread that spins would keep us from leaving any other way


if __name__ == "__main__":
    main(*sys.argv[1:3])
