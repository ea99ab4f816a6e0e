"""Prometheus: what a scrape gets, of both worlds, in the text that it reads."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conformance.helpers import is_waiting
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from waiting import eventually

import advlock
from advlock import _in_use, prometheus

from .stories import NOWHERE, a_name, cancelled, every_verb, in_vain, loses, play, told

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conformance.worlds import World
    from psycopg import Connection

    from advlock.testing import MemoryServer

both = pytest.mark.parametrize("world", ["sync", "async"])


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    """A registry of its own, with advlock's metrics in it."""
    made = CollectorRegistry()
    prometheus.instrument(made)
    yield made
    prometheus.uninstrument(made)


def scraped(registry: CollectorRegistry) -> dict[str, dict[tuple[str, ...], float]]:
    """The samples, as Prometheus reads them: by metric, then by the labels' values."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[*sample.labels.values()] = sample.value
    return found


@both
def test_each_acquisition_is_counted(world: str, dsn: str, registry: CollectorRegistry) -> None:
    """Of each verb, with its wait, and how long it was held."""
    name = a_name()
    play(world, every_verb, dsn, name)
    # What the client's end gave back is told apart from it.
    eventually(lambda: scraped(registry)["advlock_hold_seconds_count"][(name,)] == 6)
    samples = scraped(registry)
    assert samples["advlock_acquisitions_total"][name, "acquired"] == 6
    assert samples["advlock_acquisitions_total"][f"{name}-slots", "acquired"] == 3
    assert samples["advlock_acquire_wait_seconds_count"][(name,)] == 6
    assert samples["advlock_acquire_wait_seconds_sum"][(name,)] > 0
    assert samples["advlock_leader_transitions_total"][(f"{name}-lead",)] == 2
    assert samples["advlock_leader"][(f"{name}-lead",)] == 0
    assert "advlock_client_held" not in samples


@both
def test_what_is_not_granted_is_counted(
    world: str, dsn: str, admin: Connection[Any], registry: CollectorRegistry
) -> None:
    """By what came of it; a wait that came to nothing is in no histogram."""
    name = a_name()
    play(world, in_vain, dsn, admin, name)
    samples = scraped(registry)
    counts = samples["advlock_acquisitions_total"]
    outcomes = {outcome: count for (of, outcome), count in counts.items() if of == name}
    assert outcomes == {"acquired": 2, "busy": 2, "timeout": 3, "error": 1}
    assert samples["advlock_acquire_wait_seconds_count"][(name,)] == 2


def test_a_cancelled_wait_is_counted(
    dsn: str, admin: Connection[Any], registry: CollectorRegistry
) -> None:
    """As such."""
    name = a_name()
    play("async", cancelled, dsn, admin, name)
    assert scraped(registry)["advlock_acquisitions_total"][name, "cancelled"] == 1


@both
def test_a_lost_lock_is_counted(
    world: str, dsn: str, admin: Connection[Any], registry: CollectorRegistry
) -> None:
    """Once, and its hold with it."""
    name = a_name()
    with told() as facts:
        play(world, loses, dsn, admin, name, facts)
    samples = scraped(registry)
    assert samples["advlock_lost_total"][name, "terminated"] == 1
    assert samples["advlock_hold_seconds_count"][(name,)] == 1


@both
def test_who_leads_and_who_stands_by(world: str, dsn: str, registry: CollectorRegistry) -> None:
    """1 while we lead; 0 before, for a candidate, and afterwards."""
    name = a_name()

    async def story(world: World) -> None:
        client, actor = world.client(dsn), world.actor()
        await actor.within(client.leader(name).term(), world.defines(lambda _: None))
        assert scraped(registry)["advlock_leader"] == {(name,): 0}
        kept = client.leader(name).term()
        await actor.enter(kept)
        assert scraped(registry)["advlock_leader"] == {(name,): 1}
        await actor.exit(kept)

    play(world, story)


@both
def test_what_this_process_holds_and_waits_for(
    world: str, dsn: str, admin: Connection[Any], registry: CollectorRegistry
) -> None:
    """Counted when it is read, of all clients; also of those in other threads."""
    name = a_name()

    async def story(world: World) -> None:
        client, other = world.client(dsn), world.client(dsn)
        actor, late = world.actor(), world.actor()
        first, second = client.hold(name), other.hold(name)
        slot = client.semaphore(f"{name}-slots", 3).hold()
        await actor.enter(first)
        await actor.enter(slot)
        waits = late.entering(second)
        await is_waiting(admin, name)
        samples = scraped(registry)
        assert samples["advlock_client_held"] == {(name,): 1, (f"{name}-slots",): 1}
        assert samples["advlock_client_waiting"] == {(name,): 1}
        await actor.exit(slot)
        await actor.exit(first)
        await waits
        await late.exit(second)

    play(world, story)


def test_who_waits_for_a_slot_waits(
    advlock_memory: MemoryServer, registry: CollectorRegistry
) -> None:
    """Though it is the semaphore's queue that is waited in; under the name that was asked for."""
    locks, others = (advlock_memory.locks(namespace="billing") for _ in range(2))
    slots, late = (one.semaphore("slots", 1) for one in (locks, others))
    assert slots.acquire()
    thread = threading.Thread(target=late.acquire)
    thread.start()
    eventually(lambda: advlock_memory.holders(advlock.Key.agreed("billing:slots", 0)))
    expected = {"advlock_client_held": {("slots",): 1}, "advlock_client_waiting": {("slots",): 1}}
    eventually(lambda: expected.items() <= scraped(registry).items())
    slots.release()
    thread.join()
    eventually(lambda: "advlock_client_waiting" not in scraped(registry))
    late.release()


