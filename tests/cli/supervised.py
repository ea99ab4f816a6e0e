"""Supervise a command without a database: a socket pair is the lock.

supervised.py RULES -- COMMAND: RULES are keyword arguments of `Rules` as JSON. Every line on stdin
does something to the lock: `hang up` closes the other end, `chat` sends a byte and stays, `last
words` sends a byte, closes, and says so on stdout.
Messages go to stderr; the exit code is the supervisor's.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time

from advlock.cli._child import adopt_orphans, spawn
from advlock.cli._say import say
from advlock.cli._signals import Inbox
from advlock.cli._supervise import Rules, supervise


class Lock:
    """A lock that is held for as long as the other end of a socket is open."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        end.settimeout(0)

    def fileno(self) -> int:
        """The socket."""
        return self._socket.fileno()

    def alive(self) -> bool:
        """Whether the other end is open; like libpq, one look is one read."""
        try:
            return bool(self._socket.recv(100))
        except BlockingIOError:
            return True

    def look_again(self) -> float:
        """It needs no heartbeats."""
        return time.monotonic() + 60

    @property
    def why(self) -> str:
        """What a loss means here."""
        return "the server closed the session"


def other_end(server: socket.socket) -> None:
    """Do as stdin says, in a process of its own."""
    for line in sys.stdin:
        if line.strip() != "hang up":
            server.send(b"x")
        if line.strip() != "chat":
            server.close()
            os.write(1, b"hung up\n" * (line.strip() == "last words"))
            os._exit(0)


def main() -> int:
    """Run the command under the socket's other end."""
    server, client = socket.socketpair()
    if not os.fork():
        client.close()
        os.setsid()
        other_end(server)
        os._exit(0)
    server.close()
    inbox = Inbox(suspendable=True)
    with inbox.opened():
        adopt_orphans()
        child = spawn(sys.argv[3:], env=os.environ, inherit=[client.fileno()], own_session=True)
        return supervise(child, Lock(client), Rules(**json.loads(sys.argv[1])), inbox, say)


if __name__ == "__main__":
    sys.exit(main())
