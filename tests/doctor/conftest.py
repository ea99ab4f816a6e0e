"""What every patient needs: a database of its own, with nothing in it that anybody left."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import psycopg
import pytest
from clusters import private_cluster
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

    from advlock.embedded._cluster import Cluster


@pytest.fixture
def fresh(server: Server) -> Iterator[str]:
    """A database of this test alone, as its superuser."""
    name = f"shop_{secrets.token_hex(4)}"
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield server.dsn(name)
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
        session.execute(drop.format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def cluster(server: Server) -> Iterator[Cluster]:
    """A server of this module alone: 20 connections, a tiny lock table."""
    with private_cluster(server) as made:
        yield made
