"""The decision, as the server makes it, against a model; the clock is the test's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from advlock._rate import _plan
from advlock._rate._plan import Answer, Asked
from advlock._rate._rate import ROWS, Rate

from .windows import most_in_a_window

if TYPE_CHECKING:
    from psycopg import Connection

START = datetime(2030, 1, 1, tzinfo=UTC)
KEY = 42
AHEADS = (0.0, 0.02, _plan.AHEAD)

Call = tuple[int, list[tuple[int, float]]]


class Server:
    """Asks the real one, at a time of ours."""

    def __init__(self, admin: Connection[Any], rate: Rate) -> None:
        self.admin = admin
        self.rate = rate
        self.written: list[str | None] = []  # the id of each transaction, if it has one
        admin.execute("DELETE FROM advlock.rate_grant")

    def ask(self, now: int, requests: list[tuple[int, float]]) -> list[Answer]:
        """Ask for all of `requests`, `now` microseconds after the start."""
        clock = (START + timedelta(microseconds=now)).isoformat()
        wants, aheads = zip(*requests, strict=True)
        return self.drive(
            _plan.ask(self.rate, Asked(KEY, wants, aheads), prepared=None, clock=clock)
        )

    def drive(self, plan: Any) -> list[Answer]:
        """Send each script as one transaction of the extended protocol."""
        pgconn = self.admin.pgconn
        try:
            script = next(plan)
            while True:
                pgconn.exec_(b"BEGIN")
                answers = []
                for step in script.steps:
                    values = [None if v is None else v.encode() for v in step.params]
                    result = pgconn.exec_params(step.sql.encode(), values)
                    assert not result.error_message, result.error_message.decode()
                    cells = range(result.nfields)
                    answers.append(
                        [
                            tuple((result.get_value(r, c) or b"").decode() for c in cells)
                            for r in range(result.ntuples)
                        ]
                    )
                xid = pgconn.exec_(b"SELECT pg_current_xact_id_if_assigned()").get_value(0, 0)
                self.written.append(xid.decode() if xid else None)
                pgconn.exec_(b"COMMIT")
                script = plan.send(answers)
        except StopIteration as stop:
            return list(stop.value[0])


class Model:
    """The rule, as the documentation puts it: one permit after the other, by brute force."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.grants: list[tuple[int, int]] = []  # (microseconds, how many)

    def fits(self, at: int, n: int, grants: list[tuple[int, int]]) -> bool:
        """Whether `n` more are within the limit in the window that ends at `at`."""
        used = sum(m for when, m in grants if when > at - self.rate.window)
        return used + n <= self.rate.limit

    def earliest(self, now: int, n: int, grants: list[tuple[int, int]]) -> int:
        """When `n` permits are to be had, after all that were granted."""
        at = now
        if grants:
            last, count = grants[-1]
            at = max(now, last + count * self.rate.apart)
        moments = [at, *(when + self.rate.window for when, _ in grants)]
        return min(m for m in moments if m >= at and self.fits(m, n, grants))

    def ask(self, now: int, requests: list[tuple[int, float]]) -> list[tuple[int, bool]]:
        """Decide in order; nobody overtakes one who has to wait."""
        answers, blocked, line = [], False, list(self.grants)
        for n, ahead in requests:
            at = self.earliest(now, n, line)
            line.append((at, n))
            blocked = blocked or at > now + round(ahead * 1e6)
            if not blocked:
                self.grants.append((at, n))
            answers.append((at - now, not blocked))
        return answers


