"""Where a bracketed command is measured: a service of the user's or one of our own, and an agent on this node."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from cli.output import stderr
from cli.processes import Child
from cli.session import START_SECONDS, Site
from tokenstone.client import Client
from tokenstone.errors import TokenstoneError
from tokenstone.run import RunState
from tokenstone.wire import Device, RunChange, RunCreate, WindowRow

HEARTBEAT_SECONDS = 10.0
_SEEN_SECONDS = 60.0
"""An agent that was heard of so lately is at work."""
_FIRST_WINDOWS_SECONDS = 10.0


def warn(what: str) -> None:
    """Say it on stderr, which the command shares."""
    stderr().print(f"tokenstone: {what}", style="yellow", markup=False)


class Measured:
    """The service, if there is one, and what it knows of this node."""

    def __init__(
        self, client: Client | None, url: str | None, site: Site, agent: Child | None, cluster: str | None
    ) -> None:
        """`cluster`: that of the agent which reports this node already."""
        self.client, self.url, self._agent = client, url, agent
        self.cluster = site.cluster if cluster is None else cluster
        self.node = socket.gethostname() or "localhost"

    def devices(self) -> list[Device]:
        """Devices of this node, as its agent names them; none where no agent has spoken in time."""
        if self.client is None:
            return []
        deadline = time.monotonic() + _FIRST_WINDOWS_SECONDS
        while time.monotonic() < deadline:
            with suppress(TokenstoneError):
                for node in self.client.nodes(cluster=self.cluster):
                    if node.name == self.node:
                        return node.devices
            if self._agent is None or self._agent.wait(0.2) is not None:
                break
        warn("no agent measures this node: there is no telemetry of this run")
        return []

    def windows(self, start: float, end: float) -> list[WindowRow]:
        """What was measured meanwhile. Our own agent is ended first, so that its last windows arrive."""
        if self._agent is not None:
            self._agent.stop()
        if self.client is None:
            return []
        try:
            return list(self.client.windows(cluster=self.cluster, node=self.node, start=start, end=end))
        except TokenstoneError as error:
            warn(f"the telemetry of this run cannot be read: {error}")
            return []

    @contextmanager
    def run(self, create: RunCreate) -> Iterator[bool]:
        """A run of the service while the command runs; yields whether there is one. A service that fails is data."""
        stop = threading.Event()
        created = self._create(create)
        beat = threading.Thread(target=self._beat, args=(create.run_id, stop), daemon=True)
        if created:
            beat.start()
        try:
            yield created
        finally:
            stop.set()
            if created:
                beat.join()

    def _create(self, create: RunCreate) -> bool:
        if self.client is None:
            return False
        try:
            self.client.create_run(create)
            self.client.change_run(create.run_id, RunChange(state=RunState.RUNNING))
        except TokenstoneError as error:
            warn(f"the service does not take this run: {error}")
            return False
        return True

    def _beat(self, run_id: str, stop: threading.Event) -> None:
        while self.client is not None and not stop.wait(HEARTBEAT_SECONDS):
            with suppress(TokenstoneError):
                self.client.change_run(run_id, RunChange(state=RunState.RUNNING))


@contextmanager
def measured(site: Site, api: str | None) -> Iterator[Measured]:
    """Start what is missing: a service unless `api` answers, and an agent unless one reports this node to it."""
    with ExitStack() as stack:
        client, url, agent, cluster = None, api, None, None
        try:
            if api is None or not _answers(api):
                url = _own_service(site, stack)
            client = stack.enter_context(Client(str(url)))
            if site.price_book is not None:
                client.add_price_book(site.price_book)
            cluster = _reported_in(client, site)
            if cluster is None:
                agent = stack.enter_context(_own_agent(site, str(url)))
        except TokenstoneError as error:
            warn(f"nothing is sampled and no service holds this run: {error}")
        yield Measured(client, url, site, agent, cluster)


def _answers(api: str) -> bool:
    try:
        with Client(api, timeout=5.0) as client:
            client.wait_ready(0)
    except TokenstoneError as error:
        warn(f"{error}; the run is kept in a store of its own")
        return False
    return True


def _own_service(site: Site, stack: ExitStack) -> str:
    serve = ["serve", "--json", "--lifeline", "--host", "127.0.0.1", "--port", "0", "--data", str(site.data)]
    service = stack.enter_context(Child("service", "cli", serve, site.logs))
    return str(service.first_message(START_SECONDS)["url"])


def _reported_in(client: Client, site: Site) -> str | None:
    """The cluster in which an agent reports this node now, ours first; None where there is none."""
    name = socket.gethostname() or "localhost"
    found = [
        node.cluster
        for node in client.nodes()
        if node.name == name and time.time() - node.seen_unix_seconds < _SEEN_SECONDS
    ]
    return site.cluster if site.cluster in found else next(iter(found), None)


def _own_agent(site: Site, url: str) -> Child:
    node = socket.gethostname() or "localhost"
    agent = ["agent", "--lifeline", "--listen", "none", "--api", url, "--node", node, "--cluster", site.cluster]
    return Child("agent", "cli", [*agent, "--window-seconds", "1", "--spool", str(site.data / "spool")], site.logs)
