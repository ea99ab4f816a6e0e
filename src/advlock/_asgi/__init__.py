"""What `advlock.asgi` is made of."""
