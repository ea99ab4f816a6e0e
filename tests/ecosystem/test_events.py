"""Events: each verb tells how its lock comes and goes, under the names that are documented."""

from __future__ import annotations

import gc
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waiting import aeventually, eventually

import advlock
from advlock import _observe

from .stories import NOWHERE, a_name, brief, cancelled, every_verb, in_vain, loses, play, told

if TYPE_CHECKING:
    from conformance.worlds import World
    from psycopg import Connection

pytestmark = pytest.mark.newest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "observe.md").read_text()

both = pytest.mark.parametrize("world", ["sync", "async"])
_GRANTED = ["lock.acquired", "lock.released"]


@both
def test_each_verb_tells_one_beginning_and_one_end(world: str, dsn: str) -> None:
    """Once each, in this order; and a lock that is entered again is told of once."""
    name = a_name()
    with told() as facts:
        play(world, every_verb, dsn, name)
        eventually(lambda: any(f.get("by") == "close" for f in facts))
    # The next may come while asyncio's release is on its way.
    told_of_it = [each for each in brief(facts, name) if not each.startswith("lock.waiting")]
    assert told_of_it == [f"{event} {name}" for event in _GRANTED] * 6
    assert brief(facts, f"{name}-slots") == [f"{event} {name}-slots" for event in _GRANTED] * 3
    both_locks = brief(facts, f"{name}-1", f"{name}-2")
    assert sorted(both_locks) == sorted(f"{e} {name}-{n}" for e in _GRANTED for n in (1, 2))
    lead = [f["event"] for f in facts if f.get("lock") == f"{name}-lead"]
    assert [e for e in lead if e.startswith("leader")] == [
        "leader.campaigning",
        "leader.elected",
        "leader.resigned",
    ]
    assert [e for e in lead if e.startswith("lock")] == _GRANTED


@both
def test_an_event_says_what_is_documented_of_it(world: str, dsn: str) -> None:
    """A hold has its key, its session and its times."""
    name = a_name()
    with told() as facts:
        play(world, every_verb, dsn, name)
    acquired, released, shared = (f for f in facts[:3] if f.get("lock") == name)
    assert acquired["key"] == str(advlock.Key.of(name).value)
    assert acquired["backend_pid"] == released["backend_pid"]
    assert (acquired["shared"], shared["shared"]) == (False, True)
    assert released["held_ms"] > 0
    assert acquired["wait_ms"] > 0


@both
def test_what_is_not_granted_is_told(world: str, dsn: str, admin: Connection[Any]) -> None:
    """Busy, late, and without a server; and a wait that is granted tells of both."""
    name = a_name()
    with told() as facts:
        play(world, in_vain, dsn, admin, name)
    events = [line.partition(" ")[0] for line in brief(facts, name)]
    assert events[:1] == ["lock.acquired"]
    assert events.count("lock.busy") == 2
    assert events.count("lock.timeout") == 3
    assert events.count("lock.failed") == 1
    # Who asks for 50 ms, and is slow to be told that it is not free, has no time left to wait.
    assert 1 <= events.count("lock.waiting") <= 4
    assert events.count("lock.acquired") == events.count("lock.released") == 2
    late = [f for f in facts if f["event"] == "lock.timeout" and f["lock"] == name]
    assert all(f["wait_ms"] == 50 for f in late)
    assert any(f["holder"] for f in late)  # each time that the server says so in time
    slots = [line.partition(" ")[0] for line in brief(facts, f"{name}-slots")]
    assert slots == ["lock.acquired", "lock.busy", "lock.waiting", "lock.timeout", "lock.released"]


def test_a_cancelled_wait_is_told(dsn: str, admin: Connection[Any]) -> None:
    """It is neither busy nor late."""
    name = a_name()
    with told() as facts:
        play("async", cancelled, dsn, admin, name)
    assert f"lock.cancelled {name}" in brief(facts, name)


@both
def test_each_of_several_locks_that_could_not_be_asked_for_is_told(world: str) -> None:
    """By its own name, so that metrics have no name for each set of locks."""
    name = a_name()

    async def story(world: World) -> None:
        several = world.client(NOWHERE).hold_all([f"{name}-1"], shared=[f"{name}-2"])
        with pytest.raises(advlock.DatabaseUnavailable):
            await world.actor().enter(several)

    with told() as facts:
        play(world, story)
    assert [(f["event"], f["lock"], f["shared"]) for f in facts if "lock" in f] == [
        ("lock.failed", f"{name}-1", False),
        ("lock.failed", f"{name}-2", True),
    ]


@both
def test_a_handle_that_is_dropped_is_told_of(world: str, dsn: str) -> None:
    """As the finalizer's doing; but not where an outer hold has the lock still."""
    name = a_name()

    async def story(world: World) -> None:
        client = world.client(dsn)

        async def hold() -> Any:
            held = client._hold(name, reentrant=True)
            return held if world.name == "sync" else await held

        held = await hold()
        again = await hold()
        del again
        gc.collect()
        assert not held.lost
        assert client._ledger.find_held(held.key, held._ticket.owner)
        del held
        gc.collect()
        await aeventually(lambda: len(brief(facts, name)) == 2)

    with told() as facts, pytest.warns(ResourceWarning, match="never released"):
        play(world, story)
    assert brief(facts, name) == [f"lock.acquired {name}", f"lock.released {name}"]
    assert facts[1]["by"] == "finalizer"


