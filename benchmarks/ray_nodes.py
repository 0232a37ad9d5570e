"""A real Ray cluster of several nodes on this machine, for the benchmarks: separate `ray start` processes, their own token.

As root, and with Debian's iproute2, each node but the head lives in a network namespace with an address of its own on a
bridge that only these nodes share, so that everything they send crosses a (virtual) wire, where it is counted, and a node
can be unplugged. Elsewhere all nodes are on the loopback address.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

BRIDGE, SUBNET = "heedful0", "10.77.0"
# Nodes that a cluster of these benchmarks ever has, those that were killed included.
MOST_NODES = 40


class Nodes:
    """The nodes of one cluster. Use as a context: in the end every process of it is gone.

    Args:
        session: an empty or missing folder for Ray's own files; its path must be short, there are sockets in it.
        head_cpus: processors of the head, which is where commands run.
        namespaces: a network namespace for each other node.
    """

    def __init__(self, session: str, *, head_cpus: int = 0, namespaces: bool = False) -> None:
        self.session, self.head_cpus, self.namespaces = session, head_cpus, namespaces
        self.host, self.port = (f"{SUBNET}.1" if namespaces else "127.0.0.1"), 6377
        self._secrets = tempfile.TemporaryDirectory(prefix="heedful-ray-")
        # Ray listens on every interface: a token of this run's own keeps others out, and leaves the user's alone.
        token = Path(self._secrets.name) / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self.environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "RAY_BACKEND_LOG_LEVEL": "fatal",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
        }
        self._names: list[str] = []
        self.raylets: list[int] = []

    @property
    def address(self) -> str:
        """What --cluster takes."""
        return f"{self.host}:{self.port}"

    def __enter__(self) -> Nodes:
        if self.namespaces:
            _remove_links()
            _ip("link", "add", BRIDGE, "type", "bridge")
            _ip("address", "add", f"{self.host}/24", "dev", BRIDGE)
            _ip("link", "set", BRIDGE, "up")
        try:
            self._ray([], "--head", f"--port={self.port}", f"--num-cpus={self.head_cpus}", "--include-dashboard=false",
                      f"--temp-dir={self.session}", f"--node-ip-address={self.host}")  # fmt: skip
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.namespaces:
            _remove_links()
        self._secrets.cleanup()

    def processes(self) -> list[int]:
        """All processes of the cluster and of commands on it; workers rename themselves, but keep our token's place."""
        mark, found = f"RAY_AUTH_TOKEN_PATH={self.environment['RAY_AUTH_TOKEN_PATH']}".encode(), []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if int(place.name) != os.getpid() and mark in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
        return found

    def add(self) -> None:
        """Start one more node, with one processor."""
        known = _raylets(self.port)
        number = len(self._names) + 1
        name, inside, address = f"heedful{number}", [], self.host
        if self.namespaces:
            address = f"{SUBNET}.{10 + number}"
            _ip("netns", "add", name)
            inside = ["ip", "netns", "exec", name]
            _ip("link", "add", f"{name}h", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", f"{name}h", "master", BRIDGE, "up")
            for command in (["link", "set", "lo", "up"], ["address", "add", f"{address}/24", "dev", "eth0"],
                            ["link", "set", "eth0", "up"]):  # fmt: skip
                _ip("-n", name, *command)
        self._names.append(name)
        self._ray(inside, f"--address={self.address}", "--num-cpus=1", f"--node-ip-address={address}")
        self.raylets += sorted(_raylets(self.port) - known)

    def kill_last(self) -> None:
        """SIGKILL to the raylet of the node that joined last; what ran on it dies with it."""
        os.kill(self.raylets.pop(), signal.SIGKILL)

    def unplug_last(self) -> None:
        """Take the node that joined last off the network; its processes live on and reach nobody."""
        self.raylets.pop()
        _ip("link", "set", f"{self._names[-1]}h", "down")

    def sent_bytes(self) -> list[int]:
        """Bytes that each node has put on its wire."""
        wires = [Path(f"/sys/class/net/{name}h/statistics/rx_bytes") for name in self._names]
        return [int(wire.read_text()) for wire in wires]

    def heedful(self, *arguments: object) -> float:
        """Run a command of heedful on the head; the seconds that it took."""
        started = time.monotonic()
        command = [sys.executable, "-m", "heedful", "--quiet", *map(str, arguments)]
        subprocess.run(command, check=True, env=self.environment, stdout=sys.stderr)
        return round(time.monotonic() - started, 2)

    def _ray(self, inside: list[str], *arguments: str) -> None:
        ray = [str(Path(sys.executable).with_name("ray")), "start", *arguments]
        options = ["--object-store-memory=100000000", "--disable-usage-stats"]
        done = subprocess.run([*inside, *ray, *options], env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"ray start failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def can_make_namespaces() -> bool:
    """Whether network namespaces can be made here."""
    if os.geteuid() or not shutil.which("ip"):
        return False
    made = subprocess.run(["ip", "netns", "add", "heedful-probe"], capture_output=True, check=False).returncode == 0
    if made:
        _ip("netns", "delete", "heedful-probe")
    return made


def workers(name: str) -> set[int]:
    """Process ids of Ray's workers that run what has this name."""
    return {pid for pid, line in _command_lines() if line.startswith(b"ray::") and name.encode() in line}


def memory_mb(pid: int) -> dict[str, float]:
    """Megabytes of a process: resident; its share, mapped pages counted by as many as map them; what is its own alone."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0]) / 1024
    return {"rss": fields["Rss"], "pss": fields["Pss"], "uss": fields["Private_Clean"] + fields["Private_Dirty"]}


def _raylets(port: int) -> set[int]:
    lines = _command_lines()
    return {pid for pid, line in lines if b"raylet/raylet" in line and f":{port}".encode() in line}


def _command_lines() -> Iterator[tuple[int, bytes]]:
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            yield int(place.name), (place / "cmdline").read_bytes()


def _remove_links() -> None:
    """Remove what an earlier run left, or this one made."""
    for number in range(1, MOST_NODES + 1):
        _ip("netns", "delete", f"heedful{number}", check=False)
        _ip("link", "delete", f"heedful{number}h", check=False)
    _ip("link", "delete", BRIDGE, check=False)


def _ip(*arguments: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"ip {' '.join(arguments)}: {done.stderr}")
