"""An exception in the midst of a release leaves nobody spinning: the watcher serves all clients.

Threads only: asyncio turns Ctrl-C into a cancellation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .helpers import no_locks
from .processes import program

if TYPE_CHECKING:
    from .helpers import Admin


async def test_an_interrupted_release_ends_no_heartbeats(dsn: str, name: str, admin: Admin) -> None:
    """`lost` answers, no thread spins, and another client's lock is kept alive."""
    async with program("interrupted_release.py", dsn, name) as process:
        facts = await process.says()
        code, words = await process.ends()
        assert code == 0, words
        assert facts == "answered True, spun False, lost False"
    await no_locks(admin)
