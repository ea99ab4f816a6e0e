"""Semaphores and several locks at once, among real processes."""
