"""Read /metrics as Prometheus does, and print what is there of locks."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

SHOWN = ("advlock_acquisitions_total", "advlock_client_held", "advlock_held{", "advlock_up")


def metrics() -> str:
    """Read them, as soon as the worker is there."""
    while True:
        try:
            url = f"http://127.0.0.1:{Path('port').read_text()}/metrics"
            with urllib.request.urlopen(url) as page:
                return page.read().decode()
        except OSError:
            time.sleep(0.05)


for line in metrics().splitlines():
    if line.startswith(SHOWN) and not line.endswith(" 0.0"):
        print(line)
