"""Registries to export, and what it takes to have their constants printed in each language."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from catalogue import npm_tools

from advlock._key import Key
from advlock._registry._entry import Entry
from advlock._registry._export import LANGUAGES, export
from advlock._registry._export_words import Item
from advlock._registry._registry import Registry
from advlock.embedded._binaries import wheel_bindir

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PSQL: Final = shutil.which("psql") or str(wheel_bindir() / "psql")
SOURCE: Final = Path(__file__).parents[2] / "src"

SAMPLE = """\
namespace = "billing"

[locks]
nightly-report = "Sends the nightly report to every customer."
"größe" = "Its name is not ASCII."
legacy = { keys = "hashtext", description = "Taken by the old worker as hashtext('…')." }
migrations = { key = 4242, owner = "platform", description = "One migration at a time." }
inventory = { key = [7, -42], description = "Counting stock." }
"user:{user_id}" = { owner = "accounts", description = "One user's data, while it is moved." }
"user:{user_id}:mail:{kind}" = "One kind of mail to one user."
"""

# What ends a comment or a string somewhere, or is read before anything else is.
NASTY: Final = (
    *"\"'\\`$#;? aZ9\n\r\t\v\f\x01\x7f\x85\xa0\xad\u2028\u2029\u202e\ufeff\u200b\ufffe\u0301",
    *("é", "ß", "\u0131", "日本", "\U0001f512", "\U0001d11e"),
    *("$$", "*/", "/*", "--", "//", '"""', "'''", "\r\n", "\x1b[31m", "%s", ":id", "&amp;", "<b>"),
    *("\\u000a", "\\u002a\\u002f", "\\\\u0022", "\\x", "\\N", "\\0", "\\.", "\\!", "\\gexec"),
    *("@deprecated ", "=begin\n", "\n__END__\n", "\n=end", "DROP TABLE x", "type: ignore"),
    *("-*- coding: latin-1 -*-", "#@a", "#$a"),
)
# Not in names: there braces are fields.
ALSO_NASTY: Final = ("{", "}", "${x}", "#{exit}", "{@link x}", "{0}", "\x00", "{{", "\\N{BULLET}")
NAMESPACE: Final = "${x}#{exit}{{\\"  # there, nobody looks for fields
FIELDS: Final = ("id", "class", "end", "Key", "userId", "user_id", "_", "str", "type", "x1")
NUMBERS: Final = (0, 1, -1, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63))
HALVES: Final = (0, 1, -1, 2**31 - 1, -(2**31))


def hostile(count: int, seed: int) -> Registry:
    """Make a registry of names and descriptions that somebody thought up to do harm."""
    rng = random.Random(seed)  # noqa: S311 - the same in every run
    made: dict[str, Entry] = {}
    while len(made) < count:
        entry = _entry(rng)
        made.setdefault(entry.name, entry)
    return Registry(made.values(), path=Path("a\n*/--'\"\\u000a.toml"))


def _entry(rng: random.Random) -> Entry:
    name = _some(rng, NASTY)
    more = {"description": _some(rng, NASTY + ALSO_NASTY), "owner": _some(rng, ALSO_NASTY + NASTY)}
    match rng.randrange(5):
        case 0:
            return Entry(name, key=Key.of(rng.choice(NUMBERS)), **more)
        case 1:
            return Entry(name, key=Key.of((rng.choice(HALVES), rng.choice(HALVES))), **more)
        case 2:
            fields = rng.sample(FIELDS, rng.randint(1, 3))
            name = "".join(f"{_some(rng, NASTY)}{{{field}}}" for field in fields)
            name = name.removeprefix(_some(rng, NASTY)) + rng.choice(("", *NASTY))
    scheme = rng.choice(("hashtextextended", "hashtext"))
    return Entry(name, scheme=scheme, namespace=NAMESPACE, **more)


def _some(rng: random.Random, pieces: Sequence[str]) -> str:
    return "".join(rng.choices(pieces, k=rng.randint(1, 6)))


# -- what is expected ------------------------------------------------------------------------------


