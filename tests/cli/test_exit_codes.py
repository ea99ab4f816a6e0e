"""The exit codes as a table: each one from a real process against a real server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually

from advlock.cli.exits import Exit, table

from .helpers import ADVLOCK, WORKER, alive

if TYPE_CHECKING:
    from pathlib import Path

    from psycopg import Connection

    from .helpers import Cli

THE_COMMANDS_OWN = [
    (["true"], 0),
    (["false"], 1),
    (["sh", "-c", "exit 2"], 2),
    (["sh", "-c", "exit 75"], 75),
    (["sh", "-c", "exit 255"], 255),
    (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
    (["sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL),
    (["sh", "-c", "kill -PIPE $$"], 128 + signal.SIGPIPE),
]

LIMIT = "4s"  # long enough for a worker to start on a busy machine

WRONG_USAGE = [
    ([], "Usage: advlock"),
    (["rnu"], "No such command 'rnu'"),
    (["run"], "Missing argument 'NAME'"),
    (["run", "x"], "no command to run, for example: advlock run nightly -- ./report.sh"),
    (["run", "x", "--"], "no command to run"),
    (["run", "--", "true"], "Missing argument 'NAME'"),
    (["run", "x", "true"], "put -- before the command"),
    (["run", "", "--", "true"], "a lock's name is empty"),
    (["run", "x", "--slot", "2", "--", "true"], "--slots"),
    (["run", "x", "-w", "--", "true"], "requires an argument"),
    (["run", "x", "-w", "soon", "--", "true"], "write a duration such as 5, 30s"),
    (["run", "x", "-w", "-1", "--", "true"], "negative"),
    (["run", "x", "--max-runtime", "1y", "--", "true"], "unknown unit"),
    (["run", "x", "-k", "x", "--", "true"], "--kill-after"),
    (["run", "x", "-n", "-w", "5", "--", "true"], "--no-wait and --wait exclude each other"),
    (["run", "x", "-s", "-x", "--", "true"], "--shared and --exclusive exclude each other"),
    (["run", "x", "-s", "--slots", "2", "--", "true"], "--shared and --slots exclude each other"),
    (["run", "x", "--dsn", "a", "--local", "--", "true"], "--dsn and --local exclude each other"),
    (["run", "x", "--slots", "0", "--", "true"], "0 is not in the range"),
    (["run", "x", "-E", "256", "--", "true"], "256 is not in the range"),
    (["run", "x", "-E", "-1", "--", "true"], "-1 is not in the range"),
    (["run", "x", "--liveness", "2s", "--", "true"], "'2s' is not between 3s and 1d; write one"),
    (["run", "x", "--liveness", "soon", "--", "true"], "write a duration such as 5, 30s"),
    (["run", "x", "--lease", "1.9", "--", "true"], "'1.9' is not between 2s and 1d; write one"),
    (["run", "x", "--lease", "0", "--", "true"], "'0' is not between 2s and 1d; write one"),
    (["run", "x", "--on-lost", "cry", "--", "true"], "'cry' is not one of 'kill', 'continue'"),
]


def shown(value: list[str] | int | str) -> str:
    """A parameter, in a test's name."""
    return " ".join(value[:5]) if isinstance(value, list) else str(value)


@pytest.mark.parametrize(("command", "code"), THE_COMMANDS_OWN, ids=shown)
def test_the_commands_own_exit_code(cli: Cli, name: str, command: list[str], code: int) -> None:
    """A command that runs to its end, or dies of a signal, gives its own code and no words."""
    assert cli("run", name, "--", *command) == (code, "", "")


