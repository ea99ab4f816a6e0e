"""The job of `advlock demo`: work for a while, and note when that began and ended.

It is a program of its own, for an interpreter without site-packages, so that it starts at once.
"""

from __future__ import annotations

import os
import sys
import time

LONGEST = 60.0  # seconds; should the demo be gone that wanted it to work on


def main(directory: str, seconds: str) -> None:
    """Append `begin` to the notes, work, append `end`; a killed job leaves no `end`.

    Without O_CREAT: a job that outlives the demo must not bring a removed file back. If there is a
    file `hold` when it begins, it works until that is gone.
    """
    notes = os.open(f"{directory}/notes", os.O_WRONLY | os.O_APPEND)
    hold = f"{directory}/hold"
    held = os.path.exists(hold)  # noqa: PTH110 - pathlib takes longer to load than all the rest
    who = f"{os.environ['ADVLOCK_RUN_ID']} {os.environ['ADVLOCK_SCHEDULED_AT']} {os.getppid()}"
    for event in ("begin", "end"):
        line = f"{event} {who} {os.getpid()} {held:d} {time.monotonic_ns()}\n"
        os.write(notes, line.encode())  # one write, so that lines of several jobs do not mix
        if event == "begin":
            time.sleep(float(seconds))
            give_up = time.monotonic() + LONGEST
            while held and os.path.exists(hold) and time.monotonic() < give_up:  # noqa: PTH110
                time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
