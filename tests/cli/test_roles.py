"""What a DBA gives a role, or does not: timeouts that end idle sessions, no right to create."""

from __future__ import annotations

import signal
import time
import uuid
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from .helpers import WORKER, Cli, sessions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

IDLE = 1.0  # seconds after which the server ends an idle session of the role


@pytest.fixture
def role(admin: Connection[Any]) -> Iterator[str]:
    """A role that may do nothing but connect, and not for long."""
    name = f"weak_{uuid.uuid4().hex[:8]}"
    admin.execute(f"CREATE ROLE {name} LOGIN")
    admin.execute(f"ALTER ROLE {name} SET idle_session_timeout = '{IDLE}s'")
    yield name
    admin.execute(f"DROP OWNED BY {name}")
    admin.execute(f"DROP ROLE {name}")


def test_an_idle_session_timeout_of_the_role_does_not_matter(
    dsn: str, admin: Connection[Any], name: str, role: str
) -> None:
    """The lock outlives it, while another session of the same role is ended."""
    address = make_conninfo(dsn, user=role)
    with closing(Cli(address)) as cli, psycopg.connect(address, autocommit=True) as control:
        started = cli.start("run", name, "--", *WORKER)
        started.worker()
        time.sleep(1.5 * IDLE)
        with pytest.raises(psycopg.OperationalError, match="idle-session timeout"):
            control.execute("SELECT 1")
        assert len(sessions(admin, name)) == 1
        started.send(signal.SIGTERM)
        assert (started.code(), started.stderr()) == (0, "")


def token(cli: Cli, name: str) -> int:
    """The token of one run."""
    code, out, err = cli("run", name, "--", "sh", "-c", "echo $ADVLOCK_TOKEN")
    assert (code, err) == (0, "")
    return int(out)


def test_tokens_rise_whoever_runs(
    cli: Cli, dsn: str, admin: Connection[Any], name: str, role: str
) -> None:
    """Before there is a sequence, where it is made, and after: each run's token is the greatest."""
    admin.execute("DROP SCHEMA IF EXISTS advlock CASCADE")
    with closing(Cli(make_conninfo(dsn, user=role))) as weak:
        tokens = [token(one, name) for one in (weak, cli, weak)]
        assert tokens == sorted(set(tokens))
        admin.execute("REVOKE USAGE ON SEQUENCE advlock.fence FROM PUBLIC")
        code, _, err = weak("run", name, "--", "echo", "ran")
        admin.execute("GRANT USAGE ON SEQUENCE advlock.fence TO PUBLIC")
    assert code == 78, "not a token from elsewhere, nor a try without end"
    assert "let this role use it" in err
