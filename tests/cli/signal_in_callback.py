"""Run `advlock`, and send it a signal in the midst of a callback that ignores what is raised.

The import system has such a callback for each module; the first one after a handler is there gets
the signal.

Usage: python signal_in_callback.py SIGNUM HANDLER ARGS...
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from advlock.cli import main

_SIGNUM, _HANDLER = int(sys.argv.pop(1)), sys.argv.pop(1)


def _look(frame: Any, event: str, _: object) -> None:
    code = frame.f_code
    if event == "call" and code.co_name == "cb" and "importlib" in code.co_filename:
        handler: Any = signal.getsignal(_SIGNUM)
        if getattr(handler, "__name__", type(handler).__name__) == _HANDLER:
            sys.setprofile(None)
            os.write(1, b"in a callback\n")
            os.kill(os.getpid(), _SIGNUM)


if __name__ == "__main__":
    sys.setprofile(_look)
    sys.exit(main())
