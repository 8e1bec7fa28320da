"""A small server on loopback that speaks W&B's protocol: runs, history, resume, artifacts, sweeps, agents, queries.

It keeps what real clients (`wandb.init`, `wandb sweep`, `wandb agent`, `wandb.Api`) send, for tests to look at. History
follows W&B's rule: a chunk is written at its offset, so what is sent twice is not stored twice.
"""

import gzip
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

ENTITY = "team"
API_KEY = "k" * 32 + "0123456789abcdef"


@dataclass
class Run:
    """What the server knows of one run."""

    name: str
    project: str
    group: str | None = None
    job_type: str | None = None
    display_name: str | None = None
    sweep: str | None = None
    tags: list[str] = field(default_factory=list)
    raw_config: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    """wandb-history.jsonl as received."""
    summary: dict[str, Any] = field(default_factory=dict)
    state: str = "running"
    exitcode: int | None = None

    @property
    def config(self) -> dict[str, Any]:
        """Without W&B's own keys and wrapping."""
        return {
            key: entry["value"] if isinstance(entry, dict) and "value" in entry else entry
            for key, entry in self.raw_config.items()
            if key not in ("_wandb", "wandb_version")
        }

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows, without W&B's own keys but `_step`."""
        return [
            {key: value for key, value in json.loads(line).items() if not key.startswith("_") or key == "_step"}
            for line in self.lines
        ]

    def node(self) -> dict[str, Any]:
        """The run as GraphQL returns it."""
        return {
            "id": f"id-{self.name}",
            "projectId": "1",
            "name": self.name,
            "displayName": self.display_name or self.name,
            "description": self.display_name or self.name,
            "sweepName": self.sweep,
            "state": self.state,
            "config": json.dumps(self.raw_config),
            "group": self.group,
            "jobType": self.job_type,
            "tags": self.tags,
            "notes": None,
            "commit": None,
            "readOnly": False,
            "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00",
            "user": {"name": ENTITY, "username": ENTITY},
            "systemMetrics": "{}",
            "summaryMetrics": json.dumps(self.summary),
            "historyKeys": None,
            "historyLineCount": len(self.lines),
            "logLineCount": 0,
            "eventsLineCount": 0,
            "historyTail": json.dumps(self.lines[-1:]),
            "eventsTail": "[]",
            "wandbConfig": json.dumps({"t": 1}),
            "project": {"id": "1", "name": self.project, "entity": {"id": "1", "name": ENTITY}},
        }


@dataclass
class Sweep:
    """A grid sweep and the points that no agent has asked for yet."""

    name: str
    config: dict[str, Any]
    points: Iterator[dict[str, Any]]
    handed_out: list[str] = field(default_factory=list)


