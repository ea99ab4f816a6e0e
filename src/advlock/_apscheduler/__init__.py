"""What is behind `advlock.apscheduler`."""
