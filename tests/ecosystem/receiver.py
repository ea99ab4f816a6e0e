"""A monitor's server on this machine: it takes note of every request, and answers as it is told."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 20.0  # seconds


class Told(NamedTuple):
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    body: str
    headers: dict[str, str]

    @property
    def action(self) -> str:
        """The last part of the path: what Healthchecks is told."""
        return self.path.rpartition("/")[2]

    @property
    def json(self) -> dict[str, Any]:
        """What Sentry is told."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class Receiver:
    """The server.

    Attributes:
        requests: What has come in, in its order.

        answers: The statuses of the next answers; 200 when there are none left.

        headers: What every answer has besides.

        silent: Set it, and requests are taken note of and never answered.
    """

    def __init__(self) -> None:
        self.requests: list[Told] = []
        self.answers: list[int] = []
        self.headers: dict[str, str] = {}
        self.silent = False
        self.over = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.take(self)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.url = f"{self.base}/secret-uuid"
        self.sentry = f"{self.base.replace('http://', 'http://publickey@')}/42"

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        """Note a request, and answer it."""
        parts = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        headers = dict(handler.headers.items())
        self.requests.append(Told(handler.command, parts.path, query, body.decode(), headers))
        if self.silent:
            self.over.wait(PATIENCE)
            return
        handler.send_response(self.answers.pop(0) if self.answers else 200)
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    @property
    def actions(self) -> list[str]:
        """What Healthchecks was told, in its order."""
        return [told.action for told in list(self.requests)]

    def gets(self, count: int) -> list[Told]:
        """Wait until so many requests have come."""
        return eventually(
            lambda: len(self.requests) >= count and list(self.requests),
            within=PATIENCE,
            message=f"{count} requests: {self.requests}",
        )


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run one in a thread of its own."""
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.over.set()
        made.server.shutdown()
        made.server.server_close()
        thread.join()
