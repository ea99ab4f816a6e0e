"""All that the catalogue has. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from advlock._catalogue._computed import COMPUTED
from advlock._catalogue._fixed import FIXED
from advlock._catalogue._named import NAMED
from advlock._catalogue._rows import PARENTS, PER_ROW
from advlock._catalogue._structural import STRUCTURAL

if TYPE_CHECKING:
    from advlock._catalogue._entry import Entry

ENTRIES: Final[tuple[Entry, ...]] = (*FIXED, *COMPUTED, PARENTS, *PER_ROW, *NAMED, *STRUCTURAL)
