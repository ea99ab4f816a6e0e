"""Probes over HTTP: a thread of its own answers them, whatever the supervisor does."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

from advlock._masked import signals_blocked
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from advlock.cli._lead_status import Status

_PATIENCE: Final = 5.0  # seconds that a client may take, from connecting to having our answer
# Connections at a time. With one more the oldest ends: who only stays keeps nobody else out, and
# does not use up the descriptors with which the lead is kept, or the next command is started.
_MOST: Final = 50
_PORTS: Final = 2**16


def read_address(text: str) -> tuple[str, int]:
    """Read `[HOST:]PORT`; without a host it is all of this machine's addresses.

    Raises:
        ConfigError: it is no address.
    """
    host, _, port = text.rpartition(":")
    if not (text.isascii() and port.isdigit() and int(port) < _PORTS):
        msg = f"{text!r} is no [HOST:]PORT; write 8080, 127.0.0.1:8080 or [::1]:8080"
        raise ConfigError(msg)
    return host.removeprefix("[").removesuffix("]"), int(port)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], status: Status) -> None:
        self.status = status
        self._open: dict[socket.socket, float] = {}  # since when, the oldest first
        listening = _listen(address)
        self.address_family = listening.family
        super().__init__(address, _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own."""
        self._open[request] = time.monotonic()
        for oldest in list(self._open)[:-_MOST]:
            self._end(oldest)
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Look, twice a second, for those who say what they want byte by byte, or never."""
        for request, since in list(self._open.items()):
            if time.monotonic() - since > _PATIENCE:
                self._end(request)

    def _end(self, request: socket.socket) -> None:
        """Have the thread that serves it find its connection at the end, and close it."""
        self._open.pop(request, None)
        with contextlib.suppress(OSError):  # it is closed by now
            request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that was served."""
        self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Leave it be: a client that went away is nobody's concern."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _PATIENCE
    server_version, sys_version = "advlock", ""

    def do_GET(self) -> None:
        code, told = self.server.status.answer(self.path)
        body = json.dumps(told).encode() + b"\n"
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - http.server's word for it

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Write nothing: probes come every second."""


def _listen(address: tuple[str, int]) -> socket.socket:
    host, port = address
    try:
        if not host and socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):  # a machine without IPv6
                family = socket.AF_INET6
                return socket.create_server(("", port), family=family, dualstack_ipv6=True)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (while")[0]  # the address once more
        msg = f"cannot listen on {host}:{port}: {why}; choose another port, or an address we have"
        raise ConfigError(msg) from None


def serve(address: tuple[str, int], status: Status) -> str:
    """Answer at `address` for as long as the process lives; tell where that is.

    Raises:
        ConfigError: nobody can listen there.
    """
    server = _Server(address, status)
    thread = threading.Thread(target=server.serve_forever, name="advlock-probe", daemon=True)
    with signals_blocked():  # they are the supervisor's
        thread.start()
    host, port = server.socket.getsockname()[:2]
    return f"{f'[{host}]' if ':' in host else host}:{port}"
