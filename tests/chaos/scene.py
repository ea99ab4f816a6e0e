"""One holder, one who waits for it, and a way to come between the holder and the server."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clusters import temporary_home
from netns import network
from servers import locks_in_db
from waiting import eventually

from .crew import Post, crew
from .history import History
from .pair import Pair
from .proxy import proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netns import Network

    from .crew import Crew
    from .proxy import Proxy

_PATIENCE = 20.0
_FOR_EVER = 1000.0  # seconds


class Scene:
    """Two workers and one key, "red".

    Attributes:
        network: What the holder "far" is behind.

        proxy: What the holder "proxied" is behind.
    """

    def __init__(self, pair: Pair, network: Network, proxy: Proxy, crew: Crew) -> None:
        self.pair, self.network, self.proxy, self.crew = pair, network, proxy, crew
        self.history = History(crew.directory)

    def enter(self, route: str, world: str, *arguments: str) -> Post:
        """Start a worker that holds the key for ever as soon as it can."""
        dsn, there = self.pair.dsn("127.0.0.1"), None
        if route == "far":
            dsn, there = self.pair.dsn(self.network.near), self.network
        elif route == "proxied":
            dsn = self.pair.proxied_dsn(self.proxy.port)
        once = ["--keys=red", "--crowd=1", f"--work={_FOR_EVER}", *arguments]
        post = Post(f"{route}-{world}", world, dsn, once, there)
        self.crew.posts.append(post)
        self.crew.start(post)
        return post

    def await_event(self, name: str, post: Post) -> int:
        """Wait until a worker wrote this down; return when it happened."""

        def times() -> list[int]:
            self.history.read_on()
            events = self.history.events
            return [e["at"] for e in events if (e["event"], e["worker"]) == (name, post.name)]

        return eventually(times, within=_PATIENCE, message=f"{post.name} was never {name}")[0]

    def await_waiter(self) -> None:
        """Wait until somebody waits for the key on the server."""
        with self.pair.connect() as session:
            eventually(
                lambda: any(not lock.granted for lock in locks_in_db(session)), within=_PATIENCE
            )

    def terminate_holder(self) -> None:
        """Have the server end the session that holds the key; return when its process is gone."""
        with self.pair.connect() as session:
            (holder,) = [lock.pid for lock in locks_in_db(session) if lock.granted]
            assert session.execute("SELECT pg_terminate_backend(%s)", [holder]).fetchone()
        eventually(lambda: not Path(f"/proc/{holder}").exists())


@contextmanager
def scene(bindir: Path, directory: Path) -> Iterator[Scene]:
    """Start a server with a network and a proxy before it; all of it ends with the block."""
    with ExitStack() as stack:
        net = stack.enter_context(network())
        pair = Pair(bindir, stack.enter_context(temporary_home()), guests=(net.far,))
        pair.start()
        before = stack.enter_context(proxy("127.0.0.1", pair.primary.port))
        yield Scene(pair, net, before, stack.enter_context(crew(directory, [])))
