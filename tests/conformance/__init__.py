"""The promises, one text for both worlds."""
