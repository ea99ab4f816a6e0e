"""`examples/gpu_slots`: no GPU renders two frames at a time, and both are used."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Example


def test_each_gpu_renders_one_frame_at_a_time(example: Callable[[str], Example]) -> None:
    """The lines of three processes come in the order in which they were written."""
    made = example("gpu_slots")
    busy: dict[str, str] = {}
    used = set()
    done = 0
    for line in made.run("for n in 1 2 3; do python render.py $n-{1..8} & done; wait"):
        frame, what, gpu = re.fullmatch(r"frame (\S+) (begins|is done) on GPU (\d)", line).groups()  # type: ignore[union-attr]
        used.add(gpu)
        if what == "begins":
            assert gpu not in busy, line
            busy[gpu] = frame
        else:
            assert busy.pop(gpu) == frame
            done += 1
    assert done == 24
    assert used == {"0", "1"}
