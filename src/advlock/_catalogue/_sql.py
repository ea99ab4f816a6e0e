"""The one SQL text by which the catalogue learns what a database has. Pure.

It reads catalogs that every role may read, and no table of anybody's.
"""

from __future__ import annotations

from typing import Final, LiteralString

# Names, because keys are made of them, and oids, because some keys have them in. Bounded: of tables
# those whose names ($1) or patterns of names ($2) the formulas know before all
# others, and partitions last; temporary ones and the system's never. A column is asked for where
# three tools call a table the same ($3), and $4 is the bound. Terraform is known by a sequence.
# The answer comes as the bytes that the server has: a name may be one that UTF-8 cannot express,
# and in a SQL_ASCII database any bytes at all, which the server would refuse to send as text.
FACTS: Final[LiteralString] = """
SELECT pg_catalog.current_setting('server_encoding'),
       pg_catalog.encode(pg_catalog.convert_to(pg_catalog.json_build_object(
    'database', pg_catalog.current_database(),
    'schemas', (
        SELECT pg_catalog.json_agg(nspname) FROM (
            SELECT nspname FROM pg_catalog.pg_namespace
            WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
            ORDER BY nspname <> 'public', oid LIMIT 1000) AS space),
    'extensions', (SELECT pg_catalog.json_agg(extname) FROM pg_catalog.pg_extension),
    'publications', (
        SELECT pg_catalog.json_agg(pubname) FROM (
            SELECT pubname FROM pg_catalog.pg_publication ORDER BY oid LIMIT 100) AS publication),
    'tables', (
        SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
            oid::int8, nspname, relname, relkind = 'p', (
                SELECT pg_catalog.json_agg(attname) FROM pg_catalog.pg_attribute
                WHERE attrelid = relation.oid AND attname = ANY ($3::text[])
                  AND relname = ANY ($1::text[]) AND attnum > 0 AND NOT attisdropped)))
        FROM (
            SELECT class.oid, space.nspname, class.relname, class.relkind
            FROM pg_catalog.pg_class AS class
            JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
            WHERE (class.relkind IN ('r', 'p') OR class.relkind = 'S'
                                                  AND class.relname = 'global_states_id_seq')
              AND space.nspname !~ '^pg_' AND space.nspname <> 'information_schema'
            ORDER BY class.relname = ANY ($1::text[]) DESC,
                     class.relname LIKE ANY ($2::text[]) DESC,
                     class.relkind = 'p' DESC, class.relispartition, class.oid
            LIMIT $4::int8) AS relation)
)::text, pg_catalog.current_setting('server_encoding')), 'base64')
"""
