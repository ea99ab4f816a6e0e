"""Semaphores for threads, and what both worlds share. The twin is `_asemaphore.py`."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from advlock import _observe
from advlock._client import wait_seconds
from advlock._held import _SyncEntry, join_errors
from advlock._key import Key
from advlock._semaphore._keys import Keys, check
from advlock._semaphore._seek import acquire, timed_out
from advlock._semaphore._slot import Slot
from advlock._waiter import wake
from advlock.errors import LockError, LockNotHeld, LockTimeout

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from advlock._client import Client, Seconds
    from advlock._semaphore._slot import AsyncSlot

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H")


class Overreleased(LockNotHeld, ValueError):  # noqa: N818 - as its siblings
    """A semaphore was released more often than it was acquired, as the stdlib's error has it."""


class BaseSemaphore:
    """What the two worlds share."""

    __slots__ = ("__weakref__", "_client", "_freed", "_held", "_made", "_name", "_slots")

    def __init__(self, client: Client, name: str, slots: int) -> None:
        check(name, slots)
        self._client: Any = client
        self._name = name
        self._slots = slots
        self._made: Keys | None = None
        self._freed: list[int] = []  # slots that we had: they may well be free
        self._held: list[Any] = []  # what `acquire` has got; `list.pop` gives each to one only

    def __repr__(self) -> str:
        """Show the name and how many slots there are."""
        return f"<advlock.{type(self).__name__} {self._name!r} of {self._slots}>"

    @property
    def name(self) -> str:
        """The name as it was asked for."""
        return self._name

    @property
    def slots(self) -> int:
        """How many may hold it at a time."""
        return self._slots

    def locked(self) -> bool:
        """Whether all slots were acquired through this object; no question to the server."""
        return len(self._held) >= self._slots

    def _keys(self) -> Keys:
        """Make the keys; the server's encoding must be known if that matters."""
        client = self._client
        encoding: str = client._encoding or "utf-8"
        if self._made is None or self._made.encoding != encoding:
            self._made = Keys(self._slots, self._key, encoding)
        return self._made

    def _key(self, slot: int) -> Key:
        client = self._client
        encoding = client._encoding or "utf-8"
        if client._names is not None:
            key: Key = client._names.slot(self._name, slot, encoding=encoding)
            return key
        return Key.slot(self._name, slot, namespace=client.namespace, encoding=encoding)

    def _guess(self) -> int:
        try:
            return self._freed.pop()
        except IndexError:
            return random.randrange(self._slots)  # noqa: S311 - spreading load

    def _left(self, slot: Slot | AsyncSlot | None) -> None:
        """Note that a slot was given back, and tell whoever waits for one in this client."""
        if slot is None:
            return
        if len(self._freed) < self._slots:
            self._freed.append(slot.slot)
        first = self._client._ledger.find_held(self._keys().queue, None)
        if first is not None and first.waker is not None:
            self._wake(first.waker)

    def _wake(self, waker: Any) -> None:
        raise NotImplementedError

    def _tell_none(self, wait: float | None) -> None:
        if wait is not None:  # nobody asks who holds the slots
            late = LockTimeout("no slot was free", name=self._name, key=None, wait=wait, holders=())
            _observe.timed_out(self._client, late)

    def _take(self, n: int) -> list[Any]:
        if n < 1:
            msg = "n must be one or more"
            raise ValueError(msg)
        taken: list[Any] = []
        try:
            while len(taken) < n:
                taken.append(self._held.pop())
        except IndexError:
            self._held += taken
            msg = f"semaphore released too many times: {self._name!r}, here {len(taken)} acquired"
            raise Overreleased(msg) from None
        return taken


def _patience(blocking: bool, timeout: float | None) -> tuple[float | None, bool]:  # noqa: FBT001
    """Read `acquire`'s arguments as `threading.Semaphore` does, with its errors."""
    if not blocking and timeout is not None:
        msg = "can't specify timeout for non-blocking acquire"
        raise ValueError(msg)
    return timeout, blocking and (timeout is None or timeout > 0)


