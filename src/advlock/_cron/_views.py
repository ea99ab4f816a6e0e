"""What people see of the cron, and how they control it: the plans and what they find. Pure."""

from __future__ import annotations

import dataclasses
import difflib
import json
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from advlock._cron import _sql, _views_sql
from advlock._cron._facts import ACTIVE, Pause, moment
from advlock._cron._job import Job
from advlock._cron._schedule import Schedule
from advlock._plan import Script, Step
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advlock._plan import SessionPlan

_MENTIONED: Final = 10  # names in a message
_KNOWN: Final = frozenset(field.name for field in dataclasses.fields(Job))
FIRST: Final = "advlock cron run FILE makes jobs known"


class Here(NamedTuple):
    """A scheduler that was heard of a moment ago."""

    host: str
    pid: int
    source: str
    hash: str
    started_at: datetime

    def __str__(self) -> str:
        """Where it is."""
        return f"{self.host}:{self.pid}"


@dataclass(frozen=True, slots=True)
class Tick:
    """A row of history; the fields are the columns of `advlock.cron_run`.

    Attributes:
        locked: Whether anybody holds its lock; None where that was not asked.
    """

    job: str
    scheduled_at: datetime
    state: str
    reason: str | None = None
    run_id: str | None = None
    token: int | None = None
    host: str | None = None
    pid: int | None = None
    claimed_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    attempt: int = 1
    losses: int = 0
    exit_code: int | None = None
    triggered_by: str | None = None
    stop: str | None = None
    output: str | None = None
    locked: bool | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.state not in ACTIVE

    @property
    def where(self) -> str | None:
        """The scheduler that has or had it, as `host:pid`."""
        return None if self.host is None else f"{self.host}:{self.pid}"

    @property
    def latency(self) -> float | None:
        """How long after its time it began, in seconds."""
        return span(self.scheduled_at, self.started_at)

    @property
    def duration(self) -> float | None:
        """How long it ran, in seconds; None where nobody saw it end."""
        if self.state == "lost" and self.exit_code is None:
            return None
        return span(self.started_at, self.finished_at)


@dataclass(frozen=True, slots=True)
class Listed:
    """A job, as a list shows it.

    Attributes:
        definition: What it is (`Job.definition`); None if only a file knows it.

        live: Whether a scheduler has it now.

        decided_until: Until when all its ticks were decided.

        active: Its ticks that are not over.

        last: The newest that is.
    """

    name: str
    definition: Mapping[str, Any] | None
    live: bool
    decided_until: datetime | None
    active: Sequence[Tick]
    last: Tick | None


