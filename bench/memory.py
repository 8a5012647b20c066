"""Benchmark of resident memory: every process of `make run` at rest, and after it has served and delivered messages."""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import psutil

from bench import load, report
from bench.load import Call
from tests.faults.load import Tenant, sign_up
from tests.faults.stack import OPEN, Stack
from tests.support.messages import SEND, SMS
from tests.support.web_server import WebServer

PAGES = ("/", "/login", "/docs/", "/api/v1/messages", "/api/v1/usage", "/api/v1/billing/plans")
_ROLES = ("web", "worker", "scheduler")
_MIB = 2**20


def run(seconds: float, connections: int) -> dict[str, Any]:
    """Send messages for some seconds, let them be delivered, and print the memory of each process.

    returns: `processes`: name, and MiB resident at rest and after load, and with shared pages divided (PSS)
    """
    stack = Stack({**OPEN, "LOG_LEVEL": "error"})
    with report.progress("memory", 3) as bar, contextlib.ExitStack() as stopping:
        stopping.callback(stack.down)
        bar.update(1, "start")
        stack.up()
        time.sleep(5)  # workers fork after READY
        at_rest = {pid: resident for pid, _, resident, _ in _read(stack)}
        bar.update(1, "load")
        _work(stack, sign_up(stack, "acme"), seconds, connections)
        bar.update(1, "measure")
        processes = [
            {
                "name": name,
                "at_rest_mib": round(at_rest.get(pid, 0) / _MIB, 1),
                "after_load_mib": round(resident / _MIB, 1),
                "proportional_mib": round(proportional / _MIB, 1),
            }
            for pid, name, resident, proportional in _read(stack)
        ]
    results = {"settings": {"seconds": seconds, "connections": connections}, "processes": processes}
    print_results(results)
    return results


def _work(stack: Stack, tenant: Tenant, seconds: float, connections: int) -> None:
    """Send messages, read pages and lists, and wait until the messages are delivered."""
    key = {"X-API-Key": tenant.keys["live"]}
    assert stack.process  # noqa: S101 - it runs
    server = WebServer(stack.process, stack.port)
    load.send(Call(server, SEND, json.dumps(SMS), {**load.JSON_HEADERS, **key}), seconds, connections)
    for path in PAGES * 20:
        server.get(path, f"X-API-Key: {key['X-API-Key']}")
    while stack.rows("SELECT 1 FROM messages WHERE status IN ('queued', 'sending') LIMIT 1"):
        time.sleep(0.5)


def _read(stack: Stack) -> Iterator[tuple[int, str, int, int]]:
    """Process id, name, resident and proportional bytes of each process of the product, engines excepted."""
    assert stack.process  # noqa: S101 - it runs
    found = [("flask dev up", psutil.Process(stack.process.pid))]
    for role in _ROLES:
        main = psutil.Process(stack.pid(role))
        found += [(role, main), *((f"{role} child", child) for child in main.children(recursive=True))]
    for name, process in found:
        with contextlib.suppress(psutil.NoSuchProcess):  # a job's process has ended
            memory = process.memory_full_info()
            yield process.pid, name, memory.rss, memory.pss


def print_results(results: dict[str, Any]) -> None:
    """Print a row for each process, and the sum."""
    fields = ("at_rest_mib", "after_load_mib", "proportional_mib")
    rows = [(each["name"], *(each[field] for field in fields)) for each in results["processes"]]
    total = ("together", *(round(sum(each[field] for each in results["processes"]), 1) for field in fields))
    report.print_table(("process", "at rest, MiB", "after load, MiB", "proportional, MiB"), [*rows, total])