class Wanted(NamedTuple):
    """One constant: what it is called, and what its value is, as the programs below print it."""

    item: Item
    identifiers: tuple[str, ...]
    arguments: tuple[str, ...]
    name: str  # the whole name of a lock, with the arguments in it
    key: Key

    @property
    def printed(self) -> str:
        """Numbers in decimal; a name as the hexadecimal digits of its bytes."""
        if self.item.texts:
            return self.name.encode().hex()
        parts = self.key.parts
        return " ".join(map(str, parts)) if isinstance(parts, tuple) else str(parts)


def renames(registry: Registry) -> dict[str, str]:
    """Names for those whose own would be another's in some language, or too long for one."""
    seen: set[str] = set()
    renamed = {}
    for number, entry in enumerate(registry.entries):
        name = "".join(Item.of(entry).words)
        if name in seen or len(name) > 40:
            renamed[entry.name] = f"renamed {number}"
        seen.add(name)
    return renamed


def wanted(registry: Registry, language: str) -> list[Wanted]:
    """Every constant of an export with `renames`."""
    renamed = renames(registry)
    found = []
    for entry in registry.entries:
        item = Item.of(entry, renamed.get(entry.name))
        arguments = tuple(f"{n}é" for n in range(len(item.texts) - 1))
        name = entry.full
        for field, argument in zip(entry.fields if item.texts else (), arguments, strict=True):
            name = name.replace(f"{{{field}}}", argument)
        identifiers = LANGUAGES[language].names(item)
        found.append(Wanted(item, identifiers, arguments, name, entry.make(name)))
    return found


def written(registry: Registry, language: str, path: Path, place: str | None = None) -> Path:
    """Export into a file."""
    path.write_bytes(export(registry, language, place=place, renamed=renames(registry)).encode())
    return path


# -- programs that print it ------------------------------------------------------------------------


