"""OpenTelemetry: what real exporters get, of both worlds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from waiting import aeventually, eventually

import advlock
from advlock import otel

from .stories import a_name, cancelled, every_verb, in_vain, loses, play, told

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conformance.worlds import World
    from psycopg import Connection

both = pytest.mark.parametrize("world", ["sync", "async"])


class Exported:
    """What has been exported, and the tracer of the application."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])

    def spans(self, name: str) -> list[Any]:
        """The spans of a lock."""
        spans = self._spans.get_finished_spans()
        return [each for each in spans if (each.attributes or {}).get("advlock.name") == name]

    def points(self, metric: str, **attributes: object) -> list[Any]:
        """The points of a metric with these attributes."""
        found = self._reader.get_metrics_data()
        wanted = {f"advlock.{key}": value for key, value in attributes.items()}.items()
        return [
            point
            for resource in (found.resource_metrics if found else ())
            for scope in resource.scope_metrics
            for each in scope.metrics
            if each.name == metric
            for point in each.data.data_points
            if wanted <= dict(point.attributes or {}).items()
        ]

    def value(self, metric: str, **attributes: object) -> Any:
        """The one value of a metric with these attributes; 0 where there is none."""
        points = self.points(metric, **attributes)
        assert len(points) < 2, points
        return points[0].value if points else 0


@pytest.fixture
def exported() -> Iterator[Exported]:
    """Exporters that keep everything, and advlock instrumented for them."""
    made = Exported()
    otel.instrument(made.tracers, made.meters)
    yield made
    otel.uninstrument()
    made.meters.shutdown()


@both
def test_each_acquisition_is_a_span_and_is_counted(
    world: str, dsn: str, exported: Exported
) -> None:
    """Of each verb, with its outcome, its mode and its wait; and how long it was held."""
    name = a_name()
    play(world, every_verb, dsn, name)
    spans = exported.spans(name)
    assert {span.name for span in spans} == {"advlock.acquire"}
    assert len(spans) == 6
    first = dict(spans[0].attributes)
    assert first.pop("advlock.wait.duration") > 0
    assert first.pop("server.address").startswith("/")
    assert first == {
        "db.system.name": "postgresql",
        "advlock.name": name,
        "advlock.key": str(advlock.Key.of(name).value),
        "advlock.mode": "exclusive",
        "advlock.outcome": "acquired",
    }
    assert spans[1].attributes["advlock.mode"] == "shared"
    assert exported.value("advlock.acquisitions", name=name, outcome="acquired") == 6
    (waits,) = exported.points("advlock.acquire.wait", name=name)
    assert waits.count == 6
    # What the client's end gave back is told apart from it.
    eventually(lambda: exported.points("advlock.hold.duration", name=name)[0].count == 6)
    slots = f"{name}-slots"
    assert exported.value("advlock.acquisitions", name=slots, outcome="acquired") == 3
    transitions = "advlock.leader.transitions"
    for transition in ("elected", "resigned"):
        assert exported.value(transitions, name=f"{name}-lead", transition=transition) == 1
    assert exported.value("advlock.leader", name=f"{name}-lead") == 0


@both
def test_what_is_not_granted_is_counted(
    world: str, dsn: str, admin: Connection[Any], exported: Exported
) -> None:
    """A timeout and a missing server are errors of their spans; busy is none."""
    name = a_name()
    play(world, in_vain, dsn, admin, name)
    counts = {
        outcome: exported.value("advlock.acquisitions", name=name, outcome=outcome)
        for outcome in ("acquired", "busy", "timeout", "error")
    }
    assert counts == {"acquired": 2, "busy": 2, "timeout": 3, "error": 1}
    for span in exported.spans(name):
        outcome = span.attributes["advlock.outcome"]
        assert span.status.is_ok is (outcome not in ("timeout", "error"))
    late = [s for s in exported.spans(name) if s.attributes["advlock.outcome"] == "timeout"]
    assert all(0.05 <= (span.end_time - span.start_time) / 1e9 < 10 for span in late)
    # Each time that the server says so in time.
    assert any(span.attributes.get("advlock.holder") for span in late)
    (failed,) = (s for s in exported.spans(name) if s.attributes["advlock.outcome"] == "error")
    assert failed.attributes["error.type"] == "DatabaseUnavailable"


def test_a_cancelled_wait_is_no_error(dsn: str, admin: Connection[Any], exported: Exported) -> None:
    """It is an outcome of its own."""
    name = a_name()
    play("async", cancelled, dsn, admin, name)
    assert exported.value("advlock.acquisitions", name=name, outcome="cancelled") == 1
    assert all(span.status.is_ok for span in exported.spans(name))


