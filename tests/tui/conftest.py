"""What every test of the screen needs."""

from __future__ import annotations

import pytest
from textual import _wait


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Textual's pilot look more often whether all is quiet: a key costs 4 ms, and not 40."""
    monkeypatch.setattr(_wait, "SLEEP_GRANULARITY", 0.002)
    monkeypatch.setattr(_wait, "SLEEP_IDLE", 0.001)
