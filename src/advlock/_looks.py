"""A look at a session of the sync client: whether it is alive, without asking the server.

It may come anywhere, as a signal handler or a destructor does: in a thread that has the turn, or
the client's mutex. So it waits for nobody but a moment, and leaves it to another thread to act on
what it finds (tests/conformance/test_looks.py).
"""

from __future__ import annotations

import _thread
import select
import time
from typing import TYPE_CHECKING, Any, Final

from advlock import _watch
from advlock._engine import Engine
from advlock._wire import HUNG_UP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from advlock._ledger import Op
    from advlock._liveness import Pulse
    from advlock._wire import Wire

_MOMENT: Final = 0.1  # seconds


class LookedAt(Engine):
    """What a look has to know: who has the turn, and who reads."""

    def __init__(
        self,
        wire: Wire,
        pulse: Pulse,
        settle: Callable[[Op, Any, bool | Exception], Any] | None = None,
        on_lost: Callable[[Any, list[Op]], Any] | None = None,
        carried: Callable[[Any], Sequence[object]] | None = None,
    ) -> None:
        super().__init__(wire, pulse, settle, on_lost, carried)
        self._turn: dict[str, object] = {}
        self._claims: dict[object, object] = {}  # who acts for one that has left, if several would
        self._heart = object()  # in whose name heartbeats take the turn
        self._reader: dict[str, object] = {}  # who takes the answer to one

    def _leave(self, me: object) -> None:
        raise NotImplementedError

    @property
    def listening(self) -> bool:
        """Whether a heartbeat is under way."""
        return self._turn.get("owner") is self._heart

    def looks_alive(self) -> bool:
        """Look at the socket, without waiting: False once the server has hung up."""
        # With the turn only if there is something to take: who asks again and again must not keep
        # the heartbeats from it.
        if self.lost is None and (self.wire.has_news() or self._reader or self._taking):
            self._let_it_be_heard()
            self._look_in_turn(object())
        return self.lost is None and not self._distrusted

    def _let_it_be_heard(self) -> None:
        """Wait a moment for the watcher, or another thread, who is about to take an answer.

        After a stop of the whole process that may come with a goodbye (tests/chaos/test_frozen.py).
        """
        if self.listening:
            _watch.prod()
        limit = time.monotonic() + _MOMENT
        while self._somebody_reads() and time.monotonic() < limit:
            select.select([], [], [], 0.0002)  # not `sleep`, which faketime breaks

    def _somebody_reads(self) -> bool:
        if self.lost is not None:
            return False
        if self.listening or self._reader:
            return True
        if self._taker == _thread.get_ident():
            return False  # we are a signal handler's, and it cannot go on before us
        return self._taking or (bool(self._turn) and self.wire.has_news())

    def _look_in_turn(self, me: object) -> None:
        left = False
        try:
            try:
                self._look(me)
            finally:
                self._part(me)
                left = True
        except BaseException:  # of a signal handler, perhaps before the turn was passed on
            if not left:
                self._part(me)
            raise

    def _look(self, me: object) -> None:
        if self._turn.setdefault("owner", me) is not me:
            # Somebody talks to the server, and will find out; but perhaps not before we believe.
            if self.wire.is_cut():
                self.distrust(HUNG_UP)
            return
        self._taker, self._taking = _thread.get_ident(), True
        try:
            # What a dying server says and its hanging up are two things to read.
            while self.lost is None and self._ears.poll(0):
                if self.wire.hung_up():
                    self.distrust(self.wire.reason())
                    break
        finally:
            self._taker, self._taking = 0, False

    def _part(self, me: object) -> None:
        """Pass the turn on; where that takes the client's mutex, in another thread."""
        takes_it = self._doomed is not None or self.lost is not None or self.wire.pinned
        if not takes_it or self._turn.get("owner") is not me:
            self._leave(me)
            return
        try:
            _thread.start_new_thread(self._part_there, (me,))
        except RuntimeError:  # no thread to be had
            self._part_there(me)

    def _part_there(self, me: object) -> None:
        claim = object()
        if self._claims.setdefault(me, claim) is claim:
            self._leave(me)
            del self._claims[me]
