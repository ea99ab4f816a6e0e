"""The lifespan protocol, as a server speaks it, in the event loop of a test."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self


class StartupFailed(Exception):  # noqa: N818 - what the protocol calls it
    """The application said that it cannot start, and why."""


class Serving:
    """An application between its startup and its shutdown.

    Attributes:
        state: What requests have as `request.state`.
    """

    def __init__(self, app: Any) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self.state}
        self._task = asyncio.create_task(self._app(scope, self._to_app.get, self._from_app.put))
        await self._to_app.put({"type": "lifespan.startup"})
        answer = await self._from_app.get()
        if answer["type"] != "lifespan.startup.complete":
            await asyncio.wait([self._task])
            self._task.exception()  # the same
            raise StartupFailed(answer["message"])
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._to_app.put({"type": "lifespan.shutdown"})
        answer = await self._from_app.get()
        assert answer["type"] == "lifespan.shutdown.complete", answer
        await self._task
