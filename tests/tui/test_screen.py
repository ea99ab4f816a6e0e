"""What is on the screen: sizes, colours, foreign text, many locks."""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import TYPE_CHECKING

import pytest
from rich.cells import cell_len

from advlock.cli._top._columns import GAP, fit
from advlock.cli._top._view import View

from .helpers import (
    LARGE,
    SMALL,
    USUAL,
    ByHand,
    Screen,
    ago,
    holder,
    run,
    running,
    snapshot,
    tree,
    waiter,
)

if TYPE_CHECKING:
    from rich.color import Color

# A client may call itself anything.
HOSTILE = [
    "[red]not red[/red]",
    "[@click=app.quit]click[/]",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "a\x01b\x08c\rd\ne\tf",
    "\u202edesrever\u2066",
    "\ud83d\udca3 \u200d\U0001f4a3 日本語日本語日本語日本語",
    "[/] unbalanced [",
    "$accent {0} %s \\[",
]


def test_every_width_is_filled_and_not_exceeded() -> None:
    """The columns and their gaps take exactly the room there is, from 78 cells on."""
    for width in range(78, 400):
        for databases in (False, True):
            columns = fit(width, databases=databases)
            if databases and width < 92:
                continue
            taken = sum(column.width for column in columns) + GAP * (len(columns) - 1)
            assert taken == width


def test_wider_shows_more() -> None:
    """What is there at 80 stays; then come the server's process, the user, the key and the rest."""
    heads = [{column.head for column in fit(width, databases=False)} for width in range(78, 260)]
    for narrow, wide in itertools.pairwise(heads):
        assert narrow <= wide
    assert heads[0] == {"NAME", "HOLDER", "STATE", "FOR", "QUEUE", "FLAGS"}
    assert heads[-1] >= {"PID", "USER", "KEY", "KIND", "CLIENT", "APPLICATION"}


@pytest.mark.parametrize("size", [SMALL, LARGE, (120, 16), (40, 10)])
def test_nothing_overflows(size: tuple[int, int]) -> None:
    """Every line is as wide as the screen, and the keys stand in the last."""

    async def test() -> None:
        async with running(ByHand(), size) as screen:
            assert len(screen.lines) == size[1]
            assert {cell_len(line) for line in screen.lines} == {size[0]}
            assert "Pause" in screen.lines[-1]
            assert "nightly" in screen.table[0]
            await screen.press("k")
            assert {cell_len(line) for line in screen.lines} == {size[0]}
            assert "Terminate it" in screen.text or size[0] < 80

    run(test())


def test_small_has_what_matters() -> None:
    """At 80×24: name, holder, state, age, queue, flags, why, and the SQL that frees it."""

    async def test() -> None:
        async with running(ByHand(), SMALL) as screen:
            await screen.press("down", "down", "down")
            row = screen.table[3]
            for word in ("books", "db-1:21", "held", "1", "idle in tx"):
                assert word in row
            for word in ("books is held by", "SELECT pg_terminate_backend(20)", "q Quit"):
                assert word in screen.text

    run(test())


def test_large_has_the_details_at_the_side() -> None:
    """At 200×60 there is room for the key and the user, and for all details beside the table."""

    async def test() -> None:
        async with running(ByHand(), LARGE) as screen:
            for word in ("PID", "USER", "KEY", "find it", "objsubid", "hashtextextended"):
                assert word in screen.text
            assert screen.app.details.region.x > screen.app.table.region.x
            await screen.press("i")
            for word in ("KIND", "CLIENT", "APPLICATION"):
                assert word in screen.lines[2]

    run(test())


def test_it_follows_the_size_of_the_terminal() -> None:
    """Made smaller, the cursor stays in sight and the columns fit again."""

    async def test() -> None:
        many = [tree(f"lock-{n:03}", holder(n + 1)) for n in range(100)]
        async with running(ByHand(snapshot(*many)), LARGE) as screen:
            await screen.press("pagedown")
            here = screen.here
            await screen.pilot.resize_terminal(*SMALL)
            await screen.until(lambda: screen.app.size == SMALL)
            await screen.pilot.pause()
            assert screen.here == here
            assert "KEY" not in screen.lines[2]

    run(test())


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_foreign_text_is_only_text(text: str) -> None:
    """Markup stands there as it is; control characters are spelled; nothing moves."""

    async def test() -> None:
        text_ = text.encode("utf-16", "surrogatepass").decode("utf-16")
        bad = holder(1, host=None, application=text_, user=text_, client=text_, query=text_)
        waits = waiter(2, 5, host=text_, flags=(text_,), query=text_, state=text_)
        seen = snapshot(
            tree(text_, bad, waits, owner=text_, description=text_, candidates=(text_, "b")),
            hidden=(text_,),
            database=text_,
            role=text_,
        )
        async with running(ByHand(seen), (190, 24)) as screen:
            await _check(screen, text_)
            await screen.press("i")  # room for every column
            assert "APPLICATION" in screen.lines[3]
            await _check(screen, text_)
            await screen.press("down", "enter")
            await _check(screen, text_)
            await screen.press("escape", "k")
            await _check(screen, text_)

    run(test())


