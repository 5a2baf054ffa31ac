"""A trainer and an engine on one host, another engine on a second one; the cable between them is cut.

Run as a program, since it moves itself into namespaces; prints one JSON line: what each update came to.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from support.namespaces import Host, NotHere, two_hosts

WORLD = "two engines of tp2"
LAYOUT = "transposed, padded"
DEADLINE = 3.0
SOON = 1.0  # past the deadline, until it is told who is missing
ATTEMPTS = 3  # a machine that stands still for a second looks like a cable that is out
BLINK = 0.7  # seconds that a cable is out which comes back in time
HERE, THERE = (1, 2), (3, 4)  # ranks on the trainer's host, and on the other


def serve_on(pipe: Connection, role: str, arguments: tuple[Any, ...]) -> None:
    """As `sync_world_child.serve`, on a host. The first two of `arguments` are that host and the trainer's."""
    host, trainers, *rest = arguments
    host.enter()
    os.environ.update(host.environment(trainers))
    from support import sync_world_child

    sync_world_child.HOST = os.environ["MASTER_ADDR"]
    sync_world_child.STRIKES["cut"] = lambda: host.cable("down")
    sync_world_child.STRIKES["blink"] = lambda: _blink(host)
    sync_world_child.serve(pipe, role, tuple(rest))


def _blink(host: Host) -> None:
    host.cable("down")
    threading.Timer(BLINK, host.cable, ("up",)).start()


def main() -> None:
    """Cut in the stream, by either side, and before the votes; then a cable that comes back by itself."""
    try:
        hosts = two_hosts()
    except NotHere as error:
        print(json.dumps({"not here": str(error)}))
        return
    from support.sync_world import Proc

    class OnHost(Proc):
        serve = staticmethod(serve_on)

    here, there = hosts
    trainer = OnHost("trainer", here, here, WORLD, LAYOUT)
    ranks = {rank: OnHost("receiver", here if rank in HERE else there, here, rank, WORLD, LAYOUT, 0)
             for rank in (*HERE, *THERE)}  # fmt: skip
    procs = [trainer, *ranks.values()]
    try:
        port = trainer.call("port")
        for rank in ranks.values():
            rank.call("join", port)
        facts: dict[str, Any] = {"port": port, "addresses": [host.address for host in hosts]}
        epoch = 0

        def states() -> dict[int, Any]:
            return {rank: proc.call("state", *range(epoch + 1)) for rank, proc in ranks.items()}

        def settled() -> dict[int, Any]:
            end = time.monotonic() + 3 * DEADLINE + 6
            while True:
                found = states()
                over = all(state["phase"] in ("serving", "failed") for state in found.values())
                if over or time.monotonic() > end:
                    return found
                time.sleep(0.05)

        def update(deadline: float) -> Any:
            nonlocal epoch
            epoch += 1
            trainer.ask("update", epoch, epoch, "shadow", deadline)
            return trainer.hear(6 * deadline + 20)

        def good() -> dict[str, Any]:
            return {"epoch": epoch + 1, "said": update(20.0), "states": states()}

        facts["first"] = good()
        faults = (
            ("the trainer's end, in the stream", trainer, "cut", "bucket", 3, here),
            ("a receiver's end, in the stream", ranks[THERE[0]], "cut", "bucket", 2, there),
            ("a receiver's end, after its yes to begin", ranks[THERE[1]], "cut", "voted begin", 1, there),
            ("a cable that comes back", trainer, "blink", "bucket", 2, here),
        )
        facts["cuts"] = {}
        for name, proc, kind, point, number, host in faults:
            for _ in range(ATTEMPTS):
                proc.call("plant", point, number, kind)
                proc.struck_at = None
                before = epoch
                said = update(DEADLINE if kind == "cut" else 20.0)
                proc.hear(0.0)
                cut = {"struck": proc.struck_at, "said": said, "before": before, "states": settled()}
                proc.call("plant", "", 1, "")
                host.cable("up")
                facts["cuts"][name] = {**cut, "next": good()}
                if kind != "cut" or proc.struck_at is None or said["decided"] <= proc.struck_at + DEADLINE + SOON:
                    break
                print(f"{name}: told late, {said}", file=sys.stderr)
        print(json.dumps(facts))
    finally:
        for proc in procs:
            proc.end()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
