"""`advlock lead`: a command on the leader, through the real process."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually

from advlock import cli as commands
from advlock.cli import _probe
from advlock.cli._lead_status import Status
from advlock.cli.exits import Exit

from .helpers import PATIENCE, WORKER, Cli, Running, alive, sessions

if TYPE_CHECKING:
    from psycopg import Connection


def waits(admin: Connection[Any], name: str) -> None:
    """Wait until somebody stands by."""
    eventually(lambda: sessions(admin, name, granted=False), message="a standby")


def lose(admin: Connection[Any], name: str) -> None:
    """Have the server end the leader's session."""
    admin.execute("SELECT pg_terminate_backend(%s)", sessions(admin, name))


# -- one leads -------------------------------------------------------------------------------------


def test_one_leads_and_the_other_follows(cli: Cli, admin: Connection[Any], name: str) -> None:
    """The command runs on one; TERM goes to it, ends both, and the other's command begins."""
    first = cli.start("lead", name, "--", *WORKER)
    first.worker()
    second = cli.start("lead", name, "--", *WORKER)
    waits(admin, name)
    first.send(signal.SIGTERM)
    assert first.line() == "child got TERM"
    assert first.code() == 0
    assert first.stderr().startswith(f"advlock: leading {name!r} with token ")
    second.worker()
    assert len(sessions(admin, name)) == 1
    second.send(signal.SIGINT)
    assert second.line() == "child got INT"
    second.send(signal.SIGTERM)
    assert second.code() == 0
    assert f"waiting for {name!r}: held by" in second.stderr()


def test_a_lost_lead_stops_the_command_and_it_campaigns_again(
    cli: Cli, admin: Connection[Any], name: str
) -> None:
    """TERM, and after a pause the command again, with a greater token; whatever --restart says."""
    show = "trap 'echo stopped; exit 0' TERM; echo $ADVLOCK_TOKEN; while :; do sleep 0.05; done"
    started = cli.start("lead", "--restart", "never", name, "--", "sh", "-c", show)
    first = int(started.line())
    lose(admin, name)
    assert started.line() == "stopped"
    assert int(started.line()) > first
    started.send(signal.SIGTERM)
    assert started.line() == "stopped"
    assert started.code() == 0
    assert f"lost the lead of {name!r}: the server closed the session" in started.stderr()


def test_a_command_that_ignores_term_is_killed(cli: Cli, admin: Connection[Any], name: str) -> None:
    """After --kill-after; only then it campaigns again."""
    command = ["lead", "-k", "0.3s", name, "--", *WORKER, "--ignore", "TERM"]
    started = cli.start(*command)
    child = started.worker()
    lose(admin, name)
    again = started.worker()
    assert not alive(child)
    started.send(signal.SIGKILL)
    os.kill(again, signal.SIGKILL)


def test_the_command_keeps_the_lead_of_a_killed_advlock(
    cli: Cli, admin: Connection[Any], name: str
) -> None:
    """It inherited the lock's connection; with --close somebody else leads at once."""
    for options, stays in (((), True), (("--close",), False)):
        started = cli.start("lead", *options, name, "--", *WORKER)
        child = started.worker()
        started.send(signal.SIGKILL)
        started.code()
        if stays:
            assert sessions(admin, name)
        else:
            eventually(lambda: not sessions(admin, name))
            assert alive(child)
        os.kill(child, signal.SIGKILL)
        eventually(lambda: not sessions(admin, name))


# -- restarts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("restart", "script", "code"),
    [
        ("never", "exit 5", 5),
        ("on-failure", "exit 0", 0),
        ("on-failure", "kill -9 $$", None),
    ],
)
def test_restart(cli: Cli, name: str, restart: str, script: str, code: int | None) -> None:
    """What follows from the command's own end: our exit, with its code, or another campaign."""
    options = ["lead", "--restart", restart, name, "--"]
    started = cli.start(*options, "sh", "-c", f"echo run; {script}")
    assert started.line() == "run"
    if code is not None:
        assert started.code() == code
        return
    assert started.line() == "run", "it was not run again"
    started.send(signal.SIGTERM)
    assert started.code() in {0, 128 + signal.SIGTERM, 5, 128 + signal.SIGKILL}
    assert "campaigning for" in started.stderr()


