"""What docs/compare.md says of django-pglock and sqlalchemy-dlock, of the versions that it names.

If one of these goes red with a newer version, that package has become better: say so on the page.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bouncers import bouncer
from psycopg.conninfo import conninfo_to_dict

import advlock

if TYPE_CHECKING:
    from servers import Server

pytestmark = pytest.mark.newest
PAGE = Path(__file__).parents[2] / "docs" / "compare.md"
PEERS = Path(__file__).with_name("compare_peers.py")


def test_the_page_names_these_versions() -> None:
    """The versions that are installed here."""
    text = PAGE.read_text()
    for package in ("django-pglock", "sqlalchemy-dlock"):
        assert f"{package} {metadata.version(package)}" in text


SEEN = {
    "pglock_pooled": [True, True],
    "pglock_lost": "no error",
    "pglock_decorator": 1,
    "dlock_pooled": [True, True],
    "dlock_session": [True, True],
    "dlock_error": 1,
}


def test_what_is_said_of_others(server: Server, database: str) -> None:
    """With the real packages, in a process of their own."""
    with bouncer(server, "transaction", default_pool_size=1) as pool:
        name = str(conninfo_to_dict(database)["dbname"])
        done = subprocess.run(
            [sys.executable, "-W", "ignore", PEERS],
            env=os.environ | {"DSN": pool.dsn(name), "DIRECT": database},
            capture_output=True,
            check=False,
            text=True,
            timeout=50,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == SEEN


def test_what_is_said_of_us(server: Server, database: str) -> None:
    """Behind the same PgBouncer, whoever is turned away is turned away."""
    with bouncer(server, "transaction", default_pool_size=2) as pool:
        dsn = pool.dsn(str(conninfo_to_dict(database)["dbname"]))
        first, second = advlock.Locks(dsn), advlock.Locks(dsn)
        with first, second, first.attempt("job") as held, second.attempt("job") as other:
            assert held
            assert other is None
