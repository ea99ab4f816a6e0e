"""Exports compile and run, whatever stands in the registry, and mean the same key everywhere."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from catalogue import npm_tools
from psycopg import pq, sql

from advlock import Key, Locks
from advlock._registry._registry import Registry

from .exporting import PRINTERS, PSQL, SAMPLE, compiled, hostile, installed, run, wanted, written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from servers import Server

    from .exporting import Wanted

HOSTILE = hostile(250, seed=6)


@pytest.fixture
def sample(tmp_path: Path) -> Registry:
    """A registry with one entry of each kind."""
    path = tmp_path / "advlock.toml"
    path.write_text(SAMPLE, encoding="utf-8")
    return Registry.load(path)


# -- compilers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", installed())
def test_a_hostile_registry_compiles_and_prints_its_keys(language: str, tmp_path: Path) -> None:
    """No name and no description is code, warns, or changes a key: 250 at a time."""
    printed = PRINTERS[language][1](HOSTILE, tmp_path).split("\n")[:-1]
    assert printed == [one.printed for one in wanted(HOSTILE, language)]


DOCS = Path(__file__).parents[2] / "docs" / "keys-export.md"
# What is around a snippet of the docs.
AROUND = {
    "ts": """interface Client { query(sql: string, values: unknown[]): Promise<unknown> }
export async function use(client: Client): Promise<void> {
%s}
""",
    "go": """package main

import (
\t"context"
\t"database/sql"
\t"example.com/keys/locks"
)

func use(ctx context.Context, tx *sql.Tx) {
%s}

func main() {}
""",
    "java": """import com.example.Locks;

class Main {
    void use(java.sql.Connection connection) throws java.sql.SQLException {
%s    }
}
""",
    "ruby": "%s",
}


def snippet(language: str) -> str:
    """The one block of a language in the docs."""
    (found,) = re.findall(
        rf"^```{language}\n(.*?)^```$", DOCS.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return str(found)


@pytest.fixture
def documented(tmp_path: Path) -> Registry:
    """The registry of the docs."""
    (tmp_path / "advlock.toml").write_text(snippet("toml"), encoding="utf-8")
    return Registry.load(tmp_path / "advlock.toml")


@pytest.mark.parametrize("language", [name for name in installed() if name != "python"])
def test_the_snippets_of_the_docs_compile(
    language: str, documented: Registry, tmp_path: Path
) -> None:
    """Beside the export of the docs' registry, with the types of a real driver where there are."""
    fence = {"typescript": "ts"}.get(language, language)
    code = AROUND[fence] % snippet(fence)
    if language == "typescript":
        imports, blank, calls = snippet(fence).partition("\n\n")
        code = imports + blank + AROUND[fence] % calls
        written(documented, language, tmp_path / "locks.ts")
        (tmp_path / "main.ts").write_text(code)
        compiled(tmp_path / "main.ts")
    elif language == "java":
        written(documented, language, tmp_path / "Locks.java", "com.example.Locks")
        (tmp_path / "Main.java").write_text(code)
        run("javac", "-d", "out", "Locks.java", "Main.java", cwd=tmp_path)
    elif language == "go":
        (tmp_path / "locks").mkdir()
        written(documented, language, tmp_path / "locks" / "locks.go")
        (tmp_path / "go.mod").write_text("module example.com/keys\n\ngo 1.18\n")
        (tmp_path / "main.go").write_text(code)
        run("go", "vet", ".", cwd=tmp_path, GOTOOLCHAIN="local")
    else:
        (tmp_path / "main.rb").write_text(code)
        assert run("ruby", "-wc", "main.rb", cwd=tmp_path) == "Syntax OK\n"


def test_the_snippets_of_the_docs_run(
    admin: psycopg.Connection[Any], dsn: str, documented: Registry, tmp_path: Path
) -> None:
    """Those of SQL, by psql, and those of Python, with a client and a connection."""
    psql(dsn, "-1", "-f", written(documented, "sql", tmp_path / "locks.sql"), cwd=tmp_path)
    (tmp_path / "use.sql").write_text(snippet("sql"))
    psql(dsn, "-1", "-f", tmp_path / "use.sql", cwd=tmp_path)
    with pytest.MonkeyPatch.context() as patch, Locks(dsn) as client:
        patch.setitem(
            sys.modules, "locks", imported(written(documented, "python", tmp_path / "locks.py"))
        )
        exec(snippet("py"), {"client": client, "connection": admin})  # noqa: S102 - the docs' own
    admin.execute("DROP SCHEMA locks CASCADE")


