"""Check-ins: a monitor elsewhere is told that a run has begun, and how it has ended."""
