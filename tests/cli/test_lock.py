"""Who has the lock when: inherited, kept, freed at once, shared, counted, lost."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from clusters import Log, about
from waiting import eventually

from advlock import _label
from advlock._liveness import Bounds
from advlock.cli.exits import Exit

from .helpers import WORKER, alive, sessions

if TYPE_CHECKING:
    from psycopg import Connection
    from servers import Server

    from .helpers import Cli

HELD_BY_US = r"held by \S+ pid {pid} since \d\d:\d\d:\d\d \(\d+(\.\d+)?m?s\)"


def end(pid: int) -> None:
    """End a worker that is no child of ours, and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid))


def test_nobody_else_gets_the_lock_meanwhile(cli: Cli, admin: Connection[Any], name: str) -> None:
    """The lock is the one that psql knows, held while the command runs and free afterwards."""
    started = cli.start("run", name, "--", *WORKER)
    started.worker()
    assert len(sessions(admin, name)) == 1
    assert cli("run", "-n", name, "--", "true")[0] == Exit.BUSY
    started.send(signal.SIGTERM)
    assert started.code() == 0
    assert cli("run", "-n", name, "--", "true")[0] == 0


def test_a_waiter_gets_the_lock_when_it_is_free(cli: Cli, name: str) -> None:
    """Waiting is the default; it ends with the lock."""
    holder = cli.start("run", name, "--", *WORKER)
    holder.worker()
    waiter = cli.start("run", name, "--", "echo", "ran")
    assert "waiting" in waiter.said()
    holder.send(signal.SIGTERM)
    assert waiter.line() == "ran"
    assert (holder.code(), waiter.code()) == (0, 0)


# -- the inherited socket --------------------------------------------------------------------------


def test_kill_9_of_the_wrapper_keeps_the_lock(cli: Cli, admin: Connection[Any], name: str) -> None:
    """While the work still runs, the lock stays, though the wrapper was killed."""
    started = cli.start("run", name, "--", *WORKER)
    worker = started.worker()
    started.send(signal.SIGKILL)
    assert started.code() == -signal.SIGKILL
    for _ in range(3):
        assert cli("run", "-n", name, "--", "true")[0] == Exit.BUSY
    assert alive(worker)
    end(worker)
    eventually(lambda: not sessions(admin, name), message="free once the work has ended")


def test_close_lets_kill_9_free_the_lock(cli: Cli, admin: Connection[Any], name: str) -> None:
    """With `-o` the lock goes with the wrapper, though the work still runs."""
    started = cli.start("run", "-o", name, "--", *WORKER)
    worker = started.worker()
    started.send(signal.SIGKILL)
    eventually(lambda: not sessions(admin, name), message="free with the wrapper")
    assert alive(worker)
    end(worker)


def test_killing_everything_frees_the_lock_at_once(
    cli: Cli, admin: Connection[Any], name: str
) -> None:
    """When the wrapper and the command's whole group are killed, the lock is free in a moment."""
    started = cli.start("run", name, "--", *WORKER, "--fork")
    group = min(int(line.split()[1]) for line in started.lines(2))
    started.send(signal.SIGKILL)
    os.killpg(os.getpgid(group), signal.SIGKILL)
    eventually(lambda: not sessions(admin, name), within=1.0, message="free at once")


def test_a_background_process_keeps_the_lock(cli: Cli, admin: Connection[Any], name: str) -> None:
    """As with flock(1), what the command leaves in the background still holds the lock."""
    started = cli.start("run", name, "--", "sh", "-c", f"{' '.join(WORKER)} & exit 3")
    worker = started.worker()
    assert started.code() == 3
    assert cli("run", "-n", name, "--", "true")[0] == Exit.BUSY
    end(worker)
    eventually(lambda: not sessions(admin, name), message="free once the background has ended")


def test_close_frees_the_lock_in_spite_of_the_background(
    cli: Cli, admin: Connection[Any], name: str
) -> None:
    """With `-o` the release is confirmed: the lock is free when the wrapper returns."""
    started = cli.start("run", "-o", name, "--", "sh", "-c", f"{' '.join(WORKER)} & exit 3")
    worker = started.worker()
    assert started.code() == 3
    assert sessions(admin, name) == []
    end(worker)


def test_the_end_of_a_run_is_no_news_for_the_servers_log(
    cli: Cli, server: Server, admin: Connection[Any], name: str
) -> None:
    """The socket is not closed over the answer to a heartbeat, which the server would report."""
    if server.log_path is None:
        pytest.skip("the log of the server of ADVLOCK_TEST_DSN is out of reach")
    log = Log(server.log_path)
    wait = 0.7 * Bounds().heartbeat  # then the last look sends another one
    started = cli.start("run", name, "--", "sh", "-c", f"echo; sleep {wait}")
    started.line()
    pids = sessions(admin, name)
    assert started.code() == 0
    eventually(lambda: not sessions(admin, name))
    assert about(log.since(), *pids) == []


# -- lost ------------------------------------------------------------------------------------------


