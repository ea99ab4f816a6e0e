"""An index on them, while everybody goes on writing."""

from alembic import op

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    """Build the index outside of a transaction; anew, if somebody died while building it."""
    with op.get_context().autocommit_block():
        drop_index()
        op.create_index("customer_email", "customer", ["email"], postgresql_concurrently=True)


def downgrade() -> None:
    """Drop it."""
    with op.get_context().autocommit_block():
        drop_index()


def drop_index() -> None:
    """Drop it, whether it is there, and valid, or not."""
    op.drop_index("customer_email", if_exists=True, postgresql_concurrently=True)
