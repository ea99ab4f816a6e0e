"""What is wrong with a file of jobs: everything at once, each with its line. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Problem(NamedTuple):
    """One thing that is wrong with a file, or that is allowed and probably not meant.

    Attributes:
        file: The file, as it was named.

        line: Where, from 1; None if it is about the file as a whole.

        message: What is wrong, and what to write.
    """

    file: str
    line: int | None
    message: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.message}"


class BadJobs(ConfigError):  # noqa: N818 - as in errors.py: it says what happened
    """A file of jobs cannot be right; `problems` has all that is wrong with it, by line."""

    problems: tuple[Problem, ...]

    def __init__(self, problems: Iterable[Problem]) -> None:
        ordered = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        super().__init__("\n".join(map(str, ordered)), problems=ordered)