class FakeWandb:
    """The server's state, and one method for each GraphQL operation (named like it)."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.sweeps: dict[str, Sweep] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.uploads: dict[str, bytes] = {}
        self.operations: list[str] = []
        self.views: list[dict[str, Any]] = []
        self.lock = threading.RLock()
        self.url = ""

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that point a client at this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": API_KEY, "WANDB_ENTITY": ENTITY}

    def graphql(self, operation: str, variables: dict[str, Any]) -> Any:
        with self.lock:
            self.operations.append(operation)
            return getattr(self, operation)(variables)

    # Who is asking, and what this server can do.

    def Viewer(self, _: Any) -> Any:  # noqa: N802
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        viewer = {"id": "1", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "a@b.c", "flags": "{}"}
        return {"viewer": {**viewer, "admin": False, "deletedAt": None, "apiKeys": {"edges": []}, "teams": teams}}

    GetViewer = Viewer

    def ServerFeaturesQuery(self, _: Any) -> Any:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def OrganizationCoreWeaveOrganizationID(self, _: Any) -> Any:  # noqa: N802
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    # Runs.

    def UpsertBucket(self, given: Any) -> Any:  # noqa: N802
        name = given.get("name") or given["id"].removeprefix("id-")
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run(name, given.get("project") or "uncategorized"))
        run.group, run.job_type = given.get("groupName") or run.group, given.get("jobType") or run.job_type
        run.display_name, run.sweep = given.get("displayName") or run.display_name, given.get("sweep") or run.sweep
        run.tags = given.get("tags") or run.tags
        run.raw_config |= json.loads(given.get("config") or "{}")
        run.summary |= json.loads(given.get("summaryMetrics") or "{}")
        run.state = "running"
        return {"upsertBucket": {"bucket": run.node(), "inserted": inserted}}

    def RunResumeStatus(self, given: Any) -> Any:  # noqa: N802
        run = self.runs.get(given["name"])
        entity = {"id": "1", "name": ENTITY}
        return {"model": {"id": "1", "name": given["project"], "entity": entity, "bucket": run and run.node()}}

    def RunState(self, given: Any) -> Any:  # noqa: N802
        return {"project": {"run": self.runs[given["run"]].node()}}

    def CreateRunFiles(self, given: Any) -> Any:  # noqa: N802
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": f"id-{given['run']}", "uploadHeaders": [], "files": files}}

    def MarkRunFilesUploaded(self, _: Any) -> Any:  # noqa: N802
        return {"markRunFilesUploaded": {"success": True}}

    def Runs(self, given: Any) -> Any:  # noqa: N802
        runs = [run for run in self.runs.values() if run.project == given["project"]]
        if not runs:
            return {"project": None}
        first = int(given.get("cursor") or 0)
        page = runs[first : first + given["perPage"]]
        edges = [{"node": run.node(), "cursor": str(first + at + 1)} for at, run in enumerate(page)]
        more = {"endCursor": str(first + len(page)), "hasNextPage": first + len(page) < len(runs)}
        known = {"internalId": "1", "runCount": len(runs), "readOnly": False}
        return {"project": {**known, "runs": {"edges": edges, "pageInfo": more}}}

    def Run(self, given: Any) -> Any:  # noqa: N802
        run = self.runs.get(given["name"])
        return {"project": {"run": run and run.node()}}

    def stream(self, name: str, body: dict[str, Any]) -> None:
        """One request of the file stream: history at its offset, the whole summary, the end."""
        with self.lock:
            run = self.runs[name]
            chunk = body.get("files", {}).get("wandb-history.jsonl")
            if chunk:
                end = chunk["offset"] + len(chunk["content"])
                run.lines[chunk["offset"] : end] = chunk["content"]
            if summary := body.get("files", {}).get("wandb-summary.json"):
                run.summary = json.loads(summary["content"][-1])
            if body.get("complete"):
                run.exitcode = body["exitcode"]
                run.state = "finished" if run.exitcode == 0 else "failed"

    # Artifacts.

    def FetchArtifactDigestAlgorithm(self, _: Any) -> Any:  # noqa: N802
        return {"project": {"artifactType": None}}

    def XXHashDigestsEnabled(self, _: Any) -> Any:  # noqa: N802
        return {"entity": {"xxhashDigestsEnabled": False}}

    def ArtifactType(self, _: Any) -> Any:  # noqa: N802
        return {"project": {"artifact": None}}

    def CreateArtifact(self, given: Any) -> Any:  # noqa: N802
        asked = given["input"]
        made = {"id": f"artifact-{len(self.artifacts)}", "state": "PENDING", "digest": asked["digest"]}
        self.artifacts[asked["artifactCollectionName"]] = made | {"type": asked["artifactTypeName"]}
        return {"createArtifact": {"artifact": {**made, "artifactSequence": {"id": "1", "latestArtifact": None}}}}

    def CreateArtifactManifest(self, given: Any) -> Any:  # noqa: N802
        file = {"id": "1", "uploadUrl": f"{self.url}/upload/manifest/{given['artifactID']}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": given["artifactID"], "file": file}}}

    def UpdateArtifactManifest(self, given: Any) -> Any:  # noqa: N802
        wanted = {"artifactID": given["artifactManifestID"]}
        made = self.CreateArtifactManifest(wanted)["createArtifactManifest"]
        return {"updateArtifactManifest": made}

    def CreateArtifactFiles(self, given: Any) -> Any:  # noqa: N802
        def node(asked: dict[str, Any]) -> dict[str, Any]:
            path = f"{asked['artifactID']}/{asked['name']}"
            url = f"{self.url}/upload/{path}"
            known = {"storagePath": path, "uploadUrl": url, "uploadHeaders": [], "uploadMultipartUrls": None}
            return {"node": {**known, "artifact": {"id": asked["artifactID"]}}}

        return {"createArtifactFiles": {"files": {"edges": [node(file) for file in given["input"]["artifactFiles"]]}}}

    def CommitArtifact(self, given: Any) -> Any:  # noqa: N802
        artifact = next(made for made in self.artifacts.values() if made["id"] == given["artifactID"])
        artifact["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": artifact}}

    # Workspaces.

    def UpsertView2(self, given: Any) -> Any:  # noqa: N802
        self.views.append(given)
        return {"upsertView": {"view": {"id": f"view-{len(self.views)}", "name": given["name"]}, "inserted": True}}

    # Sweeps and agents.

    def UpsertSweep(self, given: Any) -> Any:  # noqa: N802
        config = yaml.safe_load(given["config"])
        values = [[(key, value) for value in _values(entry)] for key, entry in config["parameters"].items()]
        name = f"sweep{len(self.sweeps)}"
        self.sweeps[name] = Sweep(name, config, map(dict, itertools.product(*values)))
        project = {"id": "1", "name": given["projectName"], "entity": {"id": "1", "name": ENTITY}}
        return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}}

    def GetSweep(self, given: Any) -> Any:  # noqa: N802
        sweep = self.sweeps[given.get("name") or given["sweep"]]
        known = {"__typename": "Sweep", "id": sweep.name, "name": sweep.name, "displayName": None, "state": "RUNNING"}
        times = {"createdAt": "2026-01-01T00:00:00", "updatedAt": None, "description": None, "bestLoss": None}
        counts = {"runCount": len(sweep.handed_out), "runCountExpected": None, "method": sweep.config["method"]}
        rest = {"config": yaml.safe_dump(sweep.config), "runs": {"edges": []}}
        return {"project": {"sweep": {**known, **times, **counts, **rest}}}

    SweepWithRuns = GetSweepState = GetSweep

    def CreateAgent(self, given: Any) -> Any:  # noqa: N802
        return {"createAgent": {"agent": {"id": given["sweep"]}}}

    def Heartbeat(self, given: Any) -> Any:  # noqa: N802
        sweep = self.sweeps[given["id"]]
        busy = any(json.loads(given["runState"] or "{}").values())
        return {"agentHeartbeat": {"agent": {"id": sweep.name}, "commands": json.dumps([] if busy else [_next(sweep)])}}


def _values(entry: dict[str, Any]) -> list[Any]:
    return entry["values"] if "values" in entry else [entry["value"]]


def _next(sweep: Sweep) -> dict[str, Any]:
    point = next(sweep.points, None)
    if point is None:
        return {"type": "exit"}
    name = f"{sweep.name}run{len(sweep.handed_out)}"
    sweep.handed_out.append(name)
    args = {key: {"value": value} for key, value in point.items()}
    return {"type": "run", "run_id": name, "args": args, "program": sweep.config.get("program")}


class Server(ThreadingHTTPServer):
    """Clients come and go as they like."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    """HTTP for the state above."""

    protocol_version = "HTTP/1.1"
    state: FakeWandb

    def log_message(self, *_: Any) -> None:
        """Tests stay quiet."""

    def do_POST(self) -> None:
        body = self._body()
        parts = self.path.strip("/").split("/")
        if parts[-1] == "graphql":
            asked = json.loads(body)
            self._answer({"data": self.state.graphql(_operation(asked), asked.get("variables") or {})})
        elif parts[-1] == "file_stream":
            self.state.stream(parts[-2], json.loads(body))
            self._answer({})
        else:
            self._answer({})

    def do_PUT(self) -> None:
        self.state.uploads[self.path.removeprefix("/upload/")] = self._body()
        self._answer({})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _operation(asked: dict[str, Any]) -> str:
    """The name of a GraphQL operation: sent beside the query or written in it."""
    if asked.get("operationName"):
        return str(asked["operationName"])
    words = asked["query"].replace("(", " ").replace("{", " ").split()
    return str(words[min(words.index(kind) for kind in ("query", "mutation") if kind in words) + 1])


@contextmanager
def serve() -> Iterator[FakeWandb]:
    """A server on a free port until the block ends."""
    state = FakeWandb()
    handler = type("BoundHandler", (Handler,), {"state": state})
    server = Server(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
