"""Places for the nodes of a cluster on one machine: loopback addresses, or network namespaces with cables to cut.

Namespaces need root. Theirs is a network of its own: a switch that no way leads out of, and one cable for each node.
"""

import ctypes
import itertools
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_CLONE_NEWNET = 0x40000000
_NAMED = 'hostname "$0" && exec "$@"'


@dataclass(frozen=True)
class Place:
    """Where one node runs: its address, and the words before a command that make it run there."""

    name: str
    address: str
    enter: tuple[str, ...] = ()


class Places(Protocol):
    def place(self, name: str) -> Place: ...


class Loopback:
    """Addresses 127.77.0.n: nodes have their own, but share the machine's name and its one network."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def place(self, name: str) -> Place:
        return Place(name, f"127.77.0.{next(self._numbers)}")


class Namespaces:
    """A switch and a namespace for each node, with an address and a host name of its own."""

    GATE = "10.77.0.1"

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex[:8]
        self._switch = f"vidproc-{self._id}-switch"
        self._cables: dict[str, str] = {}
        self._numbers = itertools.count(2)
        self._made: list[str] = []

    def __enter__(self) -> "Namespaces":
        try:
            self._add(self._switch)
            _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._switch, "addr", "add", f"{self.GATE}/24", "dev", "bridge")
            _ip("-n", self._switch, "link", "set", "bridge", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for namespace in reversed(self._made):
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", namespace)

    def _add(self, namespace: str) -> None:
        _ip("netns", "add", namespace)
        self._made.append(namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")

    def place(self, name: str) -> Place:
        number = next(self._numbers)
        namespace, cable, address = f"vidproc-{self._id}-{number}", f"cable{number}", f"10.77.0.{number}"
        self._add(namespace)
        _ip("-n", self._switch, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("-n", self._switch, "link", "set", cable, "master", "bridge", "up")
        _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        _ip("-n", namespace, "route", "add", "default", "via", self.GATE)  # leads nowhere: Ray learns its address by it
        self._cables[name] = cable
        enter = ("nsenter", f"--net=/run/netns/{namespace}", "unshare", "--uts", "sh", "-c", _NAMED, name)
        return Place(name, address, enter)

    def plug(self, name: str, *, in_: bool) -> None:
        """Pull a node's cable out of the switch, or put it back."""
        _ip("-n", self._switch, "link", "set", self._cables[name], "up" if in_ else "down")

    @contextmanager
    def gate(self, port: int) -> Iterator[int]:
        """The server at this machine's 127.0.0.1:`port` can be reached at `GATE`; yields the port there."""
        listener = self._listener()
        threading.Thread(target=_serve, args=(listener, port), daemon=True).start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _listener(self) -> socket.socket:
        """A listening socket inside the switch's namespace: one belongs to where its thread was when it was made."""
        made: list[socket.socket] = []

        def enter_and_listen() -> None:
            with Path("/run/netns", self._switch).open() as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.create_server((self.GATE, 0), backlog=256))

        thread = threading.Thread(target=enter_and_listen)
        thread.start()
        thread.join()
        return made[0]


def _serve(listener: socket.socket, port: int) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", port))
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """Until one side closes; then both are: HTTP clients take that for the end of a kept connection."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for side in (source, target):
        with suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)
    source.close()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


def why_no_namespaces() -> str | None:
    """What keeps this machine from making network namespaces; None if nothing does."""
    try:
        with Namespaces() as network:
            network.place("probe")
    except (OSError, subprocess.SubprocessError) as error:
        return f"network namespaces cannot be made here: {getattr(error, 'stderr', None) or error}"
    return None