@dataclass(frozen=True, slots=True)
class Overview:
    """All jobs, and who runs them."""

    now: datetime
    jobs: Mapping[str, Listed]
    hosts: Sequence[Here]
    pauses: Mapping[str, Pause]
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a job, of one of the files that had it."""

    definition: Mapping[str, Any]
    created_at: datetime
    decided_until: datetime | None
    live: bool

    @property
    def timing(self) -> tuple[str, str]:
        """What its ticks follow from."""
        return self.definition["schedule"], self.definition["timezone"]


@dataclass(frozen=True, slots=True)
class About:
    """A job, and who runs it. The first of its versions is the one that counts."""

    name: str
    now: datetime
    versions: Sequence[Version]
    hosts: Sequence[Here] = field(default=())
    pause: Pause | None = None

    def job(self) -> Job:
        """The job, as far as the database knows it: without its command."""
        return job_of(self.name, self.versions[0].definition)


# -- the plans -------------------------------------------------------------------------------------


def overview(names: Sequence[str] | None = None) -> SessionPlan[Overview]:
    """Look at all jobs, or at those of these names."""
    wanted = None if names is None else json.dumps(list(names))
    told = _read((yield Script((Step(_views_sql.OVERVIEW, (wanted,)),))))
    hosts = _hosts(told["hosts"])
    hashes = sorted({host.hash for host in hosts})
    warnings: list[str] = []
    if len(hashes) > 1:
        sets = _read((yield Script((Step(_sql.SETS, (json.dumps(hashes),)),))))
        warnings = _differences(hosts, sets)
    pauses = {job: _pause(pause) for job, pause in (told["pauses"] or {}).items()}
    jobs = {row["name"]: _listed(row) for row in told["jobs"] or []}
    return Overview(datetime.fromisoformat(told["now"]), jobs, hosts, pauses, warnings)


def about(name: str) -> SessionPlan[About]:
    """Look at one job; it may have no versions."""
    told = _read((yield Script((Step(_views_sql.ABOUT, (name,)),))))
    versions = [
        Version(
            row["definition"],
            datetime.fromisoformat(row["created_at"]),
            moment(row["decided_until"]),
            row["live"],
        )
        for row in told["versions"] or []
    ]
    pause = None if told["pause"] is None else _pause(told["pause"])
    now = datetime.fromisoformat(told["now"])
    return About(name, now, versions, _hosts(told["hosts"]), pause)


def known(name: str) -> SessionPlan[About]:
    """Look at one job that has to be known.

    Raises:
        ConfigError: it is not; the message has names that are.
    """
    found = yield from about(name)
    if not found.versions:
        raise (yield from unknown([name]))
    return found


def names() -> SessionPlan[list[str]]:
    """Ask for the names of all jobs."""
    return (yield from _names())["jobs"] or []


def unknown(wanted: Sequence[str]) -> SessionPlan[ConfigError]:
    """Make the error that says which of these names are no job's; ask for those that are."""
    every = yield from names()
    missing = [name for name in wanted if name not in every]
    return ConfigError("\n".join(f"no job {name!r}; {meant(name, every)}" for name in missing))


def history(
    name: str, limit: int, states: Sequence[str] = (), *, output: bool = False
) -> SessionPlan[list[Tick]]:
    """Read the newest ticks of a job, the newest first.

    Raises:
        ConfigError: there is neither such a job nor a tick of one.
    """
    found = yield from ticks(name, limit=limit, states=states, output=output)
    if not found and not (yield from ticks(name)):
        yield from known(name)
    return found


def ticks(  # noqa: PLR0913 - a filter each
    name: str,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
    *,
    limit: int = 1,
    states: Sequence[str] = (),
    output: bool = False,
) -> SessionPlan[list[Tick]]:
    """Read the newest ticks of a job between two times, both included."""
    chosen = json.dumps(list(states)) if states else None
    span = (_spelled(since), _spelled(until))
    arguments = (name, *span, chosen, str(limit), str(output).lower())
    return [_tick(row) for row in _read((yield Script((Step(_views_sql.TICKS, arguments),)))) or []]


def newer(name: str, tick: datetime) -> SessionPlan[int]:
    """Count the ticks of a job that have a row and are newer than this one."""
    answer = yield Script((Step(_views_sql.NEWER, (name, tick.isoformat())),))
    return int(answer[0][0][0] or 0)


def trigger(name: str, who: str) -> SessionPlan[tuple[str, About]]:
    """Have a job run as soon as somebody can; tell its tick, as the server spells it.

    Raises:
        ConfigError: there is no such job.
    """
    found = yield from known(name)
    arguments = (name, f"triggered by {who}", who)
    answer = yield Script((Step(_views_sql.TRIGGER, arguments),))
    return answer[0][0][0] or "", found


def pause(
    wanted: Sequence[str] | None, seconds: float, note: str | None, who: str
) -> SessionPlan[dict[str, Pause]]:
    """Pause these jobs, or all.

    Raises:
        ConfigError: one of them does not exist; then none is paused.
    """
    every = yield from names()
    if wanted is None:
        wanted = every
    elif not set(wanted) <= set(every):
        raise (yield from unknown(wanted))
    jobs = json.dumps(sorted(set(wanted)))
    answer = yield Script((Step(_views_sql.PAUSE, (jobs, f"{seconds:.6f}", note, who)),))
    return {job: _pause(told) for job, told in (_read(answer) or {}).items()}


