"""The table `[locks]`: what it says, and what is said about it when it is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from advlock import ConfigError, Key, Registry
from advlock._registry._load import BadRegistry, load

from .registries import registry, written

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = """\
[locks]
deploy = "one at a time"
legacy = {keys = "hashtext", owner = "billing"}
fixed = {key = 42}

[locks."user:{id}"]
description = "one user"
owner = "accounts"

[locks.pair]
key = [7, -42]
"""


def test_both_forms_are_read(tmp_path: Path) -> None:
    """A description alone, an inline table and a table of its own say what they say."""
    found = registry(tmp_path, WHOLE)
    deploy, legacy, fixed, user, pair = found.entries
    assert (deploy.description, deploy.scheme, deploy.key) == (
        "one at a time",
        "hashtextextended",
        None,
    )
    assert (legacy.owner, legacy.make()) == ("billing", Key.hashtext("legacy"))
    assert (fixed.make(), pair.make()) == (Key.of(42), Key.of((7, -42)))
    assert (user.is_template, user.fields, user.owner) == (True, ("id",), "accounts")
    assert [entry.line for entry in found.entries] == [2, 3, 4, 6, 10]


def test_pyproject_has_it_below_tool_advlock(tmp_path: Path) -> None:
    """`[tool.advlock.locks]` is the same table, and its lines are those of that file."""
    text = "[tool.advlock]\nnamespace = 'a'\n[tool.advlock.locks]\ndeploy = 'x'\n"
    found = load(written(tmp_path, text, "pyproject.toml"), lines=True)
    assert found is not None
    assert [(entry.full, entry.line) for entry in found.entries] == [("a:deploy", 4)]
    bad = written(tmp_path, text + "other = 3\n", "pyproject.toml")
    with pytest.raises(BadRegistry, match=r"pyproject.toml:5: \"other\" is a number"):
        load(bad)


def test_keys_and_namespace_above_are_the_defaults(tmp_path: Path) -> None:
    """An entry that says nothing takes the file's scheme, and every name its namespace."""
    found = registry(
        tmp_path,
        'keys = "hashtext"\nnamespace = "n"\n[locks]\na = ""\nb = {keys = "hashtextextended"}\n',
    )
    a, b = (entry.make() for entry in found.entries)
    assert a == Key.hashtext("n:a")
    assert b == Key.of("n:b")


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """Each with its line, and with what to write instead."""
    text = """\
namespace = 3
keys = "md5"
[locks]
n = 42
t = true
user.foo = "x"
"a{b" = "x"
"{a}{b}" = "x"
"{a}:{a}" = "x"
"" = "x"
[locks."user:{id}"]
team = "x"
key = 7
[locks.both]
key = [1, 2, 3]
keys = "hashtext"
owner = 4
[locks.x]
key = "7"
descripton = "a"
[locks.big]
key = 9223372036854775808
"""
    with pytest.raises(BadRegistry) as caught:
        load(written(tmp_path, text))
    told = str(caught.value).replace(str(tmp_path), "")
    for line in (
        "/advlock.toml:1: namespace is a number; write text in quotes",
        '/advlock.toml:2: keys is "md5", no key scheme; keys = "hashtextextended" or',
        '/advlock.toml:4: "n" is a number; write {key = 42} for a fixed key',
        '/advlock.toml:5: "t" is a boolean; write a description in quotes',
        'a name with a dot stands in quotes: "user.foo"',
        '/advlock.toml:7: "a{b": has a brace that is no field',
        '/advlock.toml:8: "{a}{b}": has two fields without anything in between',
        '/advlock.toml:9: "{a}:{a}": has the field {a} twice',
        '/advlock.toml:10: "": a lock\'s name is empty',
        '/advlock.toml:12: "user:{id}" has no field "team"; here it is called owner',
        '/advlock.toml:13: "user:{id}" stands for many names',
        '/advlock.toml:15: "both" has key and keys',
        '/advlock.toml:15: key of "both": a pair key is exactly two ints',
        '/advlock.toml:17: owner of "both" is a number; write text in quotes',
        '/advlock.toml:19: key of "x" is a string; write key = 42',
        '/advlock.toml:20: "x" has no field "descripton"; did you mean description?',
        '/advlock.toml:22: key of "big": a key is a signed 64-bit integer',
    ):
        assert line in told, line
    assert len(caught.value.problems) == 17


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("dsn = 'x'\n", r"has no table \[locks\]"),
        ("locks = 3\n", "locks is a number"),
        ("[lcoks]\na = ''\n", "no such setting: 'lcoks'; did you mean 'locks'"),
        ("[locks]\na = ''\na = ''\n", "no valid TOML: Cannot overwrite a value"),
        (f"[locks]\na = {{key = {'9' * 5000}}}\n", "no valid TOML: Exceeds the limit"),
        (f"[locks]\na = {'[' * 3000}{']' * 3000}\n", "no valid TOML: maximum recursion depth"),
        (f"[locks]\n{'.'.join('a' * 3000)} = 3\n", '"a" has no field "a"'),
    ],
)
def test_a_file_without_a_registry_is_refused(tmp_path: Path, text: str, told: str) -> None:
    """Whoever names a file means one with a table of locks in it; a name twice is no TOML."""
    with pytest.raises(ConfigError, match=told):
        Registry.load(written(tmp_path, text))


