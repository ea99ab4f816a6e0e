"""`python -m advlock` is the `advlock` command."""

from __future__ import annotations

import sys

from advlock.cli import main

if __name__ == "__main__":
    sys.exit(main())
