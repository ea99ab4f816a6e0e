"""What the docs say of the cron is what the code does: tables, files of jobs, queries."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from advlock import _schema
from advlock._cron import _decide, _life
from advlock._cron._fields import ALIASES
from advlock._cron._files import read_jobs
from advlock._cron._job import Job
from advlock._cron._keys import READERS
from advlock._cron._schedule import Schedule
from advlock.cli.cron import _run
from advlock.cli.cron._show import STATES

if TYPE_CHECKING:
    from psycopg import Connection

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGE = (DOCS / "cron.md").read_text()
_ALL = re.MULTILINE | re.DOTALL
FILES = [
    pytest.param(name, text, id=f"{page.stem}-{name}-{number}")
    for page in (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
    for number, (text, name) in enumerate(
        re.findall(r"^```\w+\n(# (jobs\.toml|crontab)\n.*?)^```$", page.read_text(), _ALL)
    )
]
QUERIES = re.findall(r"^```sql\n(.*?)^```$", (DOCS / "cron-deploy.md").read_text(), _ALL)


def section(title: str) -> str:
    """What stands below a heading."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_both_formats_are_shown() -> None:
    """The reference has an example of each, and the other pages have some."""
    assert {"cron-jobs.toml-0", "cron-crontab-1", "README-jobs.toml-0"} <= {one.id for one in FILES}


@pytest.mark.parametrize(("name", "text"), FILES)
def test_every_file_of_jobs_is_right(name: str, text: str) -> None:
    """What is shown can be run as it stands, and without a warning."""
    assert read_jobs(text, name).warnings == ()


def test_the_table_of_policies_is_the_one_of_the_code() -> None:
    """Every key of a job is described, with the value that it has by default."""
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`|–) \| ", section("Policies"), re.MULTILINE)
    assert [key for key, _ in rows] == list(READERS)
    default = {field.name: field.default for field in fields(Job)}
    for key, told in rows:
        value = READERS[key](tomllib.loads(f"it = {told}")["it"]) if told else None
        assert value == default[key], key


def test_the_table_of_states_is_the_one_of_the_code() -> None:
    """Every state of a tick is explained."""
    rows = re.findall(r"^\| `(\w+)` \| ", section("The states of a tick"), re.MULTILINE)
    assert rows == list(STATES)


def test_every_alias_and_every_table_is_described() -> None:
    """@hourly and its like; what a DBA finds in the schema."""
    assert all(f"`{alias}`" in section("Schedules") for alias in ALIASES)
    assert all(f"| `{table}` |" in section("The tables") for table in _schema.TABLES)


def test_the_numbers_are_those_of_the_code() -> None:
    """Whoever changes one of these has to change what is said of it."""
    assert (_decide.CLAIM_PATIENCE, _decide.RERUNS, _decide.MOST_QUEUED) == (5, 3, 10)
    assert (_life._LONGEST_WAIT, _run._ROOM, _run._WAIT) == (300, 16, "25s")
    assert _decide.doubt(Job("any", Schedule.parse("@daily"))) == 20


def test_the_table_of_odd_days_is_computed() -> None:
    """The ticks of the days on which clocks change are those that the code finds."""
    zone = ZoneInfo("Europe/Berlin")
    days = [date.fromisoformat(day) for day in re.findall(r"\| on ([\d-]+)", PAGE)]
    table = PAGE.partition("| on 2026-")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(.*?)` \| (.*) \| (.*) \|$", table, re.MULTILINE)
    assert rows
    for text, *told in rows:
        schedule = Schedule.parse(text, zone.key)
        for day, expected in zip(days, told, strict=True):
            start = datetime(day.year, day.month, day.day, tzinfo=zone)
            after = start.astimezone(UTC) - timedelta(seconds=1)
            until = (start + timedelta(days=1)).astimezone(UTC) - timedelta(seconds=1)
            found = schedule.newest(after, until, 100)
            clocks = ", ".join(f"{tick.astimezone(zone):%H:%M%z}"[:-2] for tick in found)
            assert expected in {clocks or "–", f"{len(found)} ticks"}, (text, day)


@pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
def test_the_queries_can_be_asked(query: str, empty: Connection[Any]) -> None:
    """Those for alerting name columns that exist, and find nothing where nothing is wrong."""
    empty.execute(_schema.text().encode())
    rows = empty.execute(query.encode()).fetchall()
    assert rows in ([], [(0, None)])
