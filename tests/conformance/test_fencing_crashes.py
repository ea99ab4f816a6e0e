"""A token that was told is on disk: no later holder is told the same one, whoever else writes."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from clusters import private_cluster

from .databases import connect
from .helpers import one
from .test_fencing import close, rise, token_of
from .worlds import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

    from advlock.embedded._cluster import Cluster

NEXT = "SELECT nextval('advlock.fence')"
# How many values are written down ahead: the draw after the last of them writes again.
AHEAD = "SELECT log_cnt FROM advlock.fence"
ROUNDS = 2


@contextmanager
def lazy_cluster(server: Server) -> Iterator[Cluster]:
    """A cluster that flushes its log when somebody commits, and hardly ever by itself."""
    with private_cluster(server) as cluster:
        cluster._settings |= {"wal_writer_delay": "10s", "port": str(cluster.port)}
        cluster.stop()
        cluster.start()
        yield cluster


@contextmanager
def unflushed(cluster: Cluster) -> Iterator[Any]:
    """Somebody's open transaction has written the sequence's next values, to memory only."""
    writer, witness = connect(cluster.dsn()), connect(cluster.dsn())
    try:
        while one(writer, AHEAD):
            writer.execute(NEXT)
        writer.execute("BEGIN")
        writer.execute(NEXT)
        yield witness
    finally:  # not `with`, which would commit: the server is gone by then
        writer.close()
        witness.close()


async def crash(cluster: Cluster) -> None:
    """Stop the server as a power cut would, and start it again."""
    await asyncio.to_thread(cluster.stop, "immediate")
    await asyncio.to_thread(cluster.start)


async def test_a_token_that_was_told_is_not_told_again(server: Server, name: str) -> None:
    """Others' unflushed draws, a token, a crash: the next token is greater; a bare draw is not."""
    with lazy_cluster(server) as cluster:
        worlds = [World("sync"), World("async")]
        clients = [world.client(cluster.dsn()) for world in worlds]
        try:
            tokens = [await token_of(worlds[0], clients[0], name)]
            for _ in range(ROUNDS):
                for world, client in zip(worlds, clients, strict=True):
                    with unflushed(cluster):
                        tokens.append(await token_of(world, client, name))
                        await crash(cluster)
                    tokens.append(await token_of(world, client, name))
            with unflushed(cluster) as witness:
                bare = one(witness, NEXT)
                await crash(cluster)
            with connect(cluster.dsn()) as witness:
                repeated = one(witness, NEXT)
            for world, client in zip(worlds, clients, strict=True):
                await close(world, client)
        finally:
            for world in worlds:
                await world.close()
    assert rise(tokens), [later - tokens[0] for later in tokens]
    assert repeated <= bare, "the control: without a flush, the crash takes a draw back"