def test_a_crashing_command_hands_over(cli: Cli, admin: Connection[Any], name: str) -> None:
    """Between two runs somebody else may lead."""
    crashing = cli.start("lead", name, "--", "sh", "-c", "echo run; sleep 0.5; exit 1")
    assert crashing.line() == "run"
    second = cli.start("lead", name, "--", *WORKER)
    second.worker()
    eventually(lambda: sessions(admin, name, granted=False), message="the first stands by")
    crashing.send(signal.SIGTERM)
    assert crashing.code() == 128 + signal.SIGTERM
    second.send(signal.SIGTERM)
    assert second.code() == 0


def test_what_cannot_be_executed_ends_it(cli: Cli, admin: Connection[Any], name: str) -> None:
    """It would not be there the next time, either; the lock is free."""
    code, out, err = cli("lead", "--restart", "always", name, "--", "/no/such/program")
    assert (code, out) == (Exit.NOT_FOUND, "")
    assert "command not found" in err
    eventually(lambda: not sessions(admin, name))


def test_a_signal_while_standing_by(cli: Cli, admin: Connection[Any], name: str) -> None:
    """Ends it at once, and leaves nothing in the queue."""
    leader = cli.start("lead", name, "--", *WORKER)
    leader.worker()
    started = cli.start("lead", name, "--", "true")
    waits(admin, name)
    started.send(signal.SIGTERM)
    assert started.code() == 128 + signal.SIGTERM
    eventually(lambda: not sessions(admin, name, granted=False))
    leader.send(signal.SIGTERM)
    leader.code()


# -- hooks -----------------------------------------------------------------------------------------


def test_hooks_frame_the_command(cli: Cli, name: str, tmp_path: Path) -> None:
    """In this order, under the lock, with its environment; their stdout is our stderr."""
    log = tmp_path / "log"
    hook = 'echo "{} $ADVLOCK_NAME $ADVLOCK_TOKEN $ADVLOCK_RUN_ID" | tee -a ' + str(log)
    code, out, err = cli(
        *("lead", "-q", "--on-acquire", hook.format("acquired")),
        *("--on-release", hook.format("released"), name, "--"),
        *("sh", "-c", f"{hook.format('ran')}; exit 0"),
    )
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [line[0] for line in lines] == ["acquired", "ran", "released"]
    assert len({tuple(line[1:]) for line in lines}) == 1
    assert (code, out.split()[0]) == (0, "ran")
    assert "acquired" in err


def test_a_failing_hook_resigns(cli: Cli, admin: Connection[Any], name: str) -> None:
    """No command; what the hook began is undone; somebody else leads, and we campaign again."""
    started = cli.start(
        *("lead", "--on-acquire", "exit 3", "--on-release", "echo undone", name),
        *("--", "echo", "never"),
    )
    assert "leading" in started.said()
    assert "--on-acquire failed with exit code 3; resigning" in started.said()
    assert started.said() == "undone"
    assert f"campaigning for {name!r} again in 1 s" in started.said()
    eventually(lambda: not sessions(admin, name))
    started.send(signal.SIGTERM)
    assert started.code() == 128 + signal.SIGTERM


def test_a_hanging_hook_is_ended(cli: Cli, admin: Connection[Any], name: str) -> None:
    """Either has its time, and the lock is looked after meanwhile."""
    hang = "echo hooked; exec sleep 30"
    started = cli.start(
        *("lead", "--hook-timeout", "1.5s", "--on-acquire", hang, "--on-release", hang, name),
        *("--", "echo", "never"),
    )
    told = [started.said() for _ in range(8)]
    assert sum("--hook-timeout" in line for line in told) == 2
    assert sum("exit code 124" in line for line in told) == 2
    started.send(signal.SIGKILL)
    started.code()
    # Another lock: a hook that has begun meanwhile may keep the first.
    other = f"{name}-2"
    patient = cli.start("lead", "-q", "--on-acquire", hang, other, "--", "echo", "never")
    assert patient.said() == "hooked"
    lose(admin, other)
    assert "lost the lead" in patient.said()
    patient.send(signal.SIGTERM)
    assert patient.code() in {Exit.LOST, 128 + signal.SIGTERM}


def test_a_hook_is_told_that_all_is_over(cli: Cli, admin: Connection[Any], name: str) -> None:
    """TERM while --on-acquire runs ends the hook and advlock; --on-release still runs."""
    started = cli.start(
        *("lead", "-q", "--on-acquire", "echo hooked; exec sleep 30"),
        *("--on-release", "echo undone", name, "--", "echo", "never"),
    )
    assert started.said() == "hooked"
    started.send(signal.SIGTERM)
    assert started.code() == 128 + signal.SIGTERM
    assert started.stderr().endswith("undone\n")
    eventually(lambda: not sessions(admin, name))


