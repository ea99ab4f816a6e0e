"""Leader election beyond what every promise's suite asks."""
