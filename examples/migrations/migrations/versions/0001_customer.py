"""Customers."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade() -> None:
    """Make the table."""
    op.create_table("customer", sa.Column("id", sa.BigInteger, primary_key=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_table("customer")
