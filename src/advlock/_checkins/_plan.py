"""What is told to which monitor: the requests of Healthchecks' API and of Sentry's. Pure.

Neither says more than its documentation does: https://healthchecks.io/docs/http_api/, and
https://docs.sentry.io/product/crons/getting-started/http/ with `POST` and JSON, as Relay takes it
(relay-server/src/endpoints/monitor.rs).
"""

from __future__ import annotations

import json
import re
import uuid
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

JOB: Final = "{job}"
# What a Healthchecks of one's own takes without further ado; healthchecks.io takes ten times that.
BODY_LIMIT: Final = 10_000
LIMIT_HEADER: Final = "Ping-Body-Limit"
MOST: Final = 100_000  # bytes of output that are worth to be kept for the monitor

_CUT: Final = "[…]\n".encode()
_SLUG: Final = re.compile(r"[a-z0-9_-]{1,50}")
_NOT_SLUG: Final = re.compile(r"[^a-z0-9_-]+")
_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_NOT_IN_URL: Final = re.compile(r"[^!-~]")
_CODES: Final = range(1, 256)
_OK: Final = 0


class Ending(NamedTuple):
    """How a run ended.

    Attributes:
        code: The exit status; 0 only for a success, None for a failure that has no status.

        summary: What there is to say of it, in lines.

        output: The end of what the command wrote; None for nothing.

        seconds: How long it took.
    """

    code: int | None
    summary: str
    output: str | None = None
    seconds: float = 0.0

    @property
    def succeeded(self) -> bool:
        """Whether it is a success."""
        return self.code == _OK


class Post(NamedTuple):
    """One request, always a POST.

    Attributes:
        url: Where to; it is a secret.

        body: What is in it.

        kind: Its content type.
    """

    url: str
    body: bytes
    kind: str


class Monitor(Protocol):
    """Somebody who is told of runs."""

    def start(self, run: str) -> Post:
        """Say that the run of that UUID has begun."""

    def end(self, run: str, ending: Ending, limit: int | None) -> Post:
        """Say how it ended, in a body of at most `limit` bytes; None if that is not known."""

    def skip(self, run: str, why: str) -> Post | None:
        """Say that there was no run; None where there is no way to say it."""

    def __str__(self) -> str:
        """Where that is, without what is secret of it."""


class Healthchecks:
    """A check of healthchecks.io, or of whatever understands its pings."""

    def __init__(self, url: str) -> None:
        """Take the URL of a ping, which `read_url` has read."""
        self._parts = urlsplit(url)

    def start(self, run: str) -> Post:
        return self._post("start", run, b"")

    def end(self, run: str, ending: Ending, limit: int | None) -> Post:
        code = ending.code
        action = "fail" if code is None or code not in {_OK, *_CODES} else str(code)
        body = _body(ending.summary, ending.output, BODY_LIMIT if limit is None else limit)
        return self._post(action, run, body)

    def skip(self, run: str, why: str) -> Post | None:
        return self._post("log", run, why.encode(errors="replace"))

    def _post(self, action: str, run: str, body: bytes) -> Post:
        path = f"{self._parts.path.rstrip('/')}/{action}"
        query = "&".join(filter(None, (self._parts.query, f"rid={run}")))
        url = urlunsplit((self._parts.scheme, self._parts.netloc, path, query, ""))
        return Post(url, body, "text/plain; charset=utf-8")

    def __str__(self) -> str:
        return masked(urlunsplit(self._parts))


class Sentry:
    """A cron monitor of Sentry."""

    def __init__(
        self,
        dsn: str,
        slug: str,
        environment: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Say where the monitor is.

        Args:
            dsn: The project's DSN.
            slug: The monitor's slug.
            environment: Sentry's own, "production", without it.
            config: What the monitor is to be like, and is made of if there is none.

        Raises:
            ConfigError: that is no DSN.
        """
        parts = _split(dsn, "the Sentry DSN ", "https://KEY@o0.ingest.sentry.io/PROJECT")
        prefix, _, project = parts.path.rstrip("/").rpartition("/")
        if not _KEY.fullmatch(parts.username or "") or not project.isdigit():
            raise ConfigError(
                "the Sentry DSN has no key or no project; write it as Sentry shows it:"
                " https://KEY@o0.ingest.sentry.io/PROJECT"
            )
        where = parts.netloc.rpartition("@")[2]
        path = f"{prefix}/api/{project}/cron/{quote(slug, safe='')}/{parts.username}/"
        self._url = urlunsplit((parts.scheme, where, path, "", ""))
        self._slug = slug
        self._environment = environment
        self._config = config

    def start(self, run: str) -> Post:
        more = {"monitor_config": self._config} if self._config else {}
        return self._post(run, "in_progress", **more)

    def end(self, run: str, ending: Ending, limit: int | None) -> Post:  # noqa: ARG002
        status = "ok" if ending.succeeded else "error"
        more = {"monitor_config": self._config} if self._config else {}
        return self._post(run, status, duration=round(ending.seconds, 3), **more)

    def skip(self, run: str, why: str) -> Post | None:  # noqa: ARG002
        return None

    def _post(self, run: str, status: str, **more: Any) -> Post:
        told = {
            "check_in_id": uuid.UUID(run).hex,
            "monitor_slug": self._slug,
            "status": status,
            **({"environment": self._environment} if self._environment else {}),
            **more,
        }
        return Post(self._url, json.dumps(told).encode(), "application/json")

    def __str__(self) -> str:
        return masked(self._url)


def read_url(text: str) -> str:
    """Return the URL of a ping.

    Raises:
        ConfigError: It is none. The message goes on where a name stood, and does not show the URL:
            whoever knows it may ping.
    """
    parts = _split(text, "", "https://hc-ping.com/UUID")
    if "@" in parts.netloc:
        raise ConfigError("has a user in it; advlock cannot log in, so leave that out")
    return parts.geturl()


def read_slug(text: str) -> str:
    """Return the slug of a monitor.

    Raises:
        ConfigError: It is none. The message goes on where a name stood.
    """
    if not _SLUG.fullmatch(text.replace(JOB, "job")):
        raise ConfigError(
            f"is {text[:60]!r}, which is no slug: that is made of a-z, 0-9, _ and -, 50 at most"
        )
    return text


def named(template: str, job: str) -> str:
    """Put a job's name where `{job}` stands, as the slugs of both services are made."""
    return template.replace(JOB, _NOT_SLUG.sub("-", job.lower()))


def masked(url: str) -> str:
    """A URL without its path, its query and its password: with any of them one may ping."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"


def _split(text: str, what: str, example: str) -> SplitResult:
    text = text.strip()
    try:
        parts = urlsplit(text)
        sound = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # brackets, or a port that is none
        sound = False
    if not sound or _NOT_IN_URL.search(text):
        raise ConfigError(f"{what}is no http:// or https:// URL; write one such as {example}")
    return parts


def _body(summary: str, output: str | None, limit: int) -> bytes:
    """The summary, then as much of the end of the output as there is room for."""
    head = summary.encode(errors="replace")
    if output:
        tail = output.encode(errors="replace")
        room = limit - len(head) - len(b"\n\n")
        if len(tail) > room:
            kept = tail[len(tail) - max(0, room - len(_CUT)) :] if room > len(_CUT) else b""
            # Not from within a character.
            tail = _CUT + kept.decode(errors="ignore").encode() if kept else b""
        head += b"\n\n" + tail if tail else b""
    return head[: max(0, limit)].decode(errors="ignore").encode()
