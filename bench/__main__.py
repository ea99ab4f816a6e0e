"""`python -m bench`: run the benchmarks and say whether the targets are met."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg

from advlock import embedded
from bench.hold import OURS, Comparison, compare

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.rounds import Quartiles


def main() -> None:
    """Measure and report; the exit code says nothing about the targets, as machines differ."""
    options = arguments()
    with contextlib.ExitStack() as stack:
        if options.pin:
            # Before the server starts: its processes inherit it.
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        dsn = os.environ.get("ADVLOCK_TEST_DSN") or stack.enter_context(embedded.temporary()).dsn
        facts = environment(dsn, pinned=options.pin)
        if (other := another(options, dsn)) is not None:
            print(" | ".join(facts.values()), end="\n\n", flush=True)
            other()
            return
        if not options.json:
            print(" | ".join(facts.values()), end="\n\n", flush=True)
            print(f"{'hold and release, cycles/s':30}{'advlock':>9}{'baseline':>10}   ratio")
        results = []
        for comparison in compare(
            dsn, options.pooler, rounds=options.rounds, seconds=options.seconds
        ):
            results.append(as_dict(comparison))
            if not options.json:
                print(as_line(comparison), flush=True)
    if options.json:
        json.dump({"environment": facts, "results": results}, sys.stdout, indent=2)
        print()


def another(options: argparse.Namespace, dsn: str) -> Callable[[], object] | None:
    """What to measure instead of holding and releasing; each is imported when it is asked for."""
    reports: dict[str, dict[str, Any]] = {
        "cron": {"dsn": dsn, "rounds": options.rounds, "seconds": 20.0},
        "inspect": {"dsn": dsn, "rounds": options.rounds},
        "leader": {"rounds": options.rounds, "candidates": 200, "seconds": options.standby},
        "semaphore": {"dsn": dsn, "rounds": options.rounds},
        "rate": {"dsn": dsn, "seconds": 30.0},
    }
    for name, how in reports.items():
        if getattr(options, name):
            return functools.partial(importlib.import_module(f"bench.{name}").report, **how)
    return None


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Ratios against a baseline, in interleaved rounds: medians and quartiles.",
        epilog="ADVLOCK_TEST_DSN names the server; without it, an embedded one is started.",
    )
    parser.add_argument("--rounds", type=at_least_two, default=60, help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=0.1, help="of each contender a round; default: %(default)s"
    )
    parser.add_argument(
        "--pin", action="store_true", help="keep client and (embedded) server on one core"
    )
    parser.add_argument("--pooler", metavar="DSN", help="the same database through a pooler, too")
    parser.add_argument("--cron", action="store_true", help="the cron instead of the locks")
    parser.add_argument("--semaphore", action="store_true", help="slots, hand-over and fairness")
    parser.add_argument("--leader", action="store_true", help="fail-over, and 200 candidates")
    parser.add_argument(
        "--standby", type=float, default=600.0, help="seconds that those stand by; default: 600"
    )
    parser.add_argument("--inspect", action="store_true", help="looking at ten thousand locks")
    parser.add_argument("--rate", action="store_true", help="eight processes at a rate limit")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    return parser.parse_args()


def at_least_two(text: str) -> int:
    """A number of rounds that has quartiles."""
    if int(text) < 2:
        raise argparse.ArgumentTypeError("at least 2, because it takes two to have quartiles")
    return int(text)


def environment(dsn: str, *, pinned: bool) -> dict[str, str]:
    """What the numbers depend on."""
    with psycopg.connect(dsn) as connection:
        server = connection.info.parameter_status("server_version")
    libpq = psycopg.pq.version()
    return {
        "server": f"PostgreSQL {server}",
        "python": f"Python {platform.python_version()}",
        "psycopg": f"psycopg {psycopg.__version__} ({psycopg.pq.__impl__}, libpq {libpq // 10000})",
        "asyncpg": f"asyncpg {asyncpg.__version__}",
        "machine": f"{os.cpu_count()} CPUs, {processor()}",
        "pinning": "client and server on one core" if pinned else "not pinned",
    }


def processor() -> str:
    """The CPU's name, as far as the machine tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.machine()


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """One result for programs."""
    title, baseline, target, rates = comparison
    ratio = rates.ratio(OURS, baseline)
    return {
        "case": title,
        "baseline": baseline,
        "advlock_per_second": dataclasses.asdict(rates.rate(OURS)),
        "baseline_per_second": dataclasses.asdict(rates.rate(baseline)),
        "ratio": dataclasses.asdict(ratio),
        "target": target,
        "met": None if target is None else ratio.median >= target,
    }


def as_line(comparison: Comparison) -> str:
    """One result for people."""
    title, baseline, target, rates = comparison
    ratio: Quartiles = rates.ratio(OURS, baseline)
    ours, theirs = rates.rate(OURS).median, rates.rate(baseline).median
    line = f"{title:30}{ours:>9,.0f}{theirs:>10,.0f}   {ratio.median:.2f} x {baseline}"
    line += f" (quartiles {ratio.low:.2f} to {ratio.high:.2f})"
    if target is not None:
        line += f"; target {target:.1f}: {'met' if ratio.median >= target else 'MISSED'}"
    return line


if __name__ == "__main__":
    main()
