"""What commands write passes through whole, is remembered in the history, and costs no lock."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING

from waiting import eventually

from .crons import Crons, shell, until
from .helpers import PATIENCE, alive

if TYPE_CHECKING:
    import subprocess

pytest_plugins = ["cli.cron_fixtures"]

LONG = 200_000  # bytes: more than a pipe, and than the longest line that is passed on in one piece
LINES = 2000
_WRITE = [sys.executable, "-I", "-S", "-c"]


def lines_of(output: bytes, name: str) -> list[bytes]:
    """The lines of one job, without the prefix."""
    prefix = f"{name} | ".encode()
    return [line.removeprefix(prefix) for line in output.split(b"\n") if line.startswith(prefix)]


def chatter(word: str, times: int = 1) -> str:
    """A line for Python that writes many lines, in pieces that end anywhere."""
    return (
        "import os\n"
        f"text = b''.join(b'{word} %05d\\n' % n for n in range({LINES})) * {times}\n"
        "for start in range(0, len(text), 777): os.write(1, text[start:start + 777])"
    )


def test_output_passes_through(crons_once: Crons) -> None:
    """On the right stream, with the job's name before each line; no byte is changed, or lost."""
    crons = crons_once
    scheduler = crons.run(
        {
            "both": shell("echo one; echo two; echo three >&2; printf four"),
            "piece": shell("printf a; sleep 0.1; printf b; sleep 0.1; echo c"),
            "long": {"command": [*_WRITE, f"import os; os.write(1, b'x' * {LONG} + b'\\ny')"]},
            "bytes": {"command": [*_WRITE, r"import os; os.write(1, b'\xff\0\r\xe2\n\n|')"]},
            "left": {"command": [*_WRITE, chatter("left")]},
            "right": {"command": [*_WRITE, chatter("right")]},
            "tail": {"command": ["seq", "-w", "10000"], "output": 60},
            "silent": {"command": ["true"]},
            "none": shell("echo nothing", output=0),
        }
    )
    jobs = ("both", "piece", "long", "bytes", "left", "right", "tail", "silent", "none")
    first = {job: crons.over(job)[0] for job in jobs}
    assert scheduler.end() == 0
    out, err = scheduler.out(), scheduler.err().encode()
    whole = {job: lines_of(out, crons.name(job)) for job in jobs}
    assert sum(map(len, whole.values())) == out.count(b"\n"), "nothing but lines of jobs"
    assert whole["both"][:3] == [b"one", b"two", b"four"]
    assert lines_of(err, crons.name("both"))[:1] == [b"three"]
    assert whole["piece"][0] == b"abc"
    runs = len(whole["both"]) // 3
    assert b"".join(whole["long"]).startswith(b"x" * LONG + b"y")
    assert len(whole["long"]) < 10 * runs
    assert whole["bytes"][:3] == [b"\xff\0\r\xe2", b"", b"|"]
    for word in ("left", "right"):
        assert whole[word][:LINES] == [f"{word} {n:05}".encode() for n in range(LINES)]
    assert sorted(first["both"].output or "") == sorted("one\ntwo\nthree\nfour")
    assert first["long"].output == "…" + "x" * (16 * 1024 - 2) + "\ny"
    assert first["bytes"].output == "\N{REPLACEMENT CHARACTER}" * 2 + "\r" + (
        "\N{REPLACEMENT CHARACTER}\n\n|"
    )
    assert first["tail"].output == "…" + "".join(f"{n:05}\n" for n in range(9991, 10001))
    assert first["silent"].output is None
    assert {row.state for row in first.values()} == {"succeeded"}
    assert first["none"].output in {None, "…"}


def test_output_without_a_prefix(crons_once: Crons) -> None:
    """As it is; and --quiet keeps what is no warning from stderr."""
    crons = crons_once
    scheduler = crons.run({"both": shell("echo one; echo two >&2")}, "--no-prefix", "--quiet")
    crons.over("both")
    assert scheduler.end() == 0
    assert set(scheduler.out().split(b"\n")) == {b"one", b""}
    said = scheduler.err().splitlines()
    assert {line for line in said if not line.startswith("advlock: ")} == {"two"}
    assert not any("started" in line or "succeeded" in line for line in said)


