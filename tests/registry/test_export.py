"""`advlock keys export`: the same file from the same registry, or an error that says what to do.

`ADVLOCK_REGEN=1 python3 dev.py test tests/registry/test_export.py` writes what is expected anew.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advlock import Key, cli
from advlock._registry._entry import Entry
from advlock._registry._export import LANGUAGES, check_place, export
from advlock._registry._export_words import parameters, snake, visible, words
from advlock._registry._registry import Registry
from advlock.cli.keys import _export as command
from advlock.errors import ConfigError

from .exporting import ALSO_NASTY, NASTY, SAMPLE, renames, wanted

if TYPE_CHECKING:
    from collections.abc import Callable

TESTS = Path(__file__).parents[1]
EXPECTED = {
    "python": TESTS / "typing" / "exported.py",  # `dev.py check` has mypy judge it, strictly
    "sql": TESTS / "registry" / "exported" / "locks.sql",
    "typescript": TESTS / "registry" / "exported" / "locks.ts",
    "go": TESTS / "registry" / "exported" / "locks.go",
    "ruby": TESTS / "registry" / "exported" / "locks.rb",
    "java": TESTS / "registry" / "exported" / "Locks.java",
}
_CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="{}\0")
NAMES = st.lists(
    st.one_of(st.sampled_from(NASTY), _CHARACTERS),
    min_size=1,
    max_size=8,
).map("".join)
Run = Any


def of(*names: str, **more: Any) -> Registry:
    """A registry of nothing but names."""
    return Registry([Entry(name, **more) for name in names], path=Path("advlock.toml"))


# -- what comes out --------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_export_is_the_one_that_was_reviewed(language: str, tmp_path: Path) -> None:
    """Byte for byte, in every language, from wherever it is read."""
    (tmp_path / "advlock.toml").write_text(SAMPLE, encoding="utf-8")
    text = export(Registry.load(tmp_path / "advlock.toml"), language)
    if os.environ.get("ADVLOCK_REGEN"):
        EXPECTED[language].parent.mkdir(exist_ok=True)
        EXPECTED[language].write_text(text, encoding="utf-8")
    assert EXPECTED[language].read_bytes() == text.encode(), "write it anew with ADVLOCK_REGEN=1"
    assert str(tmp_path) not in text


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_order_of_the_file_does_not_matter(language: str) -> None:
    """Moving a line in the registry changes no generated file."""
    names = ("b", "a:{id}", "Ö", "c-d", "a")
    assert export(of(*names), language) == export(of(*reversed(names)), language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_more_name_changes_no_other_constant(language: str) -> None:
    """A name's constant follows from that name alone, so that code goes on to compile."""
    before = {line for line in export(of("a", "a:{id}", "c"), language).splitlines() if "c" in line}
    assert before <= {*export(of("a", "a:{id}", "c", "b", "c:{id}"), language).splitlines()}


@given(NAMES, st.sampled_from(["hashtextextended", "hashtext"]), st.text(max_size=20))
def test_a_module_of_python_means_what_the_registry_says(
    name: str, scheme: Any, description: str
) -> None:
    """Whatever the name is, the module has its key, and whatever is said of it is no code."""
    entry = Entry(name, description, description, scheme=scheme)
    registry = Registry([entry, Entry(f"{name}{{id}}!", description, scheme=scheme)])
    module: dict[str, Any] = {}
    exec(export(registry, "python", renamed=renames(registry)), module)  # noqa: S102 - it is ours
    constant, template = (one.identifiers[0] for one in wanted(registry, "python"))
    assert module[constant] == entry.make()
    assert module[template](7) == Key.of(f"{name}7!", scheme=scheme)
    assert sorted(module["__all__"]) == sorted((constant, template))


# -- identifiers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nightly-report", "nightly_report"),
        ("nightlyReport", "nightly_report"),
        ("app.v2/jobs: mail", "app_v2_jobs_mail"),
        ("Größe", "grosse"),
        ("café", "cafe"),
        ("2024", "lock_2024"),
        ("日本", "u65e5_u672c"),
        ("!?", "u21_u3f"),
    ],
)
def test_words_of_a_name(name: str, expected: str) -> None:
    """Readable where it can be, and never nothing."""
    assert snake(words(name)) == expected