def test_a_lost_lock_stops_the_command(cli: Cli, admin: Connection[Any], name: str) -> None:
    """When the server ends the session, the command's whole group gets TERM: exit code 74."""
    started = cli.start("run", name, "--", *WORKER, "--fork")
    started.lines(2)
    admin.execute("SELECT pg_terminate_backend(%s)", sessions(admin, name))
    assert started.lines(2) == {"child got TERM", "grandchild got TERM"}
    assert started.code() == Exit.LOST
    why = "the server closed the session (terminating connection due to administrator command)"
    assert started.stderr() == f"advlock: lost the lock '{name}': {why}; stopping the command\n"


def test_a_lost_lock_kills_what_ignores_term(cli: Cli, admin: Connection[Any], name: str) -> None:
    """A grandchild that ignores TERM is killed, though the command itself ended at once."""
    script = f"trap 'exit 0' TERM; {' '.join(WORKER)} --ignore TERM & wait"
    started = cli.start("run", "-k", "0.3", name, "--", "sh", "-c", script)
    stubborn = started.worker()
    admin.execute("SELECT pg_terminate_backend(%s)", sessions(admin, name))
    assert started.code() == Exit.LOST
    assert "not ended 300ms after TERM; sending KILL" in started.stderr()
    eventually(lambda: not alive(stubborn), message="the grandchild killed")


def test_stopping_ends_when_the_group_has_ended(
    cli: Cli, admin: Connection[Any], name: str
) -> None:
    """A group that obeys is not waited for until `--kill-after`, and gets no KILL."""
    started = cli.start("run", "-k", "15", name, "--", *WORKER, "--fork")
    started.lines(2)
    begun = time.monotonic()
    admin.execute("SELECT pg_terminate_backend(%s)", sessions(admin, name))
    assert started.code() == Exit.LOST
    assert time.monotonic() - begun < 10
    assert "KILL" not in started.stderr()


@pytest.mark.parametrize("flags", [[], ["-o"]], ids=["inherited", "closed"])
def test_on_lost_continue_lets_the_command_run(
    cli: Cli, admin: Connection[Any], name: str, flags: list[str]
) -> None:
    """With `--on-lost continue` there is a warning, and the command's own code."""
    started = cli.start("run", "--on-lost", "continue", *flags, name, "--", *WORKER)
    started.worker()
    admin.execute("SELECT pg_terminate_backend(%s)", sessions(admin, name))
    said = started.said()
    assert said.startswith(f"advlock: lost the lock '{name}'")
    assert said.endswith("the command runs on without it (--on-lost continue)")
    started.send(signal.SIGUSR1)
    assert started.line() == "child got USR1"
    started.send(signal.SIGTERM)
    assert started.code() == 0


# -- shared, counted -------------------------------------------------------------------------------


def test_shared_holders_share_and_exclude_the_exclusive(cli: Cli, name: str) -> None:
    """Two `-s` run at a time; an exclusive one does not run beside them."""
    first = cli.start("run", "-s", name, "--", *WORKER)
    first.worker()
    assert cli("run", "-n", "-s", name, "--", "true")[0] == 0
    assert cli("run", "-n", name, "--", "true")[0] == Exit.BUSY
    assert cli("run", "-n", "-x", name, "--", "true")[0] == Exit.BUSY
    first.send(signal.SIGTERM)
    assert first.code() == 0


def test_slots_let_so_many_run(cli: Cli, admin: Connection[Any], name: str) -> None:
    """Of three that want one of two slots, two run, each with a slot of its own; then the third."""
    show = 'echo "slot $ADVLOCK_SLOT"; exec "$@"'
    running = {}
    for _ in range(2):
        started = cli.start("run", "--slots", "2", name, "--", "sh", "-c", show, "sh", *WORKER)
        running[started.line()] = started
        started.worker()
    assert set(running) == {"slot 0", "slot 1"}
    assert [len(sessions(admin, name, slot=slot)) for slot in (0, 1)] == [1, 1]
    code, _, err = cli("run", "-n", "--slots", "2", name, "--", "true")
    assert code == Exit.BUSY
    assert re.search(f"skipped '{name}': all 2 slots taken, one held by ", err)
    third = cli.start("run", "--slots", "2", name, "--", "sh", "-c", "echo $ADVLOCK_SLOT")
    assert "waiting" in third.said()
    running["slot 1"].send(signal.SIGTERM)
    assert third.line() == "1"
    running["slot 0"].send(signal.SIGTERM)
    assert {third.code(), *(started.code() for started in running.values())} == {0}


def test_a_wait_for_a_slot_ends_on_time(cli: Cli, name: str) -> None:
    """`-w` bounds the polling for a slot as well."""
    holder = cli.start("run", "--slots", "1", name, "--", *WORKER)
    holder.worker()
    code, _, err = cli("run", "--slots", "1", "-w", "2", name, "--", "true")
    assert code == Exit.BUSY
    waiting, skipped = err.splitlines()
    assert waiting.startswith(f"advlock: waiting for '{name}': 1 slot taken, held by ")
    assert skipped.startswith(f"advlock: skipped '{name}': 1 slot taken, held by ")
    holder.send(signal.SIGTERM)
    assert holder.code() == 0


