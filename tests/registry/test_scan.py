"""`--scan`: the names that sources lock, and those that reading cannot know."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from advlock import ConfigError
from advlock._registry._check import compare
from advlock._registry._scan import scan

from .registries import registry, written

if TYPE_CHECKING:
    from pathlib import Path


def names(folder: Path, text: str, name: str = "source.py") -> list[object]:
    """What a source locks; None for what cannot be known."""
    return [use.name for use in scan([written(folder, text, name)]).uses]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("locks.hold('a')", ["a"]),
        ("locks.hold(name='a', wait=3)", ["a"]),
        ("self.locks.attempt('a' 'b')", ["ab"]),
        ("locks.lock('a'); locks.holders('b'); locks.leader('c')", ["a", "b", "c"]),
        ("locks.once('a'); locks.semaphore('b', 3); locks.rate_limit('c', 1, 2)", ["a", "b", "c"]),
        ("@locks.hold('a')\ndef f(): ...", ["a"]),
        ("async def f():\n    async with locks.hold('a'): ...", ["a"]),
        ("xact_lock(conn, 'a'); advlock.try_xact_lock(conn, name='b')", ["a", "b"]),
        ("locks.hold(42); locks.hold(-7); locks.hold((7, -42))", [42, -7, (7, -42)]),
        ("A = -42\nlocks.hold(A); B = (7, 42)\nlocks.hold(B)", [-42, (7, 42)]),
        ("xact_lock(conn, Key.of(42)); xact_lock(conn, Key.of((7, -42)))", [42, (7, -42)]),
        ("locks.hold(f'user:{user.id}')", ["user:{id}"]),
        ("locks.hold(f'user:{uid:>5}:{f()}')", ["user:{uid}:{value}"]),
        ("locks.hold('user:' + uid)", ["user:{uid}"]),
        ("locks.hold('user:%s' % uid)", ["user:{value}"]),
        ("locks.hold('user:%(uid)05d' % x)", ["user:{uid}"]),
        ("locks.hold('user:{}'.format(3))", ["user:{value}"]),
        ("locks.hold('user:{id}'.format(id=1))", ["user:{id}"]),
        ("locks.hold('a' if x else 'b')", ["a", "b"]),
        ("A = 'a'\nB = A\ndef f():\n    c = B + 'c'\n    locks.hold(c)", ["ac"]),
        ("A: str = 'a'\nlocks.hold(f'{A}:{b}')", ["a:{b}"]),
        ("class N:\n    A = 'a'\n    def f(self): locks.hold(self.A)\nlocks.hold(N.A)", ["a", "a"]),
        ("class N(Enum):\n    A = 'a'\nlocks.hold(N.A.value)", ["a"]),
        ("def user(id):\n    return f'user:{id}'\nlocks.hold(user(7))", ["user:{id}"]),
        ("locks.hold(Key.hashtext('a')); locks.hold(advlock.Key.of('b'))", ["a", "b"]),
        ("locks.hold_all(['a', f'b:{x}', 'c'])", ["a", "b:{x}", "c"]),
        ("ALL = ('a', 'b')\nlocks.hold_all(ALL)", ["a", "b"]),
        ("locks.hold_all(f'user:{u}' for u in users)", ["user:{u}"]),
        ("locks.hold('a')  # advlock: ignore", []),
        ("locks.hold(\n    'a',  # advlock: ignore\n)", []),
        ("x = 1 \x0c; y = '\u2028'\nlocks.hold('a')\n# advlock: ignore", ["a"]),
        ("\ufefflocks.hold('\\d')", ["\\d"]),
        ("locks.hold(); hold('a'); print('locks.hold(1)')", []),
    ],
)  # fmt: skip
def test_what_is_known(tmp_path: Path, text: str, expected: list[object]) -> None:
    """Constants, templates, functions that only return one: each is followed."""
    assert names(tmp_path, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "locks.hold(name)",
        "locks.hold(f'{name}')",
        "locks.hold(a + b)",
        "locks.hold(names[0])",
        "locks.hold_all(names)",
        "locks.hold_all(['a', name])",
        "A = 'a'\nA = 'b'\nlocks.hold(A)",
        "A = 'a'\nif x:\n    A += 'b'\nlocks.hold(A)",
        "for A in 'abc':\n    locks.hold(A)",
        "A = 'a'\ndef f(A):\n    locks.hold(A)",
        "class N:\n    A = 'a'\n    def f(self):\n        locks.hold(A)",
        "def f(x):\n    if x:\n        return 'a'\n    return 'b'\nlocks.hold(f(1))",
        "A = A\nlocks.hold(A)\nALL = ALL",
        "A = B\nB = A\nlocks.hold_all(A)",
        "A = B\nB = A\nlocks.hold(Key.of(A))",
        "A = f'{A}{A}{A}{A}{A}{A}{A}{A}'\nlocks.hold(A)",
        "A = A or 'a' if A + A + A else A + A + A\nlocks.hold(A)",
        "def f():\n    return f()\nlocks.hold(f())",
        "from elsewhere import A\nlocks.hold(A)",
        "locks.hold('a' if x else y)",
    ],
)
def test_what_is_not_known_is_not_guessed(tmp_path: Path, text: str) -> None:
    """A name that may be several things, or is made elsewhere, is said to be unknown."""
    assert names(tmp_path, text) == [None]


def test_constants_are_followed_across_files(tmp_path: Path) -> None:
    """From a module that is scanned, too, absolutely or relatively; of two, from neither."""
    package = tmp_path / "app"
    package.mkdir()
    written(package, "", "__init__.py")
    written(package, "A = 'a'\nclass N:\n    B = 'b'\n", "names.py")
    user = "from app.names import A as X\nfrom .names import N\nlocks.hold(X); locks.hold(N.B)"
    written(package, user, "user.py")
    assert [use.name for use in scan([tmp_path]).uses] == ["a", "b"]
    written(tmp_path, "from names import A\nlocks.hold(A)", "other.py")
    (tmp_path / "two").mkdir()
    written(tmp_path / "two", "A = 'c'", "names.py")
    by_file = {(os.path.basename(u.file), u.name) for u in scan([tmp_path]).uses}  # noqa: PTH119
    assert by_file == {("user.py", "a"), ("user.py", "b"), ("other.py", None)}


def test_shell_names_are_read(tmp_path: Path) -> None:
    """`advlock run NAME`, whatever options stand before it, also continued on the next line."""
    script = """\
