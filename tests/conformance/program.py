"""A process of its own that holds a lock and then meets its end.

`program.py WORLD ROLE DSN NAME [SETTINGS]`, where SETTINGS are those of the client, as JSON.
It says one line on stdout when it has come somewhere, and goes on when it is told to by a line on
stdin.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import psycopg

from advlock import AsyncLocks, LockLost, Locks

DSN, NAME = "", ""
SETTINGS: dict[str, Any] = {}


class Driver:
    """Runs one world's calls from plain code, between which no event loop runs."""

    def __init__(self, world: str) -> None:
        self.is_sync = world == "sync"
        self.loop = None if self.is_sync else asyncio.new_event_loop()
        kind = Locks if self.is_sync else AsyncLocks
        self.client: Any = kind(DSN, **SETTINGS)

    def do(self, value: Any) -> Any:
        """The outcome of a call of this world."""
        return value if self.loop is None else self.loop.run_until_complete(value)

    def enter(self, context: Any) -> Any:
        """Enter a context manager."""
        return self.do(context.__enter__() if self.is_sync else context.__aenter__())

    def exit(self, context: Any) -> None:
        """Leave it."""
        self.do((context.__exit__ if self.is_sync else context.__aexit__)(None, None, None))

    def hold(self, name: str, **options: Any) -> Any:
        """Enter a hold; the context manager is left to the caller to keep or to drop."""
        context = self.client.hold(name, **options)
        self.enter(context)
        return context


def say(word: str) -> None:
    """Tell the test."""
    print(word, flush=True)  # noqa: T201 - the test reads it


def told() -> None:
    """Wait until the test says so."""
    sys.stdin.readline()


def holds(driver: Driver) -> None:
    """Hold until told, then leave the interpreter without releasing or closing."""
    driver.kept = driver.hold(NAME)  # type: ignore[attr-defined]
    say("held")
    told()


def believes(driver: Driver) -> None:
    """Hold until it is told that the lock is lost, and say what leaving the block says."""
    told: list[Any] = []
    context = driver.client.hold(NAME)
    held = driver.enter(context)
    held.on_lost(told.append)
    say("held")
    while not told:
        time.sleep(0.005) if driver.is_sync else driver.do(asyncio.sleep(0.005))
    say(f"told of {len(told)}, lost is {held.lost}")
    try:
        driver.exit(context)
    except LockLost:
        say("LockLost")


def draws(driver: Driver) -> None:
    """Hold, draw a token, and let go."""
    context = driver.client.hold(NAME)
    held = driver.enter(context)
    token = held.token()
    say(str(token if driver.is_sync else driver.do(token)))
    driver.exit(context)
    driver.do(driver.client.close())


def raises(driver: Driver) -> None:
    """Die of an exception that nobody catches."""
    holds(driver)
    raise RuntimeError("on purpose")


def exits(driver: Driver) -> None:
    """Call sys.exit() while holding."""
    holds(driver)
    sys.exit(7)


def waits(driver: Driver) -> None:
    """Wait for a lock that somebody else has."""
    say("waiting")
    driver.hold(NAME)
    say("held")


def in_child(driver: Driver, child: Any) -> None:
    """Hold, fork, let the child do its part and end, and then go on with the lock as the parent."""
    context = driver.hold(NAME)
    say("held")
    told()
    pid = os.fork()
    if not pid:
        child(driver)
        return
    _, status = os.waitpid(pid, 0)
    say(f"child {os.waitstatus_to_exitcode(status)}")
    told()
    driver.exit(context)
    driver.exit(driver.hold(NAME, wait=5))
    say("released")
    told()


def child_uses(_: Driver) -> None:
    """In the child: the parent's lock is busy, another one is free; then end at once."""
    used = 1
    try:
        # The parent's event loop is not the child's to run: a child brings its own.
        mine = Driver.__new__(Driver)
        mine.is_sync, mine.client = _.is_sync, _.client
        mine.loop = None if _.is_sync else asyncio.new_event_loop()
        busy = mine.enter(mine.client.attempt(NAME)) is None
        mine.exit(mine.hold(NAME + "-child", wait=5))
        mine.do(mine.client.close())
        used = 0 if busy else 2
    finally:
        os._exit(used)


def child_sys_exits(_: Driver) -> None:
    """In the child: end as programs do, with every finalizer."""
    sys.exit(0)


def child_returns(_: Driver) -> None:
    """In the child: fall off the end of the program."""


def child_leaves_the_block(driver: Driver) -> None:
    """In the child: leave a block that the parent entered, and close the parent's client."""
    held = driver.kept  # type: ignore[attr-defined]
    driver.exit(held)
    driver.do(driver.client.close())
    os._exit(0)


def forks_inside_a_block(driver: Driver) -> None:
    """Fork inside a `with` block, whose end the child reaches, too."""
    driver.kept = driver.hold(NAME)  # type: ignore[attr-defined]
    say("held")
    told()
    pid = os.fork()
    if not pid:
        child_leaves_the_block(driver)
    _, status = os.waitpid(pid, 0)
    say(f"child {os.waitstatus_to_exitcode(status)}")
    told()
    driver.exit(driver.kept)  # type: ignore[attr-defined]
    say("released")
    told()


def forks_while_it_connects(driver: Driver) -> None:
    """Have a child from between the connection's making and its use, and hold."""
    module = psycopg.Connection if driver.is_sync else psycopg.AsyncConnection
    connect, children = module.connect, list[int]()

    def have_a_child() -> None:
        if children:
            return
        children.append(os.fork())
        if not children[0]:
            for descriptor in (0, 1, 2):
                os.close(descriptor)
            time.sleep(60)
            os._exit(0)
        say(f"child {children[0]}")

    def connects(*args: Any, **kwargs: Any) -> Any:
        connection = connect(*args, **kwargs)
        have_a_child()
        return connection

    async def aconnects(*args: Any, **kwargs: Any) -> Any:
        connection = await connect(*args, **kwargs)  # type: ignore[misc]
        have_a_child()
        return connection

    module.connect = connects if driver.is_sync else aconnects  # type: ignore[assignment]
    holds(driver)


ROLES = {
    "holds": holds,
    "believes": believes,
    "draws": draws,
    "raises": raises,
    "exits": exits,
    "waits": waits,
    "fork-use": lambda driver: in_child(driver, child_uses),
    "fork-sys-exit": lambda driver: in_child(driver, child_sys_exits),
    "fork-return": lambda driver: in_child(driver, child_returns),
    "fork-block": forks_inside_a_block,
    "fork-connecting": forks_while_it_connects,
}

if __name__ == "__main__":
    _, world, role, DSN, NAME, *settings = sys.argv
    SETTINGS = json.loads(settings[0]) if settings else {}
    ROLES[role](Driver(world))
