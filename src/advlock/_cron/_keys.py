"""What each key of a job may say, in a file: the value that a Job takes, or what to write. Pure."""

from __future__ import annotations

import difflib
import json
import math
import re
import shlex
from typing import TYPE_CHECKING, Any, Final, NoReturn

from advlock._checkins._plan import read_slug, read_url
from advlock._duration import seconds
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SHELL: Final = "/bin/sh"

_SHOWN: Final = 60
# Beyond these, what the values are for (timedelta, PostgreSQL's integer) would fail much later.
_LONGEST: Final = 36_500 * 86_400.0
_LARGEST: Final = 2**31 - 1

_LONGEST_NAME: Final = 100
_NOT_IN_NAME: Final = re.compile(r"[^A-Za-z0-9._-]")
_SIZE: Final = re.compile(r"\s*(\d{1,10})\s*(B|[KM]i?B)?\s*", re.ASCII | re.IGNORECASE)
_BYTES: Final = {"": 1, "b": 1, "kb": 1000, "kib": 1024, "mb": 1000**2, "mib": 1024**2}
_TYPES: Final = {bool: "a boolean", int: "a number", float: "a number", str: "a string"} | {
    list: "a list",
    dict: "a table",
}


def hint(word: str, known: Iterable[str]) -> str:
    """What was probably meant; all there is, if nothing is close."""
    each = sorted(known)
    close = difflib.get_close_matches(word.lower()[:_SHOWN], each, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(each)}"


def shown(value: object) -> str:
    """A value as TOML would spell it, and no longer than a message has room for."""
    if isinstance(value, bool):
        return str(value).lower()
    # TOML's strings are JSON's, nearly.
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def kind(value: object) -> str:
    """What TOML calls a value's type."""
    return _TYPES.get(type(value), f"a {type(value).__name__}")


def check_name(name: str) -> None:
    """Refuse a job's name that a command line, a lock or a log could misread."""
    if not name:
        raise ConfigError("a job has an empty name; write [jobs.nightly-report]")
    if match := _NOT_IN_NAME.search(name):
        raise ConfigError(
            f"the name {shown(name)} has a {match[0]!r} in it;"
            " a job's name is made of letters, digits, dots, _ and -"
        )
    if name.startswith("-"):
        raise ConfigError(f"the name {shown(name)} starts with a dash; write {name.lstrip('-')}")
    if len(name) > _LONGEST_NAME:
        raise ConfigError(
            f"the name {shown(name)} has {len(name)} characters; {_LONGEST_NAME} are the most"
        )


def read_text(value: object, example: str) -> str:
    """Return a string that is not empty."""
    if not isinstance(value, str):
        _refuse(f"is {kind(value)}", f"write a string such as {shown(example)}")
    if not value.strip():
        _refuse("is empty", f"write a string such as {shown(example)}")
    return without_nul(value)


def read_directory(value: object) -> str:
    """Return an absolute path: a relative one would depend on where the scheduler was started."""
    path = read_text(value, "/srv/app")
    if not path.startswith("/"):
        _refuse(f"is {shown(path)}", "write an absolute path such as /srv/app")
    return path


def without_nul(text: str) -> str:
    """Refuse the byte that neither a program's arguments nor PostgreSQL can hold."""
    if "\0" in text:
        _refuse("has a NUL byte in it", "leave that out")
    return text


def read_command(value: object, *, shell: bool) -> tuple[str, ...]:
    """Return a program and its arguments, from a list, or from a string for the shell."""
    if isinstance(value, str) and value.strip():
        if not shell:
            _refuse(
                "is a string",
                f"write command = {_split(value)}, or add shell = true to have {SHELL} read it",
            )
        return (SHELL, "-c", without_nul(value))
    if shell:
        _refuse(
            f"is {_emptily(value)}",
            'with shell = true it is one string; write command = "date >> /tmp/dates"',
        )
    if not isinstance(value, list) or not value:
        _refuse(f"is {_emptily(value)}", 'write command = ["python", "-m", "app.report"]')
    for word in value:
        if not isinstance(word, str):
            _refuse(f"has {kind(word)} in it, {shown(word)}", "write all of them as strings")
    if not value[0].strip():
        _refuse("has no program", "the first string is the program to run")
    return tuple(without_nul(word) for word in value)


