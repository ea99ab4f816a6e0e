"""What `advlock.sqlalchemy` and `Locks.from_engine` are made of; imported only where they are."""