#!/bin/sh
# advlock run comment -- x
advlock run -n -w 30s 'a b' -- true
exec /usr/bin/env advlock run --slots 3 -E 0 \\
    "user:$U" -- x
advlock run user:${U:-none} -- x
advlock run "$NAME" -- x
advlock run "$(hostname)" -- x
advlock run c -- x  # advlock: ignore
advlock run --help
"""
    found = names(tmp_path, script, "x.sh")
    assert found == ["a b", "user:{U}", "user:{U}", None, None]
    assert names(tmp_path, "web: advlock run leader -- gunicorn\n", "Procfile") == ["leader"]


def test_what_is_scanned(tmp_path: Path) -> None:
    """Directories without what was installed or is hidden; a file is read whatever it is called."""
    for folder in ("src", ".venv", "node_modules", ".github"):
        (tmp_path / folder).mkdir()
        written(tmp_path / folder, "locks.hold('x')", "a.py")
    written(tmp_path, "advlock run y -- z", "script")
    found = scan([tmp_path, tmp_path / "script", tmp_path / "src"])
    assert (found.files, [use.name for use in found.uses]) == (3, ["y", "x", "x"])
    with pytest.raises(ConfigError, match="no such file or directory"):
        scan([tmp_path / "nowhere"])


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """Whatever is wrong with it, the others are read."""
    written(tmp_path, "def f(:", "syntax.py")
    written(tmp_path, "x = " + "(" * 5000 + ")" * 5000, "deep.py")
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'")
    (tmp_path / "cookie.py").write_bytes(b"# coding: latin-1\nlocks.hold('\xe9')")
    (tmp_path / "null.py").write_bytes(b"x = '\0'")
    written(tmp_path, "x = " + "+".join(["1"] * 20_000), "long.py")
    written(tmp_path, "locks.hold(" + "+".join(["'a'"] * 400) + ")", "unparsed.py")
    written(tmp_path, "locks.hold('a')", "good.py")
    found = scan([tmp_path])
    assert [use.name for use in found.uses] == ["é", "a"]
    assert {os.path.basename(path) for path, _ in found.unreadable} >= {  # noqa: PTH119
        "syntax.py",
        "deep.py",
        "latin.py",
        "null.py",
        "unparsed.py",
    }


def test_what_doubles_and_doubles_comes_to_an_end(tmp_path: Path) -> None:
    """Constants made of one another have as many parts as nobody can read; so they are fields."""
    lines = ["a0 = 'x' if y else 'z'"]
    lines += [f"a{n} = a{n - 1} + a{n - 1} + a{n - 1} + a{n - 1}" for n in range(1, 9)]
    found = names(tmp_path, "\n".join((*lines, "locks.hold(a1); locks.hold(a8)")))
    assert len(set(found[:16])) == 16, "the control: four of two"
    assert 1 < len(found) < 200


# -- compared with the registry --------------------------------------------------------------------

REGISTRY = """\
[locks]
nightly = ""
"user:{id}" = ""
prod-deploy = ""
fixed = {key = 42}
unused = ""
"""


def findings(folder: Path, text: str) -> list[tuple[str, str]]:
    """Codes, each with the first quoted word of its message."""
    source = written(folder, text, "source.py")
    found = compare(registry(folder, REGISTRY), scan([source]).uses)
    return [(one.code, one.message.split()[0].strip("'")) for one in found]


def test_declared_and_used_names_are_no_finding(tmp_path: Path) -> None:
    """Plain, by a template of whatever field, partly by a template of the source, by number."""
    text = """\
