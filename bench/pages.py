"""How fast every web page answers with 15 million windows stored.

    python bench/pages.py fill sqlite:////big/tokenstone.db        # 88 nodes, a day of windows each 10 s: minutes
    python bench/pages.py measure sqlite:////big/tokenstone.db     # adds runs, asks for every page

Client and service share the machine's cores. A page is asked for over HTTP and read whole, each time with other
arguments where it has any; the first answer after the start is told apart. Writes bench/results/pages.json, a key for
each database.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from service import RESULTS, Sender, make_run, milliseconds
from service_data import DAY, conditions, fill, service, used
from sqlalchemy import text

from api import examples
from api.store.engine import connect
from tokenstone.client import Client
from tokenstone.hardware import catalogue
from tokenstone.run import RunState
from tokenstone.wire import RunChange, RunCreate, TrainingFacts

NODES, WINDOWS = 88, 8640
BIG_DEVICES, BIG_STEPS = 64, 900


def big_run(url: str) -> str:
    """A run of an hour on 64 devices that tells each of its 900 steps of every device."""
    run_id = f"bench-big-{time.time():.0f}"
    devices = [{"id": f"GPU-{g % 8}", "node": f"big-{g // 8}", "hardware": "h100-sxm"} for g in range(BIG_DEVICES)]
    seconds = 3600.0 / BIG_STEPS
    parts = {"compute": 0.7 * seconds, "exposed_communication": 0.2 * seconds, "host_overhead": 0.1 * seconds}
    phases = [
        {
            "kind": "step",
            "start_seconds": k * seconds,
            "duration_seconds": seconds,
            "activity_seconds": parts,
            "steps": 1,
        }
        for k in range(BIG_STEPS)
    ]
    facts = examples.FACTS | {
        "started_unix_seconds": time.time() - 4000, "allocated_seconds": 3600, "tokens": 10**9, "probe": None,
        "devices": [{"device": device["id"], "phases": phases} for device in devices],
    }  # fmt: skip
    run = examples.RUN | {"run_id": run_id, "cluster": "big", "devices": devices}
    with Client(url) as client:
        client.create_run(RunCreate.model_validate(run))
        client.change_run(run_id, RunChange(state=RunState.RUNNING))
        client.put_facts(run_id, TrainingFacts.model_validate(facts))
    return run_id


def asked(runs: list[str], big: str, spec_id: str) -> dict[str, Callable[[int], str]]:
    """Every page, and with what it is asked for the k-th time."""
    models = list(catalogue())
    groups = [f"{spec_id}@c0", f"{spec_id}@c1"]

    def run(k: int) -> str:
        return quote(runs[k % len(runs)])

    def sides(k: int) -> str:
        a, b = runs[k % 5 :: 20][:8], runs[k % 5 + 1 :: 20][:8]
        return urlencode({"a": a, "b": b}, doseq=True)

    return {
        "clusters": lambda _: "/clusters",
        "cluster": lambda k: f"/clusters/c{k % 2}",
        "runs": lambda k: "/runs?" + urlencode({"cluster": ("", "c0", "c1")[k % 3]}),
        "runs, the cheapest first": lambda _: "/runs?sort=cost",
        "run": lambda k: f"/runs/{run(k)}",
        "run on 64 devices": lambda _: f"/runs/{big}",
        "compare, the form": lambda _: "/compare",
        "compare, all runs": lambda k: (
            "/compare?" + urlencode({"group_a": groups[k % 2], "group_b": groups[1 - k % 2]})
        ),
        "compare, 8 runs with 8": lambda k: "/compare?" + sides(k),
        "fleet": lambda k: "/fleet?" + urlencode({"cluster": ("", "c0", "c1")[k % 3]}),
        "hardware": lambda _: "/hardware",
        "accelerator": lambda k: f"/hardware/{models[k % len(models)]}",
        "prices": lambda _: "/prices",
        "metrics": lambda _: "/registry",
        "report of a run, as a file": lambda k: f"/v1/reports/html?run={run(k)}",
        "report of a cluster, as a file": lambda k: f"/v1/reports/cluster/html?cluster=c{k % 2}",
    }


def measure(arguments: argparse.Namespace) -> None:
    """Add runs to a full database, then ask for every page."""
    settings = {"max_requests_per_second": "0"}
    with tempfile.TemporaryDirectory() as folder:
        with service(Path(folder), arguments.database, **settings) as (_, url):
            store = connect(arguments.database)
            with store.reading() as session:
                rows = session.execute(text("SELECT count(*) FROM windows")).scalar()
                day = session.execute(text("SELECT min(start_unix_seconds) FROM hours")).scalar()
            store.close()
            runs = [make_run(url, f"c{k % 2}", k % 130, day) for k in range(arguments.runs)]
            big = big_run(url)
            with Client(url) as client:
                spec_id = client.run(runs[0]).spec_id
        pages: dict[str, Any] = {}
        with service(Path(folder), arguments.database, **settings) as (process, url):
            sender = Sender(url, zipped=False)
            for name, path in asked(runs, big, spec_id).items():
                found = []
                for k in range(arguments.times + 1):
                    began = time.perf_counter()
                    body = sender.get(path(k))
                    found.append((time.perf_counter() - began) * 1e3)
                first, *rest = found
                pages[name] = {"first_ms": first, **milliseconds(rest), "bytes": len(body), "path": path(0)[:200]}
                print(
                    f"{name:32} first {first:7.1f}  p50 {pages[name]['p50_ms']:7.1f}  p95 {pages[name]['p95_ms']:7.1f}"
                )
            resident = used(process.pid)[1]
    result = {"conditions": conditions(rows=rows, runs=len(runs)), "target_ms": 200, "service_resident_mb": resident,
              "pages": pages}  # fmt: skip
    target = RESULTS / "pages.json"
    known = json.loads(target.read_text()) if target.exists() else {"bench": "web pages"}
    target.write_text(json.dumps(known | {arguments.name: result}, indent=1) + "\n")


def main() -> None:
    """Fill a database, or measure with a full one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    one = parts.add_parser("fill")
    one.add_argument("database")
    one.add_argument("--nodes", type=int, default=NODES)
    one.add_argument("--windows", type=int, default=WINDOWS)
    begin = (time.time() // DAY - 1) * DAY
    one.set_defaults(run=lambda a: print(fill(a.database, nodes=a.nodes, begin=begin, windows=a.windows)))
    one = parts.add_parser("measure")
    one.add_argument("database")
    one.add_argument("--name", default="sqlite")
    one.add_argument("--runs", type=int, default=200)
    one.add_argument("--times", type=int, default=50)
    one.set_defaults(run=measure)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
