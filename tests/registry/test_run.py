"""`advlock run` beside a registry: the key it locks is the one that the file has for the name."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from advlock import ConfigError, Key
from advlock._registry._names import Names

from .registries import SOURCE, TWINS, advlock, registry, written

if TYPE_CHECKING:
    import psycopg

TEXT = """\
namespace = "app"
[locks]
nightly = ""
legacy = {keys = "hashtext"}
deploy = {key = 42}
pair = {key = [7, -42]}
"user:{id}" = {keys = "hashtext"}
"""


def locked(folder: Path, dsn: str, name: str, *options: str) -> str:
    """The key that the command sees, which it gets only if that lock is free."""
    show = 'echo "$ADVLOCK_KEY"'
    arguments = ("run", "-n", "-o", *options, name, "--", "sh", "-c", show)
    done = advlock(folder, *arguments, dsn=dsn)
    return done.stdout.strip() if done.returncode == 0 else str(done.returncode)


def test_the_registry_s_key_is_what_is_locked(
    tmp_path: Path, dsn: str, admin: psycopg.Connection[Any]
) -> None:
    """It is what the command sees, and what somebody who writes SQL is excluded by."""
    assert locked(tmp_path, dsn, "deploy") == str(Key.of("deploy").value), "the control"
    written(tmp_path, TEXT)
    assert locked(tmp_path, dsn, "pair") == "7,-42"
    assert locked(tmp_path, dsn, "other") == str(Key.of("app:other").value)
    for name, sql in (("pair", "7, -42"), ("legacy", "hashtext('app:legacy')")):
        admin.execute(f"SELECT pg_advisory_lock({sql})".encode())
        assert locked(tmp_path, dsn, name) == "75"
        admin.execute(f"SELECT pg_advisory_unlock({sql})".encode())


def test_slots_have_64_bits(tmp_path: Path) -> None:
    """A slot is the hash's seed, which a fixed key and hashtext do not have."""
    names = Names(registry(tmp_path, TEXT), strict=False, namespace=None, keys=None)
    assert names.slot("nightly", 2, encoding="utf-8") == Key.slot("app:nightly", 2)
    with pytest.raises(ConfigError, match="keys = 'hashtext'"):
        names.slot("user:7", 0, encoding="utf-8")
    short = registry(tmp_path, 'keys = "hashtext"\n[locks]\n')
    with pytest.raises(ConfigError, match="keys = 'hashtext'"):
        Names(short, strict=False, namespace=None, keys=None).slot("any", 0, encoding="utf-8")
    written(tmp_path, TEXT)
    arguments = ("run", "--dsn", "host=nowhere.invalid", "--slots", "2", "deploy", "--", "true")
    done = advlock(tmp_path, *arguments)
    assert (done.returncode, "has a fixed key in" in done.stderr) == (78, True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[locks]\nnightly = 3\n", 'advlock: advlock.toml:2: "nightly" is a number'),
        (
            f'keys = "hashtext"\n[locks]\n"{TWINS[0]}" = ""\n"{TWINS[1]}" = ""\n',
            "advlock: 'job:11352' and 'job:189279' have the same key",
        ),
        ("[locks\n", "advlock: "),
    ],
)
def test_a_bad_registry_stops_the_run(tmp_path: Path, text: str, told: str) -> None:
    """Before the database is asked: whoever went on might lock another key than the others."""
    written(tmp_path, text)
    done = advlock(tmp_path, "run", "--dsn", "host=nowhere.invalid", "x", "--", "true")
    assert done.returncode == 78
    assert done.stderr.startswith(told)


SOMEBODY = """
import os, sys
from advlock.cli import _names
from advlock._registry import _load
from advlock.errors import ConfigError
os.chdir(sys.argv[1])
os.chmod(sys.argv[2], 0)
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    print(_names.registered_names("nightly", None))
except ConfigError as error:
    print(error)
"""


def as_somebody(folder: Path, closed: Path) -> str:
    """What a user without rights is told in a folder, with something in it closed to them."""
    argv = [sys.executable, "-c", SOMEBODY, str(folder), str(closed)]
    env = os.environ | {"PYTHONPATH": str(SOURCE)}
    return subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout


def test_a_closed_directory_has_no_registry() -> None:
    """`sudo -u reports advlock run --dsn …` in root's home runs, as it does anywhere else."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        written(folder, TEXT)
        assert as_somebody(folder, folder) == "None\n"
        folder.chmod(0o700)


def test_a_closed_file_may_be_a_registry() -> None:
    """It might have a key for this name, so there is no going on without it."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        assert "cannot be read" in as_somebody(folder, written(folder, TEXT))
