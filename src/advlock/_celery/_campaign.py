"""The lead of a beat: a thread that stands for it, so that the beat's own never waits for it."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

from advlock.errors import LockError

if TYPE_CHECKING:
    from advlock._leader._leader import Term
    from advlock._locks import Locks

# How long a beat that ends waits for the lead to be given back, in seconds. If it takes longer,
# because the database is away, the server gives it to the next one when our sockets close.
CLOSING: Final = 3.0


class Campaign:
    """Stands for the lead until it is closed, and then closes the client."""

    def __init__(self, locks: Locks, name: str) -> None:
        self._locks = locks
        self._leader = locks.leader(name)
        self._turn = threading.Condition()
        self._term: Term | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="advlock-beat", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> Term | None:
        """Return the present term, waiting so long for one; None when somebody else leads.

        Raises:
            LockError: there can be no term: it is the address or the server that is wrong.
        """
        with self._turn:
            self._turn.wait_for(lambda: self._term is not None or self._error is not None, seconds)
            if self._error is not None:
                raise self._error
            term = self._term
        return None if term is None or term.lost else term

    def close(self) -> None:
        """Give the lead back and close the client. Also from a signal handler: bounded."""
        # The handler may have interrupted this very thread inside the client, whose mutex it then
        # holds, so it is our thread that closes it.
        self._leader.close()
        self._thread.join(CLOSING)

    def _run(self) -> None:
        try:
            for term in self._leader.terms():
                self._lead(term)
        except LockError as error:
            self._end(error)
        except BaseException as error:
            self._end(error)
            raise
        finally:
            with contextlib.suppress(LockError):
                self._locks.close()

    def _lead(self, term: Term) -> None:
        over = threading.Event()
        term.on_lost(lambda _: over.set())
        with self._turn:
            self._term = term
            self._turn.notify_all()
        # It may have been ended before `on_lost` was called; a loss by the clock is told, too.
        while not term.lost:
            over.wait(CLOSING)
        with self._turn:
            self._term = None

    def _end(self, error: BaseException) -> None:
        with self._turn:
            self._error = error
            self._turn.notify_all()
