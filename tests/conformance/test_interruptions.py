"""Promise 2, when a signal handler raises: KeyboardInterrupt may fall between any two instructions.

Threads only: asyncio turns Ctrl-C into a cancellation (see test_cancellation.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .helpers import no_locks
from .processes import program

if TYPE_CHECKING:
    from .helpers import Admin


@pytest.mark.parametrize("kind", ["free", "queue", "rival", "all", "object", "slots", "slot 0"])
async def test_an_exception_at_any_moment_leaves_nothing(
    dsn: str, name: str, admin: Admin, rival: Admin, kind: str
) -> None:
    """After 300 interrupted sections there is no lock, and the client and its users are well."""
    mine = []
    if kind == "rival":
        rival.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
        mine = [rival.info.backend_pid]
    async with program("interrupted.py", dsn, name, kind, "300") as process:
        if kind == "rival":
            await process.says()
            await no_locks(admin, *mine)
            rival.execute("SELECT pg_advisory_unlock_all()")
            await process.tell()
        counts = await process.says()
        if not counts:
            code, words = await process.ends()
            pytest.fail(f"it ended with {code}: {words}")
        interruptions, lost = map(int, counts.split())
        assert interruptions >= 100
        await no_locks(admin)
        await process.tell()
        code, words = await process.ends()
        assert code == 0, words
    print(f"{interruptions} interruptions, {lost} locks of a neighbour lost")  # noqa: T201 - with -rP
