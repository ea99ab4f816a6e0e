"""Spans and metrics by OpenTelemetry. It needs its API only: `pip install 'advlock[otel]'`.

There is no convention for distributed locks yet, so all names below may change with one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet, ref

from advlock import _observe
from advlock._in_use import Leads, counted
from advlock._labels import MOST, Labels

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import Observation
    from opentelemetry.trace import SpanKind, Status, StatusCode
except ImportError as _missing:
    _how = "OpenTelemetry's API is not installed: pip install 'advlock[otel]'"
    raise ImportError(_how, name=_missing.name) from _missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.metrics import CallbackOptions, MeterProvider
    from opentelemetry.trace import TracerProvider

    from advlock._labels import Fold
    from advlock._observe import Facts

__all__ = ["instrument", "uninstrument"]

# What comes of asking for a lock, by the event that tells it.
_OUTCOMES: Final = {
    "lock.acquired": "acquired",
    "lock.busy": "busy",
    "lock.timeout": "timeout",
    "lock.cancelled": "cancelled",
    "lock.failed": "error",
}


class _Telemetry:
    """What is told becomes spans and metrics."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        labels: Labels,
    ) -> None:
        self._labels = labels
        self._leads = Leads(labels)
        self._tracer = trace.get_tracer("advlock", tracer_provider=tracer_provider)
        meter = metrics.get_meter("advlock", meter_provider=meter_provider)
        self._acquisitions = meter.create_counter(
            "advlock.acquisitions", "{acquisition}", "Requests for a lock, by what came of them."
        )
        self._waits = meter.create_histogram(
            "advlock.acquire.wait", "s", "How long was waited for a lock that was acquired."
        )
        self._holds = meter.create_histogram(
            "advlock.hold.duration", "s", "How long a lock was held."
        )
        self._lost = meter.create_counter("advlock.lost", "{lock}", "Locks that were lost.")
        self._terms = meter.create_counter(
            "advlock.leader.transitions", "{transition}", "Terms as leader that began or ended."
        )
        self._runs = meter.create_counter(
            "advlock.cron.runs", "{run}", "Runs of a job, by how they ended."
        )
        self._ran = meter.create_histogram(
            "advlock.cron.run.duration", "s", "How long a job ran, all attempts together."
        )
        self.provider = meter_provider or metrics.get_meter_provider()
        if meter_provider is None:
            _global.add(self.provider)
        if not any(_is(self.provider, one) for one in _observed):
            _observe_by(meter, self.provider)

    def __call__(self, facts: Facts) -> None:
        """Take an event."""
        event = facts["event"]
        if event in _OUTCOMES:
            self._asked(facts, _OUTCOMES[event])
        elif event == "lock.released":
            self._holds.record(facts["held_ms"] / 1000, self._name(facts))
        elif event == "lock.lost":
            self._lost.add(1, self._name(facts) | {"advlock.reason": facts["reason"]})
            self._holds.record(facts["held_ms"] / 1000, self._name(facts))
        elif event == "leader.campaigning":
            self._leads.take(facts)
        elif event in ("leader.elected", "leader.resigned", "leader.lost"):
            self._leads.take(facts)
            to = {"advlock.transition": event.removeprefix("leader.")}
            self._terms.add(1, self._name(facts) | to)
        elif event == "cron.finished":
            attributes = {"advlock.job": facts["job"], "advlock.outcome": facts["state"]}
            self._runs.add(1, attributes)
            self._ran.record(facts["ran_ms"] / 1000, attributes)

    def _asked(self, facts: Facts, outcome: str) -> None:
        waited = facts["wait_ms"] / 1000
        self._acquisitions.add(1, self._name(facts) | {"advlock.outcome": outcome})
        if outcome == "acquired":
            self._waits.record(waited, self._name(facts))
        end = time.time_ns()
        attributes = {
            "db.system.name": "postgresql",
            "advlock.name": str(facts["lock"]),
            "advlock.mode": "shared" if facts.get("shared") else "exclusive",
            "advlock.outcome": outcome,
            "advlock.wait.duration": waited,
        }
        optional = {
            "server.address": facts.get("server"),
            "advlock.key": facts.get("key"),
            "advlock.holder": facts.get("holder"),
            "error.type": "timeout" if outcome == "timeout" else facts.get("error"),
        }
        attributes |= {key: value for key, value in optional.items() if value is not None}
        # Whoever asked is told of it in its own thread or task: the current span is the parent.
        span = self._tracer.start_span(
            "advlock.acquire",
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=end - int(waited * 1e9),
        )
        if outcome in ("timeout", "error"):
            span.set_status(Status(StatusCode.ERROR, outcome))
        span.end(end)

    def _name(self, facts: Facts) -> dict[str, str]:
        return {"advlock.name": self._labels.of(facts)}

    def held(self) -> dict[str, int]:
        """Count what this process holds, by name."""
        return counted(self._labels, held=True)

    def waiting(self) -> dict[str, int]:
        """Count what it waits for."""
        return counted(self._labels, held=False)

    def led(self) -> dict[str, int]:
        """Say what it leads."""
        return self._leads.counted()


