"""Rate limits: eight processes at one limit, beside PyrateLimiter and limits on Redis.

Every contender is asked in the same way by processes of the same number, one after the other in one
run. What advlock has granted is read from a record at the server, every window of it; the others
are believed: theirs is what their callers were told, by one clock of this machine.

As `python -m bench.rate KIND DSN LIMIT SECONDS THREADS` it is one of the callers.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg

from advlock import Locks, _schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROCESSES: Final = 8
THREADS: Final = 4  # of each, where they have to wait
LIMIT: Final = 1000
FREE: Final = 1_000_000
KILL_EVERY: Final = 1.5  # seconds
NAMES: Final = {
    "advlock": "advlock",
    "pyrate": "PyrateLimiter, PostgresBucket",
    "limits": "limits, moving window on Redis",
}
AUDIT: Final = """
CREATE TABLE IF NOT EXISTS public.rate_audit (at timestamptz, n bigint);
CREATE OR REPLACE FUNCTION public.rate_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.rate_audit SELECT NEW.at, CASE TG_OP
        WHEN 'INSERT' THEN NEW.upto - NEW.first + 1
        ELSE greatest(NEW.upto - OLD.upto, NEW.n) END;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER rate_audit AFTER INSERT OR UPDATE ON advlock.rate_grant
    FOR EACH ROW EXECUTE FUNCTION public.rate_audit();
