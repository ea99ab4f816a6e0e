"""A job of the cron's chaos: it writes down when it begins and when it ends, and nothing else.

    python -I -S cron_job.py RECORD LONGEST SEED

appends `begin JOB TICK RUN_ID PID NANOSECONDS` to the file RECORD, works for up to LONGEST seconds,
which follow from the seed, the job and the tick, and appends `end …`; at a TERM at once. Each line
is one write, so none is torn. The signal waits until the first line is written: whoever began has
an end, unless it was killed.
"""

from __future__ import annotations

import binascii
import os
import signal
import sys
import time


def main(record: str, longest: str, seed: str) -> int:
    """Work for a while."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    job, tick = os.environ["ADVLOCK_JOB"], os.environ["ADVLOCK_SCHEDULED_AT"]
    dice = binascii.crc32(f"{seed} {job} {tick}".encode())
    file = os.open(record, os.O_WRONLY | os.O_APPEND)
    about = f"{job} {tick} {os.environ['ADVLOCK_RUN_ID']} {os.getpid()}"
    os.write(file, f"begin {about} {time.monotonic_ns()}\n".encode())
    told = signal.sigtimedwait({signal.SIGTERM}, float(longest) * dice / 2**32)
    os.write(file, f"end {about} {time.monotonic_ns()}\n".encode())
    return 0 if told is None else 128 + signal.SIGTERM


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
