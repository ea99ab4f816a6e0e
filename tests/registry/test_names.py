"""The names of one client, where what collides depends on the server's encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from advlock import Key, KeyCollision
from advlock._registry import _names
from advlock._registry._names import Names

from .registries import TWINS, registry

if TYPE_CHECKING:
    from pathlib import Path

    from advlock import Registry

# hashtext gives them one number in LATIN1, and two in UTF-8.
LATIN_TWINS = ("é53848", "é59501")


def names(found: Registry) -> Names:
    """Those of a client that uses 32 bits."""
    return Names(found, strict=False, namespace=None, keys="hashtext")


@pytest.mark.parametrize(("registered", "last"), [(0, "é59501"), (1, "é59501"), (2, "other")])
def test_a_collision_in_another_encoding_is_found(
    tmp_path: Path, registered: int, last: str
) -> None:
    """Once the encoding is known; of two registered names before any of them is used."""
    lines = [f'"{name}" = {{keys = "hashtext"}}\n' for name in LATIN_TWINS[:registered]]
    client = names(registry(tmp_path, "[locks]\n" + "".join(lines)))
    one, _ = LATIN_TWINS
    assert client.key(one, None) is None, "the encoding is not known"
    for name in LATIN_TWINS:
        assert client.key(name, "utf-8") == Key.hashtext(name)
    if not registered:
        client.key(one, "iso8859-1")
    with pytest.raises(KeyCollision) as caught:
        client.key(last, "iso8859-1")
    assert caught.value.names == LATIN_TWINS


@pytest.mark.parametrize("registered", [True, False])
def test_a_ready_key_collides_as_its_name_does(tmp_path: Path, registered: bool) -> None:
    """An exported function of a template makes keys, and two of them may be one number."""
    text = f'[locks]\n"{TWINS[0]}" = {{keys = "hashtext"}}\n' if registered else "[locks]\n"
    client = names(registry(tmp_path, text))
    first, second = map(Key.hashtext, TWINS)
    assert client.key(first, "utf-8") == client.key(TWINS[0], "utf-8") == first
    with pytest.raises(KeyCollision) as caught:
        client.key(second, "utf-8")
    assert caught.value.names == TWINS
    assert client.key(Key.of(second.value), "utf-8") == second, "a number has no name to differ by"


def test_what_was_used_is_forgotten_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that goes through millions of names keeps some; registered ones are never lost."""
    monkeypatch.setattr(_names, "_MOST", 10)
    text = f'[locks]\n"{TWINS[0]}" = {{keys = "hashtext"}}\n'
    client = names(registry(tmp_path, text))
    for number in range(100):
        client.key(f"user:{number}", "utf-8")
        assert len(client._used) <= 10
    with pytest.raises(KeyCollision):
        client.key(TWINS[1], "utf-8")
