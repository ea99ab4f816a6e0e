"""Run the migrations: what `alembic upgrade` calls."""

import logging
import os

from alembic import context
from sqlalchemy import NullPool, create_engine

logging.basicConfig(format="%(message)s")
logging.getLogger("alembic").setLevel("INFO")

url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1)
with create_engine(url, poolclass=NullPool).connect() as connection:
    # A transaction for each, so that one that was interrupted leaves those before it in place.
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
