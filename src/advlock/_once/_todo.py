"""What a client hands out to whoever has to do it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from advlock._key import Key


class BaseTodo:
    """It is yours to do: an object that is true, in both worlds."""

    __slots__ = ("_grip",)

    def __init__(self, grip: Any) -> None:
        self._grip = grip

    def __repr__(self) -> str:
        """Show the name and the state."""
        return f"<advlock.{type(self).__name__} {self.name!r} [{'lost' if self.lost else 'held'}]>"

    def __bool__(self) -> Literal[True]:
        """Something is to be done."""
        return True

    @property
    def name(self) -> str:
        """What the lock is called, which is what you gave with a prefix of its own."""
        return str(self._grip.name)

    @property
    def key(self) -> Key:
        """What the server locked for that name."""
        key: Key = self._grip.key
        return key

    @property
    def lost(self) -> bool:
        """Whether the lock must not be believed in any more; see `Held.lost`. Never waits.

        With `connection=`: whether that was closed, and the transaction with it.
        """
        return bool(self._grip.lost)

    def check(self) -> None:
        """Raise if the lock is known to be lost; a good last step before a side effect.

        Raises:
            LockLost: the session ended, so somebody else may do it by now.
        """
        self._grip.check()


class Todo(BaseTodo):
    """It is yours to do, and done when the block ends without an exception."""

    __slots__ = ()
    __module__ = "advlock"

    def token(self) -> int:
        """Return the fencing token: greater than that of everybody who began before.

        See `Held.token`. It is there already, and costs nothing.
        """
        token: int = self._grip.token()
        return token


class AsyncTodo(BaseTodo):
    """It is yours to do, and done when the block ends without an exception."""

    __slots__ = ()
    __module__ = "advlock"

    async def token(self) -> int:
        """Return the fencing token: greater than that of everybody who began before.

        See `Todo.token`.
        """
        token: int = await self._grip.token()
        return token
