"""Who holds what: `_sql` asks, `_read` reads, `_naming` names, `_tree` is what comes of it."""
