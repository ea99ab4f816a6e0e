"""How sentences call sessions, times and numbers, and what a session does. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from advlock._duration import brief

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from advlock._holder import Holder


_NUMBERS: Final = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DAY: Final = timedelta(days=1)
_QUERY: Final = 120  # characters of a query in a sentence
_SHOWN: Final = 3
_FLAGS: Final = {
    "ghost": "{} seems to be a ghost: its client is gone, and the server has not noticed yet.",
    "pinned": (
        "{} is lent by a pooler, which an open transaction keeps from lending it to others; ending"
        " it ends the pooler's connection."
    ),
    "holds-back-vacuum": "{} keeps a snapshot open, behind which VACUUM cannot clean up.",
    "idle-pooled": (
        "{} seems to be a pooler's and idle: somebody may have given the connection back and left"
        " the lock on it."
    ),
}


def count(number: int, noun: str) -> str:
    """Return `one session`, `two sessions`, `12 sessions`."""
    word = _NUMBERS[number] if number < len(_NUMBERS) else str(number)
    return f"{word} {noun}{'s' * (number != 1)}"


def age(since: datetime | None, at: datetime) -> str:
    """Return how long ago something was, in whole seconds."""
    return "" if since is None else brief(max(0, int((at - since).total_seconds())))


def clock(when: datetime, at: datetime) -> str:
    """Return a time by the clocks here, with its date when it is a day ago or more."""
    shown = "%H:%M:%S" if abs(at - when) < _DAY else "%Y-%m-%d %H:%M:%S"
    return f"{when.astimezone():{shown}}"


def literal(text: str) -> str:
    """Quote text as SQL does."""
    return "'" + text.replace("'", "''") + "'"


def who(session: Holder) -> str:
    """Call a session by its process; where nobody knows that, by what it signs with."""
    if session.host:
        return f"{session.host} pid {session.process}"
    if session.pid == 0:
        return f"the prepared transaction {literal(session.application)}"
    name = session.application or (f"role {session.user}" if session.user else "somebody")
    return f"{name} (server session {session.pid})"


def some(sessions: Sequence[Holder]) -> str:
    """Call several by name, or the first of them and count the others."""
    names = [who(session) for session in sessions[:_SHOWN]]
    if len(sessions) > _SHOWN:
        names.append(f"{len(sessions) - _SHOWN} more")
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def in_full(session: Holder, at: datetime) -> str:
    """Call a session by all that is known: `web-2 pid 4242 for 12m (since …), in server …`."""
    details = [f"role {session.user}"] if session.user else []
    if session.client:
        details.append(f"from {session.client}")
    lasting = ""
    if session.since is None:
        details.append("since when is not known")
    else:
        lasting = f" for {age(session.since, at)} (since {clock(session.since, at)})"
    more = f" ({', '.join(details)})" if details else ""
    if session.pid == 0:
        return f"{who(session)}{lasting}{more}"
    name = f"{session.host} pid {session.process}" if session.host else session.application
    place = f"server session {session.pid}{more}"
    return f"{name}{lasting}, in {place}" if name else f"{place}{lasting}"


def doing(session: Holder, at: datetime) -> Iterator[str]:
    """Say what a holder does, or did last, and what is odd about it."""
    since = f" for {age(session.state_since, at)}" if session.state_since else ""
    query = shown(session.query)
    if session.pid == 0:
        return
    if session.state is None:
        yield "What the holder does is hidden from this role."
    elif session.state == "active":
        yield f"The holder runs{since}: {query}" if query else f"The holder is active{since}."
    elif session.state.startswith("idle in transaction") or not session.host:
        last = f"; its last query was: {query}" if query else "."
        yield f"The holder is {session.state}{since}{last}"
    yield from odd(session, "The session")


def odd(session: Holder, subject: str) -> Iterator[str]:
    """Say what is odd about a session."""
    for flag in session.flags:
        if flag in _FLAGS:
            yield _FLAGS[flag].format(subject)


def shown(query: str | None) -> str:
    """Return a query in one line, no longer than a sentence bears, with a full stop."""
    text = " ".join((query or "").split())
    if len(text) > _QUERY:
        text = text[: _QUERY - 1] + "…"
    return f"{text}." if text and not text.endswith((".", "…")) else text
