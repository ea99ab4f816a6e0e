"""What `advlock.asyncpg` is made of; imported only by it."""
