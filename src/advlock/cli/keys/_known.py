"""Which tools take a key: what the catalogue says without a database."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from advlock._catalogue._entry import Known
    from advlock._key import Key


def catalogue() -> Callable[[Key], tuple[Known, ...]]:
    """Return what looks a key up; only what is the same in every database is found."""
    from advlock._catalogue._catalogue import Catalogue  # noqa: PLC0415 - not for --help
    from advlock._catalogue._facts import Facts  # noqa: PLC0415

    known = Catalogue(Facts())
    return lambda key: known.identify(key.classid, key.objid, key.objsubid)
