"""What a session that is to be ended exactly is, in lines. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from advlock._inspect import _why
from advlock._inspect import _why_words as words
from advlock.cli.locks._text import age, clock, cut, folded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from advlock._inspect._kill import Target

_TOPIC: Final = 14
_QUERY: Final = 200
_NAMED: Final = 5
_TOLD: Final = (
    "learns of it: advlock run stops its command and exits 74 (with --on-lost continue"
    " the command goes on without the lock); a Python program finds its lock lost"
)
_POOLED: Final = (
    "a pooler lends this session to its clients; ending it ends the pooler's connection, with"
    " whatever runs on it by then"
)


def about(target: Target, at: datetime) -> Iterator[str]:
    """Yield what is to be known before somebody decides."""
    session = target.session
    does = "waits for" if session.waiting else "shares" if session.shared else "holds"
    name = _why.called(target.tree)
    yield folded(f"server session {session.pid} {does} {name}")
    for topic, fact in _facts(target, at):
        if fact:
            yield f"  {topic:<{_TOPIC}}{folded(fact)}"


def _facts(target: Target, at: datetime) -> Iterator[tuple[str, str]]:
    session = target.session
    if session.host:
        yield "process", f"{session.host} pid {session.process}"
    yield "application", session.application
    yield "role", f"{session.user}{f', from {session.client}' if session.client else ''}"
    yield "since", _when(session.since, at)
    yield "connected", _when(session.connected, at)
    state = session.state or "hidden from this role"
    lasting = f", for {age(session.state_since, at)}" if session.state_since else ""
    yield "state", state + lasting
    if not session.host:  # what a session of advlock itself said last is about locks
        yield "query", cut(folded(session.query or ""), _QUERY)
    yield "flags", ", ".join(session.flags)
    yield "also holds", _some([_why.brief_name(tree) for tree in target.others])
    yield "waits for", _some([_why.brief_name(tree) for tree in target.waits_for])
    waiters = [waiter for waiter in target.tree.waiters if waiter.pid != session.pid]
    yield "waiters", _some([words.who(waiter) for waiter in waiters])
    yield "then", _why.consequence(target)
    if session.host and not session.waiting:
        yield "its program", _TOLD
    if target.pooled:
        yield "beware", _POOLED


def _when(when: datetime | None, at: datetime) -> str:
    return "" if when is None else f"{clock(when, at)} ({age(when, at)} ago)"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    more = len(names) - _NAMED
    return f"{shown}, and {more} more" if more > 0 else shown
