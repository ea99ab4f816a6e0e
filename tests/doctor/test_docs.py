"""What docs/doctor.md says is true: its codes are the code's, and what it shows was printed.

`ADVLOCK_REGEN=1 python3 dev.py test tests/doctor/test_docs.py` prints the three outputs anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bouncers import bouncer
from cli.helpers import Cli
from fakes import COCKROACH, fake_server
from psycopg.conninfo import conninfo_to_dict

from advlock._doctor._exam import examine
from advlock._doctor._report import CODES

from .helpers import make_fence, over_tcp, role, warm

if TYPE_CHECKING:
    from servers import Server

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "doctor.md"


def pretty(out: str) -> str:
    """The output with names that a reader could have, in place of the test's own."""
    for pattern, replacement in (
        (r"\b(app|shop)_[0-9a-f]{8}\b", r"\1"),
        (r"(?m) at (?:host|user|dbname)=.*$", " at postgresql://app@db.example.com/shop"),
        (r"127\.0\.0\.1:\d+", "db.example.com:5432"),
    ):
        out = re.sub(pattern, replacement, out)
    return out


def masked(out: str) -> str:
    """The output without what differs from run to run and between servers: numbers, line breaks."""
    out = " ".join(out.split()).replace("; this server has no transaction_timeout", "")
    return re.sub(r"-?\d[\d.]*(?:ms|s)?(?:\d+s)?", "N", out)


def check_shown(name: str, out: str) -> None:
    """An output must be the one in the docs, and a page must include it."""
    path = DOCS / "doctor-output" / f"{name}.txt"
    if os.environ.get("ADVLOCK_REGEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(pretty(out))
    assert masked(path.read_text()) == masked(pretty(out)), "write it anew with ADVLOCK_REGEN=1"
    assert f"doctor-output/{name}.txt" in PAGE.read_text()


def examined(dsn: str, code: int) -> str:
    """What the command prints."""
    cli = Cli(dsn)
    try:
        got, out, err = cli("doctor", "--dsn", dsn)
    finally:
        cli.close()
    assert (got, err) == (code, "")
    return out


def test_the_healthy_server(server: Server, fresh: str) -> None:
    """The first output: an ordinary role, over TCP, and no finding."""
    make_fence(fresh)
    with role(over_tcp(server, fresh)) as dsn:
        check_shown("healthy", examined(dsn, 0))


def test_the_leaking_pooler(server: Server, fresh: str) -> None:
    """The second: PgBouncer in session mode, without a reset query."""
    make_fence(fresh)
    database = str(conninfo_to_dict(fresh)["dbname"])
    with bouncer(server, "session", server_reset_query="") as made:
        warm(made, database)
        check_shown("pooler", examined(made.dsn(database), 1))


def test_the_server_of_stubs(server: Server, fresh: str) -> None:
    """The third: locks that are always granted, as CockroachDB's are."""
    make_fence(fresh)
    with (
        role(over_tcp(server, fresh)) as plain,
        fake_server(COCKROACH, fresh, plain) as dsn,
    ):
        check_shown("stubs", examined(dsn, 2))


def test_every_code_is_explained() -> None:
    """The page has a section for each finding, with its severity, in the order of gravity."""
    found = re.findall(r"^### `([\w-]+)`\n\n\*(\w+)\.\*", PAGE.read_text(), re.MULTILINE)
    assert found == list(CODES.items())


def test_every_topic_is_explained(fresh: str) -> None:
    """The table of facts has every key of `facts`."""
    table = PAGE.read_text().partition("## What it looks at")[2].partition("## ")[0]
    topics = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert set(topics) == {*examine(fresh, ["nightly"]).facts, "direct_address"}
