"""How often the pooling probe is right: the numbers of the page about PgBouncer, measured anew.

    PYTHONPATH=tests .venv/bin/python -m chaos.probes [--runs 100] [--server pg18]

Pools of several sizes, lent in both orders, alone and beside forty other clients.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter
from contextlib import ExitStack
from statistics import median

from bouncers import bouncer
from clusters import temporary_home
from servers import find_servers

from advlock._pooling import probe

from .load import load

SIZES = (2, 5, 20)
ORDERS = {0: "last in, first out", 1: "in turns"}


def main() -> None:
    """Probe, and count the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100, help="probes of each kind")
    parser.add_argument("--server", default="pg18")
    options = parser.parse_args()
    with temporary_home() as home:
        (server,) = (one for one in find_servers(home) if one.name == options.server)
        server.start()
        assert server.cluster
        try:
            kinds = itertools.product(("transaction", "session"), SIZES, ORDERS, (False, True))
            for mode, size, order, busy in kinds:
                if mode == "session" and busy:
                    continue  # forty clients that stay leave nothing to probe
                with ExitStack() as stack:
                    settings = {"default_pool_size": size, "server_round_robin": order}
                    pooler = stack.enter_context(bouncer(server, mode, **settings))
                    if busy:
                        stack.enter_context(load(pooler.dsn(), seed=1))
                    measure(
                        f"{mode}, {size}, {ORDERS[order]}{', busy' * busy}",
                        pooler.dsn(),
                        options.runs,
                    )
        finally:
            server.cluster.stop()


def measure(title: str, dsn: str, runs: int) -> None:
    """Print how often which verdict was reached, and how long one took."""
    verdicts: Counter[str] = Counter()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        verdicts[probe(dsn).pooling.value] += 1
        times.append(time.perf_counter() - start)
    print(f"{title:45}{dict(verdicts)}, median {1000 * median(times):.1f} ms", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
