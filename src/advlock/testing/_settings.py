"""The settings of a session and of its transaction, and how transactions come and go. Pure."""

from __future__ import annotations

import re
from typing import Final

from advlock.testing._protocol import Refusal

_UNITS: Final = {"": 1.0, "us": 0.001, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6, "d": 8.64e7}
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
_KNOWN: Final = {
    "application_name": "",
    "lock_timeout": "0",
    "statement_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "search_path": '"$user", public',
    "server_encoding": "UTF8",
    "server_version": "18.0 (advlock)",
    "transaction_isolation": "read committed",
}
_FIXED: Final = ("server_encoding", "server_version")
_DEAD: Final = "current transaction is aborted, commands ignored until end of transaction block"

Settings = dict[str, str]


class Transaction:
    """What a session has set, and whether it is in a transaction, or in one that failed.

    Attributes:
        status: I, T or E, as the protocol has it.
    """

    def __init__(self, settings: Settings) -> None:
        self._session: Settings = _KNOWN | settings
        self._local: Settings = {}
        self._begin = self._session
        self._savepoints: list[tuple[str, Settings, Settings]] = []
        self.status = "I"

    # -- settings --------------------------------------------------------------------------------

    def get(self, name: str) -> str:
        """Return a setting; one that nobody has set is empty.

        Raises:
            Refusal: there is none of that name.
        """
        found = self._local.get(name, self._session.get(name))
        if found is None:
            msg = f'unrecognized configuration parameter "{name}"'
            raise Refusal("42704", msg)
        return found

    def set(self, name: str, value: str, *, local: bool = False) -> str:
        """Set for the session, or for the transaction; whatever was set before stays to be seen."""
        if name in _FIXED:
            raise Refusal("55P02", f'parameter "{name}" cannot be changed')
        if name.endswith("_timeout"):
            _milliseconds(name, value)
        if local:
            self._local = self._local | {name: value}
        else:
            self._session = self._session | {name: value}
            self._local = {key: each for key, each in self._local.items() if key != name}
        return value

    def seconds(self, name: str) -> float | None:
        """Return a timeout; None for none."""
        return _milliseconds(name, self.get(name)) / 1000 or None

    # -- transactions ----------------------------------------------------------------------------

    @property
    def level(self) -> int:
        """On whose account transaction-level locks are: the transaction's, or a savepoint's."""
        return len(self._savepoints)

    def start(self) -> None:
        """Remember what is set, if no transaction goes on."""
        if self.status == "I":
            self._begin = self._session

    def check(self) -> None:
        """Refuse whatever is asked in a failed transaction.

        Raises:
            Refusal: this is one.
        """
        if self.status == "E":
            raise Refusal("25P02", _DEAD)

    def begin(self) -> None:
        """Begin; where a transaction goes on, nothing happens."""
        if self.status == "I":
            self.status = "T"

    def end(self, *, well: bool) -> None:
        """End it, or the statements that were sent together without one."""
        if not well or self.status == "E":
            self._session = self._begin
        self._local, self._savepoints, self.status = {}, [], "I"

    def fail(self) -> None:
        """Note that a statement was refused."""
        if self.status == "I":
            self.end(well=False)
        else:
            self.status = "E"

    def savepoint(self, name: str) -> None:
        """Make a savepoint."""
        if self.status == "I":
            raise Refusal("25P01", "SAVEPOINT can only be used in transaction blocks")
        self._savepoints.append((name, self._session, self._local))

    def release(self, name: str) -> int:
        """Forget a savepoint and those after it; return its level."""
        place = self._find(name)
        del self._savepoints[place:]
        return place + 1

    def roll_back_to(self, name: str) -> int:
        """Go back to a savepoint; return its level."""
        place = self._find(name)
        _, self._session, self._local = self._savepoints[place]
        del self._savepoints[place + 1 :]
        self.status = "T"
        return place + 1

    def _find(self, name: str) -> int:
        for place in reversed(range(len(self._savepoints))):
            if self._savepoints[place][0] == name:
                return place
        raise Refusal("3B001", f'savepoint "{name}" does not exist')


def _milliseconds(name: str, value: str) -> float:
    found = _TIME.fullmatch(value.strip())
    if found is None or found[2] not in _UNITS:
        raise Refusal("22023", f'invalid value for parameter "{name}": "{value}"')
    return float(found[1]) * _UNITS[found[2]]
