"""One thread for all sync clients of a process: it hears sessions break, and keeps them alive.

So a holder's own thread may compute, sleep or wait for as long as it likes. The thread never
waits for a server, and runs no code of the user: one session in trouble holds up no other.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import os
import select
import weakref
from typing import TYPE_CHECKING, Final

from advlock._clock import now

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._session import Session

log = logging.getLogger("advlock")

_A_WHILE: Final = 1.0  # seconds
# Not EPOLLIN: ordinary answers, which have somebody else who waits for them, do not wake us
# (tests/postgres/test_sockets.py). Once: a session that somebody is about to bury is heard once.
# Not poll(2): a socket that is closed while it is polled stays open until the poll returns.
_ONLY_ITS_END: Final = getattr(select, "EPOLLRDHUP", 0) | getattr(select, "EPOLLONESHOT", 0)
_ANSWERS: Final = _ONLY_ITS_END | getattr(select, "EPOLLIN", 0)


class _Watched:
    __slots__ = ("due", "fd", "session")

    def __init__(self, session: Session) -> None:
        # Weakly: nobody else's session must stay open because we look after it.
        self.session = weakref.ref(session)
        self.fd = session.wire.fd
        self.due = 0.0


class Watcher:
    """The thread, while there is anything to watch. See the top of the file."""

    def __init__(self) -> None:
        self._mutex = _thread.allocate_lock()
        self._watched: dict[int, _Watched] = {}
        self._thread: int | None = None
        self._epoll = select.epoll()
        try:
            self._wake_r, self._wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            self._epoll.close()
            raise
        self._epoll.register(self._wake_r, select.EPOLLIN)

    def watch(self, session: Session) -> None:
        """Look after `session` until it is lost or forgotten."""
        one = _Watched(session)
        with self._mutex:
            if self._thread is None:
                self._thread = _thread.start_new_thread(self._run_to_the_end, ())
            self._watched[id(session)] = one
        self.prod()

    def prod(self) -> None:
        """Have all sessions looked at now."""
        with contextlib.suppress(BlockingIOError):  # it is full of prods already
            os.write(self._wake_w, b"!")

    def is_me(self) -> bool:
        """Whether the watcher's thread asks."""
        return self._thread == _thread.get_ident()

    def close(self) -> None:
        """In a forked child: let go of our copies."""
        self._epoll.close()
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _run_to_the_end(self) -> None:
        try:
            with self._mutex:
                pass  # whoever started us has something for us
            self._run()
        finally:
            # Also after something like MemoryError: the next session starts another thread.
            if self._thread == _thread.get_ident():
                self._thread = None

    def _run(self) -> None:
        heard: dict[int, int] = {}
        while watched := self._those_left():
            prodded = self._wake_r in heard
            for one in watched:
                event = heard.get(one.fd, 0)
                if event or prodded or one.due <= now():
                    self._tend(one, event)
            pause = max(0.0, min(one.due for one in watched) - now())
            heard = dict(self._epoll.poll(pause))
            if self._wake_r in heard:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_r, 4096)

    def _those_left(self) -> list[_Watched]:
        with self._mutex:
            for key, one in list(self._watched.items()):
                session = one.session()
                if session is None or session.lost is not None:
                    del self._watched[key]
                del session
            if not self._watched:
                self._thread = None
            return list(self._watched.values())

    def _tend(self, one: _Watched, event: int) -> None:
        session = one.session()
        if session is None:
            return
        one.due = now() + _A_WHILE
        try:
            one.due = now() + session.tend()
        except Exception:  # a bug with one session must not end the heartbeats of the others
            log.exception("looking after a session failed", extra={"event": "watch.failed"})
        if session.lost is None and not event & ~select.EPOLLIN:
            self._listen(one.fd, _ANSWERS if session.listening else _ONLY_ITS_END)

    def _listen(self, fd: int, events: int) -> None:
        # A socket that was closed has left by itself, and its number may be another's by now.
        with contextlib.suppress(OSError, ValueError):
            try:
                self._epoll.modify(fd, events)
            except FileNotFoundError:
                self._epoll.register(fd, events)


_watcher: Watcher | None = None
_making = _thread.allocate_lock()


def watch(session: Session) -> None:
    """Look after `session` from now on."""
    global _watcher  # noqa: PLW0603 - one for each process
    with _making:
        _watcher = _watcher or Watcher()
    _watcher.watch(session)


def prod() -> None:
    """Have all sessions looked at now."""
    if _watcher is not None:
        _watcher.prod()


def elsewhere(function: Callable[[], object]) -> None:
    """Call `function`, which may wait: not in the watcher's thread, if that is where we are."""
    if _watcher is not None and _watcher.is_me():
        _thread.start_new_thread(function, ())
    else:
        function()


def _after_fork() -> None:
    global _watcher, _making  # noqa: PLW0603 - the thread stayed with the parent
    _making = _thread.allocate_lock()
    if _watcher is not None:
        _watcher.close()
        _watcher = None


os.register_at_fork(after_in_child=_after_fork)
