"""`advlock why`: the paragraph about real locks; its words are in tests/unit/test_lock_words.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.conninfo import make_conninfo

from .helpers import WORKER
from .lock_scene import pid_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .helpers import Cli
    from .lock_scene import Scene, Told

    Advlock = Callable[..., Told]

pytest_plugins = ["cli.lock_fixtures"]


def in_one_line(text: str) -> str:
    """The paragraph as if it had not been wrapped."""
    return " ".join(text.split())


def test_held_by_a_run_and_waited_for(cli: Cli, advlock: Advlock, scene: Scene, name: str) -> None:
    """The real thing: `advlock run` holds, somebody in psql waits."""
    started = cli.start("run", name, "--", *WORKER)
    started.worker()
    waiter = scene.wait(f"hashtextextended('{name}', 0)", "psql")
    told = advlock("why", name)
    assert (told.code, told.err) == (0, "")
    assert max(map(len, told.out.splitlines())) <= 96
    said = in_one_line(told.out)
    assert said.startswith(f"{name} is held by ")
    assert f" pid {started.pid} for " in said
    assert f"One session waits for it: psql (server session {pid_of(waiter)}), for " in said
    assert said.endswith(
        f"If you end it (advlock kill {name}), psql (server session {pid_of(waiter)}) gets the"
        " lock next."
    )
    started.send(15)
    assert started.code() == 0


def test_free_with_what_is_known_and_what_was_meant(
    advlock: Advlock, scene: Scene, name: str, tmp_path: Path
) -> None:
    """Nobody holds it; the registry knows what it is for; a name that is held is close."""
    (tmp_path / "advlock.toml").write_text(f'[locks]\n{name} = "the bills"\n{name}s = "more"\n')
    scene.hold(f"hashtextextended('{name}s', 0)")
    told = advlock("why", name)
    said = in_one_line(told.out)
    assert told.code == 0
    assert f"{name} is free: nobody holds it in database advlock_test_" in said
    assert "It is for: the bills." in said
    assert f"did you mean {name}s?" in said


def test_a_process_that_waits_for_itself(advlock: Advlock, scene: Scene, name: str) -> None:
    """Two sessions of one process: the server sees no deadlock, so it never ends."""
    for take in (scene.hold, scene.wait):
        take(f"hashtextextended('{name}', 0)", f"advlock:{name} web-2:4242")
    assert "web-2 pid 4242 waits for itself" in in_one_line(advlock("why", name).out)


def test_a_tool_s_own_lock_has_a_source(advlock: Advlock, scene: Scene) -> None:
    """What it means, and where in the tool's source that stands; the tool's name finds it."""
    scene.hold("72707369")
    said = in_one_line(advlock("why", "prisma migrate").out)
    assert said.startswith("Prisma Migrate is held by psql")
    assert "; see https://github.com/prisma/prisma-engines/blob/" in said


def test_json_has_the_text_and_the_locks(advlock: Advlock, scene: Scene, number: int) -> None:
    """For programs: the same, with what `ps --json` has of the lock."""
    holder = scene.hold(str(number))
    told = advlock("why", "--json", str(number)).json
    assert told["free"] is False
    assert told["locks"][0]["holders"][0]["pid"] == pid_of(holder)
    assert f"server session {pid_of(holder)}" in told["text"]
    free = advlock("why", "--json", f"n{number}").json
    assert (free["free"], free["locks"]) == (True, [])


def test_what_is_hidden_is_said(advlock: Advlock, scene: Scene, number: int, dsn: str) -> None:
    """A role that sees little gets a paragraph all the same, and is told what it did not see."""
    scene.hold(str(number))
    scene.wait(str(number))
    told = advlock("why", str(number), dsn=make_conninfo(dsn, user=scene.role()))
    assert told.code == 0
    assert "What the holder does is hidden from this role." in in_one_line(told.out)
    assert "GRANT pg_monitor" in told.err


def test_a_name_by_both_formulas_is_two_locks(advlock: Advlock, scene: Scene, name: str) -> None:
    """Two paragraphs: they do not exclude each other, which is worth knowing."""
    scene.hold(f"hashtextextended('{name}', 0)")
    scene.hold(f"hashtext('{name}')")
    paragraphs = advlock("why", name).out.split("\n\n")
    assert len(paragraphs) == 2
    assert {"hashtext(" in text for text in paragraphs} == {True, False}
