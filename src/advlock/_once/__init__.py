"""`locks.once(…)`: done by exactly one, and awaited by the others."""