class Semaphore(BaseSemaphore):
    """At most `slots` holders at a time, in all processes together; made by `Locks.semaphore`.

    Also a drop-in for `threading.BoundedSemaphore`, its protocol to the letter.
    """

    __slots__ = ()
    __module__ = "advlock"

    def hold(self, *, wait: Seconds = None) -> SlotHold:
        """Hold a slot: a context manager that enters with a `Slot`, and a decorator.

        Args:
            wait: How long to wait, in seconds or as `"30s"`; None for ever.

        Raises:
            LockTimeout: on entering, when no slot was free in time; it says who holds them.
            ConfigError: on entering, when others hold slots of it who say that there are more, or
                fewer.
            LockLost: on leaving, when the slot was lost meanwhile.
            DatabaseUnavailable: on entering, when there is no session.
            UnsafeServer: on entering, when mutual exclusion cannot hold there.
        """
        return SlotHold(self._client, self, wait=wait_seconds(wait))

    def attempt(self) -> SlotAttempt:
        """Take a slot only if one is free now: enters at once, with a `Slot` or None.

        None also while somebody waits for one: nobody overtakes. As a decorator it skips the call.
        """
        return SlotAttempt(self._client, self)

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:  # noqa: FBT001, FBT002
        """Take a slot; as `threading.Semaphore.acquire`.

        Args:
            blocking: False does not wait.
            timeout: How long to wait at most, in seconds; None for ever.

        Returns:
            Whether one was taken.

        Raises:
            ValueError: a timeout without blocking.
            ConfigError: others say that there are more slots, or fewer.
            DatabaseUnavailable: there is no session.
        """
        wait, patient = _patience(blocking, timeout)
        slot = acquire(self, wait, patient=patient)
        if slot is not None:
            self._held += [slot]  # not a call: nothing may interrupt between this and the body
            return True
        self._tell_none(wait if patient else None)
        return False

    def release(self, n: int = 1) -> None:
        """Give back what was acquired last, from any thread; then it is free for everybody.

        Raises:
            ValueError: more than was acquired (a `LockNotHeld`, too), or less than one.
            LockLost: its session ended meanwhile.
        """
        slots = self._take(n)
        errors = self._client._let_go_all([part for slot in slots for part in slot._parts()])
        for slot in slots:
            self._left(slot)
        if errors:
            raise errors[0]

    def __enter__(self) -> bool:
        """Take a slot, however long that takes."""
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Give it back; the body's own exception stays on top."""
        try:
            self.release()
        except LockError as error:
            if body is None:
                raise
            join_errors(body, error)

    def _hold(self, wait: float | None) -> Slot:
        slot = acquire(self, wait, patient=True)
        if slot is None:
            raise timed_out(self, wait or 0.0)
        return slot

    def _wake(self, waker: Any) -> None:
        wake(waker)


class _SlotEntry(_SyncEntry[H]):
    __slots__ = ()

    def __exit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Give it back; the body's own exception stays on top."""
        slot = self._held
        try:
            super().__exit__(kind, body, tb)
        finally:
            self._name._left(slot)


class SlotHold(_SlotEntry[Slot]):
    """`Semaphore.hold`: enters when there is a slot."""

    __slots__ = ()

    def _enter(self) -> Slot:
        slot: Slot = self._name._hold(self._wait)
        return slot

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Hold a slot around each call of `function`."""
        return self._around(function)


class SlotAttempt(_SlotEntry["Slot | None"]):
    """`Semaphore.attempt`: enters at once, with a `Slot` or None."""

    __slots__ = ()

    def _enter(self) -> Slot | None:
        return acquire(self._name, None, patient=False)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R | None]:
        """Hold a slot around each call of `function`; skip it, with None, where none is free."""
        return self._around(function)