@pytest.mark.parametrize(("arguments", "hint"), WRONG_USAGE, ids=shown)
def test_wrong_usage_is_64_and_says_what_to_type(arguments: list[str], hint: str) -> None:
    """A command line that cannot be understood is 64, needs no server, and teaches."""
    ended = subprocess.run([*ADVLOCK, *arguments], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (Exit.USAGE, "")
    assert hint in ended.stderr
    if arguments:
        lines = ended.stderr.splitlines()
        assert all(line.startswith("advlock: ") for line in lines)
        assert lines[-1] == f"advlock: try 'advlock {'run ' * (arguments[0] == 'run')}--help'"


def test_a_command_that_does_not_exist_is_127(cli: Cli, name: str) -> None:
    """A program that is not on PATH is 127, and the lock is free again."""
    code, _, err = cli("run", name, "--", "no-such-program")
    assert (code, err) == (127, "advlock: command not found: 'no-such-program'; is it on PATH?\n")
    assert cli("run", "-n", name, "--", "true")[0] == 0


def test_a_line_for_a_shell_is_127_and_says_how(cli: Cli, name: str) -> None:
    """A whole shell line in one argument is no program; the message shows how to write it."""
    code, _, err = cli("run", name, "--", "echo hi; ls")
    assert code == Exit.NOT_FOUND
    assert "write: -- sh -c 'echo hi; ls'" in err


def test_a_missing_interpreter_is_127(cli: Cli, name: str, tmp_path: Path) -> None:
    """A script whose first line names a program that is not there is told apart from no script."""
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    code, _, err = cli("run", name, "--", str(script))
    assert code == Exit.NOT_FOUND
    assert "the interpreter in its first line does not exist" in err


def test_what_cannot_be_executed_is_126(cli: Cli, name: str, tmp_path: Path) -> None:
    """A file that is there but cannot be executed is 126, with the reason; no shell is tried."""
    script = tmp_path / "script"
    for mode, content, reason in (
        (0o644, "#!/bin/sh\n", "permission denied"),
        (0o755, "echo hi\n", "needs a first line such as #!/bin/sh"),
    ):
        script.write_text(content)
        script.chmod(mode)
        code, out, err = cli("run", name, "--", str(script))
        assert (code, out) == (Exit.CANNOT_EXECUTE, "")
        assert reason in err


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["-n"], 75),
        (["--nonblock", "-E", "0"], 0),
        (["--no-wait", "--conflict-exit-code", "200"], 200),
        (["-w", "1"], 75),
        (["-w", "0"], 75),
        (["--timeout", "700ms", "-E", "9"], 9),
        (["-n", "-s"], 75),
    ],
    ids=shown,
)
def test_busy_is_75_or_what_was_asked_for(
    cli: Cli, admin: Connection[Any], name: str, flags: list[str], code: int
) -> None:
    """Somebody else's lock, taken from psql, gives the conflict code; the command never runs."""
    admin.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    ended = cli("run", *flags, name, "--", "echo", "ran")
    admin.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [name])
    assert ended[:2] == (code, "")
    assert f"advlock: skipped '{name}': held by test-admin" in ended[2]


def test_a_wait_ends_on_time(cli: Cli, admin: Connection[Any], name: str) -> None:
    """`-w 3` gives up no earlier than after three seconds, and not much later."""
    admin.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    began = time.monotonic()
    started = cli.start("run", "-w", "3", name, "--", "true")
    assert "waiting" in started.said()
    told = time.monotonic()
    assert started.code() == Exit.BUSY
    ended = time.monotonic()
    admin.execute("SELECT pg_advisory_unlock_all()")
    assert ended - began >= 3
    assert ended - told < 6  # not since it was started, which takes a busy machine a while


def test_an_unreachable_database_is_69(cli: Cli, name: str) -> None:
    """No server at the address: 69, in one line, and the command does not run."""
    address = "postgresql://somebody:geheim@127.0.0.1:1/db"
    code, out, err = cli("run", name, "--dsn", address, "--", "echo", "ran")
    assert (code, out) == (Exit.UNAVAILABLE, "")
    assert err.startswith("advlock: ")
    assert err.count("\n") == 1
    assert "geheim" not in err


@pytest.mark.parametrize("address", ["nonsense", "postgresql://host:port/db", "mysql://host/db"])
def test_a_bad_address_is_78(cli: Cli, name: str, address: str) -> None:
    """What is no address of a PostgreSQL database is bad configuration."""
    code, out, err = cli("run", name, "--dsn", address, "--", "echo", "ran")
    assert (code, out) == (Exit.CONFIG, "")
    assert err.startswith("advlock: ")


def test_no_address_at_all_is_78_and_names_the_ways_out(
    cli: Cli, name: str, tmp_path: Path
) -> None:
    """Without a database the message names DATABASE_URL and --local; nothing is started."""
    cli.env = {key: value for key, value in cli.env.items() if not key.startswith("PG")}
    del cli.env["ADVLOCK_DSN"]
    code, _, err = cli("run", name, "--", "true", cwd=tmp_path)
    assert code == Exit.CONFIG
    assert "DATABASE_URL" in err
    assert "--local" in err