@both
def test_a_lost_lock_is_counted(
    world: str, dsn: str, admin: Connection[Any], exported: Exported
) -> None:
    """With its reason, once."""
    name = a_name()
    with told() as facts:
        play(world, loses, dsn, admin, name, facts)
    assert exported.value("advlock.lost", name=name, reason="terminated") == 1


@both
def test_the_current_span_is_the_parent(world: str, dsn: str, exported: Exported) -> None:
    """In the thread, or the task, that asks."""
    name = a_name()
    tracer = exported.tracers.get_tracer("application")

    async def story(world: World) -> None:
        client, actor = world.client(dsn), world.actor()

        def begin() -> Any:
            span = tracer.start_span("request")
            kept.append(trace.use_span(span, end_on_exit=True))
            kept[0].__enter__()
            return span

        kept: list[Any] = []
        span = await actor.call(world.defines(begin))
        await actor.within(client.hold(name), world.defines(lambda _: None))
        (ours,) = exported.spans(name)
        assert ours.parent is not None
        assert ours.parent.span_id == span.get_span_context().span_id
        await actor.call(world.defines(lambda: kept[0].__exit__(None, None, None)))

    play(world, story)


@both
def test_what_is_held_and_waited_for_is_counted_when_it_is_asked_for(
    world: str, dsn: str, exported: Exported
) -> None:
    """Also for locks that were taken before anybody listened."""
    name = a_name()
    otel.uninstrument()

    async def story(world: World) -> None:
        client, other = world.client(dsn), world.client(dsn)
        actor, late = world.actor(), world.actor()
        first, second = client.hold(name), other.hold(name)
        await actor.enter(first)
        otel.instrument(exported.tracers, exported.meters)
        waits = late.entering(second)
        await aeventually(lambda: exported.value("advlock.waiting", name=name) == 1)
        assert exported.value("advlock.held", name=name) == 1
        await actor.exit(first)
        await waits
        assert exported.value("advlock.waiting", name=name) == 0
        assert exported.value("advlock.held", name=name) == 1
        await late.exit(second)
        assert exported.value("advlock.held", name=name) == 0

    play(world, story)


def test_afterwards_nothing_is_exported(dsn: str, exported: Exported) -> None:
    """The control of all the others."""
    name = a_name()
    otel.uninstrument()
    play("sync", every_verb, dsn, name)
    assert not exported.spans(name)
    assert not exported.points("advlock.acquisitions", name=name)


def test_the_global_provider_may_come_later() -> None:
    """What was instrumented before it is exported by it, also when that was done once more."""
    program = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
import advlock
from advlock import otel
from advlock.testing import MemoryServer

otel.instrument()
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
with MemoryServer() as server, server.locks().hold("job"):
    for _ in range(2):
        (resource,) = reader.get_metrics_data().resource_metrics
        print([each.name for each in resource.scope_metrics[0].metrics])
        otel.instrument()
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout.count(b"'advlock.held'") == 2
    # Older versions say of each instrument that it is there already.
    lines = done.stderr.decode().splitlines()
    assert not [line for line in lines if not line.endswith("has been created already.")]


def test_run_hands_the_current_span_on(dsn: str) -> None:
    """As TRACEPARENT; where there is none, that of its own environment is passed on."""
    program = """
import sys
from opentelemetry.sdk.trace import TracerProvider
from advlock.cli import main
with TracerProvider().get_tracer("x").start_as_current_span("s") as span:
    print(format(span.get_span_context().span_id, "016x"), flush=True)
    sys.exit(main())
"""
    argv = ["run", "--dsn", dsn, a_name(), "--", "printenv", "TRACEPARENT"]
    given = f"00-{'1' * 32}-{'2' * 16}-01"
    for command, env in (
        ([sys.executable, "-c", program], {}),
        ([sys.executable, "-m", "advlock"], {"TRACEPARENT": given}),
    ):
        done = subprocess.run(
            [*command, *argv],
            check=True,
            capture_output=True,
            text=True,
            timeout=50,
            env={**os.environ, **env},
        )
        lines = done.stdout.split()
        assert lines[0] in lines[-1]
        assert lines[-1] == given if env else lines[-1].startswith("00-")


def test_the_library_imports_no_opentelemetry() -> None:
    """Who does not ask for it does not pay for it."""
    program = "import advlock, sys; advlock.Locks; print([m for m in sys.modules if 'telem' in m])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(done.stdout) == []


def test_without_the_api_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name of our extra."""
    monkeypatch.delitem(sys.modules, "advlock.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ImportError, match=r"pip install 'advlock\[otel\]'"):
        __import__("advlock.otel")
