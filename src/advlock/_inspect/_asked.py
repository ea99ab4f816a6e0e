"""Which keys are meant by a name that somebody looks for. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from advlock._catalogue._named import formulas_of
from advlock._inspect._naming import SLOTS, Naming, spelled
from advlock._key import Key
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from advlock._key import Name
    from advlock._registry._registry import Registry

# As `spelled` has it.
_SLOT: Final = re.compile(r"(.+) \(slot (\d{1,9})\)", re.DOTALL)


def asked(
    names: Iterable[Name],
    *,
    namespace: str = "",
    encoding: str = "utf-8",
    registry: Registry | None = None,
) -> dict[Key, Naming]:
    """Say which keys these names may stand for, with what each would be called.

    A name stands for what the registry says, or for its key by either scheme, and for the slots of
    its semaphore; and for what other tools would make of it.

    Args:
        names: What is looked for.
        namespace: Put before every string, with a colon, unless the registry knows it.
        encoding: The Python codec of the server's encoding.
        registry: The project's registry, if there is one.

    Raises:
        ConfigError: something cannot be a name.
    """
    found: dict[Key, Naming] = {}
    for name in names:
        if not isinstance(name, str):
            key = Key.of(name)
            found[key] = Naming(key, spelled(key))
            continue
        for naming in _of_text(str.__str__(name), namespace, encoding, registry):
            assert naming.key is not None
            found.setdefault(naming.key, naming)
    return found


def _of_text(
    name: str, namespace: str, encoding: str, registry: Registry | None
) -> Iterator[Naming]:
    entry = registry.find(name) if registry is not None else None
    if entry is not None and entry.key is not None:
        yield Naming(entry.key, entry.name)
        return
    full = f"{namespace}:{name}" if namespace else name
    if entry is not None and not entry.is_template:
        full = entry.full
    keys = [Key.slot(full, n, encoding=encoding) for n in range(SLOTS)]
    keys += [Key.agreed(full, n, encoding=encoding) for n in range(SLOTS + 1)]
    if slot := _SLOT.fullmatch(full):
        keys.append(Key.slot(slot[1], int(slot[2]), encoding=encoding))
    for key in (*keys, Key.hashtext(full, encoding=encoding)):
        yield Naming(key, spelled(key))
    try:
        others = list(formulas_of(full, encoding))
    except ConfigError:
        return
    for known, key in others:
        yield Naming(key, full, "well-known", f"as {known.tool} would lock it: {known.meaning}")
