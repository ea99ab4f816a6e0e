"""Jobs from TOML: read to the end, and everything that is wrong said at once. Pure."""

from __future__ import annotations

import re
import tomllib
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

from advlock._cron._job import Job, JobSet
from advlock._cron._keys import (
    READERS,
    check_name,
    hint,
    kind,
    read_command,
    read_flag,
    read_text,
    shown,
    whole,
)
from advlock._cron._problems import BadJobs, Problem
from advlock._cron._schedule import Schedule
from advlock._cron._where import lines_of
from advlock._cron._zone import zone_of
from advlock._dsn import _SETTINGS
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._cron._where import Path

_T = TypeVar("_T")

_HISTORY: Final = ("keep", "max_age", "output")
_CRON: Final = ("timezone", "max_running")
_OWN: Final = ("schedule", "command", "shell", "description")  # each job's, so no default
_JOB: Final = (*READERS, *_OWN, "timezone", "history")
_DEFAULTS: Final = tuple(key for key in (*READERS, "history") if key not in _OWN)
_TABLES: Final = ("cron", "defaults", "jobs")
_EXAMPLE: Final = 'schedule = "0 3 * * *"'
# What others call it: Kubernetes, APScheduler, yacron, systemd.
_ALSO: Final = {
    "cron": "schedule",
    "when": "schedule",
    "every": 'schedule = "@every 5m"',
    "cmd": "command",
    "run": "command",
    "exec": "command",
    "args": "command",
    "tz": "timezone",
    "time_zone": "timezone",
    "concurrency": "overlap",
    "concurrency_policy": "overlap",
    "concurrencypolicy": "overlap",
    "max_instances": "overlap",
    "catchup": "missed",
    "on_missed": "missed",
    "misfire_grace_time": "grace",
    "startingdeadlineseconds": "grace",
    "kill_timeout": "kill_after",
    "execution_timeout": "timeout",
    "disabled": "enabled = false",
    "suspend": "enabled = false",
    "environment": "env",
    "dir": "cwd",
    "workdir": "cwd",
    "working_directory": "cwd",
}
_SYNTAX: Final = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
# By what tomllib says, as far as it does not say what to write.
_FRIENDLY: Final = {
    "Invalid value": 'a text stands in quotes, as in key = "text", and true and false do not',
    "Expected '=' after": "write key = value, and tables as [jobs.NAME]",
    "Cannot declare": "this table is there already; give one of them another name",
    "Cannot overwrite": "this key is there already; leave one of them out",
    'Expected "\'"': "a string ends with the quote it began with: 'text'",
    "Unterminated string": 'a string ends with the quote it began with: "text"',
    "Illegal character": 'a string of one line ends on it; for more write """text"""',
    "Unclosed array": "a list ends with ]",
    "Unescaped '\\' in a string": "write \\\\ for a backslash, or the text in 'single quotes'",
    "Invalid statement": "write key = value, [table], or # for a comment",
    "Expected newline or end": "each key stands on a line of its own",
    "Invalid initial character for a key part": "a name with other characters stands in quotes",
    "Expected ']' at the end": 'write [jobs.NAME], or [jobs."NAME"] if there are other characters',
}


def read_toml(text: str, source: str) -> JobSet:
    """Return the jobs of a TOML file.

    Args:
        text: What is in it.

        source: What it is called, for messages.

    Raises:
        BadJobs: With all that is wrong.
    """
    text = text.removeprefix("\ufeff")
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadJobs([_syntax(str(error), text, source)]) from None
    except RecursionError:
        raise BadJobs([Problem(source, None, "has too many brackets within each other")]) from None
    return _File(text, source).read(tree)


def _syntax(said: str, text: str, source: str) -> Problem:
    match = _SYNTAX.fullmatch(said)
    what, line, column = match.groups() if match else (said, None, None)
    for start, instead in _FRIENDLY.items():
        if what.startswith(start):
            what += f"; {instead}"
            break
    at = f", column {column}" if column else ", at the end of the file"
    return Problem(source, int(line or text.count("\n") + 1), f"no valid TOML{at}: {what}")