def resume(wanted: Sequence[str] | None) -> SessionPlan[list[str]]:
    """End the pauses of these jobs, or all; tell whose did not end by themselves before.

    Raises:
        ConfigError: one of them does not exist; then all stay.
    """
    if wanted is not None:
        every = yield from _names()
        left = set(wanted) - set(every["paused"] or [])
        if not left <= set(every["jobs"] or []):
            raise (yield from unknown(sorted(left)))
    jobs = None if wanted is None else json.dumps(sorted(set(wanted)))
    return _read((yield Script((Step(_views_sql.RESUME, (jobs,)),)))) or []


# -- what they read --------------------------------------------------------------------------------


def job_of(name: str, definition: Mapping[str, Any]) -> Job:
    """Make a job of what other hosts told of it.

    Raises:
        ConfigError: this host cannot read it: another version of advlock, other time zones.
    """
    told = {key: value for key, value in definition.items() if key in _KNOWN - {"schedule"}}
    try:
        schedule = Schedule.parse(definition["schedule"], definition["timezone"], name=name)
    except ConfigError as error:
        raise ConfigError(f"job {name!r}, as other hosts run it: {error}") from None
    return Job(name, schedule, **told)


def meant(name: str, every: Sequence[str]) -> str:
    """Say which job was probably meant, or which there are."""
    if not every:
        return f"there are none yet; {FIRST}"
    if close := difflib.get_close_matches(name, every, n=3):
        return f"did you mean {' or '.join(close)}?"
    more = f" and {len(every) - _MENTIONED} more" if len(every) > _MENTIONED else ""
    return f"there are {', '.join(every[:_MENTIONED])}{more}; see advlock cron list"


def span(since: datetime | None, until: datetime | None) -> float | None:
    """Seconds from one time to another, if there are both."""
    if since is None or until is None:
        return None
    return (until - since).total_seconds()


def _names() -> SessionPlan[dict[str, list[str] | None]]:
    told: dict[str, list[str] | None] = _read((yield Script((Step(_views_sql.NAMES),))))
    return told


def _differences(hosts: Sequence[Here], sets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which schedulers have other versions of the same jobs, once for each two versions."""
    first: dict[str, Here] = {}
    for one in hosts:
        if one.hash in sets:
            first.setdefault(one.hash, one)
    found = []
    for host, other in combinations(first.values(), 2):
        here, there = sets[host.hash], sets[other.hash]
        if not here.keys() & there.keys():
            continue
        parts = [
            f"{what} {_some(jobs)}"
            for what, jobs in (
                ("different:", [n for n in here if n in there and here[n] != there[n]]),
                (f"only on {host}:", [n for n in here if n not in there]),
                (f"only on {other}:", [n for n in there if n not in here]),
            )
            if jobs
        ]
        found.append(f"{host} and {other} have different jobs; {'; '.join(parts)}")
    return found


def _some(jobs: Sequence[str]) -> str:
    return ", ".join(sorted(jobs)[:3]) + (" …" if len(jobs) > 3 else "")  # noqa: PLR2004


def _listed(row: Mapping[str, Any]) -> Listed:
    return Listed(
        row["name"],
        row["definition"],
        row["live"],
        moment(row["decided_until"]),
        [_tick(tick | {"job": row["name"]}) for tick in row["active"] or []],
        None if row["last"] is None else _tick(row["last"] | {"job": row["name"]}),
    )


def _hosts(rows: Sequence[dict[str, Any]] | None) -> list[Here]:
    return [
        Here(**row | {"started_at": datetime.fromisoformat(row["started_at"])})
        for row in rows or []
    ]


def _tick(row: dict[str, Any]) -> Tick:
    times = {key: moment(row[key]) for key in row if key.endswith("_at")}
    return Tick(**row | times)


def _pause(told: Sequence[Any]) -> Pause:
    until, note, by = told
    return Pause(datetime.fromisoformat(until), note, by)


def _spelled(when: datetime | str | None) -> str | None:
    return when.isoformat() if isinstance(when, datetime) else when


def _read(answer: list[list[tuple[str | None, ...]]]) -> Any:
    return json.loads(answer[0][0][0] or "null")
