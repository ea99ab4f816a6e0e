"""The clock that trust runs on."""

from __future__ import annotations

import time

if hasattr(time, "CLOCK_BOOTTIME"):

    def now() -> float:
        """Return seconds that never jump, and that go on while the machine is suspended.

        `time.monotonic` stands still then on Linux, while the server gives the lock away.
        """
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:
    now = time.monotonic