@both
def test_a_lost_lock_is_told_once(
    world: str, dsn: str, admin: Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """As a warning, with a reason that can be counted by; it is not released as well."""
    name = a_name()
    with told() as facts:
        play(world, loses, dsn, admin, name, facts)
    assert brief(facts, name) == [f"lock.acquired {name}", f"lock.lost {name}"]
    (lost,) = (f for f in facts if (f["event"], f.get("lock")) == ("lock.lost", name))
    assert lost["reason"] == "terminated"
    assert lost["backend_pid"] == facts[0]["backend_pid"]
    ours = [r for r in caplog.records if getattr(r, "lock", "") == name]
    (record,) = (r for r in ours if getattr(r, "event", "") == "lock.lost")
    assert record.levelno == logging.WARNING


@both
def test_a_listener_that_raises_breaks_no_lock(
    world: str, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All verbs go on; it is said once."""

    def broken(_: object) -> None:
        raise RuntimeError

    _observe.listen(broken)
    try:
        with told() as facts:
            play(world, every_verb, dsn, a_name())
    finally:
        _observe.unlisten(broken)
    assert len(facts) > 20
    assert [r.event for r in caplog.records].count("listener.failed") == 1  # type: ignore[attr-defined]


def test_a_filter_that_raises_breaks_no_lock(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does one of the log's."""
    caplog.set_level(logging.DEBUG, "advlock")

    def broken(_: object) -> bool:
        raise RuntimeError

    _observe.log.addFilter(broken)
    try:
        with advlock.Locks(dsn) as locks, locks.hold(a_name()) as held:
            assert not held.lost
    finally:
        _observe.log.removeFilter(broken)


def test_while_nobody_listens_nothing_is_noted(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """A hold is as it always was; the level of the log is what switches that, at any time."""
    with advlock.Locks(dsn) as locks:
        with locks.hold(a_name()) as held:
            assert held._ticket.watched is None
        caplog.set_level(logging.DEBUG, "advlock")
        with locks.hold(a_name()) as held:
            assert held._ticket.watched is not None
        caplog.set_level(logging.INFO, "advlock")
        with locks.hold(a_name()) as held:
            assert held._ticket.watched is None


def test_who_begins_to_listen_while_locks_are_held_hears_of_new_ones(dsn: str) -> None:
    """What was taken before has no end that is told."""
    name = a_name()
    with (
        advlock.Locks(dsn) as locks,
        locks.hold(f"{name}-old"),
        told() as facts,
        locks.hold(name),
    ):
        pass
    assert [f["lock"] for f in facts if "lock" in f] == [name, name]


def test_a_name_s_template_is_told(dsn: str, tmp_path: Path) -> None:
    """So that metrics can have one name for all of them."""
    path = tmp_path / "advlock.toml"
    path.write_text('[locks]\n"user:{id}" = "One user."\n')
    name = f"user:{a_name()}"
    with told() as facts, advlock.Locks(dsn, registry=path) as locks, locks.hold(name):
        pass
    assert [f["template"] for f in facts if "lock" in f] == ["user:{id}", "user:{id}"]


_RUN = """
import json, logging, sys

class Lines(logging.Handler):
    def emit(self, record):
        print(json.dumps({k: v for k, v in vars(record).items() if k in
              ("event", "lock", "exit_code", "reason", "run_id", "pid")}), flush=True)

log = logging.getLogger("advlock")
log.setLevel(logging.INFO)
log.addHandler(Lines())
from advlock.cli import main
sys.exit(main())
"""


def _events_of(dsn: str, *argv: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-c", _RUN, "run", "--dsn", dsn, *argv]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50)
    lines = (line for line in done.stdout.splitlines() if line.startswith("{"))
    return [each for each in map(json.loads, lines) if each.get("event", "").startswith("run.")]


def test_run_tells_of_its_command(dsn: str) -> None:
    """That it started, and how it ended."""
    name = a_name()
    started, finished = _events_of(dsn, name, "--", "sh", "-c", "exit 3")
    assert (started["event"], finished["event"]) == ("run.started", "run.finished")
    assert (finished["lock"], finished["exit_code"]) == (name, 3)
    assert started["run_id"] == finished["run_id"]


def test_run_tells_that_it_stopped_its_command(dsn: str) -> None:
    """And why; a command that ends with the same exit code by itself is not meant."""
    _, killed = _events_of(dsn, "--max-runtime", "0.1", a_name(), "--", "sleep", "30")
    assert (killed["event"], killed["reason"], killed["exit_code"]) == (
        "run.killed",
        "max-runtime",
        124,
    )
    _, finished = _events_of(dsn, a_name(), "--", "sh", "-c", "exit 124")
    assert finished["event"] == "run.finished"


def test_the_documented_events_are_those_of_the_code() -> None:
    """Each one in the table is told somewhere, and each one that is told is in the table."""
    table = set(re.findall(r"^\| `([a-z_.-]+)` \| [A-Z]", PAGE, re.MULTILINE))
    package = ROOT / "src" / "advlock"
    assert table == _events_in([*package.rglob("*.py")])


def _events_in(paths: list[Path]) -> set[str]:
    found: set[str] = set()
    for text in (path.read_text() for path in paths):
        families = (
            "beat|cron|leader|listener|lock|loop|migration|names|run|scrape|session|task|tick|watch"
        )
        found.update(re.findall(rf'"((?:{families})\.[a-z_.]+)"', text))
        found.update(f"cron.{word}" for word in re.findall(r'\.facts\("(\w+)"\)', text))
    return found - {"task.go"}  # a name of a package, in an export
