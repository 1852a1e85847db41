"""Measure the search page under load: requests per second, latencies, errors, memory.

    python benchmarks/server.py --run RUN --images PHOTOS --clients 32 --seconds 60

Starts ``deephash serve`` and sends requests from several clients at a time. A client alternates
between the upload of an image, a search from an image of the index, and a small picture.
"""

import http.client
import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from harness import ROOT, Report, figure, memory, parser, table

KINDS = ("upload", "similar", "picture")


class Client(threading.Thread):
    """Send requests one after another until a time, and keep their latencies."""

    def __init__(self, port: int, ids: Sequence[str], files: Sequence[bytes], seed: int) -> None:
        super().__init__()
        self.port, self.ids, self.files = port, ids, files
        self.random = random.Random(seed)
        self.until = 0.0
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.failures: list[str] = []

    def run(self) -> None:
        """Send requests."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        for kind in itertools.cycle(KINDS):
            if time.monotonic() > self.until:
                break
            began = time.monotonic()
            try:
                self._send(connection, kind)
                response = connection.getresponse()
                content = response.read()
                if response.status != 200:
                    self.failures.append(f"{response.status} {content[:100]!r}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
            self.seconds[kind].append(time.monotonic() - began)
        connection.close()

    def _send(self, connection: http.client.HTTPConnection, kind: str) -> None:
        if kind == "upload":
            connection.request("POST", "/api/search?top=20", self.random.choice(self.files))
            return
        page = "similar" if kind == "similar" else "picture"
        connection.request("GET", f"/api/{page}?id={quote(self.random.choice(self.ids))}")


def start(run: str, images: str) -> tuple[subprocess.Popen[str], int]:
    """Start the server, and wait until it listens. Return the process and the port."""
    line = [sys.executable, "-m", "deephash", "serve", f"run={run}", f"images={images}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.readline()
    match = re.search(r"http://127\.0\.0\.1:(\d+)/", printed)
    if match is None:
        raise SystemExit(f"the server did not start: {printed}")
    return process, int(match[1])


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    options = parser(__doc__, seconds=60.0, seed=0)
    options.add_argument("--run", required=True, help="run folder of the encoder")
    options.add_argument("--images", required=True, help="folder of images")
    options.add_argument("--clients", type=int, default=32, help="clients at a time")
    given = options.parse_args(arguments)
    report = Report(__file__, arguments, given)
    process, port = start(given.run, given.images)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/api/info")
        info = json.load(connection.getresponse())
        connection.request("GET", "/api/images?top=200")
        ids = [image["id"] for image in json.load(connection.getresponse())]
        connection.close()
        files = [(Path(given.images) / name).read_bytes() for name in ids]
        before = memory("VmRSS", process.pid)
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # forgets the peak of encoding
        clients = [Client(port, ids, files, given.seed + at) for at in range(given.clients)]
        until = time.monotonic() + given.seconds
        for client in clients:
            client.until = until
            client.start()
        for client in clients:
            client.join()
        peak = memory("VmHWM", process.pid)
    finally:
        process.terminate()
        process.wait()
    rows = [["request", "requests", "per second", "median ms", "95 % ms", "99 % ms", "largest ms"]]
    for kind in KINDS:
        times = sorted(value for client in clients for value in client.seconds[kind])
        cuts = statistics.quantiles(times, n=100)
        values = [len(times) / given.seconds, *(1000 * t for t in (cuts[49], cuts[94], cuts[98]))]
        rows.append([kind, f"{len(times):,}", *map(figure, [*values, 1000 * times[-1]])])
    failures = [failure for client in clients for failure in client.failures]
    report.add(
        f"{info['images']:,} images, {info['nbit']} bits, {given.clients} clients,"
        f" {given.seconds:g} s: {len(failures)} errors; memory of the server"
        f" {before / 2**20:,.0f} MiB before and at most {peak / 2**20:,.0f} MiB.",
        table(rows),
        *failures[:3],
    )
    report.close()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
