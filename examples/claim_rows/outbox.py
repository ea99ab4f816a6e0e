"""An outbox: mails that are to be sent, by as many workers as you like, each mail by one of them.

usage: python outbox.py fill | work | show
"""

from __future__ import annotations

import os
import sys

import psycopg

import advlock

TABLE = """
CREATE TABLE IF NOT EXISTS outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    address text NOT NULL,
    sent_at timestamptz
);
CREATE INDEX IF NOT EXISTS outbox_unsent ON outbox (id) WHERE sent_at IS NULL;
"""
PEOPLE = ("ada", "grace", "alan", "edsger", "barbara", "leslie")


def fill(conn: psycopg.Connection) -> None:
    """Make the table, with a mail for everybody."""
    conn.execute(TABLE)
    addresses = [f"{person}@example.com" for person in PEOPLE]
    conn.execute("INSERT INTO outbox (address) SELECT unnest(%s::text[])", [addresses])


def work(conn: psycopg.Connection) -> None:
    """Send one mail after the other, until all are sent or in somebody's hands."""
    while True:
        with conn.transaction():
            mails = advlock.claim(conn, "outbox", where="sent_at IS NULL", order_by="id")
            for mail in mails:
                print(f"mail {mail['id']} to {mail['address']}", flush=True)
                # Changed in the transaction that claimed it: sent and marked, or neither marked.
                conn.execute("UPDATE outbox SET sent_at = now() WHERE id = %s", [mail["id"]])
        if not mails:
            return


def show(conn: psycopg.Connection) -> None:
    """Count."""
    row = conn.execute("SELECT count(sent_at), count(*) FROM outbox").fetchone()
    print("{} of {} sent".format(*(row or ())))


VERBS = {"fill": fill, "work": work, "show": show}

if __name__ == "__main__":
    verb = "".join(sys.argv[1:])
    if verb not in VERBS:
        sys.exit(__doc__)
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        VERBS[verb](connection)
        connection.commit()
