"""What every test of the cron needs: tables of its own, and schedulers that are driven by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from advlock import _schema

from .hands import Hand, Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Connection

    from advlock._cron._job import Job


@pytest.fixture
def empty(admin: Connection[Any]) -> Connection[Any]:
    """A database without a schema `advlock`."""
    admin.execute("DROP SCHEMA IF EXISTS advlock CASCADE")
    return admin


@pytest.fixture
def rows(empty: Connection[Any]) -> Rows:
    """What the tables say, to a bystander."""
    return Rows(empty)


@pytest.fixture
def hands(dsn: str, empty: Connection[Any]) -> Iterator[Callable[..., Hand]]:  # noqa: ARG001
    """Make schedulers that are driven by hand, of these jobs; the tables are there."""
    made: list[Hand] = []

    def _hands(*jobs: Job, **options: Any) -> Hand:
        hand = Hand(dsn, *jobs, **options)
        made.append(hand)
        if len(made) == 1:
            hand.ask(_schema.prepare())
        hand.join()
        return hand

    yield _hands
    for hand in made:
        hand.client.close()