"""
RECORD: Final = "SELECT extract(epoch FROM at)::float8, n FROM public.rate_audit ORDER BY at"


# -- the callers -----------------------------------------------------------------------------------


def taker(kind: str, dsn: str, limit: int) -> Callable[[], object]:
    """Make what takes one permit and waits for it."""
    if kind == "advlock":
        return Locks(dsn).rate_limit("bench", limit, 1).acquire
    if kind == "pyrate":
        from psycopg_pool import ConnectionPool  # noqa: PLC0415 - a yardstick only
        from pyrate_limiter import Limiter, PostgresBucket, Rate  # noqa: PLC0415

        pool = ConnectionPool(dsn, min_size=1, max_size=2, open=True)
        return Limiter(PostgresBucket(pool, "bench", [Rate(limit, 1000)])).try_acquire
    from limits import RateLimitItemPerSecond  # noqa: PLC0415
    from limits.storage import RedisStorage  # noqa: PLC0415
    from limits.strategies import MovingWindowRateLimiter  # noqa: PLC0415

    limiter, item = MovingWindowRateLimiter(RedisStorage(dsn)), RateLimitItemPerSecond(limit)

    def take() -> None:
        while not limiter.hit(item, "bench"):
            reset = limiter.get_window_stats(item, "bench").reset_time - time.time()
            time.sleep(min(max(reset, 0.001), 0.05))

    return take


def call(kind: str, dsn: str, limit: int, seconds: float, threads: int) -> None:
    """Take permits one after the other, and say when each came, and after how long."""
    take = taker(kind, dsn, limit)
    take()
    print("ready", flush=True)
    sys.stdin.readline()
    came: list[float] = []
    late: list[float] = []
    end = time.monotonic() + seconds

    def go() -> None:
        while (began := time.monotonic()) < end:
            take()
            came.append(now := time.monotonic())
            late.append(now - began)

    crew = [threading.Thread(target=go) for _ in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    print(json.dumps({"came": came, "late": late}), flush=True)


# -- the report ------------------------------------------------------------------------------------


def report(dsn: str, *, seconds: float) -> dict[str, Any]:
    """Measure all contenders, and say so line by line."""
    found: dict[str, Any] = {}
    with redis() as url:
        addresses = {"advlock": dsn, "pyrate": dsn}
        if url is not None:
            addresses["limits"] = url
        else:
            print("no redis-server on this machine: limits is left out")
        for kind, address in addresses.items():
            for count in (1, PROCESSES):
                fresh(dsn, audit=False)
                came, late = rush(kind, address, FREE, count, 5.0)
                found[f"free_{kind}_{count}"] = speed = _speed(came, late, 5.0)
                print(
                    f"{NAMES[kind]:32} {count} process{'es' * (count > 1):2} without waiting:"
                    f" {speed['per_second']:>7,.0f}/s, p50 {speed['p50_ms']:.2f} ms,"
                    f" p99 {speed['p99_ms']:.2f} ms",
                    flush=True,
                )
        for kind, address in addresses.items():
            found[f"full_{kind}"] = _full(kind, address, dsn, seconds)
    return found


def _full(kind: str, address: str, dsn: str, seconds: float) -> dict[str, float]:
    ours = kind == "advlock"
    fresh(dsn, audit=ours)
    span = seconds if ours else min(seconds, 10.0)
    came, _ = rush(kind, address, LIMIT, PROCESSES, span, kills=ours)
    grants = [(moment, 1) for moment in came]
    if ours:
        with psycopg.connect(dsn) as session:
            grants = session.execute(RECORD).fetchall()  # type: ignore[assignment]
        # What they took to get ready is not theirs to use, nor what the last of them reserved.
        first = grants[0][0] + 1.0
        grants = [grant for grant in grants if grant[0] > first]
    most = most_in_a_second(grants)
    begin, end = grants[0][0], grants[-1][0]
    whole = int(end - begin)
    used = sum(n for at, n in grants if at < begin + whole) / (LIMIT * whole)
    by = "the server's record" if ours else "what its callers were told"
    kills = f", one killed every {KILL_EVERY:g} s" if ours else ""
    print(
        f"{NAMES[kind]:32} {PROCESSES} processes of {THREADS} threads at {LIMIT:,}/s"
        f" for {span:.0f} s{kills}: {used:.1%} used,"
        f" at most {most:,} in any second, by {by}",
        flush=True,
    )
    return {"used": used, "most": most, "seconds": whole}


def _speed(came: list[float], late: list[float], seconds: float) -> dict[str, float]:
    cuts = statistics.quantiles(late, n=100, method="inclusive")
    return {
        "per_second": len(came) / seconds,
        "p50_ms": cuts[49] * 1000,
        "p99_ms": cuts[98] * 1000,
    }


def most_in_a_second(grants: list[tuple[float, int]]) -> int:
    """The most that were granted in any half-open second."""
    most = used = first = 0
    # In whole microseconds, as the server counts.
    events = sorted((round(at * 1_000_000), n) for at, n in grants)
    for at, n in events:
        used += n
        while events[first][0] <= at - 1_000_000:
            used -= events[first][1]
            first += 1
        most = max(most, used)
    return most


def rush(  # noqa: PLR0913 - what differs from run to run
    kind: str, address: str, limit: int, count: int, seconds: float, *, kills: bool = False
) -> tuple[list[float], list[float]]:
    """Let so many processes take permits at once; return when they came, and after how long."""
    command = [sys.executable, "-m", "bench.rate", kind, address, str(limit)]
    threads = "1" if limit == FREE else str(THREADS)

    def start(span: float) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([*command, str(span), threads], stdin=pipe, stdout=pipe, text=True)

    callers = [start(seconds) for _ in range(count)]
    for caller in callers:
        _go(caller, wait=True)
    for caller in callers:
        _go(caller)
    end = time.monotonic() + seconds
    while kills and (left := end - time.monotonic()) > 2 * KILL_EVERY:
        time.sleep(KILL_EVERY)
        place = random.randrange(count)  # noqa: S311 - any of them
        callers[place].send_signal(signal.SIGKILL)
        callers[place].communicate()
        callers[place] = start(left - KILL_EVERY)
        _go(callers[place], wait=True)
        _go(callers[place])
    came, late = [], []
    for caller in callers:
        told = json.loads(caller.communicate()[0] or '{"came": [], "late": []}')
        came += told["came"]
        late += told["late"]
    return sorted(came), late


def _go(caller: subprocess.Popen[str], *, wait: bool = False) -> None:
    assert caller.stdin
    assert caller.stdout
    if wait:
        caller.stdout.readline()
    else:
        caller.stdin.write("go\n")
        caller.stdin.flush()


def fresh(dsn: str, *, audit: bool) -> None:
    """Tables with nothing in them."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("DROP SCHEMA IF EXISTS advlock CASCADE")
        admin.execute("DROP TABLE IF EXISTS public.ratelimit___bench, public.rate_audit")
        admin.execute(_schema.text().encode())
        if audit:
            admin.execute(AUDIT)


@contextlib.contextmanager
def redis() -> Iterator[str | None]:
    """Run a Redis on a Unix socket, if there is one on this machine."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "redis.sock"
        arguments = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", folder]
        server = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
        try:
            while not socket.exists():
                time.sleep(0.01)
            yield f"redis+unix://{socket}"
        finally:
            server.terminate()
            server.wait(10)


if __name__ == "__main__":
    call(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
