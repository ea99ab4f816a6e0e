"""Processes that do things once, and put down on the server what they do.

    python -m chaos.once_worker DSN < lines of `plain|window|here|naive SEED`

Each line starts one, by a fork, so that many can be killed and replaced in a short time. Its
process id is the answer. All of them end with stdin.

`plain` does one thing after the other, `window` a few things again and again, and `here` each in a
transaction together with its work. `naive` is the control: it looks, does it, and writes that down.

The times are of CLOCK_MONOTONIC, which all processes of a machine share, read before they are sent:
what is written by somebody who was killed meanwhile happened before that.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg

import advlock
from advlock.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLES: Final = """
CREATE TABLE history (
    kind text, name text, run text, pid int, event text, at bigint);
CREATE TABLE work (name text);
CREATE TABLE naive (name text PRIMARY KEY);
CREATE TABLE marked (name text, started_at timestamptz, done_at timestamptz);
CREATE FUNCTION note_mark() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.marked VALUES (NEW.name, NEW.started_at, NEW.done_at);
    RETURN NULL;
END $$;
CREATE TRIGGER note_mark AFTER UPDATE ON advlock.once FOR EACH ROW
WHEN (NEW.done_at IS DISTINCT FROM OLD.done_at) EXECUTE FUNCTION note_mark();
"""
WINDOW: Final = 0.4  # seconds
_LONGEST: Final = 0.03  # of a body
_NOTE = "INSERT INTO history VALUES (%s, %s, %s, %s, %s, %s)"


class Worker:
    """One process.

    Args:
        kind: What it does.

        dsn: Where.

        seed: Of everything random.
    """

    def __init__(self, kind: str, dsn: str, seed: int) -> None:
        self.kind, self.dice = kind, random.Random(seed)  # noqa: S311
        self.locks = advlock.Locks(dsn)
        self.dsn = dsn
        self.server = psycopg.connect(dsn, autocommit=True)

    def note(self, name: str, run: str, event: str) -> None:
        """Put down what happens, over a connection that has nothing to do with the lock."""
        now = time.monotonic_ns()
        self.server.execute(_NOTE, (self.kind, name, run, os.getpid(), event, now))

    def work(self, name: str) -> None:
        """Do something, in two steps."""
        run = f"{os.getpid()}-{time.monotonic_ns()}"
        for event in ("begin", "step", "end"):
            self.note(name, run, event)
            time.sleep(self.dice.uniform(0.0, _LONGEST))

    def run(self) -> None:
        """Go on until somebody ends it."""
        number = 0
        while True:
            name = f"{self.kind}-{number}"
            try:
                getattr(self, self.kind)(name)
            except (LockError, psycopg.Error):
                if self.server.closed:
                    self.server = psycopg.connect(self.dsn, autocommit=True)
                continue
            self.note(name, "", "went on")
            number = (number + 1) % 3 if self.kind == "window" else number + 1
            time.sleep(self.dice.uniform(0.0, _LONGEST))

    def plain(self, name: str) -> None:
        """Do it once."""
        with self.locks.once(name) as todo:
            if todo:
                self.work(name)

    def window(self, name: str) -> None:
        """Do it at most once in a window."""
        with self.locks.once(name, per=WINDOW) as todo:
            if todo:
                self.work(name)

    def here(self, name: str) -> None:
        """Do it once, and have it committed with its record."""
        with psycopg.connect(self.dsn) as conn, self.locks.once(name, connection=conn) as todo:
            if todo:
                conn.execute("INSERT INTO work VALUES (%s)", [name])
                self.work(name)

    def naive(self, name: str) -> None:
        """Look, do it, write that down: as everybody does without a library."""
        found = self.server.execute("SELECT FROM naive WHERE name = %s", [name]).fetchone()
        if found is None:
            self.work(name)
            self.server.execute("INSERT INTO naive VALUES (%s) ON CONFLICT DO NOTHING", [name])


def main(dsn: str) -> None:
    """Start what stdin asks for."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    started: list[int] = []
    with _ended(started):
        for line in sys.stdin:
            kind, seed = line.split()
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                Worker(kind, dsn, int(seed)).run()
            started.append(pid)
            os.write(1, b"%d\n" % pid)


@contextmanager
def _ended(started: list[int]) -> Iterator[Any]:
    try:
        yield
    finally:
        for pid in started:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