def imported(path: Path) -> ModuleType:
    """Import a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- PostgreSQL ------------------------------------------------------------------------------------


def psql(dsn: str, *arguments: str | Path, cwd: Path, **env: str) -> str:
    """Run psql on a database; it has to succeed and to warn of nothing."""
    env = {"PGOPTIONS": "-c client_min_messages=warning"} | env
    return run(PSQL, "-X", "-q", "-v", "ON_ERROR_STOP=1", *arguments, dsn, cwd=cwd, **env)


def of_server(connection: psycopg.Connection[Any], one: Wanted) -> Key:
    """The key that an exported function returns."""
    name, _, _ = one.identifiers[0].partition("(")
    call = sql.SQL("SELECT * FROM locks.{}({})").format(
        sql.Identifier(name), sql.SQL(", ").join(map(sql.Literal, one.arguments))
    )
    row = connection.execute(call).fetchone()
    assert row is not None
    return Key.of(row[0] if len(row) == 1 else row)


@pytest.mark.parametrize(
    "env",
    [
        {"PGCLIENTENCODING": "UTF8"},
        {"PGCLIENTENCODING": "LATIN1"},
        {"PGOPTIONS": "-c standard_conforming_strings=off -c client_min_messages=warning"},
    ],
    ids=["utf8", "latin1-locale", "old-strings"],
)
def test_the_functions_of_a_hostile_registry_return_its_keys(
    admin: psycopg.Connection[Any], dsn: str, tmp_path: Path, env: dict[str, str]
) -> None:
    """However psql reads the file, the server's keys are ours; and the file may be run again."""
    path = written(HOSTILE, "sql", tmp_path / "keys.sql")
    psql(dsn, "-1", "-f", path, cwd=tmp_path, **env)
    if "PGCLIENTENCODING" in env:  # again
        psql(dsn, "-1", "-f", path, cwd=tmp_path, **env)
    assert [of_server(admin, one) for one in wanted(HOSTILE, "sql")] == [
        one.key for one in wanted(HOSTILE, "sql")
    ]
    admin.execute("DROP SCHEMA locks CASCADE")


