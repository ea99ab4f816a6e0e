"""How long the chaos lasts, and on which server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from clusters import temporary_home
from servers import find_servers

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
_CI_SECONDS = 150.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what makes the run by hand of the run of CI."""
    group = parser.getgroup("chaos")
    group.addoption("--chaos-minutes", type=float, help="break things for that long")
    group.addoption("--chaos-seed", type=int, help="what happens; by default another each time")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give these tests the time that they take."""
    minutes = config.getoption("--chaos-minutes", None) or 0.0
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.timeout(60.0 * minutes + _CI_SECONDS), append=False)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show what the runs were made of, also those that passed."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == "chaos":
                terminalreporter.write_line(f"{report.nodeid}: {text}")


@pytest.fixture(scope="session")
def newest() -> Iterator[Path]:
    """The programs of the newest server there is: what is long enough on one of them."""
    with temporary_home() as home:
        servers = find_servers(home)
        cluster = max(servers, key=lambda server: int(server.version.partition(".")[0])).cluster
        assert cluster
        yield cluster.bindir
