"""The catalogue: locks that well-known tools take, and how their keys are made."""
