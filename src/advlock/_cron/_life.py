"""One run, from its claim to its row: the plans of what is said to the database. Pure."""

from __future__ import annotations

import enum
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from advlock._cron import _decide, _sql
from advlock._cron._act import move_rows, prune_rows
from advlock._cron._agenda import NO_SUCH_CHARACTER
from advlock._cron._decide import Move
from advlock._cron._facts import Active
from advlock._plan import Refused, Script, Step

if TYPE_CHECKING:
    from advlock._cron._facts import Claim
    from advlock._plan import SessionPlan

_LONGEST_WAIT: Final = 300.0  # seconds between two attempts


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        state: `succeeded`, `failed`, `timeout` or `lost`.

        reason: Why, in words; None where the state says it all.

        exit_code: The command's; None for a function.

        output: The tail of what it wrote.

        attempt: Which attempt it was.
    """

    state: str
    reason: str | None = None
    exit_code: int | None = None
    output: str | None = None
    attempt: int = 1

    @property
    def worth_another_try(self) -> bool:
        """Whether it failed by itself."""
        return self.state in {"failed", "timeout"}


class Begun(enum.Enum):
    """What came of trying to begin."""

    YES = "the tick is ours, and runs"
    GONE = "somebody else has claimed it meanwhile"
    DOUBT = "an earlier run may still be going"


def begin(
    claim: Claim, line: datetime | None, token: int | None, owner: int | None = None
) -> SessionPlan[tuple[Begun, str | None]]:
    """Begin a run, on the session that holds its lock; say what is in the way.

    Args:
        claim: What is to begin.
        line: When our own sessions ended last.
        token: The fencing token of the lock.
        owner: The key of the lock that we hold while we live.
    """
    job = claim.job
    arguments = (
        job.name,
        claim.scheduled_at.isoformat(),
        claim.run_id,
        None if line is None else line.isoformat(),
        str(_decide.doubt(job)),
        reruns(claim),
        str(job.overlap != "allow").lower(),
        None if token is None else str(token),
        None if owner is None else str(owner),
    )
    answer = yield Script((Step(_sql.START, arguments),))
    told = json.loads(answer[0][0][0] or "{}")
    if told["started_at"] is not None:
        return Begun.YES, None
    if told["doubt"] is not None:
        tick = _decide.utc(datetime.fromisoformat(told["doubt"]))
        why = f"the run of {tick} has lost its lock, and may still be going"
        return Begun.DOUBT, why
    return Begun.GONE, None


def busy(claim: Claim, reason: str | None, queued: int) -> SessionPlan[str]:
    """Put down that the job runs already, as its `overlap` has it; tell the new state.

    Args:
        claim: What could not begin.
        reason: What is in the way.
        queued: How many ticks of the job wait already.
    """
    job, was = claim.job, claim.was
    row = Active(job.name, claim.scheduled_at, "claimed", claim.run_id)
    steps = []
    if was is not None and _decide.waits(job, was):
        move = Move(row, "queued", reason, was.expires_at)
    elif job.overlap == "skip":
        move = Move(row, "skipped_overlap", reason)
    elif job.overlap == "queue" and queued >= _decide.MOST_QUEUED:
        full = f"{_decide.MOST_QUEUED} ticks wait already; {reason}"
        move = Move(row, "skipped_overlap", full)
    else:
        move = Move(row, "queued", reason)
    if was is None and job.overlap == "replace":
        tick = claim.scheduled_at.isoformat()
        why = f"replaced by the tick of {_decide.utc(claim.scheduled_at)}"
        steps = [Step(sql, (job.name, tick, why)) for sql in _sql.REPLACE]
    if move.state.startswith("skipped"):
        steps.append(Step(_sql.PRUNE, (prune_rows([job]),)))
    yield Script((Step(_sql.MOVE, (move_rows([move]),)), *steps))
    return move.state


def again(claim: Claim, attempt: int, reason: str | None) -> SessionPlan[None]:
    """Put down that the next attempt begins."""
    tick = claim.scheduled_at.isoformat()
    before = f"attempt {attempt - 1}: {reason}"
    arguments = (claim.job.name, tick, claim.run_id, str(attempt), before)
    yield Script((Step(_sql.AGAIN, arguments),))


def finish(claim: Claim, outcome: Outcome) -> SessionPlan[None]:
    """Put down what came of a run, and prune the history of its job."""
    code = outcome.exit_code
    arguments = (
        claim.job.name,
        claim.scheduled_at.isoformat(),
        claim.run_id,
        outcome.state,
        outcome.reason,
        None if code is None else str(code),
        outcome.output,
        str(outcome.attempt),
        reruns(claim),
    )
    prune = Step(_sql.PRUNE, (prune_rows([claim.job]),))
    try:
        yield Script((Step(_sql.FINISH, arguments), prune))
    except Refused as refusal:
        if refusal.sqlstate not in NO_SUCH_CHARACTER:
            raise
        plain = (one and one.encode("ascii", "backslashreplace").decode() for one in arguments)
        yield Script((Step(_sql.FINISH, tuple(plain)), prune))


def reruns(claim: Claim) -> str:
    """How many times a tick of the job may be lost and run again."""
    return str(_decide.RERUNS if claim.job.on_crash == "rerun" else 0)


def pause_before(claim: Claim, attempt: int) -> float:
    """How long to wait before attempt number `attempt`, in seconds."""
    return min(_LONGEST_WAIT, claim.job.retry_wait * 2.0 ** min(attempt - 2, 30))


def described(claim: Claim) -> dict[str, Any]:
    """What a log record says of a claim."""
    return {
        "job": claim.job.name,
        "scheduled_at": claim.scheduled_at.isoformat(),
        "run_id": claim.run_id,
    }
