"""Jobs from a crontab, as far as cron's own programs agree on what one says. Pure.

A crontab has no names for its jobs, and everything here has: locks, history, the hash behind H.
A comment gives one (`# name: nightly`, or what Ansible writes), otherwise the program does, and a
hash of the command if it has arguments.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from advlock._cron._job import Job, JobSet
from advlock._cron._keys import SHELL, check_name, shown
from advlock._cron._problems import BadJobs, Problem
from advlock._cron._schedule import Schedule
from advlock._cron._zone import zone_of
from advlock.errors import ConfigError

_FIELDS: Final = 5
_LONGEST: Final = 40  # of a name made from a command
_HASH: Final = 6
_NAMED: Final = re.compile(r"#\s*(name|ansible)\s*:(.*)", re.IGNORECASE)
_VARIABLE: Final = re.compile(r"""(["']?)([A-Za-z_][A-Za-z0-9_]*)\1\s*=\s*(.*)""", re.DOTALL)
_QUOTED: Final = re.compile(r"""(["'])(.*)\1""", re.DOTALL)
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_PATH: Final = re.compile(r"[A-Za-z0-9._/+~-]+")
_FILE: Final = re.compile(r"[A-Za-z0-9._/+~][A-Za-z0-9._/+~-]*")
_INTERPRETER: Final = re.compile(r"(?:ba|da|z|k)?sh|(?:python|perl|ruby|node|php)[0-9.]*")
_FIELD: Final = re.compile(
    r"[\d*][\d*,/-]*|(?:SUN|MON|TUE|WED|THU|FRI|SAT)(?:[-,#].*)?|\?|H(?:[/(].*)?",
    re.ASCII | re.IGNORECASE,
)
_USERS: Final = frozenset(("root", "www-data", "postgres", "nobody", "daemon"))
_PERCENT: Final = re.compile(r"(?<!\\)%")
# They tell cron whom to write to, and how long to wait; none of that is an environment.
_IGNORED: Final = {
    "MAILTO": "nothing is mailed; output is kept in the history",
    "MAILFROM": "nothing is mailed; output is kept in the history",
    "RANDOM_DELAY": "write H for a minute that differs from job to job, or jitter in a TOML file",
}


def read_crontab(text: str, source: str) -> JobSet:
    r"""Return the jobs of a crontab: comments, `NAME=value`, and lines of schedule and command.

    Variables apply to the lines below them: `SHELL` runs the commands, `CRON_TZ` is the zone of
    their times, `HOME` also where they run; the others are just handed on. `\%` is a percent sign.

    Args:
        text: What is in it.

        source: What it is called, for messages.

    Raises:
        BadJobs: With all that is wrong.
    """
    return _Crontab(source).read(text.removeprefix("\ufeff"))


class _Crontab:
    """One reading of one crontab, from its first line to its last."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []
        self._jobs: dict[str, Job] = {}
        self._lines: dict[str, int] = {}
        self._env: dict[str, str] = {}
        self._zone = "UTC"
        self._line = 0
        self._named: tuple[str, str] | None = None  # by whom, and what, on the line above

    def read(self, text: str) -> JobSet:
        # One line more, so that a name on the last one is seen to be above no job.
        for self._line, raw in enumerate([*text.split("\n"), ""], 1):
            try:
                self._read(raw.strip())
            except ConfigError as error:
                self._problem(str(error))
        if not self._jobs and not self._problems:
            self._line = 0
            self._problem("has no jobs; write a line such as 0 3 * * * /usr/bin/backup")
        if self._problems:
            raise BadJobs(self._problems)
        return JobSet(self._jobs, self._source, None, tuple(map(str, self._warnings)))

    def _read(self, line: str) -> None:
        named, self._named = self._named, None
        if "\0" in line:
            raise ConfigError("the line has a NUL byte in it; leave that out")
        if match := _NAMED.fullmatch(line):
            self._named = (match[1].lower(), match[2].strip())
        elif match := _VARIABLE.fullmatch(line):
            self._variable(match[2], match[3])
        elif line and not line.startswith("#"):
            self._job(line, named[1] if named else None)
            return
        # What Ansible has switched off stays there as a comment, below its name.
        if named and named[0] == "name":
            self._warn(f"the name {named[1]} is not right above a job", self._line - 1)

    def _variable(self, name: str, value: str) -> None:
        quoted = _QUOTED.fullmatch(value)
        value = quoted[2] if quoted else value
        if name in _IGNORED:
            self._warn(f"{name} does nothing here: {_IGNORED[name]}")
        elif name == "CRON_TZ":
            zone_of(value)
            self._zone = value
        else:
            if name == "HOME" and value and not value.startswith("/"):
                raise ConfigError(
                    f"HOME is {shown(value)}; write an absolute path such as /srv/app"
                )
            self._env[name] = value

    def _job(self, line: str, named: str | None) -> None:
        text, command = _split(line)
        name = _name(named, command)
        first = self._lines.setdefault(name, self._line)
        _refuse_sixth(text, command)
        schedule = Schedule.parse(text, self._zone, name=name)
        if _PERCENT.search(command):
            raise ConfigError(
                r"the command has a % in it, which cron takes for the end of a line; write \% for"
                " a percent sign, and printf … | command for what is to be its input"
            )
        if first != self._line:
            raise ConfigError(
                f"the job on line {first} is called {name}, too;"
                f" write the comment # name: {name}-2 right above this one"
            )
        for warning in schedule.warnings():
            self._warn(f"{name}: {warning}")
        self._jobs[name] = Job(
            name,
            schedule,
            (self._env.get("SHELL") or SHELL, "-c", command.replace(r"\%", "%")),
            env=tuple(self._env.items()),
            cwd=self._env.get("HOME") or None,
        )

    def _problem(self, message: str) -> None:
        self._problems.append(Problem(self._source, self._line or None, message))

    def _warn(self, message: str, line: int | None = None) -> None:
        self._warnings.append(Problem(self._source, line or self._line, message))


def _split(line: str) -> tuple[str, str]:
    """Return the schedule and the command of a line."""
    words = 1 if line.startswith("@") else _FIELDS
    if line.split(maxsplit=1)[0].lower() == "@every":
        words = 2
    parts = line.split(maxsplit=words)
    if len(parts) <= words:
        raise ConfigError(
            "this is neither NAME=value nor a schedule and a command;"
            " write a line such as 0 3 * * * /usr/bin/backup"
        )
    return " ".join(parts[:words]), parts[words]


def _refuse_sixth(text: str, command: str) -> None:
    """Refuse what another kind of crontab has between the schedule and the command."""
    first, *rest = command.split(maxsplit=2)
    follows = rest[0] if rest else ""
    if not text.startswith("@") and _FIELD.fullmatch(first):
        raise ConfigError(
            f"the line has a sixth field, {first}; cron counts minutes, with five, and which one of"
            " six is the seconds is not the same everywhere; for seconds write @every 30s"
        )
    if first in _USERS and (
        follows.startswith("/") or (first == "root" and follows and not follows.startswith("-"))
    ):
        raise ConfigError(
            f"the line has a user, {first}, as in /etc/crontab; leave it out: all commands run as"
            " the scheduler's own user"
        )


def _name(named: str | None, command: str) -> str:
    if named is not None:
        name = _valid(named)
        if not name:
            raise ConfigError(
                f"the name {shown(named)} has no letter or digit in it;"
                " write # name: nightly-report"
            )
        check_name(name)
        return name
    # Nothing else of the command: a name is public, and passwords stand among arguments.
    words = command.split()
    while len(words) > 1 and _ASSIGNMENT.fullmatch(words[0]):
        words.pop(0)
    program = _base(words[0])
    if len(words) > 1 and _INTERPRETER.fullmatch(program) and _FILE.fullmatch(words[1]):
        program = f"{program}-{_base(words[1])}"
    if _FILE.fullmatch(command) and len(program) <= _LONGEST:
        return program
    return f"{program[: _LONGEST - _HASH - 1].strip('-')}-{_digest(command)}"


def _base(word: str) -> str:
    """The last part of the first path in a word; quotes and whatever follows are left out."""
    found = _PATH.search(word)
    return _valid(found[0].rstrip("/").rpartition("/")[2] if found else "") or "job"


def _valid(text: str) -> str:
    """Text as a name: other characters are dashes, and none is at its ends."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text.strip()).strip("-")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH]
