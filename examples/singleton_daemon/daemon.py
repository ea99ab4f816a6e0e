"""A daemon of which one works: it gives orders their invoice numbers, without a gap.

usage: python daemon.py init | run | order CUSTOMER...
"""

from __future__ import annotations

import os
import signal
import sys
import time

import psycopg

import advlock

TABLES = """
CREATE TABLE IF NOT EXISTS orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer text NOT NULL,
    invoice bigint UNIQUE
);
CREATE TABLE IF NOT EXISTS invoice_desk (fence bigint NOT NULL);
INSERT INTO invoice_desk SELECT 0 WHERE NOT EXISTS (SELECT FROM invoice_desk);
"""
# A leader that is stopped half-way holds the row that its successor needs; the server ends that.
PATIENCE = "SET idle_in_transaction_session_timeout = '1s'"
# Refuses a leader whose term is over, however late it is: its successor was here with more.
FENCE = "UPDATE invoice_desk SET fence = %(token)s WHERE fence <= %(token)s"
NUMBER = """
UPDATE orders SET invoice = (SELECT coalesce(max(invoice), 0) + 1 FROM orders)
WHERE id = (SELECT id FROM orders WHERE invoice IS NULL ORDER BY id LIMIT 1)
RETURNING customer, invoice
"""


def run(dsn: str) -> None:
    """Work while we lead, stand by while another one does, until TERM or Ctrl-C."""
    with advlock.Locks(dsn) as locks, locks.leader("invoices") as leader:
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: leader.close())
        for term in leader.terms():
            try:
                with psycopg.connect(dsn) as conn:
                    number_orders(term, conn)
            except (psycopg.OperationalError, advlock.LockLost) as error:
                print(f"the term is over: {error}", flush=True)


def number_orders(term: advlock.Term, conn: psycopg.Connection) -> None:
    """Number one order after the other, as long as the term lasts."""
    token = term.token()
    print(f"leading with token {token}", flush=True)
    conn.execute(PATIENCE)
    conn.commit()
    while not term.lost:
        with conn.transaction():
            if conn.execute(FENCE, {"token": token}).rowcount == 0:
                return
            order = conn.execute(NUMBER).fetchone()
        if order is None:
            time.sleep(0.05)
        else:
            print("{} gets invoice {}".format(*order), flush=True)


def order(conn: psycopg.Connection, customers: list[str]) -> None:
    """Order, and wait for the invoices."""
    conn.execute("INSERT INTO orders (customer) SELECT unnest(%s::text[])", [customers])
    conn.commit()
    while conn.execute("SELECT FROM orders WHERE invoice IS NULL").rowcount:
        conn.commit()
        time.sleep(0.05)


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:] or [""]
    if verb not in ("init", "run", "order"):
        sys.exit(__doc__)
    url = os.environ["DATABASE_URL"]
    if verb == "run":
        run(url)
    else:
        with psycopg.connect(url) as connection:
            connection.execute(TABLES) if verb == "init" else order(connection, arguments)
