"""The `advlock` command as its users meet it: real processes, real signals, a real server."""