@pytest.mark.parametrize(
    ("hook", "signum"),
    [
        ("trap 'exit 0' TERM; echo hooked; while :; do sleep 0.05; done", signal.SIGTERM),
        ("echo hooked; exec sleep 30", signal.SIGHUP),
    ],
)
def test_a_hook_that_makes_light_of_a_signal(
    cli: Cli, admin: Connection[Any], name: str, hook: str, signum: int
) -> None:
    """The command does not begin, though --on-acquire went well; nor another campaign."""
    started = cli.start("lead", "-q", "--on-acquire", hook, name, "--", "echo", "never")
    assert started.said() == "hooked"
    started.send(signum)
    out, _ = started.process.communicate(timeout=PATIENCE)
    assert (started.code(), out) == (128 + signum, b"")
    eventually(lambda: not sessions(admin, name))


def test_a_loss_after_the_end_is_no_loss(
    cli: Cli, admin: Connection[Any], name: str, tmp_path: Path
) -> None:
    """The command ended by itself; --on-release was still running."""
    go = tmp_path / "go"
    # Until the loss was said; not for ever, should it never be.
    hook = f"echo releasing; for n in $(seq 400); do [ -e {go} ] && break; sleep 0.05; done"
    started = cli.start(
        *("lead", "-q", "--restart", "never", "--on-release", hook, name),
        *("--", "sh", "-c", "echo ran; exit 7"),
    )
    assert started.said() == "releasing"
    lose(admin, name)
    assert "the command runs on without it (--on-release)" in started.said()
    go.touch()
    out, _ = started.process.communicate(timeout=PATIENCE)
    assert (started.code(), out) == (7, b"ran\n")


