"""The table of rate limits, in a database of these tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from advlock import _schema

if TYPE_CHECKING:
    from psycopg import Connection


@pytest.fixture
def table(admin: Connection[Any]) -> Connection[Any]:
    """A bystander's connection to a database whose table of permits is empty."""
    admin.execute("DROP SCHEMA IF EXISTS advlock CASCADE")
    admin.execute(_schema.text().encode())
    return admin
