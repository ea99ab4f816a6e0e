"""Cut one TCP connection of this machine: its packets are dropped, and nobody is told."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_TABLE = "advlock_silence"

# Where they arrive, not where they leave: a sender whose own kernel refuses is told so.
_CUT = """
table inet {table} {{
  chain input {{
    type filter hook input priority -300
    tcp dport {{ {ports} }} drop
    tcp sport {{ {ports} }} drop
  }}
}}
"""


@contextmanager
def silence(*ports: int) -> Iterator[None]:
    """Drop all packets from and to these ports; skip the test where this machine does not let us.

    The ports must be those of clients, which nobody else has at that time.
    """
    if os.geteuid() != 0 or shutil.which("nft") is None:
        pytest.skip("only root can drop packets, with the program nft")
    _remove_abandoned()
    table = f"{_TABLE}_{os.getpid()}_{ports[0]}"
    failed = _nft("-f", "-", given=_CUT.format(table=table, ports=", ".join(map(str, ports))))
    if "Operation not permitted" in failed:
        pytest.skip(f"this machine does not let us drop packets: {failed.strip()}")
    assert not failed
    try:
        yield
    finally:
        _nft("delete", "table", "inet", table)


def _remove_abandoned() -> None:
    """Remove what a killed run left."""
    listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False)
    for table, pid in re.findall(rf"inet ({_TABLE}_(\d+)_\d+)", listed.stdout):
        if not Path("/proc", pid).exists():
            _nft("delete", "table", "inet", table)


def _nft(*command: str, given: str = "") -> str:
    done = subprocess.run(
        ["nft", *command], input=given, capture_output=True, text=True, check=False
    )
    return done.stderr
