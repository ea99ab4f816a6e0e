"""`@singleton`: a management command that runs in one process at a time."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from django.db import connections

from advlock._client import timeout, wait_seconds
from advlock.django import _clients
from advlock.django._stop import command_error, lost_on_leaving, stopped_when_lost
from advlock.errors import ConfigError, LockError, LockTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.core.management.base import BaseCommand

    from advlock._client import Seconds
    from advlock._held import Held

C = TypeVar("C", bound="type[BaseCommand]")


@overload
def singleton(name: C) -> C: ...
@overload
def singleton(
    name: str | None = None,
    *,
    wait: Seconds = 0,
    on_busy: Literal["skip", "fail"] = "skip",
    using: str = "default",
) -> Callable[[C], C]: ...
def singleton(
    name: Any = None,
    *,
    wait: Seconds = 0,
    on_busy: Literal["skip", "fail"] = "skip",
    using: str = "default",
) -> Any:
    """Have a management command run in one process at a time, on all hosts together.

    Decorates the class: `@singleton`, or `@singleton("reports", wait="30s")`. While it runs,
    `self.held` is the `Held` of the lock. When the lock is lost, the command is interrupted (in the
    main thread as by Ctrl-C, and at its next statement on the alias's connection), and ends with a
    CommandError and exit code 74.

    Args:
        name: The lock's name; by default the app's and the command's, such as `shop.send_mails`.
        wait: How long to wait while another process runs it, in seconds or as `"30s"`; None for
            ever.
        on_busy: What to do if that was not long enough: "skip" it with a line on stderr and exit
            code 0, as a cron job wants it, or "fail" with a CommandError and exit code 75.
        using: The alias of `DATABASES` in whose database the lock is.

    Raises:
        ConfigError: an argument cannot be right.
    """
    if isinstance(name, type):
        return singleton()(name)
    if not isinstance(name, str | None):
        raise ConfigError(f"singleton decorates the class of a command; {name!r} is no name")
    if on_busy not in ("skip", "fail"):
        raise ConfigError(f"on_busy must be 'skip' or 'fail', not {on_busy!r}")
    seconds = wait_seconds(wait)

    def decorate(cls: C) -> C:
        cls.handle = _alone(cls.handle, name or _name_of(cls), seconds, on_busy, using)
        return cls

    return decorate


def _alone(
    handle: Callable[..., Any], name: str, seconds: float | None, on_busy: str, using: str
) -> Callable[..., Any]:
    @functools.wraps(handle)
    def wrapper(self: Any, *args: Any, **options: Any) -> Any:
        with contextlib.ExitStack() as stack:
            stack.enter_context(lost_on_leaving(name))
            try:
                held = _enter(stack, name, seconds, using)
            except LockTimeout as busy:
                return _busy(self, busy, on_busy)
            except LockError as error:
                raise command_error(error) from None
            stack.enter_context(stopped_when_lost(held, connections[using]))
            self.held = held
            return handle(self, *args, **options)

    return wrapper


def _name_of(cls: type[BaseCommand]) -> str:
    app, _, command = cls.__module__.partition(".management.commands.")
    return f"{app}.{command}" if command else f"{cls.__module__}.{cls.__qualname__}"


def _enter(stack: contextlib.ExitStack, name: str, seconds: float | None, using: str) -> Held:
    """Take the lock until the stack ends.

    Raises:
        LockTimeout: it was not free in time.
    """
    client = _clients.locks(using)
    # First an attempt, which has all the time it needs to connect. Reentrant: a command may call
    # itself, or be called by another one of the same name.
    held = stack.enter_context(client.attempt(name, reentrant=True))
    if held is not None:
        return held
    if seconds == 0:
        raise timeout(name, None, 0, client.holders(name))
    return stack.enter_context(client.hold(name, wait=seconds, reentrant=True))


def _busy(command: Any, busy: LockTimeout, on_busy: str) -> None:
    if on_busy == "fail":
        raise command_error(busy) from None
    by = "; ".join(str(holder) for holder in busy.holders if not holder.waiting)
    command.stderr.write(
        f"advlock: skipped, {busy.name!r} is held by {by or 'somebody'}", command.style.NOTICE
    )
