"""Links slower than this machine's own, for trainings to be measured over: network namespaces limited by `tc tbf`.

Needs root on Linux and iproute2. What is made is removed again, also after an error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tokenstone.errors import OperationError

ADDRESSES = ("10.231.77.1", "10.231.77.2")
INTERFACE = "slow0"
_QUEUE_MILLISECONDS = 400


def why_not() -> str | None:
    """Why links cannot be limited here; None if they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} not found (iproute2)"
    name = f"tokenstone-{os.getpid()}-try"  # containers may be root without being allowed to
    try:
        with _namespaces(name):
            return None
    except OperationError as error:
        return error.what


@contextmanager
def slow_loopback(bits_per_second: float) -> Iterator[list[str]]:
    """A namespace whose loopback all its processes share at this rate; yields what to put before a command.

    For any number of ranks on one node. Both directions share the rate, as on a half-duplex link.
    """
    name = f"tokenstone-{os.getpid()}"
    with _namespaces(name):
        _run(f"ip -n {name} link set lo up")
        _limit(name, "lo", bits_per_second, burst_bytes=70_000)  # a packet on lo has up to 64 KiB
        yield ["ip", "netns", "exec", name]


@contextmanager
def slow_pair(bits_per_second: float) -> Iterator[tuple[str, str]]:
    """Two namespaces, joined by INTERFACE, a veth pair limited to this rate each way; yields their names."""
    first, second = names = (f"tokenstone-{os.getpid()}-a", f"tokenstone-{os.getpid()}-b")
    with _namespaces(*names):
        _run(f"ip -n {first} link add {INTERFACE} type veth peer name {INTERFACE} netns {second}")
        for name, address in zip(names, ADDRESSES, strict=True):
            _run(f"ip -n {name} address add {address}/24 dev {INTERFACE}")
            _run(f"ip -n {name} link set lo up")
            _run(f"ip -n {name} link set {INTERFACE} up")
            # A small burst: a large one would let much of a small message pass at full speed.
            _limit(name, INTERFACE, bits_per_second, burst_bytes=4_000)
        yield names


@contextmanager
def _namespaces(*names: str) -> Iterator[None]:
    try:
        for name in names:
            _run(f"ip netns add {name}")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)


def _limit(namespace: str, interface: str, bits_per_second: float, *, burst_bytes: int) -> None:
    shape = f"tbf rate {bits_per_second:.0f}bit burst {burst_bytes} latency {_QUEUE_MILLISECONDS}ms"
    _run(f"ip netns exec {namespace} tc qdisc add dev {interface} root {shape}")


def _run(line: str) -> None:
    done = subprocess.run(line.split(), check=False, capture_output=True, text=True)
    if done.returncode:
        raise OperationError(
            f"{line}: {done.stderr.strip()}", where="slow link", hint="run as root, with network namespaces allowed"
        )
