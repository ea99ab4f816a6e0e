"""Other people's clients: forty connections that keep a pool busy, in a process of their own.

They know nothing of locks. Half of what they ask is a statement by itself, the other half a short
transaction; they come and go, and try again when they are turned away. The process is told what to
do by lines on stdin, and ends with it:

    sit SECONDS   everybody stays in a transaction until then, so that the pool has nothing left
    tally         answers with what was done so far, as JSON
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = 40
_LONGEST_NAP = 0.25  # seconds between two requests: two processors have other work, too
_LONGEST_TRANSACTION = 0.03
_BACKEND = "SELECT pg_backend_pid()"


class Guest:
    """One of them.

    Args:
        dsn: Leads to the pooler.

        dice: When it does what.

        house: What all of them share.
    """

    def __init__(self, dsn: str, dice: random.Random, house: House) -> None:
        self._dsn, self._dice, self._house = dsn, dice, house

    async def stay(self) -> None:
        """Come and go for ever."""
        while True:
            try:
                session = await psycopg.AsyncConnection.connect(
                    self._dsn, autocommit=True, prepare_threshold=None, connect_timeout=5
                )
                async with session:
                    for _ in range(self._dice.randrange(20, 200)):
                        await self._ask(session)
                        await asyncio.sleep(self._dice.uniform(0.0, _LONGEST_NAP))
            except psycopg.Error:
                self._house.tally["turned away"] += 1
                await asyncio.sleep(self._dice.uniform(0.1, 0.6))

    async def _ask(self, session: psycopg.AsyncConnection[Any]) -> None:
        sitting = self._house.sit_until - asyncio.get_running_loop().time()
        if sitting > 0 or self._dice.random() < 0.5:
            async with session.transaction():
                await self._note_backend(session)
                pause = self._dice.uniform(0.0, _LONGEST_TRANSACTION)
                await asyncio.sleep(max(sitting, pause))
                await session.execute("SELECT 1")
            self._house.tally["transactions"] += 1
        else:
            await self._note_backend(session)
            self._house.tally["statements"] += 1

    async def _note_backend(self, session: psycopg.AsyncConnection[Any]) -> None:
        row = await (await session.execute(_BACKEND)).fetchone()
        assert row
        self._house.backends.add(row[0])


class House:
    """All of them.

    Attributes:
        tally: What was done.

        backends: Who has answered.

        sit_until: When transactions may end again, by the clock of the event loop.
    """

    def __init__(self) -> None:
        self.tally: Counter[str] = Counter()
        self.backends: set[int] = set()
        self.sit_until = 0.0

    def obey(self, line: str) -> str:
        """Carry out one line; answer with one."""
        verb, *rest = line.split()
        if verb == "sit":
            self.sit_until = asyncio.get_running_loop().time() + float(rest[0])
        return json.dumps({**self.tally, "backends seen": len(self.backends)})


async def serve(dsn: str, seed: str) -> None:
    """Be forty clients until stdin ends."""
    house = House()
    guests = [Guest(dsn, random.Random(f"{seed} {n}"), house) for n in range(CLIENTS)]  # noqa: S311
    tasks = [asyncio.create_task(guest.stay()) for guest in guests]
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    while line := await commands.readline():
        print(house.obey(line.decode()), flush=True)  # noqa: T201 - the test reads it
        for task in tasks:
            if task.done():
                task.result()
    for task in tasks:
        task.cancel()


# -- the test's end of it --------------------------------------------------------------------------


class Load:
    """Forty clients that run, as the test sees them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def _tell(self, *words: object) -> dict[str, int]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        answer: dict[str, int] = json.loads(self._process.stdout.readline())
        return answer

    def sit(self, seconds: float) -> None:
        """Have the pool exhausted for that long."""
        self._tell("sit", seconds)

    def tally(self) -> Counter[str]:
        """What they have done so far."""
        return Counter(self._tell("tally"))


@contextmanager
def load(dsn: str, seed: int) -> Iterator[Load]:
    """Start forty clients; they end with the block, or with this process."""
    with subprocess.Popen(
        [sys.executable, __file__, dsn, str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Load(process)
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
