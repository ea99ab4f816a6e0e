"""The documentation's pictures: a real server, a night with trouble, both sizes, both grounds.

`ADVLOCK_REGEN=1 python3 dev.py test tests/tui/test_pictures.py` draws them anew.
"""

from __future__ import annotations

import os
import re
import secrets
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from advlock._dsn import Dsn
from advlock._registry._load import load
from advlock.cli._top._app import Top
from advlock.cli._top._picture import Options
from advlock.cli.top import _Door

from .helpers import LARGE, SMALL, Screen, run
from .scene import REGISTRY, make_role, night

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

IMAGES = Path(__file__).parents[2] / "docs" / "images"
REGEN = bool(os.environ.get("ADVLOCK_REGEN"))
LIMIT = 300_000  # bytes
# name: size, light, keys
PICTURES: dict[str, tuple[tuple[int, int], bool, tuple[str, ...]]] = {
    "top-80x24": (SMALL, False, ()),
    "top-80x24-light": (SMALL, True, ("down", "down", "down")),
    "top-200x60": (LARGE, False, ("down", "down", "down")),
    "top-200x60-light": (LARGE, True, ()),
    "top-kill": (SMALL, False, ("k",)),
}
_LOCKS = ("nightly-report", "billing:close-month", "idle in tx", "web-3:7120", "4 waiting", "QUEUE")
_ALL = (*_LOCKS, "search:reindex", "node-pg-migrate", "USER", "find it", "q Quit")
WORDS = {
    "top-80x24": (*_LOCKS, "nightly-report is held by web-2", "free it", "q Quit"),
    "top-80x24-light": (*_LOCKS, "billing:close-month is held by psql", "team-billing"),
    "top-200x60": _ALL,
    "top-200x60-light": _ALL,
    "top-kill": ("End server session", "It holds nightly-report.", "web-3", "Terminate it (t)"),
}


@pytest.fixture(scope="module")
def shop(server: Server) -> Iterator[str]:
    """A database whose name reads well, asked by a role that sees and ends sessions."""
    with psycopg.connect(server.superuser_dsn, autocommit=True) as admin:
        make_role(admin, "oncall")
        admin.execute("GRANT pg_monitor, pg_signal_backend TO oncall")
        # Its own for each worker of the run; for the pictures, one that reads well.
        name = "shop" if REGEN else f"shop_{secrets.token_hex(4)}"
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with night(server.dsn(name)):
            yield make_conninfo(server.dsn(name), user="oncall")
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _told(picture: str) -> str:
    """The words in a picture."""
    return " ".join(unescape("".join(re.findall(r">([^<]+)</text>", picture))).split())


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_are_of_this_application(name: str, shop: str, tmp_path: Path) -> None:
    """What the pictures in the documentation show, the application shows."""
    size, light, keys = PICTURES[name]
    (tmp_path / "advlock.toml").write_text(REGISTRY)
    door = _Door(Dsn(shop, "the test"), load(tmp_path / "advlock.toml"), ())
    taken: list[str] = []

    async def test() -> None:
        app = Top(door.open, Options(every=1, light=light), door.pick)
        async with app.run_test(size=size) as pilot:
            screen = Screen(app, pilot)
            await screen.until(lambda: app.seen is not None)
            await screen.press(*keys)
            await screen.until(lambda: "k" in keys or len(screen.names) > 3)
            app.title = f"advlock top · {size[0]}×{size[1]}"
            taken.append(app.export_screenshot(simplify=True))
        app.feed.stop(within=5)

    run(test())
    path = IMAGES / f"{name}.svg"
    if REGEN:
        # Without the web fonts: an image in a page may not load them, a monospace one does as well.
        path.write_text(re.sub(r"\s*@font-face \{.*?\}", "", taken[0], flags=re.DOTALL) + "\n")
    assert len(taken[0]) < LIMIT
    for picture in (taken[0], path.read_text()):
        told = _told(picture)
        assert [word for word in WORDS[name] if word not in told] == []