def test_who_gives_back_waits_for_nothing(
    advlock_memory: MemoryServer, registry: CollectorRegistry
) -> None:
    """While the server has not confirmed it."""
    locks = advlock_memory.locks()
    entry = locks.hold("job")
    held = entry.__enter__()
    advlock_memory.freeze()
    thread = threading.Thread(target=entry.__exit__, args=(None, None, None))
    thread.start()
    eventually(lambda: held._ticket.state.value == "releasing")
    assert "advlock_client_waiting" not in scraped(registry)
    advlock_memory.thaw()
    thread.join()


def test_clients_may_be_made_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """By another thread; the scrape goes on."""

    class Growing(list[Any]):
        tries = 0

        def __iter__(self) -> Iterator[Any]:
            self.tries += 1
            if self.tries == 1:
                msg = "Set changed size during iteration"  # a WeakSet's
                raise RuntimeError(msg)
            return super().__iter__()

    monkeypatch.setattr(_in_use, "_clients", made := Growing())
    assert list(_in_use.in_use()) == []
    assert made.tries == 2


def test_leads_that_are_one_name_are_counted(advlock_memory: MemoryServer) -> None:
    """Giving one of them back ends no other; and a fork has none of its parent's."""
    made = CollectorRegistry()
    prometheus.instrument(made, "shard:*")
    locks, others = advlock_memory.locks(), advlock_memory.locks()
    with locks.leader("shard:1").term():
        with others.leader("shard:2").term():
            assert scraped(made)["advlock_leader"] == {("shard:*",): 2}
        assert scraped(made)["advlock_leader"] == {("shard:*",): 1}
        if (child := os.fork()) == 0:
            os._exit("advlock_leader" in scraped(made))
        assert os.waitpid(child, 0)[1] == 0
    assert scraped(made)["advlock_leader"] == {("shard:*",): 0}
    prometheus.uninstrument(made)


def test_a_registry_that_refuses_is_left_as_it_was() -> None:
    """So that it can be tried again."""
    made = CollectorRegistry()
    theirs = Counter("advlock_lost_total", "Somebody else's.", registry=made)
    with pytest.raises(ValueError, match="advlock_lost"):
        prometheus.instrument(made)
    assert set(scraped(made)) <= {"advlock_lost_total", "advlock_lost_created"}
    made.unregister(theirs)
    prometheus.instrument(made)
    prometheus.uninstrument(made)