def read_env(value: object) -> tuple[tuple[str, str], ...]:
    """Return the variables of a table; their values are never shown."""
    if not isinstance(value, dict):
        _refuse(f"is {kind(value)}", 'write a table such as env = {TZ = "UTC"}')
    for name, text in value.items():
        if not name or "=" in name or "\0" in name:
            _refuse(f"has a variable {name!r}", "a variable's name is not empty and has no =")
        if not isinstance(text, str):
            _refuse(
                f"has {kind(text)} for {name}", f'all variables are strings; write {name} = "…"'
            )
        without_nul(text)
    return tuple(value.items())


def read_flag(value: object, key: str) -> bool:
    """Return a boolean."""
    if not isinstance(value, bool):
        meant = "true" if str(value).lower() in {"yes", "on", "true", "1", "y"} else "false"
        _refuse(f"is {kind(value)}, {shown(value)}", f"write {key} = {meant}, without quotes")
    return value


def whole(least: int) -> Callable[[object], int]:
    """Return a reader of whole numbers from `least`."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            _refuse(f"is {kind(value)}, {shown(value)}", "write a whole number such as 10")
        if not least <= value <= _LARGEST:
            _refuse(f"is {value}", f"write a whole number from {least}")
        return value

    return read


def duration(zero: str = "") -> Callable[[object], float]:
    """Return a reader of durations.

    Args:
        zero: What to write instead of 0, where that makes no sense.
    """

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            _refuse(f"is {kind(value)}", 'write a duration such as "30s", "5m" or "1h"')
        found = seconds(value)
        if found == 0 and zero:
            _refuse("is 0", zero)
        if found > _LONGEST or math.isinf(found):
            _refuse(f"is {shown(value)}", "a hundred years are the most")
        return found

    return read


def one_of(*choices: str, **aliases: str) -> Callable[[object], str]:
    """Return a reader of one of these words, in any case, and under other names it is known by."""

    def read(value: object) -> str:
        if not isinstance(value, str):
            _refuse(f"is {kind(value)}, {shown(value)}", f"write one of {_quoted(choices)}")
        word = value.strip().lower()
        word = aliases.get(word, word)
        if word not in choices:
            close = difflib.get_close_matches(word, choices, n=1)
            meant = f"did you mean {shown(close[0])}? It" if close else "it"
            _refuse(f"is {shown(value)}", f"{meant} is one of {_quoted(choices)}")
        return word

    return read


def read_size(value: object) -> int:
    """Return a number of bytes."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        size = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        size = int(match[1]) * _BYTES[(match[2] or "").lower()]
    else:
        _refuse(f"is {shown(value)}", 'write bytes, such as 16384, or "16KiB", "64KB", "1MiB"')
    if size > _LARGEST:
        _refuse(f"is {shown(value)}", 'write less than "2048MiB"')
    return size


READERS: Final[dict[str, Callable[[object], Any]]] = {
    "overlap": one_of("skip", "queue", "replace", "allow", forbid="skip"),
    "missed": one_of("once", "skip", "all"),
    "max_missed": whole(1),
    "grace": duration(),
    "timeout": duration("leave it out for no limit"),
    "kill_after": duration(),
    "retries": whole(0),
    "retry_wait": duration(),
    "jitter": duration(),
    "enabled": lambda value: read_flag(value, "enabled"),
    "on_crash": one_of("next_tick", "rerun"),
    "on_lost": one_of("kill", "continue"),
    "keep": whole(1),
    "max_age": duration('write keep = 1 to keep the least, or a duration such as "30d"'),
    "output": read_size,
    "env": read_env,
    "cwd": read_directory,
    "description": lambda value: without_nul(value) if value == "" else read_text(value, "…"),
    "ping": lambda value: read_url(read_text(value, "https://hc-ping.com/UUID")),
    "ping_output": lambda value: read_flag(value, "ping_output"),
    "sentry_monitor": lambda value: read_slug(read_text(value, "nightly-report")),
}


def _refuse(what: str, instead: str) -> NoReturn:
    raise ConfigError(f"{what}; {instead}")


def _quoted(choices: Iterable[str]) -> str:
    return ", ".join(map(shown, choices))


def _emptily(value: object) -> str:
    return kind(value) if value or not isinstance(value, list | str) else "empty"


def _split(command: str) -> str:
    """A string as the list that is probably meant, in TOML."""
    try:
        words = shlex.split(command)
    except ValueError:  # a quote that is not closed
        words = command.split()
    return json.dumps(words, ensure_ascii=False)
