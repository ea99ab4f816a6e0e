"""Find the files to read, Python's and those with command lines, and the names they lock."""

from __future__ import annotations

import ast
import os
import re
import shlex
import tokenize
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from advlock._registry import _sources
from advlock._registry._sources import Scope, Use
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_IGNORED: Final = "advlock: ignore"
# Not ours: what was installed, built or checked out next to the sources.
_SKIPPED: Final = frozenset(
    ("node_modules", "__pycache__", "site-packages", "venv", "env", "build", "dist")
)
_SHELL: Final = frozenset((".sh", ".bash", ".yaml", ".yml", ".service", ".cron", ".mk"))
_SHELL_NAMES: Final = frozenset(("Procfile", "Makefile", "Dockerfile", "crontab", "justfile"))
_RUN: Final = re.compile(r"(?<![\w.-])advlock\s+run\s+(.*)")
_VALUED: Final = frozenset(
    "-w --wait --timeout -E --conflict-exit-code --slots --max-runtime -k --kill-after"  # noqa: SIM905
    " --on-lost --liveness --lease --dsn".split()
)
_VARIABLE: Final = re.compile(r"\$\{?([A-Za-z_]\w*)(?::?[-=?+][^}]*)?\}?")
_LARGEST: Final = 4_000_000  # bytes; nobody has written more by hand


class Scan(NamedTuple):
    """What was read.

    Attributes:
        uses: Every place where a lock is named.

        files: How many files were read.

        unreadable: Those that could not be read, with the reason.
    """

    uses: tuple[Use, ...]
    files: int
    unreadable: tuple[tuple[str, str], ...]


class _Source(NamedTuple):
    path: Path
    text: str
    tree: ast.Module
    scope: Scope


def scan(paths: Iterable[str | Path]) -> Scan:
    """Read files, and those of directories, for the names that they lock.

    Args:
        paths: Files, which are read whatever they are called, and directories.

    Raises:
        ConfigError: one of them does not exist.
    """
    sources: list[_Source] = []
    found: list[Use] = []
    unreadable: list[tuple[str, str]] = []
    count = 0
    for path in _files(paths):
        count += 1
        try:
            if path.suffix == ".py":
                sources.append(_parsed(path))
            else:
                found += _in_shell(path, path.read_text(encoding="utf-8"))
        except SyntaxError as error:
            unreadable.append((str(path), f"line {error.lineno}: {error.msg}"))
        except (OSError, ValueError, RecursionError, MemoryError) as error:
            unreadable.append((str(path), str(error) or "it is nested too deeply"))
    modules = _Modules(sources)
    for source in sources:
        name, with_imports = str(source.path), modules.finder(source)
        try:
            found += list(_sources.uses(source.tree, source.scope, source.text, name, with_imports))
        except RecursionError:  # what the parser could read may be too deep to be written again
            unreadable.append((name, "it is nested too deeply"))
    return Scan(tuple(found), count, tuple(unreadable))


def _parsed(path: Path) -> _Source:
    with tokenize.open(path) as file:  # in the encoding that it says it has
        text = file.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape is none of our business
        tree = ast.parse(text)
    return _Source(path, text, tree, _sources.scope_of(tree))


def _files(paths: Iterable[str | Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for given in map(Path, paths):
        if given.is_dir():
            found |= dict.fromkeys(sorted(_inside(given)))
        elif given.exists():
            found[given] = None
        else:
            raise ConfigError(f"{given}: no such file or directory; name what is to be scanned")
    return list(found)


def _inside(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = [
            f for f in folders if f not in _SKIPPED and (not f.startswith(".") or f == ".github")
        ]
        for name in names:
            path = Path(here, name)
            shell = path.suffix in _SHELL or name in _SHELL_NAMES
            if (path.suffix == ".py" or shell) and _is_small(path):
                yield path


def _is_small(path: Path) -> bool:
    try:
        return path.stat().st_size <= _LARGEST
    except OSError:  # a link to nowhere
        return False


def _in_shell(path: Path, text: str) -> Iterator[Use]:
    """Yield the NAME of every `advlock run NAME`, on one line or continued on the next."""
    joined = re.sub(r"\\\n", lambda _: "  ", text)  # columns do not matter, lines nearly
    for number, line in enumerate(joined.splitlines(), 1):
        code = line.split("#", 1)[0] if line.lstrip().startswith("#") else line
        match = _RUN.search(code)
        if match is None or _IGNORED in line:
            continue
        word = _name_of(match[1])
        if word is not None:
            yield Use(str(path), number, _expanded(word), word)


def _name_of(arguments: str) -> str | None:
    try:
        words = shlex.split(arguments, comments=True)
    except ValueError:  # a quote that another line closes
        words = arguments.split()
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == "--":
            return None
        elif word.startswith("-"):
            skip = word in _VALUED
        else:
            return word
    return None


def _expanded(word: str) -> str | None:
    """The name, with a field for each variable; None if it is nothing but variables."""
    if "$(" in word or "`" in word or "{{" in word:
        return None
    name = _VARIABLE.sub(lambda match: f"{{{match[1]}}}", word)
    return name if _VARIABLE.sub("", word) and "$" not in name else None


class _Modules:
    """The modules that were read, to be found by what others call them."""

    def __init__(self, sources: Iterable[_Source]) -> None:
        self._by_end: dict[str, list[tuple[tuple[str, ...], Scope]]] = {}
        for source in sources:
            parts = source.path.absolute().with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
            self._by_end.setdefault(parts[-1], []).append((parts, source.scope))

    def finder(self, source: _Source) -> _sources.Import:
        """Return what finds the names that `source` imports."""
        here = source.path.absolute().parent.parts

        def find(name: str, node: ast.ImportFrom) -> tuple[Scope, str] | None:
            wanted = tuple((node.module or "").split(".")) if node.module else ()
            if node.level:
                wanted = (*here[: len(here) - node.level + 1], *wanted)
            original = next((a.name for a in node.names if (a.asname or a.name) == name), name)
            scope = self._find(wanted)
            return None if scope is None else (scope, original)

        return find

    def _find(self, wanted: tuple[str, ...]) -> Scope | None:
        candidates = self._by_end.get(wanted[-1], []) if wanted else []
        fit = [scope for parts, scope in candidates if parts[-len(wanted) :] == wanted]
        return fit[0] if len(fit) == 1 else None  # of two with one name neither is certain
