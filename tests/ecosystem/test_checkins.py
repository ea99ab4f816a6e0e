"""Check-ins of `advlock run`: what monitors are told, and that nothing of it touches the run."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any
from urllib.request import Request

import pytest
from cli.helpers import Cli, sessions
from waiting import eventually

from advlock._checkins import _http, _plan, _send
from advlock.cli.exits import Exit

from .receiver import PATIENCE, Receiver, receiving
from .stories import a_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

pytestmark = pytest.mark.newest


@pytest.fixture
def cli(dsn: str) -> Iterator[Cli]:
    """The command, with the test's database, and no monitor."""
    made = Cli(dsn)
    made.env = {k: v for k, v in made.env.items() if not k.startswith("SENTRY_")}
    yield made
    made.close()


@pytest.fixture
def name() -> str:
    """The name of a lock that no other test uses."""
    return a_name()


@pytest.fixture
def monitor() -> Iterator[Receiver]:
    """A monitor's server."""
    with receiving() as made:
        yield made


def test_a_success_is_told_with_its_start(cli: Cli, name: str, monitor: Receiver) -> None:
    """`/start` and `/0`, of one run id, which is the command's; no output unless asked."""
    code, out, err = cli(
        "run", "--ping", monitor.url, name, "--", "sh", "-c", "echo $ADVLOCK_RUN_ID"
    )
    assert (code, err) == (0, "")
    start, end = monitor.requests
    assert (start.method, start.path) == ("POST", "/secret-uuid/start")
    assert (end.method, end.path) == ("POST", "/secret-uuid/0")
    assert start.query == end.query == {"rid": out.strip()}
    assert str(uuid.UUID(out.strip())) == out.strip()
    assert end.body.startswith(f"{name!r} on {os.uname().nodename} ended with exit code 0 after ")
    assert out.strip() not in end.body
    assert end.headers["User-Agent"].startswith("advlock")


def test_a_failure_is_told_with_its_exit_code_and_output(
    cli: Cli, name: str, monitor: Receiver
) -> None:
    """The output arrives at both: passed on as it is, and its end in the body."""
    line = "cat; echo to stdout; echo to stderr >&2; exit 3"
    run = (
        "run",
        "--ping",
        f"{monitor.url}?create=1",
        "--ping-output",
        name,
        "--",
        "sh",
        "-c",
        line,
    )
    read, write = os.pipe()
    os.write(write, b"from stdin\n")
    os.close(write)
    code, out, err = cli(*run, stdin=read)
    os.close(read)
    assert (code, out, err) == (3, "from stdin\nto stdout\n", "to stderr\n")
    end = monitor.requests[1]
    assert (end.action, end.query["create"]) == ("3", "1")
    head, _, output = end.body.partition("\n\n")
    assert "ended with exit code 3" in head
    assert set(output.splitlines()) == {"from stdin", "to stdout", "to stderr"}


def test_the_body_is_cut_to_what_the_monitor_takes(cli: Cli, name: str, monitor: Receiver) -> None:
    """The answer to the start says how much; what is kept is the end."""
    monitor.headers["Ping-Body-Limit"] = "200"
    script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; sleep 0.3"
    run = ("run", "--ping", monitor.url, "--ping-output", name, "--", "sh", "-c", script)
    assert cli(*run)[0] == 0
    body = monitor.requests[1].body
    assert 150 < len(body.encode()) <= 200
    assert "ended with exit code 0" in body
    assert body.endswith("line 1998\nline 1999\n")


@pytest.mark.parametrize("by", ["the command", "advlock"])
def test_death_by_a_signal_is_a_failure(cli: Cli, name: str, monitor: Receiver, by: str) -> None:
    """Whether the command is killed, or advlock is asked to end: 128 and the signal's number."""
    kill = "kill -9 $$" if by == "the command" else "echo up; exec sleep 60"
    running = cli.start("run", "--ping", monitor.url, name, "--", "sh", "-c", kill)
    if by == "advlock":
        running.line()
        running.send(signal.SIGTERM)
    expected = 137 if by == "the command" else 143
    assert running.code() == expected
    assert monitor.actions == ["start", str(expected)]


