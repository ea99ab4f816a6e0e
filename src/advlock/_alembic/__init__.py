"""What `advlock.alembic` is made of; imported only there."""