locks.hold("nightly")
locks.hold(f"user:{user_id}")
locks.hold("user:7")
locks.hold(f"{stage}-deploy")
locks.hold(42)
locks.hold("cron:j")
locks.hold("unused")
"""
    assert findings(tmp_path, text) == []


def test_strays_and_leftovers_are_found(tmp_path: Path) -> None:
    """What the registry lacks, and what nobody uses."""
    text = """\
locks.hold("nigthly")
locks.hold(f"user:{a}:{b}")
locks.hold(f"account:{a}")
locks.hold(43)
locks.hold((0, 42))
locks.hold(2**70)
"""
    found = findings(tmp_path, text)
    undeclared = [word for code, word in found if code == "undeclared"]
    assert undeclared == ["nigthly", "user:{a}:{b}", "account:{a}", "43", "(0,"]
    assert [word for code, word in found if code == "unused"] == [
        "nightly",
        "user:{id}",
        "prod-deploy",
        "fixed",
        "unused",
    ]


OTHERS = """\
namespace = "app"
[locks]
plain = ""
legacy = {keys = "hashtext"}
pair = {key = [7, 42]}
"user:{id}" = {keys = "hashtext"}
"""


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("xact_lock(conn, 'plain')", "Key.of('app:plain')"),
        ("xact_lock(conn, 'app:legacy')", "Key.hashtext('app:legacy')"),
        ("try_xact_lock(conn, 'pair')", "Key.of((7, 42))"),
        ("try_xact_lock(conn, name=f'user:{u}')", "Key.hashtext('app:user:{u}')"),
        ("locks.hold(Key.of('legacy'))", "Key.hashtext('app:legacy')"),
        ("K = Key.hashtext('app:plain')\nxact_lock(conn, K)", "Key.of('app:plain')"),
        ("xact_lock(conn, 'app:plain')", None),
        ("xact_lock(conn, Key.hashtext('app:legacy'))", None),
        ("xact_lock(conn, Key.hashtext(f'app:user:{u}'))", None),
        ("xact_lock(conn, Key.of('legacy', namespace='app', scheme='hashtext'))", None),
        ("xact_lock(conn, Key.of((7, 42)))", None),
        ("locks.hold('legacy'); locks.hold('pair'); locks.hold(f'user:{u}')", None),
        ("locks.hold_all([Key.of('app:plain'), 'legacy'])", None),
        ("xact_lock(conn, 'cron:job')", None),
    ],
)
def test_a_key_that_is_not_the_registry_s_is_found(
    tmp_path: Path, text: str, instead: str | None
) -> None:
    """`xact_lock` and `Key.of` ask no registry; with another key they exclude nobody."""
    source = written(tmp_path, text, "source.py")
    found = list(compare(registry(tmp_path, OTHERS), scan([source]).uses))
    assert [one.message.partition("; write ")[2] for one in found if one.code == "other-key"] == (
        [] if instead is None else [instead]
    )
    assert "undeclared" not in [one.code for one in found]


def test_a_typing_error_is_hinted_at(tmp_path: Path) -> None:
    """The finding names what was probably meant, and the line to add if it was not."""
    source = written(tmp_path, "locks.hold('nigthly')", "source.py")
    stray, *_ = compare(registry(tmp_path, REGISTRY), scan([source]).uses)
    assert "did you mean 'nightly'? If not, add to its [locks]: nigthly = " in stray.message
