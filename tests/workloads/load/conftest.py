"""Real endpoints over HTTP, in a thread, whose behaviour is written down beforehand."""

import asyncio
import threading
from contextlib import contextmanager

import pytest
from aiohttp import web

from workloads.load.scripted import Line, ScriptedEndpoint


@contextmanager
def _served(script, **options):
    endpoint = ScriptedEndpoint([Line(**line) for line in script], **options)
    loop, ready = asyncio.new_event_loop(), threading.Event()
    runner = web.AppRunner(endpoint.app, shutdown_timeout=0.1)

    def serve():
        asyncio.set_event_loop(loop)
        loop.run_until_complete(runner.setup())
        loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0, backlog=512).start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(10)
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}", endpoint
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@pytest.fixture
def served():
    """Returns a context manager: `with served([{...}]) as (url, endpoint)`."""
    return _served
