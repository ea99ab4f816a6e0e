"""What is behind `advlock.celery`."""