def test_many_names_are_few(dsn: str, tmp_path: Path) -> None:
    """By patterns, by a callable, by the registry's templates; and the rest by a limit."""
    path = tmp_path / "advlock.toml"
    path.write_text('[locks]\n"order:{id}" = "One order."\n')
    seen = {}
    folds: dict[str, Any] = {
        "pattern": "user:*",
        "patterns": ["user:*", "nothing*"],
        "callable": lambda name: "users" if name.startswith("user:") else None,
        "none": None,
    }
    with advlock.Locks(dsn, registry=path) as locks:
        for what, fold in folds.items():
            made = CollectorRegistry()
            prometheus.instrument(made, fold, max_names=3)
            for name in ("user:1", "user:2", "order:1", "order:2", "a", "b", 7, 8):
                with locks.hold(name):
                    pass
            labels = {name for name, _ in scraped(made)["advlock_acquisitions_total"]}
            seen[what] = labels
            prometheus.uninstrument(made)
    assert seen == {
        "pattern": {"user:*", "order:{id}", "a", "other"},
        "patterns": {"user:*", "order:{id}", "a", "other"},
        "callable": {"users", "order:{id}", "a", "other"},
        "none": {"user:1", "user:2", "order:{id}", "other"},
    }


def test_declared_names_are_zero_before_anything_happens() -> None:
    """A rate needs something to begin from; without a declaration there is nothing."""
    made = CollectorRegistry()
    prometheus.instrument(made, names=["nightly"], jobs=["report"])
    samples = scraped(made)
    assert samples["advlock_acquisitions_total"]["nightly", "timeout"] == 0
    assert samples["advlock_client_held"] == {("nightly",): 0}
    assert samples["advlock_cron_runs_total"]["report", "failed"] == 0
    prometheus.instrument(made)  # the control, and a second call replaces the first
    assert "advlock_acquisitions_total" not in scraped(made)
    prometheus.uninstrument(made)
    assert not scraped(made)
    prometheus.uninstrument(made)  # again: nothing happens


def test_runs_of_jobs_are_counted(url: str) -> None:
    """With their ends and times."""
    made = CollectorRegistry()
    prometheus.instrument(made)
    scheduler = advlock.Scheduler(advlock.Locks(url))
    ran: list[str] = []

    @scheduler.job("@every 1s", name="good")
    def good() -> None:
        ran.append("good")

    @scheduler.job("@every 1s", name="bad")
    def bad() -> None:
        ran.append("bad")
        raise ValueError

    with scheduler:
        eventually(lambda: len(scraped(made).get("advlock_cron_runs_total", ())) == 2, within=10)
    samples = scraped(made)
    assert samples["advlock_cron_runs_total"]["good", "succeeded"] >= 1
    assert samples["advlock_cron_runs_total"]["bad", "failed"] >= 1
    assert samples["advlock_cron_run_duration_seconds_count"][("good",)] >= 1
    assert set(samples["advlock_cron_last_run_timestamp_seconds"]) == {("good",), ("bad",)}
    assert set(samples["advlock_cron_last_success_timestamp_seconds"]) == {("good",)}
    prometheus.uninstrument(made)


@pytest.mark.parametrize("way", ["dsn", "client"])
def test_the_server_s_locks(way: str, dsn: str, admin: Connection[Any]) -> None:
    """Whoever has them: ours, and those of plain SQL; what has no name is `unknown`."""
    name, made = a_name(), CollectorRegistry()
    admin.execute("SELECT pg_advisory_lock(4711, 4712)")
    admin.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"{name}-sql"])
    with advlock.Locks(dsn) as locks, advlock.Locks(dsn) as other, locks.hold(name):
        collector = prometheus.ServerCollector(
            dsn if way == "dsn" else other, names=[name, f"{name}-sql", "nobody-s"]
        )
        made.register(collector)
        samples = scraped(made)
        collector.close()
    admin.execute("SELECT pg_advisory_unlock_all()")
    held = samples["advlock_held"]
    assert {held[(name,)], held[(f"{name}-sql",)], held[("nobody-s",)]} == {1, 0}
    assert held[("unknown",)] >= 1
    assert samples["advlock_waiters"][(name,)] == 0
    assert samples["advlock_up"] == {(): 1}
    assert samples["advlock_scrape_duration_seconds"][()] > 0


