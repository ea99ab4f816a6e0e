#!/usr/bin/env python3
"""Work on advlock with nothing but Python 3.11: set up .venv, then do what the verb says.

usage: python3 dev.py VERB [ARGUMENTS…]

  demo    three hosts run one cron, and two are killed (about 20 seconds)
  test    the test suite; arguments go to pytest
  check   ruff check, ruff format --check and mypy
  bench   the benchmarks; arguments go to `python -m bench`
  docs    the documentation, into build/docs; arguments go to sphinx-build

Paths are relative to the directory of this file. Delete .venv to start over.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
# Present while pip is at work: found later, it tells of a run that was killed half-way.
UNFINISHED = VENV / "unfinished"
# Resolved, because .venv's own Python must not rebuild the ground it stands on.
BASE_PYTHON = Path(sys.executable).resolve()

VERBS = ("demo", "test", "check", "bench", "docs")


def main(arguments: list[str]) -> NoReturn:
    """Prepare what the verb needs and become it."""
    if sys.version_info < (3, 11):
        found = ".".join(map(str, sys.version_info[:3]))
        die(f"advlock needs Python 3.11 or newer, this is {found}. Try: python3.11 dev.py")
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print((__doc__ or "").strip())
        sys.exit(0)
    verb, *rest = arguments
    if verb not in VERBS:
        known = ", ".join(VERBS)
        die(f"there is no verb {verb!r}. There are: {known}. Try: python3 dev.py --help", code=64)
    os.chdir(ROOT)
    for number in (signal.SIGTERM, signal.SIGHUP):  # exceptions, so that run() can stop its step
        signal.signal(number, lambda received, _frame: sys.exit(128 + received))
    prepare("runtime.txt" if verb == "demo" else f"{verb}.txt")
    if verb == "check":
        sys.exit(check(rest))
    # Containers often forbid Python to keep what it has compiled. The verbs start thousands of
    # processes, each of which would compile all of advlock anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Become the verb: signals, the terminal and the exit code need no passing on.
    os.execv(PYTHON, [str(PYTHON), "-m", *command(verb, rest)])


def command(verb: str, arguments: list[str]) -> list[str]:
    """The module, with its arguments, that does the work of a verb."""
    if verb == "demo":
        return ["advlock", "demo", *arguments]
    if verb == "test":
        return ["pytest", *spread(arguments), *arguments]
    if verb == "docs":
        return ["sphinx", "-nW", *arguments, "docs", "build/docs"]
    return [verb, *arguments]


def spread(arguments: list[str]) -> list[str]:
    """Spread tests over processes, unless a plug-in or process choice or one test is given.

    Five on two cores: the tests mostly wait for a server.
    """
    own = ("-n", "-p", "--numprocesses", "--dist", "--pdb", "--trace")
    if any(a.startswith(own) or "::" in a for a in arguments):
        return []
    return ["-n", "5", "--dist", "worksteal"]


def check(arguments: list[str]) -> int:
    """Every gate, also after one has failed; says how many did."""
    gates = (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"])
    return sum(run(PYTHON, "-m", *gate, *arguments) != 0 for gate in gates)


# -- the environment -----------------------------------------------------------------------------


def prepare(requirements: str) -> None:
    """Bring .venv to what one requirements file says; costs nothing when it is there already."""
    # The lock is on the directory itself: nothing to create, nothing to leave behind.
    directory = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another dev.py is preparing .venv, waiting for it")
        fcntl.flock(directory, fcntl.LOCK_EX)
    # The steps inherit the lock: when we are killed alone, nobody joins in before they are done.
    os.set_inheritable(directory, True)  # noqa: FBT003 - the parameter is positional-only
    if UNFINISHED.exists() or not usable():
        make()
    install(ROOT / "requirements" / requirements, "--require-hashes", "-r")
    # --no-build-isolation: the build backend is among the pins, and no index is asked for another.
    install(ROOT / "pyproject.toml", "--no-deps", "--no-build-isolation", "-e")
    os.close(directory)


def usable() -> bool:
    """Whether .venv has a Python that starts and is new enough."""
    test = "import sys; sys.exit(sys.version_info < (3, 11) or sys.prefix == sys.base_prefix)"
    return PYTHON.exists() and succeeds(PYTHON, "-c", test)


def make() -> None:
    """Make .venv anew, without pip: Debian keeps that part of venv in a package of its own."""
    say(f"making .venv with {BASE_PYTHON}")
    discarded = ROOT / ".venv.discarded"
    shutil.rmtree(discarded, ignore_errors=True)
    if VENV.exists():  # moved, then deleted: half a .venv could be taken for a whole one
        VENV.rename(discarded)
    if run(BASE_PYTHON, "-m", "venv", "--without-pip", VENV) != 0:
        die(f"{BASE_PYTHON} cannot make a virtual environment. Try: apt install python3-venv")
    shutil.rmtree(discarded, ignore_errors=True)


def install(source: Path, *arguments: str) -> None:
    """Have pip install a file, unless the file says what it said when pip last did."""
    # An editable install points at the checkout, so a copy of the tree has to do it again.
    state = hashlib.sha256(os.fsencode(ROOT) + b"\0" + source.read_bytes()).hexdigest()
    stamp = VENV / f"installed-{source.name}"
    if stamp.is_file() and stamp.read_text() == state:
        return
    UNFINISHED.touch()
    pip = find_pip()
    name = source.relative_to(ROOT)
    say(f"installing {name}")
    target = source if source.suffix == ".txt" else ROOT
    code = run(*pip, "install", "--quiet", "--no-input", *arguments, target)
    UNFINISHED.unlink()
    if code != 0:
        die(f"pip could not install {name}; its reason is above")
    stamp.write_text(state)


def find_pip() -> tuple[str | Path, ...]:
    """A pip that installs into .venv: its own, or the outer one, or the one shipped with Python.

    Being told to act on .venv, the outer pip does not mind that Debian manages its own Python.
    """
    inner = (PYTHON, "-m", "pip")
    for pip in (inner, (BASE_PYTHON, "-m", "pip", "--python", PYTHON)):
        if succeeds(*pip, "--version"):
            return pip
    if not succeeds(PYTHON, "-m", "ensurepip"):
        die("there is no pip. Try: apt install python3-venv (or python3-pip), then the same again")
    return inner


# -- processes -----------------------------------------------------------------------------------


def run(*step: str | Path) -> int:
    """Run a step to its end; what ends us ends it first, with every process it started."""
    with subprocess.Popen(step, process_group=0, close_fds=False) as child:
        try:
            return child.wait()
        except BaseException:  # Ctrl-C is one, and main() makes one of TERM
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            raise


def succeeds(*probe: str | Path) -> bool:
    """Whether a program exits with 0; what it prints is of no interest."""
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


def say(message: str) -> None:
    """Tell the developer, leaving stdout to the verb."""
    print(f"dev.py: {message}", file=sys.stderr, flush=True)


def die(message: str, code: int = 1) -> NoReturn:
    """Give up with a reason and the next step."""
    say(message)
    sys.exit(code)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except PermissionError as error:
        die(f"{error}. Try: a checkout of your own, or rm -r .venv as the user who made it")
