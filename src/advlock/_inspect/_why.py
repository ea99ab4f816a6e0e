"""Why a lock is not free, in plain words: a paragraph out of what was seen. Pure.

The words are raw: names and queries are whatever a client has sent, and who shows them makes them
harmless (`cli.locks._text`).
"""

from __future__ import annotations

import itertools
import re
import shlex
from typing import TYPE_CHECKING, Final

from advlock._inspect import _why_words as words
from advlock._inspect._kill import targets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from advlock._holder import Waiter
    from advlock._inspect._kill import Target
    from advlock._inspect._tree import LockTree, Snapshot

_CRON: Final = "cron:"
_NAMED: Final = 3  # sessions of a lock that are named; others are counted
_PLAIN: Final = re.compile(r"[ -~]*")


def spelled(tree: LockTree) -> str:
    """What to type for a lock: its name, quoted for the shell; its key where that would not do."""
    if tree.name is not None and _PLAIN.fullmatch(tree.name):
        quoted = shlex.quote(tree.name)
        return f"-- {quoted}" if tree.name.startswith("-") else quoted
    if tree.name is None and tree.key is not None:
        text = str(tree.key.parts).strip("()").replace(" ", "")
        if not text.startswith("-"):
            return text
    return f"{tree.classid}/{tree.objid}/{tree.objsubid}"


def called(tree: LockTree) -> str:
    """How a sentence calls a lock."""
    if tree.name is not None:
        return tree.name or "''"
    numbers = f"{tree.classid}/{tree.objid}/{tree.objsubid}"
    if tree.key is None:
        return f"the lock {numbers}"
    parts = tree.key.parts
    return f"the lock {parts} ({numbers} in pg_locks)"


def brief_name(tree: LockTree) -> str:
    """How a list calls a lock."""
    if tree.name is not None:
        return tree.name or "''"
    numbers = f"{tree.classid}/{tree.objid}/{tree.objsubid}"
    return numbers if tree.key is None else str(tree.key.parts)


def explain(tree: LockTree, seen: Snapshot, *, source: str = "") -> str:
    """Say who holds a lock, who waits for it, and what happens if the holder is ended.

    Args:
        tree: The lock.
        seen: All locks: a session may hold others.
        source: For a tool's own lock, where it can be read.
    """
    sentences = [
        *_who(tree, seen.at),
        *_what_it_is(tree, source),
        *_queue(tree, seen.at),
        *_doing(tree, seen.at),
        *_if_ended(tree, seen),
    ]
    text = " ".join(sentences)
    return text[0].upper() + text[1:] if tree.name is None else text


def _who(tree: LockTree, at: datetime) -> Iterator[str]:
    name, holders = called(tree), tree.holders
    if not holders:
        yield f"Nobody holds {name} at this moment, and it is about to be granted."
    elif len(holders) == 1:
        mode = " in shared mode" if holders[0].shared else ""
        yield f"{name} is held{mode} by {words.in_full(holders[0], at)}."
    else:
        each = [words.in_full(holder, at) for holder in holders[:_NAMED]]
        if (more := len(holders) - _NAMED) > 0:
            each.append(f"{more} more")
        yield f"{name} is held in shared mode by {words.count(len(holders), 'session')}:"
        yield f"{'; '.join(each)}."


def _what_it_is(tree: LockTree, source: str) -> Iterator[str]:
    if tree.name is None and len(tree.candidates) == 1:
        yield f"Perhaps it is a tool's own lock: {tree.candidates[0]}."
    elif tree.candidates:
        yield f"Its key is that of several: {'; '.join(tree.candidates)}."
    if tree.kind == "unknown" and tree.name is not None and tree.key is not None:
        yield f"Its key is that of {tree.key.sql}; nobody recorded a name."
    elif tree.kind == "unknown":
        yield "What it is for, neither the registry nor the list of well-known locks says."
    if tree.description:
        what = tree.description.rstrip(".")
        if tree.kind == "well-known":
            yield f"That is a tool's own lock: {what}{f'; see {source}' if source else ''}."
        else:
            yield f"It is for: {what}."
    if tree.owner:
        yield f"Its owner is {tree.owner}."
    if tree.name is not None and tree.name.startswith(_CRON):
        job, at, tick = tree.name.removeprefix(_CRON).partition("@")
        command = f"advlock cron why {shlex.quote(job)}{f' --at {tick}' if at else ''}"
        yield f"It is the lock of a cron job; {command} tells about its runs."


