"""The documentation is true: its code runs, its commands parse, what it names exists.

`ADVLOCK_REGEN=1 python3 dev.py test tests/test_docs.py -k help` writes docs/cli-help anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
import pytest
from psycopg import pq

import advlock
from advlock import cli, embedded
from advlock._liveness import Bounds
from advlock.cli import cron, keys
from advlock.cli.exits import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
# The command itself, and its subcommands; each has a file of its name in docs/cli-help.
GROUPS = {"cron": cron.COMMANDS, "keys": keys.COMMANDS}
COMMANDS = ["advlock", *cli.COMMANDS]
COMMANDS += [f"{group} {name}" for group, names in GROUPS.items() for name in names]

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HELD_BY = re.compile(r"held by \S+ pid \d+ since [\d:]+ \([^)]*\)")
# What differs from run to run: a name for each.
_VARIES = {
    "held by …": _HELD_BY,
    "TIME": re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:[+-]\d\d:\d\d| UTC)?"),
    "HOST:PID": re.compile(r"(?<=\s)[\w.-]*[a-z][\w.-]*:\d+\b(?!:)"),
    "(pid N)": re.compile(r"\(pid \d+\)"),
    "WHO": re.compile(r"\S+@\S+"),
    "SPAN": re.compile(r"\b[\d.]+m?s(?: \d+s)?\b"),
    "CLOCK": re.compile(r"\b\d\d:\d\d:\d\d\b"),
    "HOST:PID N": re.compile(r"HOST:PID +\d+\b"),
    "HOST pid N": re.compile(r"\S+ pid\s+\d+"),
    "session N": re.compile(r"\bsession \d+"),
    "@SINCE": re.compile(r"(?<= )@[0-9a-z]{6}\b"),
}
# Schedulers have many threads and whole seconds: the order of lines, how often one comes, and
# whether these do, is left open.
_SCHEDULER = re.compile(r"advlock cron (?:run|tick)\b")
_PERHAPS = re.compile(r"advlock: (?:made the tables|asked to end|no scheduler that)")


class Block(NamedTuple):
    """A fenced block; `output` is the block of text right behind it, if there is one."""

    page: Path
    number: int
    language: str
    text: str
    output: str | None

    @property
    def id(self) -> str:
        """How the test is called."""
        return f"{self.page.stem}-{self.number}"


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    fences = list(_FENCE.finditer(text))
    for number, fence in enumerate(fences):
        output = None
        if number + 1 < len(fences) and fences[number + 1][1] == "text":
            between = text[fence.end() : fences[number + 1].start()]
            output = None if between.strip() else fences[number + 1][2]
        yield Block(page, number, fence[1], fence[2], output)


BLOCKS = [block for page in PAGES for block in _blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
EMBEDDED = [block for block in PYTHON if "embedded" in block.text]
CONSOLE = [block for block in BLOCKS if block.language == "console"]


def _ids(block: Block) -> str:
    return block.id


# -- the command line ------------------------------------------------------------------------------


def _resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that is meant, and what is left for it."""
    found: click.Command = cli.app
    while isinstance(found, click.Group) and words:
        name, *words = words
        inner = found.get_command(click.Context(found), name)
        assert inner is not None, name
        found = inner
    return found, words


