"""What the memory server understands: our own statements by their texts, and plain lock calls.

A statement that is not known is refused, and never guessed at.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from advlock._key import Key
from advlock.testing._protocol import BOOL, INT4, INT8, TEXT, VOID, Refusal
from advlock.testing._table import SESSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock.testing._backend import Backend

Params = tuple[str | None, ...]


class Statement(NamedTuple):
    """A statement that is understood.

    Attributes:
        run: Does it: returns rows, or is a generator that waits and returns rows.

        columns: The types of what it answers.

        names: What its columns are called, where anybody asks.

        takes: The types of its parameters.

        tag: What is said when it is through, where that is not `SELECT`.

        rescues: Whether it may be asked in a failed transaction.

        empty: Whether there is nothing in it.

        text: What the client wrote.
    """

    run: Callable[[Backend, Params], Any]
    columns: tuple[int, ...] = ()
    takes: tuple[int, ...] = ()
    tag: str = "SELECT"
    rescues: bool = False
    empty: bool = False
    text: str = ""
    names: tuple[str, ...] = ()


_COMMENT: Final = re.compile(r"/\*.*?\*/|--[^\n]*", re.DOTALL)
_HASH: Final = (
    r"(?:pg_catalog\.)?(hashtext(?:extended)?)\s*\(\s*('(?:[^']|'')*'|\$\d+)"
    r"\s*(?:,\s*(-?\d+|\$\d+))?\s*\)"
)
_ARGUMENT: Final = rf"(?:{_HASH}|(-?\d+|\$\d+))(?:::[\w.]+)?"
_PARAMETER: Final = re.compile(r"(hashtext(?:extended)?\s*\(\s*)?\$(\d+)")
_ONE: Final = re.compile(rf"\s*{_ARGUMENT}\s*")
_CALL: Final = re.compile(
    r"SELECT\s+(?:pg_catalog\.)?pg_(try_)?advisory_(xact_)?(lock|unlock)(_shared)?\s*\((.+?)\)"
    r"(?:\s+AS\s+\w+)?(,\s*(?:pg_catalog\.)?pg_is_in_recovery\s*\(\s*\))?",
    re.IGNORECASE | re.DOTALL,
)
_UNLOCK_ALL: Final = re.compile(
    r"SELECT\s+(?:pg_catalog\.)?pg_advisory_unlock_all\s*\(\s*\)", re.IGNORECASE
)
_VALUE: Final = r"('(?:[^']|'')*'|[\w.$-]+)"
_SET: Final = re.compile(rf"SET\s+(LOCAL\s+|SESSION\s+)?(\w+)\s*(?:=|TO)\s*{_VALUE}", re.IGNORECASE)
_SET_CONFIG: Final = re.compile(
    rf"SELECT\s+(?:pg_catalog\.)?set_config\s*\(\s*'(\w+)'\s*,\s*{_VALUE}\s*,\s*(true|false)\s*\)",
    re.IGNORECASE,
)
_SETTING: Final = re.compile(
    r"SELECT\s+(?:pg_catalog\.)?current_setting\s*\(\s*'([\w.]+)'\s*\)|SHOW\s+(\w+)",
    re.IGNORECASE,
)
_BEGIN: Final = re.compile(r"(BEGIN|START\s+TRANSACTION)\b[\w\s,]*", re.IGNORECASE)
_END: Final = re.compile(r"(COMMIT|END|ROLLBACK|ABORT)(\s+(WORK|TRANSACTION))?", re.IGNORECASE)
_POINT: Final = re.compile(
    r"(SAVEPOINT|RELEASE(?:\s+SAVEPOINT)?|ROLLBACK\s+TO(?:\s+SAVEPOINT)?)\s+\"?(\w+)\"?",
    re.IGNORECASE,
)
_NOTHING: Final = Statement(lambda *_: [], empty=True, rescues=True)
_PAIR: Final = 2
_SHOWN: Final = 100


def understand(text: str) -> list[Statement]:
    """Understand a text of one or several statements.

    Raises:
        Refusal: something in it is not known here.
    """
    from advlock.testing._answers import KNOWN  # noqa: PLC0415 - it is made of what is here

    found = KNOWN.get(text) or _read(_COMMENT.sub(" ", text).strip().rstrip(";").rstrip())
    if found is not None:
        return [found._replace(text=text)]
    parts = [part.strip() for part in text.split(";") if part.strip()]
    several = [_read(part) for part in parts] if len(parts) > 1 else []
    if several and all(several):
        return [one._replace(text=text) for one in several if one is not None]
    told = " ".join(text.split())
    told = told if len(told) <= _SHOWN else f"{told[:_SHOWN]}…"
    raise Refusal(
        "0A000",
        f"the memory server knows advlock's own lock statements only, not: {told} "
        f"(a test that needs more than locks has the fixture advlock_postgres)",
    )


def _read(text: str) -> Statement | None:
    if not text:
        return _NOTHING
    if text.upper() == "SELECT 1":  # by which pools see whether a connection is alive
        return Statement(lambda *_: [(1,)], (INT4,))
    for pattern, make in _READERS:
        if (match := pattern.fullmatch(text)) is not None:
            return make(match)
    return None


# -- locks -----------------------------------------------------------------------------------------


def _call(match: re.Match[str]) -> Statement | None:
    tries, in_transaction, verb, shared, inner, more = match.groups()
    arguments = _arguments(inner)
    if arguments is None or (verb.lower() == "unlock" and (tries or in_transaction)):
        return None
    pair = len(arguments) == _PAIR
    takes = _takes(inner, INT4 if pair else INT8)
    also, types = ((False,), (BOOL,)) if more else ((), ())  # `_sql.XACT_TRY` asks for it
    how = {"shared": bool(shared)}

    def tag(backend: Backend, params: Params) -> Any:
        numbers = [one(params) for one in arguments]
        key = Key.of((numbers[0], numbers[1]) if pair else numbers[0])
        return backend.tag(key.value, pair=pair)

    def level(backend: Backend) -> int:
        return backend.at.level if in_transaction else SESSION

    def unlock(backend: Backend, params: Params) -> Any:
        return [(backend.table.release(backend, tag(backend, params), **how), *also)]

    def attempt(backend: Backend, params: Params) -> Any:
        return [(backend.try_lock(tag(backend, params), level=level(backend), **how), *also)]

    def wait(backend: Backend, params: Params) -> Any:
        yield from backend.lock(tag(backend, params), level=level(backend), **how)
        return [("", *also)]

    if verb.lower() == "unlock":
        return Statement(unlock, (BOOL, *types), takes)
    run, answers = (attempt, BOOL) if tries else (wait, VOID)
    return Statement(run, (answers, *types), takes)


def _takes(text: str, number: int) -> tuple[int, ...]:
    """Say what the parameters in a call are: numbers, or names that are hashed."""
    found = {one[2]: TEXT if one[1] else number for one in _PARAMETER.finditer(text)}
    return tuple(found[name] for name in sorted(found))


def _arguments(text: str) -> list[Callable[[Params], int]] | None:
    """Read one or two numbers, which may be parameters, or hashes of strings."""
    found, at = [], 0
    while (match := _ONE.match(text, at)) is not None:
        found.append(_argument(match))
        at = match.end() + 1
        if text[match.end() : at] != ",":
            break
    return found if match is not None and at > len(text) and 0 < len(found) <= _PAIR else None


def _argument(match: re.Match[str]) -> Callable[[Params], int]:
    function, name, seed, number = match.groups()

    def value(params: Params) -> int:
        if function is None:
            return int(_value(number, params))
        told = _value(name, params)
        if function.lower() == "hashtext":
            return Key.hashtext(told).value
        return Key.slot(told, int(_value(seed or "0", params))).value

    return value


def _value(written: str, params: Params) -> str:
    if written.startswith("$"):
        return params[int(written[1:]) - 1] or ""
    return written[1:-1].replace("''", "'") if written.startswith("'") else written


def _unlock_all(_: re.Match[str]) -> Statement:
    def run(backend: Backend, _: Params) -> Any:
        backend.table.release_all(backend)
        return [("",)]

    return Statement(run, (VOID,))


# -- settings and transactions ---------------------------------------------------------------------


def _set(match: re.Match[str]) -> Statement:
    scope, name, value = match.groups()
    local = (scope or "").strip().upper() == "LOCAL"

    def run(backend: Backend, params: Params) -> None:
        backend.set(name.lower(), _value(value, params), local=local)

    return Statement(run, tag="SET")


def _set_config(match: re.Match[str]) -> Statement:
    name, value, local = match.groups()

    def run(backend: Backend, params: Params) -> Any:
        how = {"local": local.lower() == "true"}
        return [(backend.set(name.lower(), _value(value, params), **how),)]

    return Statement(run, (TEXT,), (TEXT,) if value.startswith("$") else ())


def _setting(match: re.Match[str]) -> Statement:
    name = match[1] or match[2]
    return Statement(lambda backend, _: [(backend.at.get(name.lower()),)], (TEXT,))


def _begin(_: re.Match[str]) -> Statement:
    return Statement(lambda backend, _: backend.at.begin(), tag="BEGIN")


def _end(match: re.Match[str]) -> Statement:
    well = match[1].upper() in {"COMMIT", "END"}
    run: Any = lambda backend, _: backend.finish(well=well)  # noqa: E731
    return Statement(run, tag="COMMIT" if well else "ROLLBACK", rescues=True)


def _point(match: re.Match[str]) -> Statement:
    verb, name = match[1].upper().split()[0], match[2]

    def savepoint(backend: Backend, _: Params) -> None:
        backend.at.savepoint(name)

    def release(backend: Backend, _: Params) -> None:
        backend.table.merge(backend, backend.at.release(name))

    def back(backend: Backend, _: Params) -> None:
        backend.table.roll_back(backend, backend.at.roll_back_to(name))

    if verb == "ROLLBACK":
        return Statement(back, tag=verb, rescues=True)
    return Statement(savepoint if verb == "SAVEPOINT" else release, tag=verb)


_READERS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Statement | None]], ...]] = (
    (_UNLOCK_ALL, _unlock_all),
    (_CALL, _call),
    (_SET_CONFIG, _set_config),
    (_SETTING, _setting),
    (_SET, _set),
    (_POINT, _point),
    (_BEGIN, _begin),
    (_END, _end),
)
