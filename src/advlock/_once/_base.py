"""What `Once` and `AsyncOnce` have in common: the request, entered by one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advlock.errors import ConfigError, DatabaseUnavailable

if TYPE_CHECKING:
    from advlock._once._done import Run
    from advlock._once._plan import Want
    from advlock._plan import SessionLost


class Entered:
    """One use of `once`, from the beginning to the end."""

    __slots__ = ("held", "run")

    def __init__(self, held: Any, run: Run) -> None:
        self.held = held
        self.run = run


class BaseOnce:
    """What both worlds have in common: the request, and that it is entered once at a time."""

    __slots__ = ("_client", "_connection", "_entered", "_free", "_wait", "_want")

    def __init__(
        self, client: Any, want: Want, *, wait: float | None = None, connection: Any = None
    ) -> None:
        self._client = client
        self._want = want
        self._wait = wait
        self._connection = connection
        self._entered: Entered | None = None
        self._free = [True]

    @property
    def _name(self) -> str:
        return self._want.recorded_as(self._client.namespace)

    def _claim(self) -> None:
        try:
            self._free.pop()
        except IndexError:
            msg = (
                f"this context for {self._want.name!r} is already entered; call once() again for "
                f"each use (a decorated function does so by itself)"
            )
            raise RuntimeError(msg) from None

    def _leave(self) -> Entered | None:
        entered, self._entered = self._entered, None
        if entered is not None:
            self._free.append(True)
        return entered

    def _absent(self) -> ConfigError:
        return ConfigError(
            "the table advlock.once is not in the database of that connection; make it: "
            "advlock init --dsn DSN"
        )


def session_ended(error: SessionLost) -> DatabaseUnavailable:
    """Make the error of a session that ended before anything was done."""
    return DatabaseUnavailable(f"the session ended while it was asked: {error}; try again")
