"""A process that holds locks behind a pooler and ends as `program.py`'s do not.

`pooled_program.py WORLD ROLE DSN NAME`
"""

from __future__ import annotations

import os
import sys

import program
from program import Driver, say, told


def vanishes(driver: Driver) -> None:
    """Leave by os._exit: nothing is released, and nobody says goodbye."""
    kept = [driver.hold(program.NAME), driver.hold(program.NAME + "-2")]
    say("held")
    told()
    os._exit(len(kept))


if __name__ == "__main__":
    _, world, role, program.DSN, program.NAME = sys.argv
    {"vanishes": vanishes}[role](Driver(world))