@given(NAMES)
def test_every_name_has_words_that_make_an_identifier(name: str) -> None:
    """Letters and digits of ASCII, a letter first."""
    assert re.fullmatch(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*", snake(words(name)))


@given(st.text())
def test_prose_is_visible(text: str) -> None:
    """Nothing in a comment ends its line, turns its direction, or moves a cursor."""
    assert visible(text).isprintable()


def test_parameters_differ_and_are_no_words_of_the_language() -> None:
    """Fields that differ in their case only, and `class`, become parameters all the same."""
    (one,) = wanted(of("x:{userId}:{user_id}:{class}"), "python")
    assert parameters(one.item, snake, {"class"}) == ("user_id", "user_id_", "class_")


@pytest.mark.parametrize("language", LANGUAGES)
def test_two_names_of_one_constant_are_an_error_with_a_way_out(language: str) -> None:
    """It may be one lock by mistake; if not, one of them can be called differently."""
    registry = of("nightly-report", "nightly_report")
    with pytest.raises(ConfigError, match="'nightly-report' and 'nightly_report' would both") as e:
        export(registry, language)
    assert "--rename 'nightly_report'=OTHER" in str(e.value)
    text = export(registry, language, renamed={"nightly_report": "nightly report two"})
    assert re.search("nightly_?report_?two", text, re.IGNORECASE)
    with pytest.raises(ConfigError, match=r"has no 'nightly.report'; did you mean 'nightly"):
        export(registry, language, renamed={"nightly.report": "x"})


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_template_beside_its_own_stem_is_no_collision(language: str) -> None:
    """`user` and `user:{id}` are what registries have."""
    assert export(of("user", "user:{id}", "{id}"), language)


def test_what_postgresql_would_cut_is_an_error() -> None:
    """Two functions whose names differ after 63 bytes would be one."""
    with pytest.raises(ConfigError, match=r"cuts names after 63 .* --rename"):
        export(of("x" * 64), "sql")
    assert export(of("x" * 63), "sql")


@pytest.mark.parametrize(
    ("language", "good", "bad"),
    [
        ("sql", ("locks", 'My "locks"', "größe"), ("", "x" * 64, "a\nb", "pg_x")),
        ("go", ("locks", "locks2"), ("", "Locks", "a.b", "func", "a-b")),
        ("java", ("Locks", "com.example.Locks"), ("", "locks", "com.class.Locks", "a..B", "A B")),
        ("ruby", ("Locks", "My::Locks"), ("", "locks", "A::", "A.B", "END")),
        ("python", (), ("locks",)),
        ("typescript", (), ("locks",)),
    ],
)
def test_the_place_is_one_of_the_language(
    language: str, good: tuple[str, ...], bad: tuple[str, ...]
) -> None:
    """What would not compile is refused, with what to write."""
    for place in good:
        check_place(language, place)
        assert place.replace('"', '""').split(".")[-1].split("::")[-1] in export(
            of("a"), language, place=place
        )
    for place in bad:
        with pytest.raises(ConfigError, match="--in"):
            check_place(language, place)


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Call the command beside a registry; get its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    Path("advlock.toml").write_text('[locks]\nnightly = "Größe"\n', encoding="utf-8")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["keys", "export", *arguments])
        return int(code), *capfd.readouterr()

    return run


def test_the_languages_of_the_command_are_all(run: Run) -> None:
    """The list that `--help` shows without importing them is complete."""
    assert list(command._LANGUAGES) == list(LANGUAGES)
    code, out, err = run("--lang", "go")
    assert (code, err) == (0, "")
    assert out == export(of("nightly", description="Größe"), "go")
    assert run("--lang", "go", "-o", "-", "-f", "advlock.toml") == (0, out, "")
    assert run("--lang", "go", "--in", "keys")[1] == re.sub("(?<=ackage )locks", "keys", out)


def state(file: Path) -> tuple[int, int, int]:
    """What changes with a file, but not the time at which it was read last."""
    about = file.stat()
    return about.st_ino, about.st_mtime_ns, about.st_ctime_ns


def test_a_file_that_is_right_is_not_touched(run: Run) -> None:
    """Written once; then neither a build tool nor `--check` sees a change."""
    assert run("--lang", "ruby", "-o", "locks.rb") == (0, "", "advlock: wrote locks.rb\n")
    before = state(Path("locks.rb"))
    assert run("--lang", "ruby", "-o", "locks.rb") == (0, "", "")
    assert run("--lang", "ruby", "-o", "locks.rb", "--check") == (0, "", "")
    assert state(Path("locks.rb")) == before
    assert Path("locks.rb").read_text("utf-8") == run("--lang", "ruby")[1]


