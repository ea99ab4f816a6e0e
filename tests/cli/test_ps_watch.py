"""`advlock ps --watch`: looks again and again, through restarts, and leaves the terminal alone."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Connection
    from servers import Server

    from .helpers import Cli
    from .lock_scene import OnTerminal, Scene, Told

pytest_plugins = ["cli.lock_fixtures"]

CTRL_C = "\x03"


class Door:
    """The way into the test's database, which may be shut."""

    def __init__(self, superuser: str, admin: Connection[Any]) -> None:
        self._superuser = superuser
        self._admin = admin
        (self._name,) = admin.execute("SELECT quote_ident(current_database())").fetchone() or ()

    def shut(self) -> None:
        """Let nobody in, and end every session that watches."""
        self._allow("false")
        self._admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'advlock ps' AND datname = current_database()"
        )

    def open(self) -> None:
        """Let everybody in again."""
        self._allow("true")

    def _allow(self, whether: str) -> None:
        with psycopg.connect(self._superuser, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS {whether}")


@pytest.fixture
def door(server: Server, admin: Connection[Any]) -> Iterator[Door]:
    """The door, open afterwards."""
    made = Door(server.superuser_dsn, admin)
    yield made
    made.open()


def test_it_draws_over_what_was_there_and_ends_with_ctrl_c(
    scene: Scene, number: int, on_terminal: Callable[..., OnTerminal]
) -> None:
    """Each picture starts at the top; Ctrl-C ends it with 130, and the terminal is as it was."""
    scene.hold("42")
    terminal = on_terminal("ps", "--watch", "0.2")
    assert "\x1b[H\x1b[2J" in terminal.until("42")
    scene.hold(str(number))
    later = terminal.until(str(number))
    assert "\x1b[2J" not in later
    assert "\x1b[H" in later
    terminal.type(CTRL_C)
    assert terminal.code() == 128 + signal.SIGINT
    assert terminal.unchanged()
    assert "Traceback" not in terminal.seen
    assert terminal.seen.rstrip("\r\n").endswith("\x1b[0m")


def test_it_survives_a_server_that_goes_away_and_q_ends_it(
    scene: Scene, number: int, on_terminal: Callable[..., OnTerminal], door: Door
) -> None:
    """It says that it lost the database, and shows the locks again when that is back."""
    scene.hold(str(number))
    terminal = on_terminal("ps", "-w", "0.2", str(number), columns=150)
    terminal.until(str(number))
    door.shut()
    assert str(number) in terminal.until("lost the database, trying again: ") + terminal.until("\n")
    door.open()
    terminal.until("1 lock, 0 waited for")
    terminal.type("q\n")
    assert terminal.code() == 0


def test_no_more_than_the_terminal_has(
    scene: Scene, on_terminal: Callable[..., OnTerminal]
) -> None:
    """What does not fit is counted; nothing scrolls."""
    scene.session().execute("SELECT count(pg_advisory_lock(n)) FROM generate_series(1, 50) AS n")
    terminal = on_terminal("ps", "--watch", "60", rows=10)
    first = terminal.until("more lines")
    assert first.count("\n") < 10
    assert "44 more lines" in first
    terminal.type(CTRL_C)
    assert terminal.code() == 130


def test_json_lines_into_a_pipe(cli: Cli, scene: Scene, number: int, door: Door) -> None:
    """One object in each line; an outage is told once on stderr, and leaves no line."""
    scene.hold(str(number))
    started = cli.start("ps", "--watch", "0.2", "--json", str(number))
    for _ in range(2):
        seen = json.loads(started.line())
        assert [lock["key"] for lock in seen["locks"]] == [str(number)]
    door.shut()
    assert started.said().startswith("advlock: lost the database, trying again: ")
    door.open()
    assert started.said() == "advlock: the database is back"
    assert json.loads(started.line())["locks"]
    started.send(signal.SIGINT)
    assert started.code() == 128 + signal.SIGINT
    assert started.stderr().strip() == ""


def test_blocks_into_a_pipe(cli: Cli, scene: Scene, number: int) -> None:
    """Without --json: when, the table, and an empty line."""
    scene.hold(str(number))
    started = cli.start("ps", "--watch", "0.2")
    lines = [started.line() for _ in range(5)]
    assert lines[1].startswith("NAME")
    assert lines[2].startswith(str(number))
    assert lines[3] == ""
    assert lines[4][:4] == lines[0][:4]
    started.send(signal.SIGINT)
    assert started.code() == 130


def test_a_name_may_stand_behind_it(cli: Cli, scene: Scene, number: int) -> None:
    """`--watch NAME`: the seconds may be left out, so a name is no duration."""
    scene.hold("42")
    scene.hold(f"hashtextextended('n{number}', 0)")
    started = cli.start("ps", "--json", "-w", f"n{number}")
    assert [lock["name"] for lock in json.loads(started.line())["locks"]] == [f"n{number}"]
    started.send(signal.SIGTERM)
    assert started.code() == -signal.SIGTERM


def test_a_database_that_never_was_there_is_an_error(advlock: Callable[..., Told]) -> None:
    """Only what was there once is waited for; a wrong address would be for ever."""
    told = advlock("ps", "--watch", "--dsn", "host=/nonexistent")
    assert (told.code, told.out) == (69, "")


def test_a_reader_that_goes_away_ends_it(cli: Cli, scene: Scene) -> None:
    """`advlock ps --watch | head -1`."""
    scene.hold("42")
    started = cli.start("ps", "--watch", "0.2")
    started.line()
    assert started.process.stdout
    started.process.stdout.close()
    eventually(lambda: started.process.poll() is not None)
    assert started.code() == 128 + signal.SIGPIPE