def run(*argv: str | Path, cwd: Path, **env: str) -> str:
    """Run a program that has to succeed and to warn of nothing."""
    # As in a container without a locale, where Java and Ruby take files for ASCII.
    environment = os.environ | {"LC_ALL": "C"} | env
    done = subprocess.run(argv, cwd=cwd, env=environment, check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode(errors="replace")[:3000]
    return done.stdout.decode()


def by_python(registry: Registry, folder: Path) -> str:
    """Import the module."""
    written(registry, "python", folder / "keys.py")
    lines = ["import keys"]
    for one in wanted(registry, "python"):
        if one.item.texts:
            name = f"keys.{one.identifiers[0]}({', '.join(map(ascii, one.arguments))})"
            lines.append(f"print({name}.name.encode().hex(), {name}.value == {one.key.value})")
        elif isinstance(one.key.parts, tuple):
            lines.append(f"print(*keys.{one.identifiers[0]}.parts)")
        else:
            lines.append(f"print(keys.{one.identifiers[0]}.parts)")
    (folder / "main.py").write_text("\n".join(lines))
    path = os.pathsep.join((str(SOURCE), *sys.path[1:]))
    printed = run(sys.executable, "-W", "error", "main.py", cwd=folder, PYTHONPATH=path)
    return printed.replace(" True", "")


def compiled(path: Path) -> None:
    """Make JavaScript of TypeScript, which has to please a strict compiler."""
    tsc = npm_tools.install() / "typescript" / "bin" / "tsc"
    options = ("--strict", "--target", "es2020", "--lib", "es2020", "--module", "commonjs")
    run("node", tsc, *options, path, cwd=path.parent)


def by_node(registry: Registry, folder: Path) -> str:
    """Compile the module as strictly as can be, and require it."""
    compiled(written(registry, "typescript", folder / "keys.ts"))
    lines = ['const keys = require("./keys.js");']
    for one in wanted(registry, "typescript"):
        value = f"keys.{one.identifiers[0]}"
        if one.item.texts:
            call = f"{value}({', '.join(map(_json, one.arguments))})"
            lines.append(f'console.log(Buffer.from({call}).toString("hex"));')
        elif isinstance(one.key.parts, tuple):
            lines.append(f'console.log({value}.join(" "));')
        else:
            lines.append(f"if (typeof {value} !== 'bigint') throw 1; console.log(String({value}));")
    (folder / "main.js").write_text("\n".join(lines))
    return run("node", "main.js", cwd=folder)


def by_java(registry: Registry, folder: Path) -> str:
    """Compile the class with every warning, and call it."""
    written(registry, "java", folder / "Locks.java")
    lines = [
        "import java.nio.charset.StandardCharsets;",
        "class Main {",
        "    static void name(String s) {",
        "        var b = new StringBuilder();",
        "        for (byte x : s.getBytes(StandardCharsets.UTF_8)) {",
        '            b.append(String.format("%02x", x));',
        "        }",
        "        System.out.println(b);",
        "    }",
        "    public static void main(String[] none) {",
    ]
    for one in wanted(registry, "java"):
        values = [f"locks.Locks.{name}" for name in one.identifiers]
        if one.item.texts:
            lines.append(f"name({values[0]}({', '.join(map(_json, one.arguments))}));")
        else:
            lines.append(f"System.out.println({_SPACED.join(values)});")
    (folder / "Main.java").write_text("\n".join((*lines, "}", "}")))
    run("javac", "-Xlint:all", "-Werror", "-d", "out", "Locks.java", "Main.java", cwd=folder)
    return run("java", "-Xshare:auto", "-cp", "out", "Main", cwd=folder)


def by_go(registry: Registry, folder: Path) -> str:
    """Format and vet the package, then compile it."""
    written(registry, "go", folder / "keys.go", "main")
    lines = [
        "package main",
        'import ("encoding/hex"; "os"; "strconv")',
        'func line(s string) { os.Stdout.WriteString(s + "\\n") }',
        "func number(n int64) string { return strconv.FormatInt(n, 10) }",
        "func main() {",
    ]
    for one in wanted(registry, "go"):
        if one.item.texts:
            call = f"{one.identifiers[0]}({', '.join(map(_json, one.arguments))})"
            lines.append(f"line(hex.EncodeToString([]byte({call})))")
        else:
            numbers = [f"number(int64({name}))" for name in one.identifiers]
            lines.append(f"line({_SPACED.join(numbers)})")
    (folder / "main.go").write_text("\n".join((*lines, "}")))
    env = {"GOCACHE": str(folder / "cache"), "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}
    (folder / "go.mod").write_text("module example.com/keys\n\ngo 1.18\n")
    assert run("gofmt", "-l", "keys.go", cwd=folder) == ""
    run("go", "vet", ".", cwd=folder, **env)
    return run("go", "run", ".", cwd=folder, **env)


def by_ruby(registry: Registry, folder: Path) -> str:
    """Require the file, with warnings."""
    written(registry, "ruby", folder / "keys.rb", "Some::Locks")
    lines = ['require "./keys"']
    for one in wanted(registry, "ruby"):
        if one.item.texts:
            call = f"Some::Locks.{one.identifiers[0]}({', '.join(map(_json, one.arguments))})"
            lines.append(f'puts {call}.unpack1("H*")')
        elif isinstance(one.key.parts, tuple):
            lines.append(f'puts Some::Locks::{one.identifiers[0]}.join(" ")')
        else:
            lines.append(f"puts Some::Locks::{one.identifiers[0]}")
    (folder / "main.rb").write_text("\n".join(lines), encoding="utf-8")
    return run("ruby", "-w", "main.rb", cwd=folder)


_SPACED: Final = ' + " " + '


def _json(text: str) -> str:
    return '"' + "".join(c if c.isascii() else f"\\u{ord(c):04x}" for c in text) + '"'


PRINTERS: Final[dict[str, tuple[str, Callable[..., str]]]] = {
    "python": (sys.executable, by_python),
    "typescript": ("node", by_node),
    "java": ("javac", by_java),
    "go": ("go", by_go),
    "ruby": ("ruby", by_ruby),
}


def installed() -> list[str]:
    """The languages whose tools this machine has."""
    found = [name for name, (tool, _) in PRINTERS.items() if shutil.which(tool)]
    return [name for name in found if name != "typescript" or npm_tools.available()]
