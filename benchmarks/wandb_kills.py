"""Kill runs that log to W&B, and check what is uploaded: python benchmarks/wandb_kills.py.

Each run is killed several times (``kill -9`` of its process group, at a random time), resumes, and
is uploaded with ``wandb sync`` to a server in this process. With ``--midway`` it is also uploaded
between two kills. At the end the server must have each step of the run exactly once.
"""

import argparse
import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SESSION = """
import sys, time
from pathlib import Path
from deephash.utils.files import write_text
from deephash.loggers import Jsonl, Loggers, Wandb

folder, epochs = Path(sys.argv[1]), int(sys.argv[2])
state = folder / "done.txt"
done = int(state.read_text()) if state.is_file() else 0
record = Jsonl(folder / "log.jsonl")
record.truncate_after(10 * done)
wandb = Wandb("p", {"seed": 0}, folder, mode="offline", run_id=folder.name, history=record.path)
logger = Loggers([record, wandb])
for epoch in range(done + 1, epochs + 1):
    for step in (5, 10):
        time.sleep(0.01)
        logger.scalars("train", {"loss": 1 / epoch}, 10 * epoch - 10 + step, epoch)
    logger.scalars("query", {"map": epoch / epochs}, 10 * epoch, epoch)
    write_text(state, str(epoch))
logger.report({"metrics": {"map": 1.0}}, 10 * epochs)
"""


class Server(BaseHTTPRequestHandler):
    """The part of a W&B server that ``wandb sync`` needs."""

    protocol_version = "HTTP/1.1"
    runs: dict[str, dict[str, Any]] = {}  # noqa: RUF012

    def log_message(self, *args: Any) -> None:
        """Print nothing."""

    def _answer(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        return gzip.decompress(data) if self.headers.get("content-encoding") == "gzip" else data

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if not body.startswith(b"{"):
            return self._answer({})
        request = json.loads(body)
        if "file_stream" in self.path:
            run = self.runs[self.path.split("/")[-2]]
            for name, file in (request.get("files") or {}).items():
                if name == "wandb-history.jsonl":
                    for number, line in enumerate(file["content"], file["offset"]):
                        run["rows"][number] = json.loads(line)
                if name == "wandb-summary.json":
                    run["summary"] = file["content"][-1]
            return self._answer({"exitcode": None, "limits": {}})
        name = request.get("operationName") or re.findall(r"\w+", request["query"])[1]
        variables = request.get("variables") or {}
        if "Artifact" in name:  # of tables; the history does not need them
            return self._answer({"errors": [{"message": "this server takes no artifacts"}]})
        return self._answer({"data": self._data(name, variables)})

    def _data(self, name: str, variables: dict[str, Any]) -> Any:
        if name == "RunResumeStatus":
            run = self.runs.get(variables["name"])
            bucket = None if run is None else {
                "id": "x", "name": variables["name"], "summaryMetrics": run["summary"],
                "displayName": "d", "logLineCount": 0, "historyLineCount": len(run["rows"]),
                "eventsLineCount": 0, "historyTail": "[]", "eventsTail": "[]", "config": "{}",
                "tags": [], "wandbConfig": '{"t": 1}',
            }  # fmt: skip
            entity = {"id": "e", "name": "me"}
            return {"model": {"id": "m", "name": "p", "entity": entity, "bucket": bucket}}
        if name == "UpsertBucket":
            self.runs.setdefault(variables["name"], {"rows": {}, "summary": "{}"})
            project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "x", "name": variables["name"], "displayName": "d", "description": None,
                      "config": "{}", "sweepName": None, "project": project}  # fmt: skip
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if name == "CreateRunFiles":
            host, port = self.server.server_address[:2]
            files = [{"name": file, "uploadUrl": f"http://{host}:{port}/{number}"}
                     for number, file in enumerate(variables.get("files") or [])]  # fmt: skip
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        if "Feature" in name:
            return {"serverInfo": {"features": []}}
        return {}


def check_run(folder: Path, epochs: int, kills: int, midway: bool, port: int) -> str | None:
    """Kill, finish and upload a run; return what is wrong on the server."""
    command = [sys.executable, "-c", SESSION, str(folder), str(epochs)]
    environment = os.environ | {
        "WANDB_BASE_URL": f"http://127.0.0.1:{port}", "WANDB_API_KEY": "0" * 40,
        "WANDB_SILENT": "true", "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "0.2",
    }  # fmt: skip

    def sync() -> None:
        subprocess.run([sys.executable, "-m", "wandb", "sync", str(folder / "wandb")],
                       env=environment, capture_output=True, timeout=120, check=False)  # fmt: skip

    for number in range(kills):
        session = subprocess.Popen(
            command, env=environment, start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(random.uniform(1.0, 5.0))
        os.killpg(session.pid, signal.SIGKILL)
        session.wait()
        if midway and number == 0:
            sync()
            uploaded = Server.runs.get(folder.name, {"rows": {}})["rows"]
            print(f"{folder.name}: {len(uploaded)} rows uploaded after the first kill", flush=True)
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    sync()
    rows = [row for _, row in sorted(Server.runs.get(folder.name, {"rows": {}})["rows"].items())]
    steps = [row["_step"] for row in rows]
    expected = [10 * epoch - 10 + step for epoch in range(1, epochs + 1) for step in (5, 10)]
    if steps != expected:
        missing, twice = sorted(set(expected) - set(steps)), len(steps) - len(set(steps))
        foreign = sorted(set(steps) - set(expected))
        return f"missing {missing[:5]}, not of the run {foreign[:5]}, twice {twice}"
    maps = sum("query/map" in row for row in rows)
    return None if maps == epochs else f"{maps} evaluations of {epochs}"


def main() -> int:
    """Kill runs and print what the server has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kills", type=int, default=4, help="kills of each run")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--midway", action="store_true", help="upload after the first kill")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    faults = 0
    with tempfile.TemporaryDirectory() as root:
        for number in range(options.runs):
            folder = Path(root) / f"run{number}"
            folder.mkdir()
            fault = check_run(folder, options.epochs, options.kills, options.midway, port)
            faults += fault is not None
            print(f"run {number}: {options.kills} kills, {fault or 'one history'}", flush=True)
    server.shutdown()
    return int(faults > 0)


if __name__ == "__main__":
    raise SystemExit(main())