def test_a_lost_lock_and_a_timeout_are_told_with_their_reason(
    cli: Cli, name: str, monitor: Receiver, admin: Connection[Any]
) -> None:
    """With the exit code that advlock has then, and what it says."""
    running = cli.start(
        "run", "--ping", monitor.url, name, "--", "sh", "-c", "echo up; exec sleep 60"
    )
    running.line()
    for pid in sessions(admin, name):
        admin.execute("SELECT pg_terminate_backend(%s)", [pid])
    assert running.code() == Exit.LOST
    assert monitor.actions == ["start", "74"]
    assert f"lost the lock {name!r}" in monitor.requests[1].body
    late = ("run", "--max-runtime", "0.1s", "--ping", monitor.url, name, "--", "sleep", "60")
    assert cli(*late)[0] == Exit.TIMED_OUT
    assert monitor.actions[2:] == ["start", "124"]
    assert "--max-runtime of 100ms is over" in monitor.requests[3].body


def test_a_command_that_does_not_exist_is_a_failure(cli: Cli, name: str, monitor: Receiver) -> None:
    """There is no start, as nothing has begun."""
    code, _, err = cli("run", "--ping", monitor.url, name, "--", "no-such-command")
    assert code == Exit.NOT_FOUND
    assert monitor.actions == ["127"]
    assert err.strip().removeprefix("advlock: ") in monitor.requests[0].body


def test_only_the_holder_checks_in(cli: Cli, name: str, monitor: Receiver) -> None:
    """Of two hosts the one that is busy tells nothing, or a /log; the same, with the lock free."""
    cli.env["ADVLOCK_PING_URL"] = monitor.url
    first = cli.start("run", name, "--", "sh", "-c", "echo up; read line", stdin=-1)
    first.line()
    monitor.gets(1)
    assert cli("run", "-n", "-E", "0", name, "--", "true")[0] == 0
    assert monitor.actions == ["start"]
    assert cli("run", "-n", "--ping-skips", name, "--", "true")[0] == Exit.BUSY
    assert monitor.actions == ["start", "log"]
    assert first.process.stdin
    first.process.stdin.write(b"\n")
    assert first.code() == 0
    assert monitor.actions == ["start", "log", "0"]
    assert cli("run", "-n", name, "--", "true")[0] == 0  # the control
    assert monitor.actions == ["start", "log", "0", "start", "0"]


def test_a_monitor_that_never_answers_delays_neither_the_command_nor_the_lock(
    cli: Cli, name: str, monitor: Receiver, admin: Connection[Any]
) -> None:
    """The command ends, the lock is free, the exit code stays; a signal ends the waiting."""
    monitor.silent = True
    running = cli.start("run", "--ping", monitor.url, name, "--", "sh", "-c", "echo up; exit 5")
    running.line()
    began = time.monotonic()
    eventually(lambda: not sessions(admin, name), within=_send.PATIENCE / 2)
    assert running.process.poll() is None, "it waits for the monitor, without the lock"
    running.send(signal.SIGTERM)
    assert running.code() == 5
    assert time.monotonic() - began < _send.PATIENCE / 2


def test_an_end_that_is_given_up_is_said(
    cli: Cli, name: str, monitor: Receiver, admin: Connection[Any]
) -> None:
    """The monitor took the start, and then it answered nobody: that is not told as all well."""
    ping = ("run", "--ping", monitor.url, name, "--", "sh", "-c", "read line", "x")
    running = cli.start(*ping, stdin=-1)
    monitor.gets(1)
    monitor.silent = True
    assert running.process.stdin
    running.process.stdin.write(b"\n")
    running.process.stdin.flush()
    monitor.gets(2)
    eventually(lambda: not sessions(admin, name))
    running.send(signal.SIGTERM)
    assert running.code() == 0
    where = f"{monitor.base}/…"
    assert running.stderr() == f"advlock: check-in not delivered to {where}: no answer in time\n"


def checking_in(url: str, said: list[str]) -> _send.CheckIn:
    """Make the check-ins of one run, without the run."""
    return _send.CheckIn([_plan.Healthchecks(url)], str(uuid.uuid4()), said.append)


def test_waiting_for_a_monitor_that_never_answers_has_an_end(monitor: Receiver) -> None:
    """Whoever waits is told that it is still on its way."""
    monitor.silent = True
    one = checking_in(monitor.url, [])
    one.ended(_plan.Ending(0, "done"))
    began = time.monotonic()
    assert not one.wait(0.2)
    assert 0.2 <= time.monotonic() - began < 2
    monitor.silent = False
    two = checking_in(monitor.url, [])
    two.ended(_plan.Ending(0, "done"))
    assert two.wait(PATIENCE)  # the control


