"""What commands that ask the database have in common: its options, and questions to it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from advlock._dsn import Dsn
    from advlock._locks import Locks
    from advlock._plan import SessionPlan

F = TypeVar("F", bound="Callable[..., Any]")
R = TypeVar("R")

as_json = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")


def database(command: F) -> F:
    """Add the options that name a database."""
    local = click.option("--local", is_flag=True, help="A private PostgreSQL, for trying it out.")
    dsn = click.option("--dsn", metavar="DSN", help="The database: a URL, or libpq's key=value.")
    return dsn(local(command))


def text(value: str) -> str:
    """Text on the command line that PostgreSQL takes: bytes that are no text are surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{value!r} is not UTF-8; write it as such") from None
    return value


@contextlib.contextmanager
def opened(*, dsn: str | None, local: bool) -> Iterator[Dsn]:
    """Find the database; with --local, keep its server running meanwhile."""
    from advlock import _dsn  # noqa: PLC0415 - not for --help

    if dsn is not None and local:
        raise click.UsageError("--dsn and --local exclude each other; leave one out")
    if not local:
        yield _dsn.resolve(dsn)
        return
    from advlock import embedded  # noqa: PLC0415 - only --local pays for it

    with embedded.local() as server:
        yield _dsn.Dsn(server.dsn, "--local")


def client_of(dsn: Dsn) -> Locks:
    """Make a client that names the same place in its messages."""
    from advlock._locks import Locks  # noqa: PLC0415 - not for --help

    client = Locks(dsn.conninfo or None)
    client._dsn = dsn
    return client


@contextlib.contextmanager
def asking(*, dsn: str | None, local: bool) -> Iterator[Callable[[SessionPlan[Any]], Any]]:
    """Connect; yield what drives a plan there.

    Raises:
        ConfigError: there are no tables yet, or not for this role.
        DatabaseUnavailable: there is no session.
    """
    from advlock._cron._tell import refused  # noqa: PLC0415 - not for --help
    from advlock._plan import Refused, SessionLost  # noqa: PLC0415
    from advlock.errors import DatabaseUnavailable  # noqa: PLC0415

    with opened(dsn=dsn, local=local) as where, client_of(where) as client:

        def ask(plan: SessionPlan[Any]) -> Any:
            try:
                session = client._sessions.shared or client._sessions.connect(None)
                return client._beside(session, plan)
            except Refused as refusal:
                raise refused(refusal) from None
            except SessionLost as lost:
                raise DatabaseUnavailable(f"the session ended: {lost}; try again") from None

        yield ask
