"""At most so many holders at a time, of any number who ask."""
