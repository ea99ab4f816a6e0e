"""The shape of the source: one import direction, a pure middle, and a budget."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "advlock"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# They decide and do no I/O: no driver, no socket, no loop, no thread, no clock.
PURE = (
    "errors",
    "_key",
    "_hash",
    "_claim_sql",
    "_duration",
    "_dsn",
    "_sql",
    "_label",
    "_names",
    "_names_sql",
    "_schema",
    "_schema_sql",
    "_holder",
    "_inspect._asked",
    "_inspect._hidden",
    "_inspect._kill",
    "_inspect._kill_sql",
    "_inspect._look",
    "_inspect._naming",
    "_inspect._one",
    "_inspect._read",
    "_inspect._session_row",
    "_inspect._sql",
    "_inspect._stuck",
    "_inspect._why",
    "_inspect._why_words",
    "_catalogue._catalogue",
    "_catalogue._computed",
    "_catalogue._entries",
    "_catalogue._entry",
    "_catalogue._facts",
    "_catalogue._fixed",
    "_catalogue._hashes",
    "_catalogue._named",
    "_catalogue._phash2",
    "_catalogue._rows",
    "_catalogue._sql",
    "_catalogue._structural",
    "_inspect._tree",
    "_once._done",
    "_once._plan",
    "_once._sql",
    "_labels",
    "_apscheduler._sql",
    "_claim_words",
    "_leader._plan",
    "_plan",
    "_rate._plan",
    "_rate._rate",
    "_rate._sql",
    "_semaphore._keys",
    "_semaphore._plan",
    "_semaphore._sql",
    "_set_up",
    "_pin",
    "_ledger",
    "_backoff",
    "_checkins._plan",
    "_liveness",
    "_cron._act",
    "_cron._agenda",
    "_cron._crontab",
    "_cron._decide",
    "_cron._facts",
    "_cron._fields",
    "_cron._files",
    "_cron._job",
    "_cron._keys",
    "_cron._life",
    "_cron._monitors",
    "_cron._problems",
    "_cron._schedule",
    "_cron._sql",
    "_cron._ticks",
    "_cron._toml",
    "_cron._views",
    "_cron._views_sql",
    "_cron._where",
    "_cron._why",
    "_cron._why_row",
    "_cron._words",
    "_cron._zone",
    "_doctor._about",
    "_doctor._judge",
    "_doctor._judge_locks",
    "_doctor._judge_others",
    "_doctor._judge_rights",
    "_doctor._judge_room",
    "_doctor._judge_server",
    "_doctor._kinds",
    "_doctor._report",
    "_doctor._seen",
    "_doctor._sql",
    "_registry._check",
    "_registry._entry",
    "_registry._export",
    "_registry._export_go",
    "_registry._export_java",
    "_registry._export_python",
    "_registry._export_ruby",
    "_registry._export_sql",
    "_registry._export_typescript",
    "_registry._export_words",
    "_registry._load",
    "_registry._names",
    "_registry._registry",
    "_registry._reserved",
    "_registry._scan",
    "_registry._show",
    "_registry._show_sql",
    "_registry._sources",
    "_registry._template",
    "testing._protocol",
    "testing._settings",
    "testing._table",
    "cli._lead_rules",
    "cli.locks._about",
    "cli.locks._json",
    "cli.locks._lines",
    "cli.locks._table",
    "cli.locks._text",
    "cli._top._columns",
    "cli._top._deed",
    "cli._top._detail",
    "cli._top._headline",
    "cli._top._view",
    "cli._top._words",
)
IMPURE = {"psycopg", "asyncpg", "socket", "select", "asyncio", "threading", "time"}
# They stand on top: whatever lies below works without them.
TOPS = {"advlock.cli", "advlock.embedded", "advlock.testing"}
# They hand on to the command line.
HANDS_ON = {"advlock.__main__", "advlock.django.management.commands.advlock", "advlock.flask"}

FILE_BUDGET, FUNCTION_BUDGET = 400, 40  # lines


def module_name(path: Path) -> str:
    """The dotted name of a source file, as an import statement would spell it."""
    parts = ("advlock", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Every module a file imports when it runs: what only the type checker reads is left out."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        for inner in ast.walk(statement)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def reaches(names: set[str], module: str) -> set[str]:
    """Those of the imported names that are a module, or lie inside it."""
    return {name for name in names if name == module or name.startswith(f"{module}.")}


@pytest.mark.parametrize("name", PURE)
def test_what_decides_does_no_io(name: str) -> None:
    """Keys, SQL, plans and the ledger import nothing that could wait, connect or tell the time."""
    path = PACKAGE / f"{name.replace('.', '/')}.py"
    names = imported(path)
    assert not {hit for module in IMPURE for hit in reaches(names, module)}
    ours = reaches(names, "advlock")
    pure = {hit for one in PURE for hit in reaches(ours, f"advlock.{one}")}
    assert ours == pure, "a pure module that imports an impure one is not pure"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_nothing_below_imports_the_top(path: Path) -> None:
    """The library works without its command line, the embedded server and the servers for tests."""
    name = module_name(path)
    if name in HANDS_ON or reaches({name}, "advlock.cli"):
        return
    allowed = {top for top in TOPS if reaches({name}, top)}
    if "advlock.testing" in allowed:
        allowed.add("advlock.embedded")  # a real server for tests
    assert not {hit for top in TOPS - allowed for hit in reaches(imported(path), top)}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_every_file_keeps_the_budget(path: Path) -> None:
    """A file over 400 lines has a second thing living in it; a function over 40, too."""
    text = path.read_text()
    assert text.count("\n") <= FILE_BUDGET
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: n for name, n in lengths.items() if n > FUNCTION_BUDGET} == {}
