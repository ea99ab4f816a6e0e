"""Render frames; two at a time over all processes and hosts, each on a GPU of its own."""

from __future__ import annotations

import sys
import time

import advlock

with advlock.Locks() as locks:
    gpus = locks.semaphore("gpu", slots=2)
    for frame in sys.argv[1:]:
        with gpus.hold() as held:
            print(f"frame {frame} begins on GPU {held.slot}", flush=True)
            time.sleep(0.1)  # the rendering
            print(f"frame {frame} is done on GPU {held.slot}", flush=True)
