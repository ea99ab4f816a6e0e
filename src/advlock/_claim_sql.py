"""The statement that claims rows."""

from __future__ import annotations

from typing import Final, LiteralString

# Lock rows that nobody else has locked, without waiting. The server locks each row before it counts
# it, and looks at the condition again where the row has changed meanwhile, so what comes back
# satisfies it and is ours (tests/conformance/test_claim.py).
# The first condition lets tables pass and nothing else: through a view with UNION, and of a foreign
# table, the server returns rows without locking one, and without a word. It is decided once, before
# the first row, and its failure carries the kind of relation to us. Its operators are qualified: an
# operator of somebody else's for just these two types would be the better match, and would run with
# the caller's rights, whatever the search_path is. A constant LIMIT stays one, or the planner would
# sort the whole table.
# The caller's condition ends with its line: a comment in it must not swallow what comes behind.
CLAIM: Final[LiteralString] = """
SELECT * FROM {table}
WHERE (SELECT CASE WHEN relation.relkind OPERATOR(pg_catalog.=) 'r'
                     OR relation.relkind OPERATOR(pg_catalog.=) 'p' THEN true
                   ELSE pg_catalog.concat('advlock:relation:', relation.relkind)::pg_catalog.bool
              END
       FROM pg_catalog.pg_class AS relation
       WHERE relation.oid OPERATOR(pg_catalog.=) {name}::pg_catalog.regclass::pg_catalog.oid)
AND ({where}
)
{order} LIMIT {limit} FOR UPDATE SKIP LOCKED
"""
EVERY_ROW: Final[LiteralString] = "true"

# The first condition of `CLAIM`, for a select that somebody else has made. Its operators are
# qualified: one of somebody else's for just these two types would be the better match, and would
# run with the caller's rights, whatever the search_path is.
IS_A_TABLE: Final[LiteralString] = """
(SELECT CASE WHEN relation.relkind OPERATOR(pg_catalog.=) 'r'
               OR relation.relkind OPERATOR(pg_catalog.=) 'p' THEN true
             ELSE pg_catalog.concat('advlock:relation:', relation.relkind)::pg_catalog.bool END
 FROM pg_catalog.pg_class AS relation
 WHERE relation.oid OPERATOR(pg_catalog.=)
       ((:relation)::pg_catalog.text)::pg_catalog.regclass::pg_catalog.oid)
"""
