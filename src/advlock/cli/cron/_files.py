"""Read a file of jobs, or say everything that is wrong with it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from advlock.cli._say import say
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._cron._job import JobSet


def load(file: str, tell: Callable[[str], None] = say) -> JobSet:
    """Read the jobs of `file`; `-` is stdin.

    Args:
        file: Its path.
        tell: Takes the warnings.

    Raises:
        ConfigError: it cannot be read, or is wrong; the message has every problem.
    """
    from advlock._cron._files import read_jobs  # noqa: PLC0415 - not for --help

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"cannot read {file!r}: {reason}; name a file of jobs") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file!r} is not UTF-8; save it as such") from None
    source = os.fsencode(file).decode(errors="replace")  # a path is bytes, which need not be text
    jobs = read_jobs(text, "stdin" if file == "-" else source)
    for warning in jobs.warnings:
        tell(f"warning: {warning}")
    return jobs