class _File:
    """One reading of one file."""

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self._text = text
        self._problems: list[Problem] = []
        self._warnings: list[str] = []

    def read(self, tree: dict[str, Any]) -> JobSet:
        # It may be advlock.toml, which has more than jobs in it.
        self._only({k: v for k, v in tree.items() if k not in _SETTINGS}, _TABLES, ())
        cron = self._table(tree, "cron")
        self._only(cron, _CRON, ("cron",))
        zone = "UTC"
        if "timezone" in cron:
            zone = self._zone(cron, ("cron",)) or zone
        most = None
        if "max_running" in cron:
            most = self._try(("cron", "max_running"), whole(1), cron["max_running"])
        defaults = self._table(tree, "defaults")
        self._only(defaults, _DEFAULTS, ("defaults",))
        policy = self._policy({k: v for k, v in defaults.items() if k in _DEFAULTS}, ("defaults",))
        jobs = self._jobs(tree, zone, policy)
        if self._problems:
            raise BadJobs(self._problems)
        return JobSet(jobs, self.source, most, tuple(self._warnings))

    def _jobs(self, tree: dict[str, Any], zone: str, policy: dict[str, Any]) -> dict[str, Job]:
        tables = self._table(tree, "jobs")
        if not tables and not self._problems:
            self._problem((), f"has no jobs; write [jobs.NAME] and below it {_EXAMPLE}")
        jobs = {}
        for name, table in tables.items():
            path = ("jobs", name)
            if isinstance(table, dict):
                self._try(path, check_name, name, prefix="")
                if job := self._job(name, table, zone, policy):
                    jobs[name] = job
            elif name in _JOB:
                self._problem(path, f"{name} belongs to a job; write [jobs.NAME] above it")
            else:
                self._problem(
                    path,
                    f"jobs.{name} is {kind(table)}; write [jobs.{name}] and below it {_EXAMPLE}",
                )
        return jobs

    def _job(
        self, name: str, table: dict[str, Any], zone: str, policy: dict[str, Any]
    ) -> Job | None:
        path, before = ("jobs", name), len(self._problems)
        dotted = self._only(table, _JOB, path)
        own = self._policy(table, path)
        fields = {**policy, **own}
        if "env" in own and "env" in policy:
            fields["env"] = tuple((dict(policy["env"]) | dict(own["env"])).items())
        schedule = None
        if "schedule" in table:
            schedule = self._schedule(name, table, zone)
        elif not dotted:
            self._problem(path, f"job {name} has no schedule; write {_EXAMPLE}")
        command: tuple[str, ...] | None = ()
        if "command" in table:
            command = self._command(table, path)
        elif not dotted:
            self._problem(path, f'job {name} has no command; write command = ["prog", "arg"]')
        if schedule is None or command is None or len(self._problems) > before:
            return None
        return Job(name, schedule, command, **fields)

    def _schedule(self, name: str, table: dict[str, Any], zone: str) -> Schedule | None:
        path = ("jobs", name)
        own: str | None = zone
        if "timezone" in table:
            own = self._zone(table, path)
        where = (*path, "schedule")
        text = self._try(where, read_text, table["schedule"], "0 3 * * *")
        if text is None:
            return None
        # Read in UTC if the zone is wrong, so that both mistakes are found.
        schedule = self._try(where, Schedule.parse, text, own or "UTC", name=name, prefix=name)
        if schedule is None:
            return None
        for warning in schedule.warnings():
            self._warnings.append(str(Problem(self.source, self._at(where), f"{name}: {warning}")))
        return schedule

    def _command(self, table: dict[str, Any], path: Path) -> tuple[str, ...] | None:
        shell = self._try((*path, "shell"), read_flag, table.get("shell", False), "shell")
        if shell is None:
            return None
        return self._try((*path, "command"), read_command, table["command"], shell=shell)

    def _zone(self, table: dict[str, Any], path: Path) -> str | None:
        where = (*path, "timezone")
        zone = self._try(where, read_text, table["timezone"], "Europe/Berlin")
        if zone is None or self._try(where, zone_of, zone, prefix="") is None:
            return None
        return zone

    def _policy(self, table: dict[str, Any], path: Path) -> dict[str, Any]:
        """Read what defaults and jobs have in common."""
        given = {key: ((*path, key), table[key]) for key in table if key in READERS}
        history = self._table(table, "history", path)
        where = (*path, "history")
        self._only(history, _HISTORY, where)
        for key in _HISTORY:
            if key in given and key in history:
                self._problem(
                    (*where, key), f"{key} is in history and beside it; leave one of them out"
                )
            elif key in history:
                given[key] = ((*where, key), history[key])
        found = {key: self._try(place, READERS[key], v) for key, (place, v) in given.items()}
        return {key: value for key, value in found.items() if value is not None}

    def _table(self, tree: dict[str, Any], key: str, above: Path = ()) -> dict[str, Any]:
        value = tree.get(key, {})
        if isinstance(value, dict):
            return value
        path = (*above, key)
        instead = {
            "jobs": "write [jobs.NAME] for each job",
            "history": 'write history = {keep = 200, max_age = "30d"}',
        }.get(key, f"write [{key}] and its keys below it")
        self._problem(path, f"{'.'.join(path)} is {kind(value)}; {instead}")
        return {}

    def _only(self, table: dict[str, Any], known: tuple[str, ...], path: Path) -> bool:
        """Refuse other keys; return whether one is the second half of a name with a dot."""
        dotted = False
        for key, value in table.items():
            if key in known:
                continue
            if path[:1] == ("jobs",) and isinstance(value, dict) and {*value} & {*_OWN}:
                dotted = True
                name = f"{path[1]}.{key}"
                meant = f'a name with a dot stands in quotes: [jobs."{name}"]'
            else:
                meant = _elsewhere(key, path) or hint(key, known)
            what = "key" if path else "table or key"
            place = f" in [{'.'.join(path)}]" if path else ""
            self._problem((*path, key), f"there is no {what} {shown(key)}{place}; {meant}")
        return dotted

    def _try(
        self,
        path: Path,
        read: Callable[..., _T],
        *args: Any,
        prefix: str | None = None,
        **more: Any,
    ) -> _T | None:
        """Return what a reader returns, or None and a problem more."""
        try:
            return read(*args, **more)
        except ConfigError as error:
            before = ".".join(path) + " " if prefix is None else f"{prefix}: " if prefix else ""
            self._problem(path, f"{before}{error}")
            return None

    def _problem(self, path: Path, message: str) -> None:
        self._problems.append(Problem(self.source, self._at(path), message))

    def _at(self, path: Path) -> int | None:
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path)

    @cached_property
    def _lines(self) -> dict[Path, int]:
        return lines_of(self._text)


def _elsewhere(key: str, path: Path) -> str:
    """Where a key belongs that is known, but not here; or what it is called here."""
    place = path[0] if path else ""
    if key in _CRON and place != "cron":
        return "it belongs below [cron]"
    if key in _OWN or (key in _JOB and not place):
        return "it belongs below [jobs.NAME]"
    if key in _JOB and place == "cron":
        return "it belongs below [defaults]"
    if place == "jobs" and key.lower() in _ALSO:
        return f"here it is called {_ALSO[key.lower()]}"
    if not place and key == "job":
        return "write [jobs.NAME]"
    return ""
