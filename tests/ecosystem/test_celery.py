"""`advlock.celery`: one of several beats sends, one run of a task works, with the real Celery."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
import pytest
from celery import Celery, beat, schedules
from waiting import eventually, stop

import advlock
from advlock import _connecting
from advlock._celery import _beat, _task
from advlock._locks import Locks
from advlock.celery import leading, single_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
PATIENCE = 40.0  # seconds, on a busy machine
SECONDS = float(os.environ.get("ADVLOCK_TEST_SECONDS", "12"))
PERIOD = 2
SCHEDULER = ("-S", "advlock.celery.Scheduler")
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")
_END_SESSIONS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE application_name LIKE 'advlock%' AND datname = current_database()
"""
_SENT = "CREATE TABLE sent (crew text, entry text, at float8, id uuid, pid int)"


class Crew:
    """Some processes on one database."""

    def __init__(self, folder: Path, url: str, app: str, **env: str) -> None:
        self.folder = folder
        clean = {key: value for key, value in os.environ.items() if not key.startswith("ADVLOCK_")}
        more = {"DATABASE_URL": url, "PYTHONPATH": str(HERE), "C_FORCE_ROOT": "1"}
        self.env = {**clean, **more, "PYTHONWARNINGS": "ignore", **env}
        self.app = app
        self.started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(self, *argv: str, before: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """Start `celery -A app …`, or that behind another command."""
        said = self.folder / f"said-{self.env.get('CREW', '')}-{len(self.started)}"
        with said.open("w") as output:
            process = subprocess.Popen(
                (*before, sys.executable, "-m", "celery", "-A", self.app, *argv),
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.started.append((process, said))
        return process

    def said(self) -> str:
        """What they have printed."""
        return "".join(path.read_text() for _, path in self.started)

    def stop(self) -> list[int]:
        """End those that are left as a supervisor does; their exit codes."""
        alive = [process for process, _ in self.started if process.poll() is None]
        for process in alive:
            process.send_signal(signal.SIGTERM)
        return [process.wait(PATIENCE) for process in alive]

    def close(self) -> None:
        """End whatever is left."""
        for process, _ in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def crew(url: str, tmp_path: Path) -> Iterator[Callable[..., Crew]]:
    """Make crews; they end with the test."""
    made: list[Crew] = []

    def make(app: str, **env: str) -> Crew:
        made.append(Crew(tmp_path, url, app, **env))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def session(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A bystander."""
    with psycopg.connect(url, autocommit=True) as session:
        session.execute(_SENT)
        session.execute("CREATE TABLE begun (name text, pid int); CREATE TABLE gate ()")
        yield session


def rows(session: psycopg.Connection[Any], crew: str, entry: str) -> list[tuple[Any, ...]]:
    """What was sent: when, the task's id, by whom."""
    sql = "SELECT at, id, pid FROM sent WHERE crew = %s AND entry = %s ORDER BY at"
    return session.execute(sql, (crew, entry)).fetchall()


def wait_for(session: psycopg.Connection[Any], crew: str, more: int = 1) -> None:
    """Wait until so many more moments of `clock` were sent."""
    seen = len(rows(session, crew, "clock"))
    eventually(lambda: len(rows(session, crew, "clock")) >= seen + more, within=PATIENCE)


def moments_sent(session: psycopg.Connection[Any]) -> list[int]:
    """The moments of `clock` that our beats have sent, one for each id.

    A leader that is killed or stopped between the message and its record has it sent again, with
    the same id. There is one such leader in a test.
    """
    sent = rows(session, "ours", "clock")
    ids = {(int(at // PERIOD), id_) for at, id_, _ in sent}
    assert len(sent) - len(ids) <= 1
    return sorted(moment for moment, _ in ids)


@pytest.mark.timeout(max(180.0, SECONDS * 2 + 120))
def test_each_tick_is_sent_once(
    crew: Callable[..., Crew], session: psycopg.Connection[Any]
) -> None:
    """Three beats, one is killed in the middle; beside them, two without us: duplicates."""
    ours, theirs = (crew("celery_beats", CREW=name) for name in ("ours", "theirs"))
    for _ in range(3):
        ours.start("beat", *SCHEDULER, "-l", "info")
    for n in range(2):
        theirs.start("beat", "-s", f"schedule-{n}")
    eventually(lambda: ours.said().count("standing by") >= 2, within=PATIENCE)
    wait_for(session, "ours", 2)
    began = time.time()
    eventually(lambda: time.time() > began + SECONDS / 2, within=SECONDS)
    leader = rows(session, "ours", "clock")[-1][2]
    os.kill(leader, signal.SIGKILL)
    eventually(lambda: time.time() > began + SECONDS, within=SECONDS)
    assert len({pid for _, _, pid in rows(session, "ours", "clock")}) == 2
    assert ours.stop() == [0, 0]
    theirs.stop()

    moments = moments_sent(session)
    assert moments == [*range(moments[0], moments[-1] + 1)]
    pulses = {id_: at for at, id_, _ in rows(session, "ours", "pulse")}
    assert min(b - a for a, b in itertools.pairwise(sorted(pulses.values()))) > 0.2

    control = [int(at // PERIOD) for at, _, _ in rows(session, "theirs", "clock")]
    assert any(control.count(moment) > 1 for moment in moments)


def test_who_lost_the_lead_sends_nothing(
    crew: Callable[..., Crew], session: psycopg.Connection[Any]
) -> None:
    """A leader that was stopped, and whose sessions were ended, is succeeded, and stands by."""
    ours = crew("celery_beats", CREW="ours")
    for _ in range(2):
        ours.start("beat", *SCHEDULER, "-l", "info")
    eventually(lambda: ours.said().count("standing by") >= 1, within=PATIENCE)
    wait_for(session, "ours")
    first = rows(session, "ours", "clock")[-1][2]
    stop(first)
    holders = """
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """
    for (pid,) in session.execute(holders).fetchall():
        session.execute("SELECT pg_terminate_backend(%s)", (pid,))
    wait_for(session, "ours")
    assert rows(session, "ours", "clock")[-1][2] != first
    os.kill(first, signal.SIGCONT)
    wait_for(session, "ours", 2)
    moments = moments_sent(session)
    assert len(moments) == len(set(moments))
    assert ours.stop() == [0, 0]


def test_the_recipe_is_one_beat_at_a_time(
    crew: Callable[..., Crew], session: psycopg.Connection[Any]
) -> None:
    """`advlock lead celery-beat -- celery … beat`: the next one begins when the first is killed."""
    ours = crew("celery_beats", CREW="ours")
    lead = ("advlock", "lead", "celery-beat", "--")
    for n in range(2):
        ours.start("beat", "-s", f"schedule-{n}", before=(sys.executable, "-m", *lead))
    wait_for(session, "ours")
    leader = rows(session, "ours", "clock")[-1][2]
    mine = Path(f"/proc/{leader}/stat").read_text().split()[3]
    os.kill(int(mine), signal.SIGKILL)  # advlock and its command, as when a container ends
    os.kill(leader, signal.SIGKILL)
    wait_for(session, "ours")
    assert rows(session, "ours", "clock")[-1][2] != leader
    ours.stop()  # by TERM, so that what it runs ends with it


# -- one beat in this process ----------------------------------------------------------------------


class Recorder(beat.Scheduler):
    """A scheduler whose messages are noted, and which may be made to die after one."""

    sent: ClassVar[list[tuple[str, str]]] = []
    after: Callable[[], object] = staticmethod(lambda: None)
    before: Callable[[], object] = staticmethod(lambda: None)

    @property
    def producer(self) -> None:
        """Reaching the broker may take its time."""
        type(self).before()

    def apply_async(self, entry: Any, *_: Any, **__: Any) -> Any:
        """Note it."""
        id_ = entry.options.get("task_id", "")
        self.sent.append((entry.name, id_))
        type(self).after()
        return SimpleNamespace(id=id_)


@pytest.fixture
def one(url: str) -> Iterator[Callable[..., beat.Scheduler]]:
    """Make schedulers of one app, whose entry was due an hour ago by their own books."""
    made: list[beat.Scheduler] = []
    app = Celery("one", broker="memory://", set_as_current=False)
    schedule = {"hourly": {"task": "t", "schedule": 3600.0}}
    app.conf.update(advlock_dsn=url, beat_schedule=schedule)

    def make(cls: type[beat.Scheduler] | None = None, hours: float = 2) -> beat.Scheduler:
        made.append((cls or leading(Recorder))(app=app))
        entry = made[-1].schedule["hourly"]
        entry.last_run_at -= dt.timedelta(hours=hours)
        return made[-1]

    Recorder.sent.clear()
    yield make
    Recorder.after = Recorder.before = staticmethod(lambda: None)
    for each in made:
        each.close()


def sent_long_ago(one: Callable[..., beat.Scheduler], session: psycopg.Connection[Any]) -> None:
    """Have it on record that the entry was sent two hours ago."""
    first = one(hours=0)
    eventually(first.tick, within=PATIENCE)
    first.close()
    session.execute("UPDATE advlock.once SET started_at = started_at - interval '2 hours'")


def test_the_next_leader_knows_what_was_sent(one: Callable[..., beat.Scheduler]) -> None:
    """By the database, whatever its own books say; a plain one sends it again."""
    first = one()
    eventually(lambda: [first.tick(), Recorder.sent][1], within=PATIENCE)
    first.close()
    second = one()
    eventually(second.tick, within=PATIENCE)
    assert [name for name, _ in Recorder.sent] == ["hourly"]
    one(Recorder).tick()  # the control
    assert [name for name, _ in Recorder.sent] == ["hourly", "hourly"]


def test_an_entry_is_known_from_when_it_was_first_seen(
    one: Callable[..., beat.Scheduler],
) -> None:
    """Or an interval that is longer than any beat lives would never be due."""
    first = one(hours=0)
    eventually(first.tick, within=PATIENCE)
    seen = first.schedule["hourly"].last_run_at
    first.close()
    second = one(hours=-0.5)
    eventually(second.tick, within=PATIENCE)
    assert abs(second.schedule["hourly"].last_run_at - seen) < dt.timedelta(minutes=1)
    assert not Recorder.sent


def test_who_dies_before_the_record_has_it_sent_again_with_the_same_id(
    one: Callable[..., beat.Scheduler], session: psycopg.Connection[Any]
) -> None:
    """So that a consumer can tell."""
    sent_long_ago(one, session)
    second = one()

    def dies() -> None:
        raise SystemExit

    Recorder.after = staticmethod(dies)
    with pytest.raises(SystemExit):
        eventually(lambda: [second.tick(), False][1], within=PATIENCE)
    second.close()
    Recorder.after = staticmethod(lambda: None)
    third = one()
    eventually(lambda: [third.tick(), len(Recorder.sent) > 1][1], within=PATIENCE)
    assert len({*Recorder.sent}) == 1


def test_who_loses_the_lead_while_it_reaches_the_broker_does_not_send(
    one: Callable[..., beat.Scheduler], session: psycopg.Connection[Any]
) -> None:
    """The look comes after the wait for the broker; then it leads again, and sends it once."""
    sent_long_ago(one, session)
    first = one()
    seen: list[int] = []

    def lost() -> None:
        if not seen:
            session.execute(_END_SESSIONS)
            eventually(lambda: first._term.lost, within=PATIENCE)
        seen.append(len(Recorder.sent))

    Recorder.before = staticmethod(lost)
    eventually(lambda: [first.tick(), Recorder.sent][1], within=PATIENCE)
    assert seen == [0, 0]
    assert len(Recorder.sent) == 1


def test_entries_that_were_read_anew_are_looked_up(one: Callable[..., beat.Scheduler]) -> None:
    """As by `DatabaseScheduler` after a change: its table may not know what another one sent."""
    first = one()
    eventually(lambda: [first.tick(), Recorder.sent][1], within=PATIENCE)
    first.close()
    second = one()
    eventually(second.tick, within=PATIENCE)

    def reread(scheduler: beat.Scheduler) -> None:
        entry = scheduler.schedule["hourly"]
        before = entry.default_now() - dt.timedelta(hours=2)
        anew = beat.ScheduleEntry(**dict(entry) | {"last_run_at": before})
        scheduler.schedule, scheduler._heap = {"hourly": anew}, None
        scheduler.tick()

    reread(second)
    assert [name for name, _ in Recorder.sent] == ["hourly"]
    reread(one(Recorder))  # the control
    assert [name for name, _ in Recorder.sent] == ["hourly", "hourly"]


class FromTables(Recorder):
    """As `DatabaseScheduler`: it says itself that its heap is void, and keeps entries as read."""

    void = False

    def schedules_equal(self, *args: Any) -> bool:
        """Say once that they differ."""
        void, self.void = self.void, False
        return not void and bool(super().schedules_equal(*args))

    def reserve(self, entry: Any) -> Any:
        """Leave the schedule as it was read."""
        return next(entry)


def test_a_new_entry_that_is_due_is_sent_once(one: Callable[..., beat.Scheduler]) -> None:
    """Its heap is not made a second time, of entries that do not know what was sent."""
    first = one(leading(FromTables), hours=0)
    eventually(first.tick, within=PATIENCE)
    entry = first.schedule["hourly"]
    before = entry.default_now() - dt.timedelta(hours=2)
    new = beat.ScheduleEntry(**dict(entry) | {"name": "new", "last_run_at": before})
    first.schedule, first._heap, first.void = {"hourly": entry, "new": new}, [], True
    for _ in range(4):
        first.tick()
    assert [name for name, _ in Recorder.sent] == ["new"]


def test_an_entry_that_nobody_has_sent_is_due_as_its_table_says(
    one: Callable[..., beat.Scheduler],
) -> None:
    """Being seen is no run: with a `start_time`, `DatabaseScheduler` has it due at that."""
    first = one(hours=0)
    eventually(first.tick, within=PATIENCE)
    entry = first.schedule["hourly"]
    due = entry.default_now() - dt.timedelta(days=365)
    anew = beat.ScheduleEntry(**dict(entry) | {"last_run_at": due})
    first.schedule, first._heap = {"hourly": anew}, None
    first.tick()
    assert [name for name, _ in Recorder.sent] == ["hourly"]


def test_two_messages_have_two_ids_whatever_fails_after_the_first(
    one: Callable[..., beat.Scheduler],
) -> None:
    """Where writing the schedule fails, say on a full disk, the message is on its way."""
    first = one()

    def full() -> None:
        raise OSError

    Recorder.after = staticmethod(full)
    eventually(lambda: [first.tick(), Recorder.sent][1], within=PATIENCE)
    Recorder.after = staticmethod(lambda: None)
    first.schedule["hourly"].last_run_at -= dt.timedelta(hours=2)
    first._heap = None
    eventually(lambda: [first.tick(), len(Recorder.sent) > 1][1], within=PATIENCE)
    assert len({*Recorder.sent}) == 2


def test_a_moment_that_was_sent_by_a_clock_ahead_is_not_sent_again() -> None:
    """Whoever sent it was half a second ahead of the server: the record is from before it."""
    noon = dt.datetime(2026, 11, 26, 12, tzinfo=dt.UTC)
    app = Celery("one", set_as_current=False)
    hourly = schedules.crontab(minute=0, nowfun=lambda: noon + dt.timedelta(seconds=10), app=app)
    entry = beat.ScheduleEntry("hourly", schedule=hourly, last_run_at=noon, app=app)
    recorded = noon - dt.timedelta(seconds=0.5)
    assert hourly.is_due(recorded)[0]  # the control
    assert not hourly.is_due(_beat._as_last_run(entry, recorded))[0]
    # An interval is not a moment: it begins when it was sent.
    pulse = beat.ScheduleEntry("pulse", schedule=10.0, last_run_at=noon, app=app)
    assert _beat._as_last_run(pulse, recorded) == recorded


def test_a_standby_can_be_ended(one: Callable[..., beat.Scheduler]) -> None:
    """It waits a second at most, so its service sees that it should stop; and so does `close`."""
    first, second = one(), one()
    eventually(lambda: [first.tick(), Recorder.sent][1], within=PATIENCE)
    began = time.monotonic()
    assert second.tick() == 0
    second.close()
    assert time.monotonic() - began < 10
    assert len(Recorder.sent) == 1


# -- tasks -----------------------------------------------------------------------------------------


def begun(session: psycopg.Connection[Any], name: str) -> list[int]:
    """The processes that have begun to work."""
    sql = "SELECT pid FROM begun WHERE name = %s"
    return [pid for (pid,) in session.execute(sql, (name,)).fetchall()]


@pytest.mark.timeout(120)
def test_one_run_of_a_task_works(
    crew: Callable[..., Crew],
    session: psycopg.Connection[Any],
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a worker's processes: a second run is skipped, and who has died is run again."""
    queue = tmp_path / "queue"
    queue.mkdir()
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("QUEUE", str(queue))
    monkeypatch.syspath_prepend(str(HERE))
    import celery_work  # noqa: PLC0415 - it reads the environment

    worker = crew("celery_work", QUEUE=str(queue))
    worker.start("worker", "-c", "3", "-P", "prefork", "-l", "info", *QUIET)
    plain = [celery_work.plain.delay("plain") for _ in range(2)]
    eventually(lambda: len(begun(session, "plain")) == 2, within=PATIENCE, message=worker.said())
    session.execute("INSERT INTO gate DEFAULT VALUES")  # the control is over
    assert [result.get(timeout=PATIENCE) for result in plain] == ["done", "done"]
    session.execute("DELETE FROM gate")

    first = celery_work.single.delay("single")
    eventually(lambda: begun(session, "single"), within=PATIENCE)
    assert celery_work.single.delay("single").get(timeout=PATIENCE) is None

    late = celery_work.survives.delay("survives")
    (pid,) = eventually(lambda: begun(session, "survives"), within=PATIENCE)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(begun(session, "survives")) == 2, within=PATIENCE)
    session.execute("INSERT INTO gate DEFAULT VALUES")
    assert first.get(timeout=PATIENCE) == late.get(timeout=PATIENCE) == "done"
    assert len(begun(session, "single")) == 1


def test_what_becomes_of_a_busy_run(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails with who is at work, or is tried again as often as the task says; per key."""
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("QUEUE", str(tmp_path))
    monkeypatch.syspath_prepend(str(HERE))
    import celery_work  # noqa: PLC0415

    monkeypatch.setitem(celery_work.app.conf, "advlock_dsn", url)  # of this test's database
    with advlock.Locks(url) as locks, locks.hold("shared:a"):
        busy = celery_work.failing.apply(("a",))
        assert isinstance(busy.result, advlock.LockTimeout)
        # The server has 40 ms to say who holds it.
        eventually(lambda: celery_work.failing.apply(("a",)).result.holders, within=PATIENCE)
        assert celery_work.failing.apply(("b",)).get() == "b"
        assert celery_work.retried.apply(("b",)).get() == "b by celery_work.retried"
        tried = celery_work.retried.apply(("a",))
        assert isinstance(tried.result, advlock.LockTimeout)
        with pytest.raises(TypeError):
            celery_work.retried.delay()  # the arguments are still checked
    assert celery_work.retried.apply(("a",)).get().startswith("a by")
    assert celery_work.retried.run("b").startswith("b by")  # the key is not given the task
    _task.close()


def test_a_free_lock_is_not_busy_because_connecting_takes_time(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run in a process connects; that is no other run at work."""
    connect = _connecting.connect

    def takes_time(*args: Any) -> Any:
        time.sleep(0.2)
        return connect(*args)

    monkeypatch.setattr(_connecting, "connect", takes_time)
    with Locks(url) as control, pytest.raises(advlock.LockTimeout), control.hold("cold", wait=0):
        pass
    app = Celery("one", set_as_current=True)
    app.conf.update(advlock_dsn=url)
    assert single_task("cold", on_busy="fail")(lambda: "ran")() == "ran"
    _task.close()


def test_a_decorator_without_parentheses_is_refused() -> None:
    """It would be a lock that is called like a function."""
    with pytest.raises(advlock.ConfigError, match="parentheses"):
        single_task(lambda: None)  # type: ignore[arg-type]
    with pytest.raises(advlock.ConfigError, match="on_busy"):
        single_task(on_busy="wait")  # type: ignore[arg-type]


def test_green_threads_are_refused() -> None:
    """A task that computes would stop the heartbeats of all locks."""
    program = (
        "import sys, types\n"
        "fake = types.ModuleType('gevent.monkey')\n"
        "fake.is_module_patched = lambda name: name == 'threading'\n"
        "sys.modules['gevent.monkey'] = fake\n"
        "from advlock._celery import _settings\n"
        "_settings.refuse_green_threads()\n"
    )
    done = subprocess.run(
        (sys.executable, "-c", program), capture_output=True, text=True, check=False
    )
    assert re.search("ConfigError: gevent has replaced", done.stderr)
