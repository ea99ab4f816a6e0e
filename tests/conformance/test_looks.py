"""`held.lost` may be asked anywhere, and changes nothing for those whose answers it finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .helpers import no_locks
from .processes import program

if TYPE_CHECKING:
    from .helpers import Admin
    from .worlds import World

SECONDS = 2


async def test_a_signal_handler_that_asks(world: World, dsn: str, name: str, admin: Admin) -> None:
    """It comes in the midst of a request; nothing is lost, taken twice, or stuck."""
    async with program("looker.py", world.name, dsn, name, str(SECONDS)) as process:
        said = await process.says()
        code, words = await process.ends()
        if code or not said:
            pytest.fail(f"it ended with {code}: {words}")
    taken, asked, lost, longest, stall = map(int, said.split())
    assert taken >= 20
    assert asked >= 100
    assert lost == 0
    assert stall < 5000, "somebody waited for an answer that a look had read"
    await no_locks(admin)
    print(f"{taken} locks, {asked} looks, {longest} ms, {stall} ms")  # noqa: T201 - with -rP