def test_output_that_nobody_reads_costs_no_lock(crons_once: Crons) -> None:
    """Whoever writes has to wait; locks are looked after for as long as ever, and other jobs run.

    Longer than trust lasts without a heartbeat; then it is read, and nothing is missing.
    """
    crons = crons_once
    reads, writes = os.pipe()
    stop = crons.directory / "stop"
    flood = {"command": [*_WRITE, "import os\nwhile True: os.write(1, b'0123456789abcde\\n' * 64)"]}
    jobs = {"flood": flood, "waits": shell(until(stop)), "short": {"command": ["true"]}}
    scheduler = crons.run(jobs, stdout=writes)
    os.close(writes)
    flooding, waiting = crons.running("flood"), crons.running("waits")
    began = time.monotonic()
    eventually(lambda: _is_stuck(scheduler.process), within=PATIENCE, message="nobody reads")
    eventually(lambda: time.monotonic() - began > 9.0, within=12)
    for job, row in (("flood", flooding), ("waits", waiting)):
        assert crons.held(job) == 1
        assert crons.running(job).run_id == row.run_id
    assert len(crons.over("short", "succeeded", 6)) >= 6
    stop.touch()
    assert crons.over("waits")[0].state == "succeeded"
    scheduler.send(15)
    scheduler.says("asked to end")
    scheduler.send(15)
    with open(reads, "rb") as pipe:  # noqa: PTH123 - a descriptor
        text = pipe.read()
    assert scheduler.code() == 0
    line = f"{crons.name('flood')} | 0123456789abcde".encode()
    assert set(text.split(b"\n")[:-1]) <= {line} | _beginnings(line)
    assert text.count(line) > 100_000
    assert crons.over("flood")[0].state == "lost"


def test_a_log_that_nobody_reads_stops_nothing(crons_once: Crons) -> None:
    """Timeouts are kept to, jobs run, and TERM ends it, while its stderr is a full pipe."""
    crons = crons_once
    reads, writes = os.pipe()
    fill(writes)
    jobs = {
        "slow": {"command": ["sleep", "60"], "timeout": "300ms"},
        "short": {"command": ["true"]},
    }
    scheduler = crons.run(jobs, stderr=writes)
    os.close(writes)
    assert crons.over("slow", "timeout")[0].exit_code == 128 + 15
    crons.over("short", "succeeded", 2)
    scheduler.send(15)
    assert scheduler.code() == 0
    os.close(reads)


def test_a_stdout_that_does_not_wait_loses_nothing(crons_once: Crons) -> None:
    """Whoever shares it may have made it O_NONBLOCK; a full pipe is waited for all the same."""
    crons = crons_once
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    scheduler = crons.run({"left": {"command": [*_WRITE, chatter("left", 20)]}}, stdout=writes)
    os.close(writes)
    crons.over("left")
    scheduler.send(15)
    with open(reads, "rb") as pipe:  # noqa: PTH123 - a descriptor
        text = pipe.read()
    assert scheduler.code() == 0
    lines = lines_of(text, crons.name("left"))
    assert lines[: 2 * LINES] == [f"left {n:05}".encode() for n in range(LINES)] * 2


def test_history_is_shown_where_stdout_is_not_utf_8(crons_once: Crons) -> None:
    """What it cannot spell is escaped."""
    crons = crons_once
    crons.run({"odd": shell("echo snow☃")})
    crons.over("odd")
    args = ("cron", "history", crons.name("odd"), "--output")
    shown = crons.cli.start(*args, env=crons.cli.env | {"PYTHONIOENCODING": "latin-1"})
    assert shown.code() == 0
    assert shown.process.stdout
    assert b"snow\\u2603" in shown.process.stdout.read()


def fill(fd: int) -> None:
    """Write to a pipe until it is full."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, b"x" * 4096)
    os.set_blocking(fd, True)


def _beginnings(line: bytes) -> set[bytes]:
    """What may be the last line of somebody who was stopped."""
    return {line[:length] for length in range(len(line))}


def _is_stuck(process: subprocess.Popen[bytes]) -> bool:
    """Whether a thread of a process waits in write(2)."""
    assert alive(process.pid)
    tasks = f"/proc/{process.pid}/task"
    return any("pipe_write" in _wchan(f"{tasks}/{task}") for task in os.listdir(tasks))  # noqa: PTH208


def _wchan(task: str) -> str:
    try:
        with open(f"{task}/wchan") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""
