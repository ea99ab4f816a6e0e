"""Leader election: one of many leads, term by term, and the others stand by."""
