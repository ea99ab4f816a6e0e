"""What a rate limit knows of itself, in both worlds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advlock._rate._desk import checked, desk_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._rate._desk import Desk
    from advlock._rate._rate import Rate


class BaseLimit:
    """The part that neither waits nor talks to the server."""

    def __init__(self, client: Any, name: str, rate: Rate) -> None:
        self._client = client
        self._name = checked(name)
        self._rate = rate
        self._desk: Desk | None = None  # keeps it from being made anew for each request

    def __repr__(self) -> str:
        """Show the name and the rate."""
        return f"<advlock.{type(self).__name__} {self._name!r} {self._rate}>"

    @property
    def name(self) -> str:
        """What the limit is called."""
        return self._name

    @property
    def limit(self) -> int:
        """How many permits there are in any window."""
        return self._rate.limit

    @property
    def per(self) -> float:
        """How long a window is, in seconds."""
        return self._rate.per

    @property
    def smooth(self) -> bool:
        """Whether permits are spread evenly over the window."""
        return self._rate.smooth

    def _desk_for(self, loop: object, turn: Callable[[], Any]) -> Desk:
        self._desk = desk = desk_of(self._client, self._name, self._rate, loop, turn)
        return desk
