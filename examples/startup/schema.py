"""Make the tables: not all of it fits into one transaction, so it may be begun more than once."""

import os
import time

import psycopg

with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as conn:
    conn.execute("CREATE TABLE IF NOT EXISTS first_customer (id int PRIMARY KEY, name text)")
    print(os.environ["CONTAINER"], "makes the tables", flush=True)
    time.sleep(float(os.environ.get("PAUSE", "0")))
    conn.execute("DROP INDEX CONCURRENTLY IF EXISTS first_customer_name")  # half-built, perhaps
    conn.execute("CREATE INDEX CONCURRENTLY first_customer_name ON first_customer (name)")
