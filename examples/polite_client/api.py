"""Somebody else's API: at most ten calls in any second. `python api.py COMMAND…` runs three copies.

It says how many calls it had, and how many it refused with 429.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

LIMIT, WINDOW, COPIES = 10, 1.0, 3


class Api(BaseHTTPRequestHandler):
    """Counts the calls of the last second."""

    recent: ClassVar[deque[float]] = deque()
    mutex = threading.Lock()
    calls = refused = 0

    def do_GET(self) -> None:
        """Answer, or refuse."""
        with Api.mutex:
            now = time.monotonic()
            while Api.recent and Api.recent[0] <= now - WINDOW:
                Api.recent.popleft()
            fits = len(Api.recent) < LIMIT
            Api.calls += 1
            if fits:
                Api.recent.append(now)
            else:
                Api.refused += 1
        self.send_response(200 if fits else 429)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = os.environ | {"API": f"http://127.0.0.1:{server.server_port}/"}
    command = sys.argv[1:]
    copies = [subprocess.Popen(command, env=env) for _ in range(COPIES)]  # noqa: S603 - yours
    for copy in copies:
        copy.wait()
    server.shutdown()
print(f"{Api.calls} calls, {Api.refused} refused")
