"""`advlock keys check`: collisions and strays are found, and nothing is found where nothing is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from advlock._registry._check import check

from .registries import TWINS, advlock, as_json, registry, written

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from advlock._key import Key

CLEAN = """\
[locks]
nightly = "a"
"job:11352" = "the default scheme tells them apart"
"job:189279" = ""
"user:{id}" = ""
"user:{id}:avatar" = ""
pair = {key = [0, 42]}
number = {key = 20260101042}
"""


def _nobody(_: Key) -> Iterable[tuple[str, bool]]:
    return ()


def codes(folder: Path, text: str) -> list[tuple[str, str, int | None]]:
    """What is found in a registry: code, severity, line."""
    found = check(registry(folder, text), _nobody)
    return [(one.code, one.severity, one.line) for one in found]


def test_a_sound_registry_has_no_findings(tmp_path: Path) -> None:
    """Two ints and one bigint are different spaces, and templates of other shapes do not meet."""
    assert codes(tmp_path, CLEAN) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'keys = "hashtext"\n[locks]\n"{TWINS[0]}" = ""\n"{TWINS[1]}" = ""\n', "collision"),
        ('[locks]\na = {key = 3417513}\n"job:11352" = {keys = "hashtext"}\n', "collision"),
        ("[locks]\na = {key = 7000000}\nb = {key = 7000000}\n", "collision"),
        ("[locks]\na = {key = 2774890235012722556}\nnightly = ''\n", "collision"),
        ("[locks]\na = {key = [7, 42]}\nb = {key = [7, 42]}\n", "collision"),
        ('[locks]\nok = ""\n"cron:nightly" = ""\n', "reserved"),
        ('[locks]\nok = ""\n"{kind}:{id}" = ""\n', "reserved"),
        ('[locks]\n"user:{id}" = ""\n"user:{name}" = ""\n', "overlap"),
    ],
)
def test_an_error_is_found_at_its_line(tmp_path: Path, text: str, expected: str) -> None:
    """Within a scheme, across schemes, with a fixed key: the later line is told."""
    assert codes(tmp_path, text) == [(expected, "error", text.count("\n"))]


@pytest.mark.parametrize(
    ("one", "other", "code"),
    [("nightly", "Nightly", "similar"), ("a b", "ab", "similar"), ("ﬁx", "fix", "similar")],
)
def test_names_that_look_alike_are_a_warning(
    tmp_path: Path, one: str, other: str, code: str
) -> None:
    """They are two locks, which hardly anybody means."""
    text = f'[locks]\n"{one}" = ""\n"{other}" = ""\n'
    assert codes(tmp_path, text) == [(code, "warning", 3)]


def test_a_blank_at_the_end_is_a_warning(tmp_path: Path) -> None:
    """It is part of the name, and nobody sees it."""
    assert codes(tmp_path, '[locks]\n"nightly " = ""\n') == [("blank", "warning", 2)]


def test_a_well_known_key_is_found(tmp_path: Path) -> None:
    """The catalogue's own numbers are refused; Prisma Migrate's is one that is certainly so."""
    done = written(tmp_path, "[locks]\nok = ''\nmigrate = {key = 72707369}\n")
    (found,) = as_json(tmp_path, "keys", "check", str(done))["findings"]
    assert (found["code"], found["severity"], found["line"]) == ("well-known", "error", 3)
    assert "Prisma" in found["message"]


# -- the command -----------------------------------------------------------------------------------


def test_exit_codes(tmp_path: Path) -> None:
    """0 clean, 1 findings, with --strict for warnings, too; 64 usage, 78 no readable registry."""
    written(tmp_path, CLEAN)
    good = advlock(tmp_path, "keys", "check")
    assert (good.returncode, good.stdout) == (0, "")
    assert good.stderr == "advlock: advlock.toml: 7 names; nothing wrong\n"
    written(tmp_path, CLEAN.replace("number", "Nightly"))
    assert advlock(tmp_path, "keys", "check").returncode == 0
    strict = advlock(tmp_path, "keys", "check", "--strict")
    assert strict.returncode == 1
    assert strict.stdout.startswith("advlock.toml:8: warning: 'Nightly' and 'nightly' look alike")
    written(tmp_path, CLEAN + "again = {key = [0, 42]}\n")
    assert advlock(tmp_path, "keys", "check").returncode == 1
    assert advlock(tmp_path, "keys", "check", "--nonsense").returncode == 64
    written(tmp_path, CLEAN + "again = 3\n")
    bad = advlock(tmp_path, "keys", "check")
    assert (bad.returncode, bad.stdout) == (78, "")
    assert bad.stderr.startswith('advlock: advlock.toml:9: "again" is a number')
    assert advlock(tmp_path, "keys", "check", "other.toml").returncode == 78


def test_json_has_what_the_text_has(tmp_path: Path) -> None:
    """Findings with file, line and code, and what was scanned."""
    written(tmp_path, "[locks]\nnightly = ''\n")
    source = written(tmp_path, "locks.hold('nigthly')\nlocks.hold(x)\n", "a.py")
    written(tmp_path, "def broken(:\n", "b.py")
    done = advlock(tmp_path, "keys", "check", "--scan", ".", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert (told["file"], told["names"]) == ("advlock.toml", 1)
    assert [(f["code"], f["file"], f["line"]) for f in told["findings"]] == [
        ("undeclared", "a.py", 1),
        ("unknown", "a.py", 2),
        ("unused", "advlock.toml", 2),
    ]
    assert told["scanned"]["uses"] == 2
    assert told["scanned"]["unreadable"][0]["file"] == "b.py"
    assert source.name == "a.py"


def test_no_control_character_reaches_the_terminal(tmp_path: Path) -> None:
    """A name that clears the screen is spelled out."""
    written(tmp_path, '[locks]\n"a\\u001b[2J" = ""\n"A\\u001b[2J" = "x\\u001b[31m"\n')
    for command in (["check"], ["list"], ["show", "--name", "a\x1b[2J"]):
        done = advlock(tmp_path, "keys", *command)
        assert "\\x1b[2J" in done.stdout
        assert "\x1b" not in done.stdout + done.stderr


def test_list_shows_every_entry(tmp_path: Path) -> None:
    """As a table, and as JSON with the columns of pg_locks."""
    written(tmp_path, CLEAN)
    table = advlock(tmp_path, "keys", "list").stdout.splitlines()
    assert len(table) == 8
    assert " ".join(table[1].split()) == (
        "nightly 2774890235012722556 hashtextextended('nightly', 0) a"
    )
    nightly, *_, pair, number = as_json(tmp_path, "keys", "list")["locks"]
    assert (nightly["sql"], nightly["classid"]) == ("hashtextextended('nightly', 0)", 646079479)
    assert (pair["key"], pair["objsubid"], number["keys"]) == ([0, 42], 2, None)
