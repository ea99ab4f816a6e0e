"""The workers of a run: started, replaced, killed, stopped and continued."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from waiting import stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netns import Network

_CLOSING = 20.0  # seconds, on a busy machine
TESTS = Path(__file__).resolve().parent.parent


@dataclass(slots=True)
class Post:
    """A worker's place, taken by one process after the other.

    Attributes:
        name: Unique in the run; begins with its route: "direct", "far", "proxied" or "pooled".

        arguments: The worker's command line after the name.

        network: The network on whose far side it runs; None for here.

        module: What it runs.

        process: Who is there now.
    """

    name: str
    world: str
    dsn: str
    arguments: list[str] = field(default_factory=list)
    network: Network | None = None
    module: str = "chaos.worker"
    process: subprocess.Popen[bytes] | None = None
    frozen: bool = False

    @property
    def route(self) -> str:
        """How it reaches the server."""
        return self.name.partition("-")[0]


class Crew:
    """All posts of a run; its diaries, and whatever it says on stderr, are in one directory.

    Args:
        directory: That one.

        posts: Who is to be started.

        seed: Of the workers' dice.

        lifeline: The workers' stdin; they end when it does.
    """

    def __init__(self, directory: Path, posts: list[Post], seed: int, lifeline: int) -> None:
        self.directory, self.posts, self._seed, self._lifeline = directory, posts, seed, lifeline

    def start(self, post: Post) -> None:
        """Put a new process in its place."""
        self._seed += 100
        command = [sys.executable, "-m", post.module, post.world, post.dsn, str(self.directory)]
        command += [post.name, f"--seed={self._seed}", *post.arguments]
        if post.network:
            command = post.network.command(*command)
        path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path}
        with (self.directory / f"{post.name}.stderr").open("ab") as errors:
            post.process = subprocess.Popen(
                command, env=environment, stdin=self._lifeline, stderr=errors
            )
        post.frozen = False

    def kill(self, post: Post) -> None:
        """Kill as the kernel does when memory runs out, also one that is stopped."""
        assert post.process
        assert post.process.poll() is None, f"{post.name} died by itself"
        post.process.kill()
        post.process.wait()

    def dismiss(self, post: Post) -> None:
        """Ask it to close its client and end, and wait until it has."""
        assert post.process
        post.process.terminate()
        code = post.process.wait(_CLOSING)
        too_soon = -signal.SIGTERM  # it had only begun to import things
        assert code in (0, too_soon), f"{post.name} ended with {code}"

    def freeze(self, post: Post) -> None:
        """Stop it in the middle of whatever it does."""
        assert post.process
        if post.process.poll() is None:
            stop(post.process.pid)
        post.frozen = True

    def thaw(self, post: Post) -> None:
        """Let it go on as if nothing had happened."""
        assert post.process
        post.process.send_signal(signal.SIGCONT)
        post.frozen = False

    def complaints(self) -> str:
        """What the workers said on stderr; nothing is what they should say."""
        found = ((path.stem, path.read_text()) for path in self.directory.glob("*.stderr"))
        return "\n".join(f"{name}: {text}" for name, text in found if text)


@contextmanager
def crew(directory: Path, posts: list[Post], seed: int = 0) -> Iterator[Crew]:
    """Start everybody; nobody outlives the block, nor this process if that is killed."""
    lifeline, end_of_ours = os.pipe()
    made = Crew(directory, posts, seed, lifeline)
    try:
        for post in posts:
            made.start(post)
        yield made
    finally:
        for post in posts:
            if post.process:
                with contextlib.suppress(ProcessLookupError):
                    post.process.kill()
                post.process.wait()
        os.close(lifeline)
        os.close(end_of_ours)