def test_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    """So is a directory."""
    with pytest.raises(ConfigError, match="no such file"):
        Registry.load(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        Registry.load(tmp_path)


def test_the_nearest_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a parent, up to the root of a repository; without one, the error says what to do."""
    (tmp_path / ".git").mkdir()
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert load() is None
    with pytest.raises(ConfigError, match="write one, or give its path"):
        Registry.load()
    written(tmp_path, WHOLE)
    assert len(Registry.load().entries) == 5
    written(inner, "dsn = 'postgresql:///x'\n")
    assert load() is None, "the nearest file decides, as it does about the database"


def test_an_empty_table_is_a_registry(tmp_path: Path) -> None:
    """It has no names yet, which is not the same as no registry."""
    assert registry(tmp_path, "[locks]\n").entries == ()


def test_find_takes_a_name_with_and_without_namespace(tmp_path: Path) -> None:
    """As it stands in the file, and as the server's clients have it; exact names come first."""
    found = registry(
        tmp_path, 'namespace = "n"\n[locks]\nnightly = ""\n"{a}:{b}" = ""\n"u:root" = ""\n'
    )
    nightly, template, root = found.entries
    assert found.find("nightly") is found.find("n:nightly") is nightly
    assert found.find("u:root") is root
    assert found.find("u:7") is template
    assert found.find("u:7:8") is None
    assert found.find_full("nightly") is None


@pytest.mark.parametrize("namespace", ["{id}", "a{x}b"])
def test_braces_in_a_namespace_are_no_fields(tmp_path: Path, namespace: str) -> None:
    """It stands before the names of a template to the letter."""
    found = registry(tmp_path, f'namespace = "{namespace}"\n[locks]\n"user:{{id}}" = ""\n')
    (user,) = found.entries
    assert found.find("user:7") is found.find_full(f"{namespace}:user:7") is user
    assert found.find_full("aZb:user:7") is None


def test_of_two_templates_the_closer_one_is_meant(tmp_path: Path) -> None:
    """With fewer fields, then with more text, wherever it stands; `keys check` refuses both."""
    found = registry(tmp_path, '[locks]\n"{a}:{b}" = ""\n"{c}:7" = ""\n"user:{d}" = ""\n')
    both, seven, user = found.entries
    assert [found.find(name) for name in ("x:8", "x:7", "user:7")] == [both, seven, user]


def test_of_key_finds_names_and_fixed_keys(tmp_path: Path) -> None:
    """By the server's number; what its encoding cannot express has none there."""
    found = registry(tmp_path, '[locks]\n"é" = ""\n"☃" = ""\nfixed = {key = [7, 42]}\n"t:{x}" = ""')
    accent, snowman, fixed, _ = found.entries
    assert found.of_key(Key.of("é")) == (accent,)
    assert found.of_key(Key.of("é", encoding="latin-1")) == ()
    assert found.of_key(Key.of("é", encoding="latin-1"), encoding="latin-1") == (accent,)
    assert found.of_key(Key.of("☃")) == (snowman,)
    assert len(found.by_key("latin-1")) == 2
    assert found.of_key(Key.of((7, 42))) == (fixed,)
    assert found.of_key(Key.of(Key.of((7, 42)).value)) == (), "one bigint is another key space"
