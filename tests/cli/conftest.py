"""What every test of the command needs: the command, and a lock that nobody else uses."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from .helpers import Cli

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cli(dsn: str) -> Iterator[Cli]:
    """The command, with the test's database."""
    started = Cli(dsn)
    yield started
    started.close()


@pytest.fixture
def name() -> str:
    """The name of a lock that no other test uses."""
    return f"job-{uuid.uuid4().hex[:8]}"
