"""The registry: which locks there are, by name, in a file that is reviewed."""
