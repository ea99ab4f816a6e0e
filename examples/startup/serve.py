"""Put the first customers in, once, and serve."""

import os

import psycopg

import advlock

me = os.environ["CONTAINER"]
with psycopg.connect(os.environ["DATABASE_URL"]) as conn, advlock.Locks() as locks:
    with locks.once("customers-v1", wait="10m", connection=conn) as todo:
        if todo:
            print(me, "puts three customers in", flush=True)
            with conn.cursor() as cursor:
                names = [(1, "Ada"), (2, "Grace"), (3, "Mary")]
                cursor.executemany("INSERT INTO first_customer VALUES (%s, %s)", names)
    conn.commit()  # the customers, and that they are in
    (count,) = conn.execute("SELECT count(*) FROM first_customer").fetchone()
    print(me, "serves", count, "customers", flush=True)
