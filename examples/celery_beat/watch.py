"""Make the table, or wait until the stock was counted so many times.

usage: python watch.py init | TIMES
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psycopg
from shop import app

# How many counts were ordered right after another one, in less than half
# the time that lies between two messages.
COUNTS = """
SELECT count(*) FILTER (WHERE at - before < interval '0.5 s')
FROM (SELECT at, lag(at) OVER (ORDER BY at) AS before FROM counted) AS each
"""

with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as session:
    if sys.argv[1] == "init":
        Path("queue").mkdir(exist_ok=True)
        # Here, because this broker cannot stand several processes that do it at the same moment.
        with app.connection_for_write() as broker:
            app.amqp.queues["celery"].bind(broker).declare()
        session.execute("CREATE TABLE counted (at timestamptz)")
    else:
        while session.execute("SELECT FROM counted").rowcount < int(sys.argv[1]):
            time.sleep(0.1)
        (twice,) = session.execute(COUNTS).fetchone()
        print(f"counted {sys.argv[1]} times, {twice} of them twice")
