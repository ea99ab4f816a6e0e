"""What we believe about PostgreSQL, as tests; the beliefs themselves need nothing of advlock."""
