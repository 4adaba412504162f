"""Requests per second of the reward servers of two checkouts, at many clients, in turns on one machine.

    python experiments/benchmarks/serving_throughput.py --trees ../old . --clients 64 --seconds 10 --rounds 5

Both servers run all the time, the one that is not asked costs nothing; each round asks the first tree, then the second,
so that what else happens on the machine hits both. Each client keeps one connection and sends its request again as soon
as the answer has come. Printed is JSON: answers per second by round, and the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from realgen.serving.wire import encode_request

PATIENCE = 300.0
"""Seconds that a server may take to start, and to answer."""


def start(tree: Path, config: str, concurrency: int) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server of a checkout; return its process and port when it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    keys = [f"--server.port={port}", f"--server.max_concurrency={concurrency}", "--server.timeout=600"]
    command = [sys.executable, "-m", "realgen.serve", "--config", config, *keys]
    process = subprocess.Popen(command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)})
    deadline = time.monotonic() + PATIENCE
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return process, port
        except OSError:
            pass
        finally:
            connection.close()
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server of {tree} did not start.")
        time.sleep(0.5)


def answers_per_second(port: int, body: bytes, content_type: str, *, clients: int, seconds: float) -> float:
    """Ask for some time with some clients at once; answers that begin within it count."""
    begin = time.monotonic()

    def ask(_: int) -> int:
        connection, count = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE), 0
        while time.monotonic() < begin + seconds:
            connection.request("POST", "/rewards", body, {"Content-Type": content_type})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"a request was answered with {answer.status}.")
            count += 1
        connection.close()
        return count

    with ThreadPoolExecutor(clients) as pool:
        counts = list(pool.map(ask, range(clients)))
    return sum(counts) / (time.monotonic() - begin)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=Path, nargs=2, required=True, help="two checkouts, the older one first")
    parser.add_argument("--config", default="configs/serve/omniaid.yaml")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--images", type=int, default=4, help="in a request")
    parser.add_argument("--side", type=int, default=64, help="of an image, in pixels")
    parser.add_argument("--encoding", default="safetensors", choices=["safetensors", "png", "webp"])
    parser.add_argument("--seconds", type=float, default=10.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    images = torch.rand(options.images, 3, options.side, options.side, generator=torch.Generator().manual_seed(0))
    body, content_type = encode_request(images, None, options.encoding)
    servers = []
    try:
        for tree in options.trees:
            servers.append(start(tree.resolve(), options.config, 2 * options.clients))
        rounds = []
        for _ in range(options.rounds + 1):
            limits = {"clients": options.clients, "seconds": options.seconds}
            rounds.append([answers_per_second(port, body, content_type, **limits) for _, port in servers])
        del rounds[0]  # warms both up
    finally:
        for process, _ in servers:
            process.terminate()
        for process, _ in servers:
            process.wait()
    ratios = [after / before for before, after in rounds]
    shown = {
        "bytes": len(body),
        "answers per second": rounds,
        "ratios": ratios,
        "median ratio": statistics.median(ratios),
    }
    print(json.dumps(shown, indent=2))


if __name__ == "__main__":
    main()
