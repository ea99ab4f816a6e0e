"""A command to run under a lock: tells on stdout who it is and which signals it got.

worker.py [--fork] [--ends-on NAME] [--ignore NAME]: with `--fork` a second process in the same
group does the same. It ends, with exit code 0, on the signal `--ends-on` (TERM), and by itself
after a minute, so that a failing test leaves nothing behind for long.
"""

from __future__ import annotations

import argparse
import os
import signal
import time

SIGNALS = ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2")


def tell(text: str) -> None:
    """Write one line in one piece: two processes share this stdout."""
    os.write(1, f"{text}\n".encode())


def main() -> None:
    """Tell about signals until the last one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fork", action="store_true")
    parser.add_argument("--ends-on", default="TERM")
    parser.add_argument("--ignore", default="")
    options = parser.parse_args()
    role = "grandchild" if options.fork and not os.fork() else "child"

    def got(signum: int, _: object) -> None:
        name = signal.Signals(signum).name.removeprefix("SIG")
        tell(f"{role} got {name}")
        if name == options.ends_on:
            os._exit(0)

    for name in SIGNALS:
        signal.signal(getattr(signal, f"SIG{name}"), got)
    if options.ignore:
        signal.signal(getattr(signal, f"SIG{options.ignore}"), signal.SIG_IGN)
    tell(f"{role} {os.getpid()}")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(1)


if __name__ == "__main__":
    main()
