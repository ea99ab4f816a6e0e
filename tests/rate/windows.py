"""Every stretch of time of one length, looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg import Connection

# What was granted, as the table itself tells somebody else: whatever is recorded goes through it,
# and nobody cleans up there. Two that overwrite each other count twice.
AUDIT = """
DROP TABLE IF EXISTS public.rate_audit;
CREATE TABLE public.rate_audit (key bigint, at timestamptz, n bigint, said timestamptz);
CREATE OR REPLACE FUNCTION public.rate_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.rate_audit
    SELECT NEW.key, NEW.at,
           CASE TG_OP WHEN 'INSERT' THEN NEW.upto - NEW.first + 1
                       ELSE greatest(NEW.upto - OLD.upto, NEW.n) END,
           clock_timestamp();
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER rate_audit AFTER INSERT OR UPDATE ON advlock.rate_grant
    FOR EACH ROW EXECUTE FUNCTION public.rate_audit();
"""
GRANTS = """
SELECT (extract(epoch FROM at) * 1000000)::bigint, n FROM public.rate_audit
WHERE key = hashtextextended(%s, 0) AND n > 0 ORDER BY at
"""


def grants(admin: Connection[Any], name: str) -> list[tuple[int, int]]:
    """What was granted of a limit: (microseconds, how many), by the server's own record."""
    return [(at, n) for at, n in admin.execute(GRANTS, [f"rate:{name}"])]


def most_in_a_window(grants: Iterable[tuple[int, int]], window: int) -> int:
    """The most permits in any half-open window: it suffices to look at those that end at a grant.

    A window that holds the most can be moved until a grant is its last moment, and keeps them all.
    """
    events = sorted(grants)
    most = used = first = 0
    for at, n in events:
        used += n
        while events[first][0] <= at - window:
            used -= events[first][1]
            first += 1
        most = max(most, used)
    return most
