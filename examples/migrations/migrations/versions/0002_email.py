"""Their addresses."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """Add the column."""
    op.add_column("customer", sa.Column("email", sa.Text))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("customer", "email")