def test_a_fork_looks_over_a_session_of_its_own(advlock_memory: MemoryServer) -> None:
    """Two processes on one socket would read each other's answers."""
    made = CollectorRegistry()
    collector = prometheus.ServerCollector(advlock_memory.dsn)
    made.register(collector)
    scraped(made)
    parent_s = collector._window.pid if collector._window else 0
    if (child := os.fork()) == 0:
        collector.close()  # nothing of the parent's ends
        well = scraped(made)["advlock_up"] == {(): 1}
        os._exit(not (well and collector._window and collector._window.pid != parent_s))
    assert os.waitpid(child, 0)[1] == 0
    assert scraped(made)["advlock_up"] == {(): 1}
    assert collector._window
    assert collector._window.pid == parent_s
    collector.close()


@both
def test_the_server_s_waiters(world: str, dsn: str, admin: Connection[Any]) -> None:
    """They are seen nowhere else."""
    name, made = a_name(), CollectorRegistry()
    collector = prometheus.ServerCollector(dsn, names=[name])
    made.register(collector)

    async def story(world: World) -> None:
        client, other = world.client(dsn), world.client(dsn)
        actor, late = world.actor(), world.actor()
        first, second = client.hold(name), other.hold(name)
        await actor.enter(first)
        waits = late.entering(second)
        await is_waiting(admin, name)
        assert scraped(made)["advlock_waiters"][(name,)] == 1
        await actor.exit(first)
        await waits
        samples = scraped(made)
        assert samples["advlock_waiters"][(name,)] == 0
        assert samples["advlock_held_since_timestamp_seconds"][(name,)] > 1e9
        await late.exit(second)

    play(world, story)
    collector.close()


def test_a_server_that_is_away_is_down_and_nothing_else() -> None:
    """No stale locks, no exception that would lose all other metrics."""
    made = CollectorRegistry()
    made.register(prometheus.ServerCollector(NOWHERE, names=["nightly"]))
    samples = scraped(made)
    assert samples["advlock_up"] == {(): 0}
    assert "advlock_held" not in samples


def test_a_pattern_that_is_none_is_refused() -> None:
    """And nothing is registered then."""
    made = CollectorRegistry()
    with pytest.raises(advlock.ConfigError, match=r"user:\*"):
        prometheus.instrument(made, [7])  # type: ignore[list-item]
    with pytest.raises(advlock.ConfigError, match="max_names"):
        prometheus.instrument(made, max_names=0)
    assert not scraped(made)


def test_what_cannot_be_looked_at_is_refused(advlock_memory: MemoryServer) -> None:
    """At once, and not in each scrape."""
    for where in (advlock_memory.async_locks(), 5, b"postgresql://"):
        with pytest.raises(advlock.ConfigError, match="a DSN or a Locks"):
            prometheus.ServerCollector(where)  # type: ignore[arg-type]


def test_the_library_imports_no_prometheus() -> None:
    """Who does not ask for it does not pay for it."""
    program = "import advlock, sys; advlock.Locks; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"False\n"


def test_without_it_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name of our extra."""
    monkeypatch.delitem(sys.modules, "advlock.prometheus")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImportError, match=r"pip install 'advlock\[prometheus\]'"):
        __import__("advlock.prometheus")


def test_the_dashboard_and_the_alerts_use_metrics_that_there_are() -> None:
    """Each metric of theirs is in the documentation's tables, and these are those of the code."""
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "observe.md").read_text()
    documented = set(re.findall(r"`(advlock_[a-z_]+)[`{]", page)) - {"advlock_client_"}
    board = json.loads((docs / "observe" / "dashboard.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    text = "\n".join(asked) + (docs / "observe" / "alerts.yml").read_text()
    used = {each.removesuffix("_bucket") for each in re.findall(r"\badvlock_[a-z_]+", text)}
    assert used <= documented
    source = (docs.parent / "src" / "advlock" / "prometheus.py").read_text()
    made = {f"advlock_{each}" for each in re.findall(r'make\(\w+, "(\w+)"', source)}
    made |= set(re.findall(r'"(advlock_\w+)"', source))
    assert made == documented
