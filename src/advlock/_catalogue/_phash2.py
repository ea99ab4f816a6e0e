"""Erlang's `phash2` of a tuple of atoms, which is all that Ecto hashes. Pure.

As `make_hash2` and `atom_hash` have it (erts/emulator/beam), for atoms of ASCII. Erlang promises
the same answer on every machine and in every version.
"""

from __future__ import annotations

from typing import Final

_WORD: Final = 0xFFFFFFFF
_GOLDEN: Final = 0x9E3779B9
_OF_ATOM, _OF_TUPLE = 3 * _GOLDEN & _WORD, 9 * _GOLDEN & _WORD
_BITS: Final = (1 << 27) - 1
# Jenkins' mix: by how much each of a, b, c is shifted, and that the second of three goes left.
_SHIFTS: Final = ((13, 8, 13), (12, 16, 5), (3, 10, 15))


def phash2(*atoms: str) -> int:
    """Return `erlang:phash2({…})`, from 0 to 2^27 - 1.

    Args:
        atoms: The names of the atoms, in ASCII; an Elixir module is `Elixir.MyApp.Repo`.
    """
    number = _mixed(len(atoms), _OF_TUPLE, 0)
    for atom in atoms:
        number = _mixed(_atom(atom), _OF_ATOM, number)
    return number & _BITS


def _atom(name: str) -> int:
    number = 0
    for byte in name.encode("ascii"):
        number = (number << 4) + byte
        high = number & 0xF0000000
        number ^= high | high >> 24
    return number


def _mixed(value: int, constant: int, number: int) -> int:
    a, b, c = (constant + value) & _WORD, constant, number
    for one, two, three in _SHIFTS:
        a = (a - b - c & _WORD) ^ c >> one
        b = (b - c - a & _WORD) ^ (a << two & _WORD)
        c = (c - a - b & _WORD) ^ b >> three
    return c
