"""Metrics by prometheus_client: `pip install 'advlock[prometheus]'`.

`instrument` counts what this process does with locks; a `ServerCollector` shows the locks of a
whole database, whoever has them.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from advlock import _observe
from advlock._in_use import Leads, counted
from advlock._inspect._window import Window
from advlock._key import Key
from advlock._labels import MOST, Labels
from advlock.errors import ConfigError, LockError

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as _missing:
    _how = "prometheus_client is not installed: pip install 'advlock[prometheus]'"
    raise ImportError(_how, name=_missing.name) from _missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import Literal

    from prometheus_client.metrics_core import Metric

    from advlock._inspect._tree import LockTree, Snapshot
    from advlock._labels import Fold
    from advlock._locks import Locks
    from advlock._observe import Facts
    from advlock._registry._registry import Registry

__all__ = ["ServerCollector", "instrument", "uninstrument"]

# What comes of asking for a lock, by the event that tells it.
_OUTCOMES: Final = {
    "lock.acquired": "acquired",
    "lock.busy": "busy",
    "lock.timeout": "timeout",
    "lock.cancelled": "cancelled",
    "lock.failed": "error",
}
_STATES: Final = ("succeeded", "failed", "timeout", "lost")
# From a free lock, which is a round trip, to a queue or a job that lasts hours; in seconds.
_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)
UNKNOWN: Final = "unknown"


class _Metrics(Collector):
    """What is told becomes metrics; what is held and led is counted when they are read."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._leads = Leads(labels)
        self._made: list[Collector] = []
        self._declared: dict[str, None] = {}

        def make(kind: Any, name: str, text: str, *more: str, **how: Any) -> Any:
            made = kind(f"advlock_{name}", text, ["name", *more], registry=None, **how)
            self._made.append(made)
            return made

        asked, last = "Requests for a lock, by what came of them.", "When a run of a job ended last"
        self._asked = make(Counter, "acquisitions_total", asked, "outcome")
        waits = "How long was waited for a lock that was acquired."
        self._waits = make(Histogram, "acquire_wait_seconds", waits, buckets=_BUCKETS)
        self._holds = make(Histogram, "hold_seconds", "How long a lock was held.", buckets=_BUCKETS)
        self._lost = make(Counter, "lost_total", "Locks that were lost.", "reason")
        terms = "Terms as leader that began or ended."
        self._terms = make(Counter, "leader_transitions_total", terms)
        self._runs = make(Counter, "cron_runs_total", "Runs of a job, by how they ended.", "status")
        ran = "How long a job ran, all attempts together."
        self._ran = make(Histogram, "cron_run_duration_seconds", ran, buckets=_BUCKETS)
        self._last = make(Gauge, "cron_last_run_timestamp_seconds", f"{last}.")
        well = f"{last} and had succeeded."
        self._well = make(Gauge, "cron_last_success_timestamp_seconds", well)
        self._made.append(self)

    def register(self, registry: CollectorRegistry) -> None:
        """Register all of it, or nothing."""
        with contextlib.ExitStack() as undo:
            for made in self._made:
                registry.register(made)
                undo.callback(registry.unregister, made)
            undo.pop_all()

    def declare(self, names: Iterable[str], jobs: Iterable[str]) -> None:
        """Show zeros for what has not happened yet: a rate needs something to begin from."""
        for given in names:
            name = self._labels.name(given)
            self._declared[name] = None
            for outcome in _OUTCOMES.values():
                self._asked.labels(name, outcome)
            self._waits.labels(name)
            self._holds.labels(name)
        for job in jobs:
            for state in _STATES:
                self._runs.labels(job, state)
            self._ran.labels(job)

    def __call__(self, facts: Facts) -> None:
        """Take an event."""
        event = facts["event"]
        if event in _OUTCOMES:
            name = self._labels.of(facts)
            self._asked.labels(name, _OUTCOMES[event]).inc()
            if event == "lock.acquired":
                self._waits.labels(name).observe(facts["wait_ms"] / 1000)
        elif event in ("lock.released", "lock.lost"):
            name = self._labels.of(facts)
            self._holds.labels(name).observe(facts["held_ms"] / 1000)
            if event == "lock.lost":
                self._lost.labels(name, facts["reason"]).inc()
        elif event == "leader.campaigning":
            self._leads.take(facts)
        elif event in ("leader.elected", "leader.resigned", "leader.lost"):
            self._leads.take(facts)
            self._terms.labels(self._labels.of(facts)).inc()
        elif event == "cron.finished":
            self._ended(facts["job"], facts["state"], facts["ran_ms"] / 1000)

    def _ended(self, job: str, state: str, seconds: float) -> None:
        self._runs.labels(job, state).inc()
        self._ran.labels(job).observe(seconds)
        self._last.labels(job).set_to_current_time()
        if state == "succeeded":
            self._well.labels(job).set_to_current_time()

    def describe(self) -> Iterable[Metric]:
        """Describe nothing: what there is, `collect` says."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Count what is held, waited for and led now."""
        for held, name, text in (
            (True, "advlock_client_held", "Locks that this process holds."),
            (False, "advlock_client_waiting", "Locks that this process waits for."),
        ):
            counts = dict.fromkeys(self._declared, 0) | counted(self._labels, held=held)
            yield _gauge(name, text, counts)
        yield _gauge("advlock_leader", "1 where this process leads, else 0.", self._leads.counted())

    def close(self, registry: CollectorRegistry) -> None:
        """Take it all back."""
        _observe.unlisten(self)
        for made in self._made:
            registry.unregister(made)


