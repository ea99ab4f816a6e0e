"""Exceptions at every moment at which a signal handler may raise, one after the other.

CPython looks for signals when a function begins, when a loop turns back and after a call of what is
written in C. So these are the moments, and each of them can be had for certain, by number.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import advlock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

_HOME: Final = Path(advlock.__file__).parent
_CALLS: Final = ("CALL", "CALL_KW", "CALL_FUNCTION_EX")
_FINALIZER: Final = "__del__"  # what is raised there is printed, and goes no further


class Interruption(BaseException):
    """What a signal handler raises, as KeyboardInterrupt is raised."""


@functools.cache
def _instructions(code: CodeType) -> dict[int, str]:
    return {each.offset: each.opname for each in dis.get_instructions(code)}


def _raise() -> None:
    raise Interruption


class Interrupter:
    """Interrupts this thread at the moment number `at` in the files it watches.

    Args:
        files: Those files of the package.

        handler: What happens then, in this thread, as in a signal handler.

    Attributes:
        where: The moment that was met, for whoever reads a failure.
    """

    def __init__(self, *files: str, handler: Callable[[], object] = _raise) -> None:
        self.where = ""
        self._handler = handler
        self._files = {str(_HOME / file) for file in files}
        self._at = self._count = 0
        self._last: dict[FrameType, str] = {}

    def each(self, function: Callable[[], object]) -> Iterator[str]:
        """Call `function` again and again, each time interrupted a moment later; say where."""
        at = 1
        while self._interrupts(function, at):
            yield self.where
            at += 1
        assert at > 1, "there was nothing to interrupt"

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Interrupt nothing in the block."""
        trace = sys.gettrace()
        sys.settrace(None)
        try:
            yield
        finally:
            sys.settrace(trace)

    def _interrupts(self, function: Callable[[], object], at: int) -> bool:
        self._at, self._count = at, 0
        before = sys.gettrace()
        sys.settrace(self._enters)
        try:
            function()
        except Interruption:
            return True
        finally:
            sys.settrace(before)
            self._last.clear()
        return self._count >= at

    def _enters(self, frame: FrameType, _event: str, _arg: object) -> Any:
        code = frame.f_code
        if code.co_filename not in self._files or code.co_name == _FINALIZER:
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        if frame.f_back is not None:
            self._last.pop(frame.f_back, None)  # no moment when this one returns
        self._moment(frame)
        return self._goes_on

    def _goes_on(self, frame: FrameType, event: str, _arg: object) -> Any:
        if event == "opcode":
            now = _instructions(frame.f_code).get(frame.f_lasti, "")
            before, self._last[frame] = self._last.get(frame), now
            if before in _CALLS or now == "JUMP_BACKWARD":
                self._moment(frame)
        return self._goes_on

    def _moment(self, frame: FrameType) -> None:
        self._count += 1
        if self._count == self._at:
            code = frame.f_code
            self.where = f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}"
            sys.settrace(None)
            self._handler()
