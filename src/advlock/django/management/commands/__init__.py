"""The management commands: `migrate`, which waits its turn, and `advlock`."""