async def _check(screen: Screen, text: str) -> None:
    await screen.pilot.pause()
    assert {cell_len(line) for line in screen.lines} == {190}
    for line in screen.lines:
        assert line.isprintable(), line
    if text.isprintable() and text.isascii():
        assert text in screen.text
    assert screen.app.is_running


def _colours(screen: Screen, word: str) -> set[Color | None]:
    strips = screen.app.screen._compositor.render_strips()
    return {
        part.style.color for strip in strips for part in strip if word in part.text and part.style
    }


def test_colours_have_a_meaning() -> None:
    """Who waits has one colour, who is stuck and keeps others waiting another one."""

    async def test() -> None:
        async with running(ByHand()) as screen:
            for _ in ("dark", "light"):
                (waits,) = _colours(screen, "web-9:13")
                (stuck,) = _colours(screen, "idle in tx")
                (plain,) = _colours(screen, "ci-7:41")
                assert len({waits, stuck, plain}) == 3
                await screen.press("d")

    run(test())


def _is_grey(screen: Screen) -> bool:
    strips = screen.app.screen._compositor.render_strips()
    colours = (part.style.color for strip in strips for part in strip if part.style)
    triplets = [colour.triplet for colour in colours if colour and colour.triplet]
    assert triplets
    return all(len(set(triplet)) == 1 for triplet in triplets)


def test_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR leaves shades of grey; the words say the rest."""

    async def test(*, grey: bool) -> None:
        async with running(ByHand()) as screen:
            assert _is_grey(screen) == grey
            for word in ("waits", "idle in tx", "1 stuck"):
                assert word in screen.text

    run(test(grey=False))
    monkeypatch.setenv("NO_COLOR", "1")
    run(test(grey=True))


def test_what_is_hidden_is_said() -> None:
    """A role that sees little is told so, in the picture."""

    async def test() -> None:
        words = "where 3 of 9 sessions come from is hidden; GRANT pg_monitor TO oncall"
        async with running(ByHand(dataclasses.replace(USUAL, hidden=(words,)))) as screen:
            assert "GRANT pg_monitor TO oncall" in screen.text

    run(test())


def test_nothing_there() -> None:
    """No locks at all are no trouble, also not for keys that need one."""

    async def test() -> None:
        async with running(ByHand(snapshot())) as screen:
            assert "0 locks" in screen.text
            assert "nobody holds a lock" in screen.text
            await screen.press("down", "enter", "t", "y", "left", "end", "s")
            assert screen.names == []
        async with running(ByHand(snapshot(tree("a", holder(1))))) as screen:
            await screen.press("w")
            assert "w shows those that are held" in screen.text
            await screen.press("w", "slash", "x", "x")
            assert "Esc clears the filter" in screen.text

    run(test())


def test_flags_of_a_lock_that_is_shared() -> None:
    """Folded away, what is odd about one of its holders still stands there."""

    async def test() -> None:
        odd = holder(2, shared=True, flags=("idle-in-transaction", "holds-back-vacuum"))
        seen = snapshot(tree("a", holder(1, shared=True), odd, waiter(3, 4)))
        async with running(ByHand(seen), (160, 30)) as screen:
            await screen.press("i", "t")
            assert len(screen.names) == 1
            assert "idle" in screen.table[0]
            assert "1 stuck" in screen.text

    run(test())


def test_ten_thousand_locks() -> None:
    """A picture of 10 000 locks is ordered in less time than there is between two of them."""
    trees = [
        tree(f"user:{n}", holder(n, since=ago(n)), *([waiter(n + 1, n)] if n % 10 == 0 else []))
        for n in range(10_000)
    ]
    seen = snapshot(*trees)
    began = time.process_time()
    assert len(View(words=("user",)).rows(seen)) == 11_000
    assert time.process_time() - began < 1

    async def test() -> None:
        async with running(ByHand(seen)) as screen:
            assert "10000 locks  1000 waiting" in screen.text
            await screen.press("end", "up", "home", "s")
            assert screen.here == "user:9990"
            await screen.press("slash", *"user:9999")
            assert screen.names == ["user:9999"]

    run(test())
