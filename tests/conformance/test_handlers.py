"""A signal handler looks, or uses the client, at every moment at which one can come.

By chance, along every route: test_looks.py.
"""

from __future__ import annotations

import pytest
from routes import direct_only

from .processes import program


@direct_only("a pooler takes its time to pass the end on")
async def test_a_look_at_every_moment_finds_the_end(dsn: str, name: str) -> None:
    """Wherever it comes: the look sees it, the holder is told once, and others go on."""
    async with program("look_at_each_moment.py", dsn, dsn, name) as process:
        moments, _, wrong = (await process.says()).partition(" ")
        code, words = await process.ends()
    assert (code, wrong) == (0, ""), words[-3000:]
    assert int(moments) > 100


@direct_only("it is our own books that matter")
@pytest.mark.parametrize("deed", ["attempt", "connect", "token", "release", "close"])
async def test_a_signal_handler_that_uses_the_client_at_every_moment(
    dsn: str, name: str, deed: str
) -> None:
    """It does so, or is told that it cannot; it never waits for its own thread; nothing stays."""
    async with program("ask_at_each_moment.py", dsn, name, deed) as process:
        moments, refused, wrong = (await process.says()).split(" ", 2)
        code, words = await process.ends()
    assert (code, wrong) == (0, ""), words[-3000:]
    assert int(moments) > 100
    assert (int(refused) > 20) == (deed != "close")