def test_max_runtime_is_124(cli: Cli, name: str) -> None:
    """A command that runs too long gets TERM, with its whole group, and the code is 124."""
    started = cli.start("run", "--max-runtime", LIMIT, name, "--", *WORKER, "--fork")
    started.lines(2)
    assert started.lines(2) == {"child got TERM", "grandchild got TERM"}
    assert started.code() == Exit.TIMED_OUT
    assert started.stderr() == f"advlock: --max-runtime of {LIMIT} is over; stopping the command\n"


def test_max_runtime_kills_a_command_that_ignores_term(cli: Cli, name: str) -> None:
    """After `--kill-after` comes KILL, to the grandchild too, and the code is still 124."""
    started = cli.start(
        *("run", "--max-runtime", LIMIT, "-k", "0.3", name),
        *("--", *WORKER, "--fork", "--ignore", "TERM"),
    )
    pids = [int(line.split()[1]) for line in started.lines(2)]
    assert started.code() == Exit.TIMED_OUT
    assert "not ended 300ms after TERM; sending KILL" in started.stderr()
    for pid in pids:
        eventually(lambda pid=pid: not alive(pid), message=f"{pid} killed")


def test_max_runtime_lets_a_quick_command_alone(cli: Cli, name: str) -> None:
    """A command that is quick enough, and one without a limit (0), keep their own codes."""
    assert cli("run", "--max-runtime", "10", name, "--", "sh", "-c", "exit 3")[0] == 3
    assert cli("run", "--max-runtime", "0", name, "--", "sh", "-c", "exit 3")[0] == 3


@pytest.mark.parametrize(
    "where", ["advlock.cli._seek.acquire", "advlock.cli._supervise._Supervisor._take"]
)
def test_our_own_bug_is_70_and_leaves_nothing_behind(cli: Cli, name: str, where: str) -> None:
    """An exception nobody expected is 70, asks to be reported, and takes the command with it."""
    module, _, function = where.rpartition(".")
    broken = f"""
import sys, advlock.cli.run
def bug(*_): raise ZeroDivisionError("a bug")
target = {module}
setattr(target, {function!r}, bug)
sys.exit(advlock.cli.main(sys.argv[1:]))
"""
    started = cli.program(sys.executable, "-c", broken, "run", name, "--", *WORKER)
    if "Supervisor" in where:
        child = started.worker()
        started.send(signal.SIGUSR1)
    assert started.code() == Exit.BUG
    err = started.stderr()
    assert "ZeroDivisionError: a bug" in err
    assert err.endswith("please report it together with the lines above\n")
    if "Supervisor" in where:
        assert started.line() == "child got TERM"
        assert not alive(child)


def test_every_code_of_ours_is_in_the_help(cli: Cli) -> None:
    """The table in `advlock --help` and `advlock run --help` is that of the code."""
    for arguments in (["--help"], ["run", "--help"]):
        code, out, _ = cli(*arguments)
        assert code == 0
        words = " ".join(out.split())
        for shown, meaning in table():
            assert f"{shown} {' '.join(meaning.split())}" in words


def test_the_version_is_told(cli: Cli) -> None:
    """`advlock --version` writes one line to stdout."""
    code, out, err = cli("--version")
    assert (code, err) == (0, "")
    assert out.startswith("advlock ")


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_standard_stream_changes_nothing(
    cli: Cli, admin: Connection[Any], name: str, closed: int
) -> None:
    """Started with a stream closed, the lock's socket does not take that stream's place."""
    shell = f'exec "$@" {closed}>&-'
    inherited = f"test ! -e /proc/self/fd/{closed}"
    command = ["sh", "-c", shell, "sh", *ADVLOCK, "run", name]
    assert cli.program(*command, "--", "sh", "-c", inherited).code() == 0
    admin.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    assert cli.program(*command, "-n", "--", "true").code() == Exit.BUSY
    admin.execute("SELECT pg_advisory_unlock_all()")


def test_a_stderr_that_nobody_reads_changes_nothing(
    cli: Cli, admin: Connection[Any], name: str
) -> None:
    """A broken pipe on stderr ends neither the command nor our exit code."""
    admin.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    read, write = os.pipe()
    os.close(read)
    with closing(os.fdopen(write, "wb")) as stderr:
        assert cli.start("run", "-n", name, "--", "true", stderr=stderr).code() == Exit.BUSY
    admin.execute("SELECT pg_advisory_unlock_all()")
