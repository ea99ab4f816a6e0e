"""A file of jobs, in either of its two formats. Pure: somebody else has read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advlock._cron._crontab import read_crontab
from advlock._cron._toml import read_toml

if TYPE_CHECKING:
    from advlock._cron._job import JobSet


def read_jobs(text: str, source: str) -> JobSet:
    """Return the jobs of a file: TOML by its name or by a [table] at its start, else a crontab.

    Args:
        text: What is in it.

        source: What it is called.

    Raises:
        BadJobs: With all that is wrong.
    """
    if source.lower().endswith(".toml") or _begins(text).startswith("["):
        return read_toml(text, source)
    return read_crontab(text, source)


def _begins(text: str) -> str:
    lines = (line.strip() for line in text.removeprefix("\ufeff").split("\n"))
    return next((line for line in lines if line and not line.startswith("#")), "")
