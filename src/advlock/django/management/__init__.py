"""Django looks here for management commands."""