def fitting(limit: int, wants: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """No more in one batch than the limit, as the desk sees to it."""
    left, kept = limit, []
    for n, ahead in wants:
        n = 1 + (n - 1) % limit  # noqa: PLW2901
        if n > left:
            break
        left -= n
        kept.append((n, ahead))
    return kept


batches = st.lists(st.tuples(st.integers(1, 12), st.sampled_from(AHEADS)), min_size=1, max_size=4)
# Many moments fall on the very end of a window.
steps = st.one_of(
    st.sampled_from((0, 1, 5_000, 10_000, 99_999, 100_000, 100_001)), st.integers(0, 300_000)
)
rates = st.builds(Rate, st.integers(1, 12), st.sampled_from((0.01, 0.1, 0.25)), st.booleans())
relaxed = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@relaxed
@given(rate=rates, calls=st.lists(st.tuples(steps, batches), min_size=1, max_size=12))
@example(rate=Rate(2, 0.1), calls=[(0, [(2, 0.0)]), (99_999, [(1, 0.0)]), (1, [(2, 0.0)])])
def test_the_server_decides_as_the_model_does(
    table: Connection[Any], rate: Rate, calls: list[Call]
) -> None:
    """Granted or not, and after how many microseconds, to the last one; and never too many."""
    server, model, now = Server(table, rate), Model(rate), 0
    for step, wants in calls:
        now += step
        requests = fitting(rate.limit, wants)
        found = [(round(a.after * 1e6), a.granted) for a in server.ask(now, requests)]
        assert found == model.ask(now, requests)
    assert most_in_a_window(model.grants, rate.window) <= rate.limit


@relaxed
@given(
    limit=st.integers(ROWS + 1, 3 * ROWS),
    calls=st.lists(
        st.tuples(st.integers(0, 60_000), st.lists(st.integers(1, 300), min_size=1, max_size=3)),
        min_size=1,
        max_size=15,
    ),
)
def test_permits_that_share_a_row_are_never_too_many(
    table: Connection[Any], limit: int, calls: list[tuple[int, list[int]]]
) -> None:
    """Large limits are coarser: a permit may be refused for a 256th of the window too long."""
    rate = Rate(limit, 0.1)
    server, now = Server(table, rate), 0
    grants: list[tuple[int, int]] = []
    for step, wants in calls:
        now += step
        requests = fitting(limit, [(n, 0.0) for n in wants])
        answers = server.ask(now, requests)
        n = requests[0][0]
        late = now - rate.bin
        used = sum(m for when, m in grants if when > late - rate.window)
        assert answers[0].granted or used + n > limit
        for (count, _), answer in zip(requests, answers, strict=True):
            if answer.granted:
                grants.append((now + round(answer.after * 1e6), count))
    assert most_in_a_window(grants, rate.window) <= limit
    rows = table.execute("SELECT count(*) FROM advlock.rate_grant").fetchone()
    assert rows
    assert rows[0] <= len(grants)


@relaxed
@given(
    rate=rates,
    calls=st.lists(
        st.tuples(st.integers(0, 150_000), st.integers(-400_000, 400_000), batches),
        min_size=1,
        max_size=15,
    ),
)
def test_a_clock_that_jumps_back_grants_nothing(
    table: Connection[Any], rate: Rate, calls: list[tuple[int, int, list[tuple[int, float]]]]
) -> None:
    """In the time that really passes no window is ever too full, however often it is set back."""
    server = Server(table, rate)
    real = offset = 0
    grants: list[tuple[int, int]] = []
    for step, jump, wants in calls:
        real += step
        offset += min(jump, 0)
        requests = fitting(rate.limit, wants)
        for (n, _), answer in zip(requests, server.ask(real + offset, requests), strict=True):
            if answer.granted:
                grants.append((real + round(answer.after * 1e6), n))
    assert most_in_a_window(grants, rate.window) <= rate.limit


@relaxed
@given(
    calls=st.lists(st.tuples(steps, batches, rates), min_size=1, max_size=12),
)
@example(
    calls=[
        (0, [(12, 0.0)], Rate(12, 0.1)),
        (1, [(1, 0.0)], Rate(5, 0.01)),
        (10_000, [(1, 0.0)], Rate(5, 0.01)),
        (1, [(1, 0.0)], Rate(12, 0.25)),
    ]
)
def test_a_limit_that_changes_counts_what_everybody_took(
    table: Connection[Any], calls: list[tuple[int, list[tuple[int, float]], Rate]]
) -> None:
    """Each decides by the limit that he says himself, whatever those before him have said."""
    server, now = Server(table, Rate(1, 1.0)), 0
    model = Model(Rate(1, 1.0))
    for step, wants, rate in calls:
        now += step
        server.rate = model.rate = rate._replace(smooth=False)
        requests = fitting(rate.limit, wants)
        found = [(round(a.after * 1e6), a.granted) for a in server.ask(now, requests)]
        assert found == model.ask(now, requests)


def test_a_burst_of_before_holds_a_smooth_limit_up_for_one_window(table: Connection[Any]) -> None:
    """More than its limit were taken at once; after `per` they are over, as always."""
    server = Server(table, Rate(10**9, 1.0))
    assert server.ask(0, [(10**9, 0.0)])[0].granted
    for rate in (Rate(10, 1.0, smooth=True), Rate(1, 366 * 86_400.0, smooth=True)):
        server.rate = rate
        assert server.ask(0, [(1, 0.0)])[0].after == rate.per


def test_a_clock_that_was_set_back_stops_nobody_for_long(table: Connection[Any]) -> None:
    """By an hour: what was granted counts as granted now, so it is over after one window."""
    server = Server(table, Rate(3, 10.0))
    hour = 3_600_000_000
    assert all(a.granted for a in server.ask(hour, [(1, 0.0)] * 3))
    (answer,) = server.ask(5, [(1, 0.0)])
    assert not answer.granted
    assert answer.after == 10.0 + _plan.AHEAD
    (answer,) = server.ask(5 + 10_050_000, [(3, 0.0)])
    assert answer.granted


def test_what_is_refused_leaves_no_trace(table: Connection[Any]) -> None:
    """No row, no version of a row, not even a transaction id."""
    server = Server(table, Rate(2, 10.0))
    server.ask(0, [(2, 0.0)])
    look = "SELECT xmin::text, xmax::text, * FROM advlock.rate_grant"
    before = table.execute(look).fetchall()
    assert server.written[0]
    for now in (0, 1, 9_999_999):
        (answer,) = server.ask(now, [(1, 0.0)])
        assert not answer.granted
    assert table.execute(look).fetchall() == before
    assert server.written[-3:] == [None, None, None]


def test_a_row_that_was_cleaned_up_changes_nothing(table: Connection[Any]) -> None:
    """Rows go when they have expired, in whatever order; numbers go on, or begin anew."""
    rate = Rate(5, 0.1)
    for gone in ("first = 1", "first <= 3", "true"):
        server = Server(table, rate)
        for now in (0, 1, 2, 3, 4):
            assert server.ask(now, [(1, 0.0)])[0].granted
        assert not server.ask(5, [(1, 0.0)])[0].granted
        table.execute(f"DELETE FROM advlock.rate_grant WHERE {gone}".encode())
        assert [a.granted for a in server.ask(100_004, [(1, 0.0)] * 5)] == [True] * 5
        assert not server.ask(100_005, [(1, 0.0)])[0].granted
