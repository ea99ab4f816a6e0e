"""The tools from npm whose locks the catalogue names, installed into build/npm.

`python3 tests/catalogue/npm_tools.py` installs them; a test run does so by itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent / "npm"
TARGET = Path(__file__).parents[2] / "build" / "npm"
FILES = ("package.json", "package-lock.json")


def available() -> bool:
    """Tell whether there is a Node.js to run them, and npm to install them."""
    return all(map(shutil.which, ("node", "npm")))


def install() -> Path:
    """Install what the lock file says, unless that is there; return the directory of modules."""
    modules, stamp = TARGET / "node_modules", TARGET / "installed"
    state = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in FILES)).hexdigest()
    TARGET.mkdir(parents=True, exist_ok=True)
    with (TARGET / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers of one test run come here at once
        if not stamp.is_file() or stamp.read_text() != state:
            for name in FILES:
                shutil.copy(HERE / name, TARGET / name)
            # No package gets to run a script of its own on the way in.
            options = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
            subprocess.run(["npm", "ci", *options], cwd=TARGET, check=True)
            stamp.write_text(state)
    return modules


if __name__ == "__main__":
    if not available():
        sys.exit("there is no Node.js with npm, and the tests of the catalogue run tools from npm")
    install()