def _gauge(name: str, text: str, values: dict[str, int] | dict[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=["name"])
    for label, value in sorted(values.items()):
        family.add_metric([label], value)
    return family


_made: dict[CollectorRegistry, _Metrics] = {}


def instrument(
    registry: CollectorRegistry = REGISTRY,
    fold: Fold = None,
    *,
    names: Iterable[str] = (),
    jobs: Iterable[str] = (),
    max_names: int = MOST,
) -> None:
    """Have metrics of all clients of this process from now on. A second call replaces the first.

    Args:
        registry: Where they are registered.
        fold: What metrics call locks, so that there are few names: a callable from a name to its
            label, or to None for itself; or patterns such as `"user:*"`. Templates of the registry
            of locks are folded without it.
        names: Locks to show zeros for until they are used.
        jobs: Jobs of a `Scheduler` to show zeros for until they have run.
        max_names: How many different names there may be; all others are `other`.

    Raises:
        ConfigError: `fold` or `max_names` cannot be right.
        ValueError: somebody else's metrics in `registry` have these names.
    """
    labels = Labels(fold, max_names)
    uninstrument(registry)
    metrics = _Metrics(labels)
    metrics.register(registry)
    _made[registry] = metrics
    metrics.declare(names, jobs)
    _observe.listen(metrics)


def uninstrument(registry: CollectorRegistry = REGISTRY) -> None:
    """End that, and unregister the metrics; nothing happens where it was not begun."""
    metrics = _made.pop(registry, None)
    if metrics is not None:
        metrics.close(registry)


class ServerCollector(Collector):
    """Shows the locks of a database whenever it is asked, whoever has them.

    Register it: `REGISTRY.register(ServerCollector(dsn))`. One is enough for all processes.

    Args:
        where: The database, as for `Locks`; or a client, whose session is asked then.
        fold: As for `instrument`.
        names: Locks to show zeros for while nobody has them; all others are shown, too.
        locks: The names that there are: the registry of locks, as for `Locks`.
        max_names: How many different names there may be; all others are `other`.

    Raises:
        ConfigError: a parameter cannot be right.
    """

    def __init__(
        self,
        where: str | Locks | None = None,
        fold: Fold = None,
        *,
        names: Iterable[str] = (),
        locks: Registry | str | Path | Literal[True] | None = None,
        max_names: int = MOST,
    ) -> None:
        from advlock import Locks, _dsn  # noqa: PLC0415 - a client knows its address
        from advlock._registry._names import read  # noqa: PLC0415 - for those who have one

        self._labels = Labels(fold, max_names)
        self._declared = {Key.of(name): self._labels.name(name) for name in names}
        self._known = None if locks is None else read(locks)
        self._client: Locks | None = None
        if where is None or isinstance(where, str):
            self._dsn = _dsn.resolve(where, given="where")
        elif isinstance(where, Locks):
            self._client = where
        else:
            raise ConfigError(f"where must be a DSN or a Locks, which scrapes use, not {where!r}")
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._window: Window | None = None
        if self._client is None:
            self._window = Window(
                self._dsn, registry=self._known, application_name="advlock exporter"
            )

    def _look(self) -> Snapshot:
        if self._pid != os.getpid():  # a fork: the session is its parent's, and so is who has it
            self._parent_s = self._window
            self._begin()
        with self._mutex:
            look = self._client.inspect if self._window is None else self._window.look  # type: ignore[union-attr]
            return look()

    def describe(self) -> Iterable[Metric]:
        """Describe nothing, so that registering it asks no database."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Look at the locks; where that fails, say so, and show none."""
        began = time.monotonic()
        seen: Snapshot | None = None
        try:
            seen = self._look()
        except LockError as error:
            facts: Facts = {"event": "scrape.failed", "error": type(error).__name__}
            _observe.tell(_observe.WARNING, facts, "no metrics of the server's locks: %s", error)
        if seen is not None:
            yield from self._families(seen)
        up = GaugeMetricFamily("advlock_up", "Whether the database told of its locks.")
        up.add_metric([], int(seen is not None))
        yield up
        took = GaugeMetricFamily(
            "advlock_scrape_duration_seconds", "How long it took to look at the locks."
        )
        took.add_metric([], time.monotonic() - began)
        yield took

    def close(self) -> None:
        """End its session; the next scrape opens another one."""
        if self._pid == os.getpid():
            with self._mutex:
                if self._window is not None:
                    self._window.close()

    def _families(self, seen: Snapshot) -> Iterator[Metric]:
        held: dict[str, int] = dict.fromkeys(self._declared.values(), 0)
        waiters = dict(held)
        since: dict[str, float] = {}
        for tree in seen.trees:
            if tree.key is not None and tree.key.seed < 0:
                continue  # what goes with a semaphore's slot, or is its queue
            name = self._name(tree)
            held[name] = held.get(name, 0) + len(tree.holders)
            waiters[name] = waiters.get(name, 0) + len(tree.waiters)
            for holder in tree.holders:
                if holder.since is not None:
                    moment = holder.since.timestamp()
                    since[name] = min(since.get(name, moment), moment)
        yield _gauge("advlock_held", "Sessions that hold the lock.", held)
        yield _gauge("advlock_waiters", "Sessions that wait for the lock.", waiters)
        text = "Since when the lock is held; of several holders, the first."
        yield _gauge("advlock_held_since_timestamp_seconds", text, since)

    def _name(self, tree: LockTree) -> str:
        if tree.key in self._declared:
            return self._declared[tree.key]
        if tree.name is None:  # its number would be a series of its own for whatever anybody locks
            return self._labels.name(UNKNOWN)
        entry = self._known.find(tree.name) if self._known is not None else None
        folds = entry is not None and entry.name != tree.name and "{" in entry.name
        return self._labels.name(tree.name, None, entry.name if entry and folds else None)