def test_check_says_what_differs_and_writes_nothing(run: Run) -> None:
    """1 is for CI; the difference is short, and cannot drive a terminal."""
    code, out, err = run("--lang", "ruby", "-o", "locks.rb", "--check")
    assert (code, out) == (1, "")
    assert err == "advlock: locks.rb is missing; run the same command without --check\n"
    assert not Path("locks.rb").exists()
    run("--lang", "ruby", "-o", "locks.rb")
    text = Path("locks.rb").read_text("utf-8")
    changed = text.replace("NIGHTLY =", "\x1b[31mWEEKLY =") + "x\n" * 100
    Path("locks.rb").write_text(changed, encoding="utf-8")
    code, out, err = run("--lang", "ruby", "-o", "locks.rb", "--check")
    assert (code, out) == (1, "")
    assert "advlock: -  \\x1b[31mWEEKLY = " in err
    assert "advlock: +  NIGHTLY = " in err
    assert re.search(r"advlock: … and \d+ lines more\n$", err)
    assert err.count("\n") < 50
    assert Path("locks.rb").read_text("utf-8") == changed


def test_a_file_is_replaced_whole_and_stays_what_it_was(run: Run, tmp_path: Path) -> None:
    """A link stays a link, its target keeps its mode, and nothing is left beside it."""
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "locks.rb"
    target.write_text("old")
    target.chmod(0o640)
    Path("link.rb").symlink_to(target)
    with target.open() as reader:
        assert run("--lang", "ruby", "-o", "link.rb")[0] == 0
        assert reader.read() == "old", "a reader has one file or the other, never half of one"
    assert Path("link.rb").is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert "NIGHTLY" in target.read_text("utf-8")
    assert list(target.parent.iterdir()) == [target]
    umask = os.umask(0o027)
    try:
        run("--lang", "ruby", "-o", "new.rb")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(Path("new.rb").stat().st_mode) == 0o640


def test_a_pipe_is_written_to_and_not_replaced(run: Run) -> None:
    """So is /dev/stdout, and whatever else is no file."""
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert run("--lang", "go", "-o", "pipe")[0] == 0
    assert os.read(reader, 100_000).decode() == run("--lang", "go")[1]
    os.close(reader)
    assert stat.S_ISFIFO(Path("pipe").stat().st_mode)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--lang", "go", "--check"), 64, "name it with -o"),
        (("--lang", "cobol"), 64, "'cobol' is not one of"),
        ((), 64, "--lang"),
        (("--lang", "go", "--rename", "a"), 64, "is not NAME=OTHER"),
        (("--lang", "go", "--rename", "weekly=x"), 78, "has no 'weekly'"),
        (("--lang", "go", "--in", "A.B"), 64, "write --in locks"),
        (("--lang", "java", "-o", "Keys.java"), 64, "-o Locks.java, or --in Keys"),
        (("--lang", "go", "-o", "no/such/locks.go"), 78, "cannot write no/such/locks.go: no such"),
        (("--lang", "go", "-f", "none.toml"), 78, "none.toml"),
        (("--lang", "go", "-f", "empty.toml"), 78, "empty.toml names no lock"),
    ],
)
def test_what_is_wrong_is_said(run: Run, arguments: tuple[str, ...], code: int, said: str) -> None:
    """With the exit code of its kind, and with what to type next."""
    Path("empty.toml").write_text("[locks]\n")
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert said in err


def test_an_output_on_a_full_disk_leaves_the_old_file(run: Run) -> None:
    """A write that fails is told, and what was there is still there."""
    Path("full.rb").symlink_to("/dev/full")
    code, _, err = run("--lang", "ruby", "-o", "full.rb")
    assert (code, err) == (
        78,
        "advlock: cannot write full.rb: no space left on device; name another file with -o\n",
    )


def test_the_nasty_pieces_are_still_nasty() -> None:
    """The list that the languages are tested with has what each of them would choke on."""
    assert {'"', "\\", "`", "*/", "\u2028", "\r", "$$", '"""'} <= {*NASTY}
    assert {"\x00", "#{exit}", "${x}"} <= {*ALSO_NASTY}
