"""The clock that trust runs on: seconds that never jump, also while the machine is suspended.

`time.monotonic` stands still then on Linux, while the server gives the lock away.
"""

from __future__ import annotations

import time
from functools import partial

# In C from end to end: it is read twice for each request.
now = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