def test_a_lead_that_is_gone_before_the_command(
    cli: Cli, admin: Connection[Any], name: str, tmp_path: Path
) -> None:
    """Nobody reads our stderr, so that we hang in saying who leads: the command does not begin."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writes, b"\n")
    os.set_blocking(writes, True)
    script = f"echo $ADVLOCK_TOKEN >> {tmp_path}/ran; echo ran"
    started = cli.start("lead", name, "--", "sh", "-c", script, stderr=writes)
    eventually(lambda: sessions(admin, name))
    hangs = Path(f"/proc/{started.pid}/wchan")
    eventually(lambda: "pipe" in hangs.read_text(), message="it does not hang")
    lose(admin, name)
    eventually(lambda: not sessions(admin, name))
    with os.fdopen(reads) as said:
        os.close(writes)
        said_lines = (line for line in said if line != "\n")
        first = next(said_lines).split()[-1]
        assert "lost the lead" in next(said_lines)
        assert started.line() == "ran"
        assert started.code() == 0
    assert int((tmp_path / "ran").read_text()) > int(first)


def test_the_release_hook_runs_after_a_loss(cli: Cli, admin: Connection[Any], name: str) -> None:
    """Though there is no lock any more to run it under."""
    started = cli.start("lead", "-q", "--on-release", "echo undone", name, "--", *WORKER)
    started.worker()
    lose(admin, name)
    assert started.line() == "child got TERM"
    assert "lost the lead" in started.said()
    assert started.said() == "undone"
    started.worker()
    started.send(signal.SIGTERM)
    assert started.code() == 0


# -- probes ----------------------------------------------------------------------------------------


def ask(where: str, path: str) -> tuple[int, dict[str, Any]]:
    """Ask a probe: status and JSON."""
    try:
        with urllib.request.urlopen(f"{where}{path}", timeout=5) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def probed(started: Running) -> str:
    """Where the probes are, as it says."""
    said = started.said()
    assert said.startswith("advlock: answering probes on ")
    where = said.split()[4].rstrip("/")
    return f"http://127.0.0.1:{where.rpartition(':')[2]}"


def test_probes(cli: Cli, admin: Connection[Any], name: str) -> None:
    """Alive and ready on both, leading on one; ready depends on the database alone."""
    first = cli.start("lead", "-q", "--probe-port", "0", name, "--", *WORKER)
    one = probed(first)
    first.worker()
    second = cli.start("lead", "--probe-port", "127.0.0.1:0", name, "--", *WORKER)
    other = probed(second)
    waits(admin, name)
    for where in (one, other):
        assert ask(where, "/livez") == (200, {"alive": True})
        assert ask(where, "/readyz?verbose") == (200, {"connected": True})
        assert ask(where, "/nothing")[0] == 404
    code, told = ask(one, "/leader")
    assert (code, told["name"], told["leading"], told["pid"]) == (200, name, True, first.pid)
    assert told["token"] > 0
    code, told = ask(other, "/leader")
    assert (code, told["leading"]) == (503, False)
    request = urllib.request.Request(f"{one}/leader", method="HEAD")  # noqa: S310
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
        assert (answer.status, answer.read()) == (200, b"")
    first.send(signal.SIGTERM)
    second.worker()
    eventually(lambda: ask(other, "/leader")[0] == 200)
    second.send(signal.SIGTERM)
    assert (first.code(), second.code()) == (0, 0)


def test_a_probe_tells_of_a_loss_at_once(cli: Cli, admin: Connection[Any], name: str) -> None:
    """While a stubborn command is still being stopped."""
    options = ["lead", "-q", "-k", "20s", "--probe-port", "127.0.0.1:0", name, "--"]
    started = cli.start(*options, *WORKER, "--ignore", "TERM")
    where = probed(started)
    child = started.worker()
    assert ask(where, "/leader")[0] == 200
    lose(admin, name)
    eventually(lambda: ask(where, "/leader")[0] == 503)
    assert ask(where, "/readyz")[0] == 503
    assert alive(child)
    started.send(signal.SIGKILL)
    os.kill(child, signal.SIGKILL)


def test_a_probe_knows_of_no_session_in_a_pause(cli: Cli, name: str) -> None:
    """There is none between two terms."""
    started = cli.start("lead", "--probe-port", "127.0.0.1:0", name, "--", "false")
    where = probed(started)
    assert "leading" in started.said()
    assert "again in 1 s" in started.said()
    assert ask(where, "/readyz") == (503, {"connected": False})
    started.send(signal.SIGTERM)
    assert started.code() == 128 + signal.SIGTERM


def test_who_only_stays_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With many connections the oldest ends, and each after a time, whatever it sends."""
    monkeypatch.setattr(_probe, "_PATIENCE", 0.1)
    where = _probe.serve(("127.0.0.1", 0), Status("x"))
    port = int(where.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        stay = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
            for _ in range(_probe._MOST + 10)
        ]
        assert stay[0].recv(1) == b""
        assert ask(f"http://{where}", "/livez")[0] == 200

        def ended() -> bool:
            with contextlib.suppress(OSError):
                stay[-1].sendall(b"G")
                return bool(select.select([stay[-1]], [], [], 0)[0])
            return True

        eventually(ended, message="a slow one stays")
        for junk in (b"\x16\x03\x01\r\n\r\n", b"GET /" + b"a" * 70_000 + b"\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
                client.sendall(junk)
                with contextlib.suppress(ConnectionResetError):
                    client.recv(1)
        assert ask(f"http://{where}", "/leader")[0] == 503


def test_a_port_that_is_taken(cli: Cli, name: str) -> None:
    """Says so before anything else, with exit code 78."""
    first = cli.start("lead", "--probe-port", "127.0.0.1:0", name, "--", *WORKER)
    port = probed(first).rpartition(":")[2]
    child = first.worker()
    code, _, err = cli("lead", "--probe-port", f"127.0.0.1:{port}", name, "--", "true")
    assert code == Exit.CONFIG
    assert "choose another port" in err
    first.send(signal.SIGKILL)
    os.kill(child, signal.SIGKILL)


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lead"], "Missing argument 'NAME'"),
        (["lead", "x"], "no command to run, for example: advlock lead"),
        (["lead", "x", "true"], "put -- before the command"),
        (["lead", "--restart", "sometimes", "x", "--", "true"], "sometimes"),
        (["lead", "--probe-port", "http", "x", "--", "true"], "is no [HOST:]PORT"),
        (["lead", "--probe-port", "1:70000", "x", "--", "true"], "is no [HOST:]PORT"),
        (["lead", "--probe-port", f"{'é' * 70}:80", "x", "--", "true"], "is no [HOST:]PORT"),
        (["lead", "--hook-timeout", "0", "x", "--", "true"], "is not between"),
        (["lead", "--dsn", "x", "--local", "x", "--", "true"], "exclude each other"),
    ],
)
def test_wrong_usage(arguments: list[str], says: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Exit code 64, and what to write instead."""
    assert commands.main(arguments) == Exit.USAGE
    out, err = capfd.readouterr()
    assert out == ""
    assert says in err


def test_no_database(cli: Cli, name: str) -> None:
    """At the beginning it is a mistake, with exit code 69; later it is waited for."""
    code, _, err = cli("lead", "--dsn", "host=/nowhere", name, "--", "true")
    assert code == Exit.UNAVAILABLE
    assert "cannot connect" in err