def _queue(tree: LockTree, at: datetime) -> Iterator[str]:
    waiters = tree.waiters
    if not waiters:
        yield "Nobody waits for it."
        return
    first = waiters[0]
    since = f" for {words.age(first.since, at)}" if first.since else " since when is hidden"
    mode = " in shared mode" if first.shared else ""
    if len(waiters) == 1:
        yield f"One session waits for it{mode}: {words.who(first)},{since}."
    else:
        yield f"{words.count(len(waiters), 'session').capitalize()} wait for it;"
        yield f"the first is {words.who(first)},{since}."
    holding = {holder.pid for holder in tree.holders}
    behind = [w for w in waiters if w.blocked_by and not holding & set(w.blocked_by)]
    if behind:
        verb = "waits" if len(behind) == 1 else "wait"
        yield f"{words.some(behind)} {verb} only for others that wait, not for a holder."
    yield from _itself(tree)


def _itself(tree: LockTree) -> Iterator[str]:
    """Say who waits for a lock that it holds already."""
    for waiter in tree.waiters:
        for holder in tree.holders:
            if waiter.pid == holder.pid:
                yield (
                    f"Server session {waiter.pid} waits for what it shares itself: it asked for"
                    " it alone, and gets that when the others have let it go."
                )
            elif waiter.host and (waiter.host, waiter.process) == (holder.host, holder.process):
                yield (
                    f"{words.who(waiter)} waits for itself: it holds the lock on server session"
                    f" {holder.pid} and waits for it on {waiter.pid}; unless another of its"
                    " threads lets go, that never ends."
                )


def _doing(tree: LockTree, at: datetime) -> Iterator[str]:
    if len(tree.holders) == 1:
        yield from words.doing(tree.holders[0], at)
        return
    for holder in tree.holders[:_NAMED]:
        yield from words.odd(holder, f"Server session {holder.pid}")


def _if_ended(tree: LockTree, seen: Snapshot) -> Iterator[str]:
    if len(tree.holders) > 1:
        if tree.waiters:
            yield "It is free only when all of them have let go."
        yield f"To end one of them: advlock kill --pid PID {spelled(tree)}."
        return
    for target in targets([tree], seen.trees):
        if target.prepared:
            name = words.literal(target.session.application)
            yield f"Nothing but ROLLBACK PREPARED {name}, in its database, ends it."
            continue
        command = f"If you end it (advlock kill {spelled(tree)}),"
        yield f"{command} {consequence(target)}."


def consequence(target: Target) -> str:
    """Say what becomes of the lock when this session ends."""
    tree, session = target.tree, target.session
    if session.waiting:
        after = f"{called(tree)} stays with who holds it"
    elif len(tree.holders) > 1:
        left = len(tree.holders) - 1
        after = f"{words.count(left, 'other session')} still share{'s' * (left == 1)} it"
    elif target.heirs:
        after = _next(target.heirs)
    else:
        after = "the lock is free"
    if target.others:
        names = [brief_name(other) for other in target.others[:_NAMED]]
        if (more := len(target.others) - _NAMED) > 0:
            names.append(f"{more} more")
        what = words.count(len(target.others), "other lock")
        verb = "is" if len(target.others) == 1 else "are"
        after += f"; {what} that it holds {verb} freed as well ({', '.join(names)})"
    return after


def _next(heirs: Sequence[Waiter]) -> str:
    """Say who gets the lock: the server's queue is fair, but ours enter it anew all the time."""
    if len(heirs) == 1 or not any(waiter.host for waiter in heirs):
        first = [*itertools.takewhile(lambda waiter: waiter.shared, heirs)] or heirs[:1]
        together = "get the lock next, and share it" if len(first) > 1 else "gets the lock next"
        return f"{words.some(first)} {together}"
    both = f"one of the {words.count(len(heirs), 'session')} that wait gets the lock"
    return f"{both} (in no fixed order: they ask anew every half second)"


def free(  # noqa: PLR0913 - a fact each
    asked: str,
    database: str,
    *,
    description: str = "",
    owner: str = "",
    key: str = "",
    close: Sequence[str] = (),
) -> str:
    """Say that nobody holds a lock, and what is known of it.

    Args:
        asked: As somebody typed it.
        database: Where it was looked for.
        description: What the registry says; empty for nothing.
        owner: Whom to ask.
        key: Its key, in SQL; empty where nobody knows.
        close: What was probably meant, of the locks that are held.
    """
    sentences = [
        f"{asked} is free: nobody holds it in database {database}, and nobody waits for it."
    ]
    if description:
        sentences.append(f"It is for: {description.rstrip('.')}.")
    if owner:
        sentences.append(f"Its owner is {owner}.")
    if key:
        sentences.append(f"Its key would be {key}.")
    if close:
        sentences.append(f"Of the locks that are held, did you mean {' or '.join(close)}?")
    return " ".join(sentences)