def _command(name: str) -> click.Command:
    return _resolve([] if name == "advlock" else name.split())[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_in_the_docs_is_up_to_date(name: str) -> None:
    """What the docs include is what `--help` says, word for word, and some page includes it."""
    words = [] if name == "advlock" else name.split()
    argv = [sys.executable, "-m", "advlock", *words, "--help"]
    env = _environment() | {"COLUMNS": "80"}
    told = subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout
    path = DOCS / "cli-help" / f"{name.replace(' ', '-')}.txt"
    if os.environ.get("ADVLOCK_REGEN"):
        path.write_text(told)
    assert path.read_text() == told, "write it anew with ADVLOCK_REGEN=1"
    assert any(f"cli-help/{path.name}" in page.read_text() for page in PAGES)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described(name: str) -> None:
    """Each command and each spelling of each option stands as code in some page."""
    prose = "".join(page.read_text() for page in PAGES)
    options = [p for p in _command(name).params if isinstance(p, click.Option)]
    spellings = [flag for option in options for flag in (*option.opts, *option.secondary_opts)]
    missing = [flag for flag in spellings if f"`{flag}`" not in prose]
    assert not missing
    assert name == "advlock" or f"`advlock {name}`" in prose


def test_the_exit_codes_are_the_ones_of_the_code() -> None:
    """The table in the reference has every exit code with its meaning, in order."""
    rows = re.findall(r"^\| (\d\S*) \| (.*) \|$", (DOCS / "run.md").read_text(), re.MULTILINE)
    assert [(c.replace("–", "-"), m.replace("`", "")) for c, m in rows] == table()


def _command_lines() -> Iterator[tuple[str, list[str]]]:
    for block in BLOCKS:
        if block.language in {"python", "console"}:
            continue
        for line in block.text.splitlines():
            if found := re.search(r'\["advlock",.*\]', line):
                yield line, json.loads(found[0])[1:]
            elif found := re.search(
                r"(?<![\w.-])advlock ((run|once|cron|init|demo|doctor|keys|-).*)", line
            ):
                words = shlex.split(found[1], comments=True)
                yield line, list(takewhile(lambda word: word not in {"|", "&&", ">"}, words))


@pytest.mark.parametrize(("line", "arguments"), list(_command_lines()))
def test_every_command_line_is_understood(line: str, arguments: list[str]) -> None:
    """Every `advlock …` of a recipe has options that exist and a command to run."""
    command, rest = _resolve(arguments)
    with command.make_context(arguments[0], rest) as context:
        assert context.command is command, line


def test_the_verbs_of_dev_py_exist() -> None:
    """Whatever `python3 dev.py` is said to do, it can."""
    verbs = runpy.run_path(str(ROOT / "dev.py"), run_name="dev")["VERBS"]
    pages = [*PAGES, ROOT / "CONTRIBUTING.md"]
    named = {verb for p in pages for verb in re.findall(r"dev\.py (\w+)", p.read_text())}
    assert {"demo", "test"} <= named <= set(verbs)


# -- the library -----------------------------------------------------------------------------------


def test_every_public_name_is_in_the_reference() -> None:
    """What `from advlock import …` offers is documented, and nothing else is."""
    text = (DOCS / "api.md").read_text()
    before_embedded = text.partition("currentmodule:: advlock.embedded")[0]
    directive = re.compile(r"^\.\. auto(?:class|function|exception):: (\w+)(?!\.)\b", re.MULTILINE)
    named = directive.findall(before_embedded)
    assert sorted(named) == sorted(advlock.__all__)


# -- what is shown runs ----------------------------------------------------------------------------


def _environment(dsn: str = "") -> dict[str, str]:
    """Our environment with one database, as `ADVLOCK_DSN` and as libpq's own variables."""
    ours = ("ADVLOCK_", "PG", "DATABASE_URL")
    env = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), *sys.path[1:]])
    if dsn:
        env["ADVLOCK_DSN"] = dsn
        options = pq.Conninfo.parse(dsn.encode())
        env |= {o.envvar.decode(): o.val.decode() for o in options if o.envvar and o.val}
    return env


def _run_python(block: Block, env: dict[str, str], folder: Path) -> str:
    argv = [sys.executable, "-W", "error", "-c", block.text]
    done = subprocess.run(
        argv, cwd=folder, env=env, check=False, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("block", [b for b in PYTHON if b not in EMBEDDED], ids=_ids)
def test_python_runs(block: Block, dsn: str, tmp_path: Path) -> None:
    """Every block of Python runs as it stands, and prints what the page says it prints."""
    printed = _run_python(block, _environment(dsn), tmp_path)
    assert block.output in {None, printed}


@pytest.fixture(scope="module")
def local() -> Iterator[dict[str, str]]:
    """An environment whose `--local` is a server of this test module, and with `advlock` in it."""
    home = Path(tempfile.mkdtemp(prefix="advlock-test-")).resolve()
    home.chmod(0o711)  # root's server runs as another account
    program = home / "bin" / "advlock"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m advlock "$@"\n')
    program.chmod(0o755)
    env = _environment() | {"ADVLOCK_HOME": str(home)}
    env["PATH"] = f"{program.parent}{os.pathsep}{env['PATH']}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVLOCK_HOME", str(home))
        with embedded.local():  # kept running, so that each block need not start it
            yield env
    shutil.rmtree(home)


