"""Rate windows: never more than so many in any stretch of time of one length."""
