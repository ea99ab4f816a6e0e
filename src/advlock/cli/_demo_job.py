"""The job of `advlock demo`: work for a while, and write down when that began and ended.

It is a program of its own, for an interpreter without site-packages, so that it starts at once.
"""

from __future__ import annotations

import os
import sys
import time


def main(record: str, run: str, seconds: str) -> None:
    """Append `begin`, work, append `end`; a killed job leaves no `end`.

    Without O_CREAT: a job that outlives the demo must not bring a removed file back.
    """
    log = os.open(record, os.O_WRONLY | os.O_APPEND)
    for event in ("begin", "end"):
        line = f"{event} {run} {os.getpid()} {time.monotonic_ns()}\n"
        os.write(log, line.encode())  # one write, so that lines of several jobs do not mix
        if event == "begin":
            time.sleep(float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
