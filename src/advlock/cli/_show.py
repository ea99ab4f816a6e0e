"""How commands show what they found: tables for people, JSON for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


def dim(text: str) -> str:
    """What matters less."""
    return click.style(text, dim=True)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out rows below their heads, in columns as wide as need be."""
    heads = [click.style(head, bold=True) for head in heads]
    every = [heads, *rows]
    widths = [
        max(len(click.unstyle(cell)) for cell in column) for column in zip(*every, strict=True)
    ]
    return [
        "  ".join(
            cell + " " * (width - len(click.unstyle(cell)))
            for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in every
    ]


def as_json(value: Any, *, indent: int | None = 2) -> None:
    """Write one JSON value to stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=indent))


def iso(when: datetime | None) -> str | None:
    """A time for programs, in UTC."""
    from datetime import UTC  # noqa: PLC0415 - not for --help

    return None if when is None else when.astimezone(UTC).isoformat()
