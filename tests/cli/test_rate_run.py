"""`advlock run --rate`: commands start when a limit allows it."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest
from waiting import eventually

from advlock.cli._rate_run import _soon
from advlock.cli.exits import Exit

from .helpers import sessions

if TYPE_CHECKING:
    from typing import Any

    from psycopg import Connection

    from .helpers import Cli

SHOW = 'echo "$ADVLOCK_NAME ${ADVLOCK_TOKEN-none}"; exit 3'


def test_so_many_start_and_no_more(cli: Cli, name: str) -> None:
    """With their own exit code; the others are told when to come back."""
    run = ("run", "--rate", "2/1h", "-n", name, "--", "sh", "-c", SHOW)
    for _ in range(2):
        assert cli(*run) == (3, f"{name} none\n", "")
    code, out, err = cli(*run)
    assert (code, out) == (Exit.BUSY, "")
    assert re.fullmatch(
        rf"advlock: skipped '{name}': 2/1h is used up; retry after (1h|59m\d\ds)\n", err
    )
    assert cli("run", "--rate", "2/1h", "-w", "5s", "-E", "0", name, "--", "true")[0] == 0
    code, _, err = cli("run", "-q", "--rate", "2/1h", "-n", name, "--", "true")
    assert (code, err) == (Exit.BUSY, "")


def test_it_waits_until_one_may_start(cli: Cli, name: str) -> None:
    """And says so."""
    run = ("run", "--rate", "1/3s", "-w", "1m", name, "--", "echo", "ran")
    assert cli(*run)[:2] == (0, "ran\n")
    code, out, err = cli(*run)
    assert (code, out) == (0, "ran\n")
    assert not err or f"advlock: waiting for '{name}': 1/3s is used up; the next in" in err


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0121, "13ms"), (0.9995, "1s"), (1.21, "1.3s"), (9.96, "10s"), (59.1, "1m"),
     (3601, "1h01m"), (86_399, "1d"), (90_061, "1d02h")],
)  # fmt: skip
def test_whoever_comes_back_when_told_is_not_early(seconds: float, said: str) -> None:
    """It is rounded up, whatever the unit that is shown."""
    assert _soon(seconds) == said


def test_a_crowd_is_no_failure(cli: Cli, admin: Connection[Any], name: str) -> None:
    """Where others decide for longer than a try has patience, whoever may wait does."""
    lock = f"(hashtextextended('rate:{name}', 0))".encode()
    admin.execute(b"SELECT pg_advisory_lock" + lock)
    try:
        assert cli("run", "--rate", "9/1h", "-n", name, "--", "true")[0] == Exit.UNAVAILABLE
        running = cli.start("run", "--rate", "9/1h", name, "--", "true")
        tried = """
            SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
        for count in (1, 0, 1):  # it waits, stops waiting, and comes again
            eventually(lambda count=count: admin.execute(tried).fetchone() == (count,), within=20)
    finally:
        admin.execute(b"SELECT pg_advisory_unlock" + lock)
    assert running.code() == 0


def test_nothing_is_held_while_it_runs(cli: Cli, admin: Connection[Any], name: str) -> None:
    """It is the command itself, with default signals; neither lock nor session stays behind."""
    running = cli.start("run", "--rate", "9/1h", name, "--", "sh", "-c", "echo on; exec sleep 60")
    assert running.line() == "on"
    look = """
        SELECT count(*) FROM pg_stat_activity
        WHERE application_name LIKE 'advlock%' AND datname = current_database()"""
    # The server may take a moment to hear that the session is over.
    eventually(lambda: admin.execute(look).fetchone() == (0,))
    assert not sessions(admin, name)
    running.send(signal.SIGTERM)
    assert running.code() == -signal.SIGTERM


@pytest.mark.parametrize(
    "option",
    [["--slots", "2"], ["-s"], ["-x"], ["-o"], ["--max-runtime", "5s"], ["--lease", "5s"]],
)
def test_what_is_about_a_lock_is_refused(cli: Cli, name: str, option: list[str]) -> None:
    """There is no lock that it could be about."""
    code, _, err = cli("run", "--rate", "1/1s", *option, name, "--", "true")
    assert code == Exit.USAGE
    assert "--rate and --" in err


def test_what_cannot_be_a_rate_is_refused(cli: Cli, name: str) -> None:
    """With a word on what to write."""
    code, _, err = cli("run", "--rate", "often", name, "--", "true")
    assert code == Exit.USAGE
    assert "100/60s" in err


def test_a_command_that_is_not_there(cli: Cli, name: str) -> None:
    """The same words and codes as without a rate."""
    code, _, err = cli("run", "--rate", "9/1s", name, "--", "no-such-command")
    assert code == Exit.NOT_FOUND
    assert "is it on PATH?" in err
