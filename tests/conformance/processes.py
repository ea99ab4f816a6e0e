"""Starts the processes that hold a lock and meet their end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HERE = Path(__file__).parent
PATIENCE = 30.0


class Program:
    """A running script of this folder, spoken to line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def says(self) -> str:
        """The next line on stdout; empty at its end."""
        assert self._process.stdout
        line = await asyncio.wait_for(self._process.stdout.readline(), PATIENCE)
        return line.decode().rstrip("\n")

    async def tell(self) -> None:
        """Send a line, upon which it goes on."""
        assert self._process.stdin
        self._process.stdin.write(b"\n")
        await self._process.stdin.drain()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def freeze(self) -> None:
        """SIGSTOP, as a machine does that is paused; it has stopped when this returns."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        """SIGCONT; nothing happens to one that runs."""
        self._process.send_signal(signal.SIGCONT)

    async def ends(self) -> tuple[int, str]:
        """Wait for its end: the exit code, and what it said on stderr."""
        assert self._process.stderr
        words = await asyncio.wait_for(self._process.stderr.read(), PATIENCE)
        code = await asyncio.wait_for(self._process.wait(), PATIENCE)
        return code, words.decode()


@asynccontextmanager
async def program(script: str, *arguments: str) -> AsyncIterator[Program]:
    """Start a script of this folder; it is killed when the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "ignore",
        str(HERE / script),
        *arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        # Python 3.11 leaves this to the garbage collector, which comes when the loop is closed.
        process._transport.close()  # type: ignore[attr-defined]