# -- what is said and shown ------------------------------------------------------------------------


def test_the_messages_say_who_holds_it(cli: Cli, name: str) -> None:
    """Skipping and waiting each say one line: who, on which host, since when; `-q` says none."""
    holder = cli.start("run", name, "--", *WORKER)
    holder.worker()
    who = HELD_BY_US.format(pid=holder.pid)
    _, _, err = cli("run", "-n", name, "--", "true")
    assert re.fullmatch(f"advlock: skipped '{name}': {who}\n", err)
    _, _, err = cli("run", "-w", "2", name, "--", "true")
    assert re.fullmatch(
        f"advlock: waiting for '{name}': {who}\nadvlock: skipped '{name}': {who}\n", err
    )
    assert cli("run", "-q", "-w", "2", name, "--", "true") == (Exit.BUSY, "", "")
    holder.send(signal.SIGTERM)
    assert holder.code() == 0


@pytest.mark.parametrize("text", ["nightly", "a b:1 @z", "é" * 40, "x" * 200], ids=lambda x: x[:8])
def test_the_session_signs_with_name_host_and_pid(
    cli: Cli, admin: Connection[Any], text: str
) -> None:
    """`application_name` says in 63 bytes which lock, which process and since when."""
    before = int(time.time())
    started = cli.start("run", text, "--", *WORKER)
    started.worker()
    shown = admin.execute(
        "SELECT application_name FROM pg_stat_activity WHERE pid = %s", sessions(admin, text)
    ).fetchone()
    assert shown
    assert len(shown[0].encode()) <= 63
    label = _label.parse(shown[0])
    assert label
    assert label.pid == started.pid
    assert "".join(char if char.isascii() else "?" for char in text).startswith(label.name)
    assert label.since
    assert before <= label.since.timestamp() <= time.time()
    started.send(signal.SIGTERM)
    assert started.code() == 0


def test_the_commands_environment(cli: Cli, admin: Connection[Any], name: str) -> None:
    """The command sees name, key, a growing token, a new run id, and the rest as it was."""
    show = "import os, json; print(json.dumps(dict(os.environ)))"
    seen = []
    cli.env |= {"ADVLOCK_SLOT": "7", "KEPT": "yes"}
    for _ in range(2):
        code, out, _ = cli("run", name, "--", sys.executable, "-c", show)
        assert code == 0
        seen.append(json.loads(out))
    key = admin.execute("SELECT hashtextextended(%s, 0)", [name]).fetchone()
    for env in seen:
        assert (env["ADVLOCK_NAME"], env["ADVLOCK_KEY"]) == (name, str(key[0] if key else None))
        assert (env["KEPT"], env["ADVLOCK_DSN"]) == ("yes", cli.env["ADVLOCK_DSN"])
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", env["ADVLOCK_RUN_ID"])
        assert "ADVLOCK_SLOT" not in env
    assert int(seen[0]["ADVLOCK_TOKEN"]) < int(seen[1]["ADVLOCK_TOKEN"])
    assert seen[0]["ADVLOCK_RUN_ID"] != seen[1]["ADVLOCK_RUN_ID"]


def test_a_name_that_looks_like_a_number_is_a_name(cli: Cli, admin: Connection[Any]) -> None:
    """`advlock run 42` locks the text '42', not the key 42."""
    started = cli.start("run", "42", "--", *WORKER)
    started.worker()
    assert len(sessions(admin, "42")) == 1
    assert admin.execute("SELECT pg_try_advisory_lock(42)").fetchone() == (True,)
    admin.execute("SELECT pg_advisory_unlock(42)")
    started.send(signal.SIGTERM)
    assert started.code() == 0


def test_the_standard_streams_are_the_commands(cli: Cli, name: str, tmp_path: Any) -> None:
    """stdin, stdout and stderr are inherited as they are: a file stays a file, byte for byte."""
    source = tmp_path / "in"
    source.write_bytes(bytes(range(256)) * 1000)
    target = tmp_path / "out"
    with source.open("rb") as stdin, target.open("wb") as stdout:
        script = "cat; test -f /dev/stdin -a -f /dev/stdout"
        started = cli.start("run", name, "--", "sh", "-c", script, stdin=stdin, stdout=stdout)
        assert started.code() == 0
    assert target.read_bytes() == source.read_bytes()


def test_the_command_line_reaches_the_command_as_it_is(cli: Cli, name: str) -> None:
    """No shell, and no flag after `--` is ours: not even another `--`, or --help."""
    arguments = ["--help", "--", "-n", "$HOME", "a  b", ""]
    show = "import sys; print(sys.argv[1:])"
    code, out, _ = cli("run", name, "--", sys.executable, "-c", show, *arguments)
    assert (code, out) == (0, f"{arguments}\n")