@pytest.mark.parametrize("block", EMBEDDED, ids=_ids)
def test_python_on_the_embedded_server_runs(
    block: Block, local: dict[str, str], tmp_path: Path
) -> None:
    """The tutorial needs no database of yours, and prints what it says."""
    assert block.output == _run_python(block, local, tmp_path)


def _gist(text: str, *, scheduler: bool) -> list[str]:
    """What a command printed, without what differs from run to run."""
    for name, varies in _VARIES.items():
        text = varies.sub(name, text)
    if not scheduler:
        return text.split()  # how lines are wrapped depends on the length of a host's name
    lines = (" ".join(line.split()) for line in text.splitlines())
    return sorted({line for line in lines if line and not _PERHAPS.match(line)})


@pytest.fixture
def shell(local: dict[str, str], tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Run lines of the shell; return what they print. What they leave running ends with the test.

    Otherwise a page that fails half-way would keep its locks, and the next one fails, too.
    """
    begun: list[subprocess.Popen[str]] = []

    def run(script: str) -> str:
        argv = ["bash", "-c", f"exec 2>&1\n{script}"]
        bash = subprocess.Popen(
            argv,
            cwd=tmp_path,
            env=local,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        begun.append(bash)
        return bash.communicate(timeout=50)[0]

    yield run
    for bash in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(bash.pid, signal.SIGTERM)
        bash.wait()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", sorted({block.page for block in CONSOLE}), ids=lambda p: p.stem)
def test_the_tutorial_s_commands_do_what_it_shows(
    page: Path, shell: Callable[[str], str], tmp_path: Path
) -> None:
    """Every command of a tutorial is run, in its order, and says what is printed below it."""
    for block in _blocks(page):
        if named := re.match(r"# (\w+\.toml)\n", block.text):
            (tmp_path / named[1]).write_text(block.text)
        if block.language != "console":
            continue
        lines = block.text.splitlines()
        script = "\n".join(line[2:] for line in lines if line.startswith("$ "))
        printed = shell(script)
        shown = "\n".join(line for line in lines if not line.startswith("$ "))
        loosely = bool(_SCHEDULER.search(script))
        assert _gist(printed, scheduler=loosely) == _gist(shown, scheduler=loosely), script


def test_the_collision_table_is_computed(tmp_path: Path) -> None:
    """The table of collision odds has exactly the lines that the snippet below it prints."""
    (block,) = (b for b in PYTHON if "expm1" in b.text)
    rows = re.findall(r"^\| [\d,]+ \| .* \|$", block.page.read_text(), re.MULTILINE)
    assert rows == _run_python(block, _environment(), tmp_path).splitlines()


def test_the_table_of_times_is_computed() -> None:
    """The times in the guarantees are those that the code takes."""
    text = (DOCS / "guarantees.md").read_text().partition("## Times")[2]
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE)
    assert [number for number, _ in rows] == ["3", "5", "10", "30", "60"]
    for number, others in rows:
        bounds = Bounds(float(number))
        gives_up = int(bounds.user_timeout) / 1000
        times = f"{bounds.heartbeat:.2g} | {bounds.trust:.3g} | {gives_up:g} | {number}"
        assert others == times


# -- what is named exists --------------------------------------------------------------------------


def test_every_test_that_is_named_exists() -> None:
    """A promise that cites a test cites one that is there."""
    named = [
        (path, test)
        for page in PAGES
        for path, test in re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", page.read_text())
    ]
    assert named
    missing = [
        f"{path}::{test}"
        for path, test in named
        if not (ROOT / path).exists() or (test and f"def {test}(" not in (ROOT / path).read_text())
    ]
    assert not missing


def _anchors(page: Path) -> set[str]:
    prose = _FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.strip().lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.stem)
def test_links_resolve(page: Path) -> None:
    """Every link to a file or a heading of the project leads somewhere, on GitHub as well."""
    for target in re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in _anchors(file), target
