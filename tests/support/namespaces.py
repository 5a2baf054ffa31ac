"""Two hosts on one machine: network namespaces with a cable (a veth pair) between them. Needs no root.

A process makes itself a user namespace, in which it may do this, and two network namespaces there. They share nothing
but the cable: another address, another loopback, other ports. Everything ends with the processes that are in them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_NEWUSER, _NEWNET = 0x10000000, 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class NotHere(Exception):
    """This machine does not allow it; the message says what stands in the way."""


@dataclass(frozen=True)
class Host:
    """One side. `namespace`: a path that can be entered while the process that made it lives."""

    address: str
    interface: str
    namespace: str

    def enter(self) -> None:
        """Move the calling thread there, and with it what it starts from now on."""
        descriptor = os.open(self.namespace, os.O_RDONLY)
        try:
            _call("setns", descriptor, _NEWNET)
        finally:
            os.close(descriptor)

    def environment(self, meeting: Host) -> dict[str, str]:
        """What torchrun or Ray would set on this host, for ranks that meet at the host `meeting`."""
        return {"MASTER_ADDR": meeting.address, "GLOO_SOCKET_IFNAME": self.interface}

    def cable(self, state: str) -> None:
        """``down`` or ``up``, of this end. From a process in any of the two namespaces."""
        _ip("link", "set", self.interface, state, inside=self)


def two_hosts() -> tuple[Host, Host]:
    """Two hosts with a cable between them; the calling process is on the first. Call it before anything has threads.

    Raises:
        NotHere: the kernel or the container does not let this process do so, or there is no ``ip``.
    """
    if shutil.which("ip") is None:
        raise NotHere("there is no `ip` (iproute2) to lay a cable between two network namespaces with")
    uid, gid = os.getuid(), os.getgid()
    try:
        _call("unshare", _NEWUSER | _NEWNET)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        first = _kept()
        _call("unshare", _NEWNET)
        second = _kept()
        hosts = Host("10.77.0.1", "hpa", first), Host("10.77.0.2", "hpb", second)
        hosts[0].enter()
    except OSError as error:
        raise NotHere(f"this process may not make namespaces: {error}") from error
    _ip("link", "add", hosts[0].interface, "type", "veth", "peer", "name", hosts[1].interface, "netns", second)
    for host in hosts:
        _ip("address", "add", f"{host.address}/24", "dev", host.interface, inside=host)
        _ip("link", "set", "lo", "up", inside=host)
        host.cable("up")
    return hosts


def _kept() -> str:
    """The namespace that this process is in, held open."""
    return f"/proc/{os.getpid()}/fd/{os.open('/proc/self/ns/net', os.O_RDONLY)}"


def _ip(*arguments: str, inside: Host | None = None) -> None:
    entered = None if inside is None else inside.enter
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, preexec_fn=entered, timeout=20)
    if done.returncode:
        raise NotHere(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