def test_the_functions_are_right_in_a_database_of_another_encoding(
    server: Server, sample: Registry, tmp_path: Path
) -> None:
    """The server hashes the bytes of its own encoding, and so do functions of SQL."""
    name = f"advlock_latin1_{secrets.token_hex(4)}"
    with psycopg.connect(server.superuser_dsn, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
        )
    try:
        dsn = server.dsn(name)
        psql(dsn, "-1", "-f", written(sample, "sql", tmp_path / "keys.sql"), cwd=tmp_path)
        with psycopg.connect(dsn) as connection:
            for one in wanted(sample, "sql"):
                key = one.item.entry.make(one.name, encoding="iso8859-1")
                assert of_server(connection, one) == key, one.name
        accented = next(e for e in sample.entries if not e.name.isascii())
        assert accented.make(encoding="iso8859-1") != accented.make()
    finally:
        with psycopg.connect(server.superuser_dsn, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_null_is_an_error_and_no_lock_that_nobody_takes(
    admin: psycopg.Connection[Any], dsn: str, sample: Registry, tmp_path: Path
) -> None:
    """`pg_advisory_lock(NULL)` locks nothing and says nothing, so no function returns NULL."""
    psql(dsn, "-1", "-f", written(sample, "sql", tmp_path / "keys.sql"), cwd=tmp_path)
    assert admin.execute("SELECT pg_try_advisory_lock(NULL)").fetchone() == (None,)
    for call in ("'7', NULL", "NULL, 'welcome'", "x, 'welcome'"):
        with pytest.raises(psycopg.DataError, match=r"a part of the lock .* is NULL"):
            admin.execute(f"SELECT locks.user_mail({call}) FROM (VALUES (NULL)) AS v(x)")
    admin.execute("DROP SCHEMA locks CASCADE")


def test_a_collation_of_the_caller_changes_no_key(
    admin: psycopg.Connection[Any], dsn: str, sample: Registry, tmp_path: Path
) -> None:
    """The server hashes a text of a nondeterministic collation differently; a lock's name not."""
    psql(dsn, "-1", "-f", written(sample, "sql", tmp_path / "keys.sql"), cwd=tmp_path)
    try:
        admin.execute(
            "CREATE COLLATION locks.nocase (provider = icu, locale = 'und-u-ks-level2',"
            " deterministic = false)"
        )
    except psycopg.errors.FeatureNotSupported:  # a server without ICU has none of these at all
        admin.execute('CREATE COLLATION locks.nocase FROM pg_catalog."C"')
    call = "SELECT locks.user(x COLLATE locks.nocase) FROM (VALUES ('Ab')) AS v(x)"
    assert admin.execute(call).fetchone() == (Key.of("billing:user:Ab").value,)
    admin.execute("DROP SCHEMA locks CASCADE")


# -- the same key from everywhere ------------------------------------------------------------------

# What is locked: in psql, in Python, in Node (the SQL, and its parameters).
SPELLED = {
    "nightly-report": ("locks.nightly_report()", "NIGHTLY_REPORT", "$1", "[locks.NIGHTLY_REPORT]"),
    "größe": ("locks.grosse()", "GROSSE", "$1", "[locks.GROSSE]"),
    "legacy": ("locks.legacy()", "LEGACY", "$1", "[locks.LEGACY]"),
    "migrations": ("locks.migrations()", "MIGRATIONS", "$1", "[locks.MIGRATIONS]"),
    "inventory": (
        "key1, key2) FROM locks.inventory(",
        "INVENTORY",
        "$1, $2",
        "[...locks.INVENTORY]",
    ),
    "user": (
        "locks.user('7')",
        "user(7)",
        "hashtextextended($1, 0)",
        "[locks.userName(7)]",
    ),
}
NODE = """\
const { Client } = require("pg");
const locks = require("./locks.js");
const spelled = { %s };
async function main() {
  const client = new Client();
  await client.connect();
  for await (const line of require("readline").createInterface({ input: process.stdin })) {
    const [verb, name] = line.split(" ");
    const [sql, parameters] = spelled[name];
    const answer = await client.query(`SELECT ${verb}(${sql}) AS done`, parameters);
    console.log(answer.rows[0].done ? "t" : "f");
  }
  await client.end();
}
main();
"""


class Taker:
    """A program that takes and releases locks when it is told to."""

    def __init__(self, argv: list[str], spelled: Callable[[str, str], str], **how: Any) -> None:
        self._spelled = spelled
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, **how)

    def take(self, name: str) -> bool:
        """Whether it got the lock."""
        return self._ask("pg_try_advisory_lock", name)

    def release(self, name: str) -> None:
        """Give it back."""
        assert self._ask("pg_advisory_unlock", name)

    def close(self) -> None:
        """End it, as the end of its input does."""
        self._process.communicate(timeout=20)
        assert self._process.returncode == 0

    def _ask(self, verb: str, name: str) -> bool:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(self._spelled(verb, name), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline().strip()
        assert answer in {"t", "f"}, answer
        return answer == "t"


class PythonTaker:
    """The same, by advlock in this process."""

    def __init__(self, locks: Locks, module: ModuleType) -> None:
        self._locks = locks
        self._module = module
        self._held: dict[str, Any] = {}

    def take(self, name: str) -> bool:
        """Whether it got the lock."""
        key = eval(SPELLED[name][1], vars(self._module))  # noqa: S307 - as a user writes it
        attempt = self._locks.attempt(key)
        if attempt.__enter__() is None:
            return False
        self._held[name] = attempt
        return True

    def release(self, name: str) -> None:
        """Give it back."""
        self._held.pop(name).__exit__(None, None, None)


@pytest.fixture
def takers(dsn: str, sample: Registry, tmp_path: Path) -> Iterator[list[Taker | PythonTaker]]:
    """Psql, Python and Node, each with the constants of its own export of one registry."""
    psql(dsn, "-1", "-f", written(sample, "sql", tmp_path / "locks.sql"), cwd=tmp_path)
    by_psql = Taker(
        [PSQL, "-XqAt", "-v", "ON_ERROR_STOP=1", dsn],
        lambda verb, name: f"SELECT {verb}({SPELLED[name][0]});",
    )
    module = imported(written(sample, "python", tmp_path / "constants.py"))
    others = [by_psql, *([by_node(dsn, sample, tmp_path)] if npm_tools.available() else ())]
    with Locks(dsn, registry=sample, strict=True) as locks:
        yield [*others, PythonTaker(locks, module)]
    for other in others:
        other.close()


def by_node(dsn: str, sample: Registry, folder: Path) -> Taker:
    """Start a program of Node with pg, the driver from npm, and the compiled constants."""
    compiled(written(sample, "typescript", folder / "locks.ts"))
    spelled = ", ".join(f'"{n}": ["{s[2]}", {s[3]}]' for n, s in SPELLED.items())
    (folder / "main.js").write_text(NODE % spelled, encoding="utf-8")
    given = pq.Conninfo.parse(dsn.encode())
    env = {o.envvar.decode(): o.val.decode() for o in given if o.envvar and o.val}
    env |= {"NODE_PATH": str(npm_tools.install()), "PATH": os.environ["PATH"]}
    return Taker(["node", "main.js"], lambda verb, name: f"{verb} {name}", cwd=folder, env=env)


def test_psql_python_and_node_take_the_same_keys(
    takers: list[Taker | PythonTaker], admin: psycopg.Connection[Any]
) -> None:
    """Whoever of the three has a lock, the other two see it as busy, until it is released."""
    for name in SPELLED:
        for holder in takers:
            assert holder.take(name), (name, holder)
            others = [other for other in takers if other is not holder]
            assert not any(other.take(name) for other in others), (name, holder)
            holder.release(name)
    admin.execute("DROP SCHEMA locks CASCADE")
