"""`examples/polite_client`: the API refuses nobody who takes permits, and others it does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Example


def test_without_permits_the_api_refuses(example: Callable[[str], Example]) -> None:
    """The control: the same program, and no limit."""
    made = example("polite_client")
    program = made.folder / "client.py"
    program.write_text(program.read_text().replace("limit.acquire()", "pass"))
    *_, told = made.run("python api.py python client.py")
    found = re.fullmatch(r"30 calls, (\d+) refused", told)
    assert found, told
    assert int(found[1]) > 0