def test_a_server_s_error_is_tried_again(
    monitor: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice; then it is said, once, and without the secret."""
    monkeypatch.setattr(_send, "PAUSES", (0.01, 0.01))
    said: list[str] = []
    monitor.answers = [503, 429, 200, 500, 500, 500]
    one = checking_in(monitor.url, said)
    one.begun()
    assert one.wait(PATIENCE)
    assert (monitor.actions, said) == (["start"] * 3, [])
    one.ended(_plan.Ending(1, "failed"))
    assert one.wait(PATIENCE)
    assert monitor.actions == ["start"] * 3 + ["1"] * 3
    assert said == [f"check-in not delivered to {monitor.base}/…: HTTP status 500"]


def test_the_end_does_not_wait_for_a_start_that_fails(
    monitor: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the run is over, the start is not tried again."""
    monkeypatch.setattr(_send, "PAUSES", (PATIENCE, PATIENCE))
    monitor.answers = [500]
    one = checking_in(monitor.url, [])
    one.begun()
    monitor.gets(1)
    one.ended(_plan.Ending(0, "done"))
    assert one.wait(PATIENCE / 2)
    assert monitor.actions == ["start", "0"]


def test_monitors_that_do_not_answer_gather_no_threads(
    monitor: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With so many on their way, a further one is given up at once, and that is said."""
    monkeypatch.setattr(_send, "_room", threading.BoundedSemaphore(2))
    monkeypatch.setattr(_send, "PAUSES", ())
    monitor.silent = True
    said: list[str] = []
    three = [checking_in(monitor.url, said) for _ in range(3)]
    for one in three:
        one.begun()
    assert [one.idle for one in three] == [False, False, True]
    assert said == [
        f"check-in not delivered to {monitor.base}/…: too many are on their way already"
    ]
    monitor.over.set()
    assert all(one.wait(PATIENCE) for one in three[:2])


@pytest.mark.parametrize("trouble", ["404", "refused"])
def test_a_ping_that_fails_fails_nothing(
    cli: Cli, name: str, monitor: Receiver, trouble: str
) -> None:
    """The exit code stays; it is said once, and without the secret."""
    url = monitor.url
    if trouble == "refused":
        with socket.create_server(("127.0.0.1", 0)) as taken:
            url = f"http://127.0.0.1:{taken.getsockname()[1]}/secret-uuid"
    monitor.answers = [404, 404]
    code, _, err = cli("run", "--ping", url, name, "--", "sh", "-c", "exit 6")
    assert code == 6
    assert monitor.actions == (["start", "6"] if trouble == "404" else [])
    why = {"404": "HTTP status 404", "refused": "connection refused"}[trouble]
    where = url.removesuffix("secret-uuid")
    assert err == f"advlock: check-in not delivered to {where}…: {why}\n"


@pytest.mark.parametrize("status", [301, 307, 308])
def test_a_redirect_is_followed_with_the_body(
    cli: Cli, name: str, monitor: Receiver, status: int
) -> None:
    """The output arrives where it was sent on to, as a POST."""
    with receiving() as before:
        before.answers = [status, status]
        before.headers["Location"] = f"{monitor.base}/elsewhere/0"
        run = ("run", "--ping", before.url, "--ping-output", name, "--", "echo", "hello")
        assert cli(*run)[::2] == (0, "")
    assert [(told.method, told.path) for told in monitor.requests] == [("POST", "/elsewhere/0")] * 2
    assert monitor.requests[1].body.endswith("\n\nhello\n")


def test_nobody_is_sent_on_to_where_all_can_read(monitor: Receiver) -> None:
    """From https to http, or from http to anything else: that is refused."""
    going = _http._Redirects()
    to = {
        "req": Request("https://example.com/x"),
        "fp": None,
        "code": 307,
        "msg": "",
        "headers": {},
    }
    with pytest.raises(_http.Failed, match="from https to http"):
        going.redirect_request(**to, newurl="http://example.com/x")  # type: ignore[arg-type]
    assert going.redirect_request(**to, newurl="https://example.org/x")  # type: ignore[arg-type]
    said: list[str] = []
    monitor.answers, monitor.headers["Location"] = [302], "ftp://example.com/x"
    one = checking_in(monitor.url, said)
    one.ended(_plan.Ending(0, "done"))
    assert one.wait(PATIENCE)
    assert said == [f"check-in not delivered to {monitor.base}/…: sent on from http to ftp"]


def test_a_proxy_of_the_environment_is_used(
    monitor: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As all of Python's clients do."""
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", monitor.base)
    one = checking_in("http://monitor.invalid/uuid", [])
    one.ended(_plan.Ending(0, "done"))
    assert one.wait(PATIENCE)
    (told,) = monitor.requests
    assert (told.path, told.headers["Host"]) == ("/uuid/0", "monitor.invalid")


def test_a_url_from_the_environment_is_nobody_else_s(
    cli: Cli, name: str, monitor: Receiver
) -> None:
    """The command does not see it, so another `advlock run` within it tells nothing."""
    cli.env["ADVLOCK_PING_URL"] = monitor.url
    code, out, _ = cli("run", name, "--", "sh", "-c", "echo [$ADVLOCK_PING_URL]")
    assert (code, out) == (0, "[]\n")
    assert monitor.actions == ["start", "0"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--ping", "ftp://example.com/secret"], "no http:// or https:// URL"),
        (["--ping", "example.com/secret"], "no http:// or https:// URL"),
        (["--ping", "https://me:secret@example.com/x"], "has a user in it"),
        (["--ping-output"], "--ping-output goes with --ping URL"),
        (["--sentry-monitor", "nightly"], "needs --sentry-dsn"),
        (["--sentry-monitor", "Not A Slug"], "which is no slug"),
        (["--sentry-monitor", "nightly", "--sentry-dsn", "https://secret.example"], "has no key"),
        (["--ping", "https://example.com/secret", "--rate", "1/s"], "exclude each other"),
    ],
)
def test_what_cannot_be_right_is_refused(
    cli: Cli, name: str, options: list[str], says: str
) -> None:
    """Before anything runs, and without the secret in the message."""
    code, out, err = cli("run", *options, name, "--", "echo", "ran")
    assert code in {Exit.USAGE, Exit.CONFIG}
    assert (out, "secret" in err) == ("", False)
    assert says in err


def test_once_checks_in_when_it_runs(cli: Cli, name: str, monitor: Receiver) -> None:
    """A failure, then a success; finding that it is done tells nothing."""
    once = ("once", "--ping", monitor.url, "--ping-output", name, "--", "sh", "-c")
    assert cli(*once, "echo oh no; exit 3")[0] == 3
    assert cli(*once, "true")[0] == 0
    assert cli(*once, "true")[0] == 0
    assert monitor.actions == ["start", "3", "start", "0"]
    assert monitor.requests[1].body.endswith("\n\noh no\n")


def test_sentry_is_told(cli: Cli, name: str, monitor: Receiver) -> None:
    """In progress, then ok or error, of one check-in, with how long it took."""
    cli.env |= {"SENTRY_DSN": monitor.sentry, "SENTRY_ENVIRONMENT": "staging"}
    run = ("run", "--sentry-monitor", "nightly-report", name, "--")
    assert cli(*run, "sleep", "0.5")[0] == 0
    assert cli(*run, "false")[0] == 1
    assert {told.path for told in monitor.requests} == {"/api/42/cron/nightly-report/publickey/"}
    begun, ok, again, error = (told.json for told in monitor.requests)
    assert [one["status"] for one in (begun, ok, again, error)] == [
        "in_progress",
        "ok",
        "in_progress",
        "error",
    ]
    assert begun["check_in_id"] == ok["check_in_id"] != error["check_in_id"]
    assert {one["environment"] for one in (begun, ok, error)} == {"staging"}
    assert 0.05 <= ok["duration"] < 10  # of what sleeps for 0.5 s, as far as it is seen
    assert "monitor_config" not in begun


def test_without_a_monitor_nothing_of_it_is_loaded(cli: Cli, name: str) -> None:
    """A run pays for check-ins only if it asks for them."""
    show = (
        "import sys; from advlock.cli import main; main(sys.argv[1:]);"
        "print([m for m in sys.modules if 'checkins' in m or m == 'urllib.request'])"
    )
    running = cli.program(sys.executable, "-c", show, "run", name, "--", "true")
    assert running.process.communicate()[0].decode().strip() == "[]"
