"""A real network that can be cut: a second network namespace, and the cable that joins it to ours.

Packets are dropped where they arrive, never where they leave: a sender whose own kernel refuses its
packets is told so, and one whose packets get lost is not. Ours is the near side, a server listens
there; the far side is where a host can vanish. Nothing but addresses of 10.0.0.0/8 is used, and
everything that is made carries our process id, so that the next run removes what a killed one left.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMESPACES = Path("/run/netns")
_OURS = Path("/proc/thread-self/ns/net")
_PREFIX = "advlock"
_CLONE_NEWNET = 0x40000000
_SUBNETS = 2**22  # the blocks of four addresses in 10.0.0.0/8
_TRIES = 20

# `inet`, not `netdev`: ARP goes on, as it does when packets are lost behind the next router, so
# that no kernel learns from its neighbour table that a host is gone.
_CUT = """
table inet {table}
delete table inet {table}
table inet {table} {{
  chain input {{
    type filter hook input priority -300
    iifname {device} drop
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Network:
    """Two hosts and what is between them.

    Attributes:
        near: The address of our side, where a server can listen.

        far: The address of the other side.

        name: The namespace of the other side, as `ip netns` knows it.
    """

    near: str
    far: str
    name: str

    def command(self, *argv: str) -> list[str]:
        """Return the command that runs a program on the far side."""
        return ["ip", "netns", "exec", self.name, *argv]

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Put the calling thread, and what it starts in the block, on the far side."""
        ours = os.open(_OURS, os.O_RDONLY)
        try:
            theirs = os.open(_NAMESPACES / self.name, os.O_RDONLY)
            try:
                _enter(theirs)
            finally:
                os.close(theirs)
            try:
                yield
            finally:
                _enter(ours)
        finally:
            os.close(ours)

    def cut(self, *, to_near: bool = True, to_far: bool = True) -> None:
        """Drop all packets in these directions from now on; nobody is told."""
        if to_near:
            _nft(_CUT.format(table=_table(self.name), device=_device(self.name, "n")))
        if to_far:
            with self.inside():
                _nft(_CUT.format(table=_table(self.name), device=_device(self.name, "f")))

    def heal(self) -> None:
        """Let all packets pass again."""
        _heal(self.name)
        with self.inside():
            _heal(self.name)


@contextmanager
def network() -> Iterator[Network]:
    """Make a network; skip the test where this machine does not let us."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a network namespace")
    for program in ("ip", "nft"):
        if shutil.which(program) is None:
            pytest.skip(f"a network to cut needs the program {program}")
    _remove_abandoned()
    made = _make()
    try:
        yield made
    finally:
        _remove(made.name)


def _make() -> Network:
    for _ in range(_TRIES):
        number = secrets.randbelow(_SUBNETS)
        base = IPv4Address("10.0.0.0") + 4 * number
        made = Network(str(base + 1), str(base + 2), f"{_PREFIX}-{os.getpid()}-{number:06x}")
        if _is_routed(made.near):
            continue
        try:
            _join(made)
        except subprocess.CalledProcessError as error:
            _delete_namespace(made.name)
            if "Operation not permitted" in error.stderr:
                pytest.skip(f"this machine does not let us make a network: {error.stderr.strip()}")
            if "File exists" not in error.stderr:
                raise
        else:
            return made
    raise AssertionError(f"no free subnet in {_TRIES} tries")


def _is_routed(address: str) -> bool:
    routes = _run("ip", "route", "show", "match", address).splitlines()
    return any(not route.startswith("default") for route in routes)


def _join(network: Network) -> None:
    """Make both sides; the device's name is made of the subnet, so two cannot take the same."""
    near, far = _device(network.name, "n"), _device(network.name, "f")
    _run("ip", "netns", "add", network.name)
    _run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", network.name)
    _run("ip", "address", "add", f"{network.near}/30", "dev", near)
    _run("ip", "link", "set", near, "up")
    there = ("ip", "-n", network.name)
    _run(*there, "address", "add", f"{network.far}/30", "dev", far)
    _run(*there, "link", "set", "lo", "up")
    _run(*there, "link", "set", far, "up")


def _remove(name: str) -> None:
    """Remove what there is of a network; its processes lose their link even if they live on."""
    subprocess.run(["ip", "link", "delete", _device(name, "n")], capture_output=True, check=False)
    _delete_namespace(name)
    _heal(name)


def _delete_namespace(name: str) -> None:
    """Remove the far side alone: while we make a network, the near one may be another's."""
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _remove_abandoned() -> None:
    """Remove the networks of processes that are no more."""
    for namespace in _NAMESPACES.glob(f"{_PREFIX}-*-*"):
        pid = namespace.name.split("-")[1]
        if not Path("/proc", pid).exists():
            _remove(namespace.name)


def _heal(name: str) -> None:
    table = _table(name)
    _nft(f"table inet {table}\ndelete table inet {table}\n")


def _device(name: str, side: str) -> str:
    """Return a device's name, which may have 15 characters: advlock-4711-00beef -> adv00beefn."""
    return f"adv{name.rpartition('-')[2]}{side}"


def _table(name: str) -> str:
    return name.replace("-", "_")


def _nft(ruleset: str) -> None:
    _run("nft", "-f", "-", given=ruleset)


def _run(*command: str, given: str = "") -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        error.add_note(done.stderr)
        raise error
    return done.stdout


def _enter(namespace: int) -> None:
    """Do as os.setns(), which Python has from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns failed")
