"""As much of Healthchecks as fits on a page: it says what it is told."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


class Ping(BaseHTTPRequestHandler):
    """One ping."""

    def do_POST(self) -> None:
        """Say what became of the run, and the last line of what it wrote."""
        _, check, action = urlsplit(self.path).path.split("/")
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        words = {"start": "has begun", "0": "succeeded"}
        told = words.get(action, f"failed with {action}")
        last = body.splitlines()[-1] if body and action != "start" else ""
        print(f"monitor: {check} {told}{last and ': '}{last}\n", end="", flush=True)
        self.send_response(200)
        self.send_header("Ping-Body-Limit", "10000")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing else."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ping)
    made = Path("url.new")
    made.write_text(f"http://127.0.0.1:{server.server_address[1]}\n")
    made.rename("url")
    server.serve_forever()