_telemetry: _Telemetry | None = None
# An instrument that is observed is there once for each provider, with its first callbacks, and
# cannot be taken back; so these ask whoever is instrumented now.
_observed: WeakSet[MeterProvider] = WeakSet()
# Those that were the global one. Before the SDK sets it that is a stand-in of the API's, whose
# instruments are the real one's afterwards.
_global: WeakSet[MeterProvider] = WeakSet()


def _is(provider: MeterProvider, observed: MeterProvider | None) -> bool:
    """Whether what is observed by one provider is exported by the other."""
    if provider is observed:
        return True
    return observed in _global and provider is metrics.get_meter_provider()


def _observe_by(meter: metrics.Meter, provider: MeterProvider) -> None:
    _observed.add(provider)
    here = ref(provider)

    def ask(what: Callable[[_Telemetry], dict[str, int]]) -> Any:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            if _telemetry is not None and _is(_telemetry.provider, here()):
                for name, count in what(_telemetry).items():
                    yield Observation(count, {"advlock.name": name})

        return [observe]

    held, waiting, leads = map(ask, (_Telemetry.held, _Telemetry.waiting, _Telemetry.led))
    meter.create_observable_up_down_counter(
        "advlock.held", held, "{lock}", "Locks that this process holds."
    )
    meter.create_observable_up_down_counter(
        "advlock.waiting", waiting, "{lock}", "Locks that this process waits for."
    )
    meter.create_observable_gauge(
        "advlock.leader", leads, "1", "1 where this process leads, else 0."
    )


def instrument(
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    *,
    fold: Fold = None,
    max_names: int = MOST,
) -> None:
    """Have spans and metrics of all clients of this process from now on.

    Each request for a lock is a span `advlock.acquire` beneath the current one, and counts in
    `advlock.acquisitions`. A second call replaces the first.

    Args:
        tracer_provider: Where spans go; the global one without it.
        meter_provider: Where metrics go; the global one without it.
        fold: What metrics call locks, so that there are few names: a callable from a name to its
            label, or to None for itself; or patterns such as `"user:*"`. Templates of the registry
            are folded without it. A span has the whole name.
        max_names: How many different names metrics may have; all others are `other`.

    Raises:
        ConfigError: `fold` or `max_names` cannot be right.
    """
    global _telemetry  # noqa: PLW0603 - one for each process, as the clients
    made = _Telemetry(tracer_provider, meter_provider, Labels(fold, max_names))
    uninstrument()
    _telemetry = made
    _observe.listen(made)


def uninstrument() -> None:
    """End that; nothing happens where it was not begun."""
    global _telemetry  # noqa: PLW0603
    if _telemetry is not None:
        _observe.unlisten(_telemetry)
        _telemetry = None
