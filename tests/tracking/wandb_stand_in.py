"""A W&B server on loopback that keeps what it is sent: enough of GraphQL, file stream and storage.

It can also refuse, hang, or drop the connection. It is made from what wandb 0.31 asks; a real
server does more, and checks more.

    python tests/tracking/wandb_stand_in.py 8765     prints each request; what it got at the end
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

ENTITY = "tester"
Mood = Literal["accept", "refuse", "hang", "drop"]


@dataclass
class Kept:
    """What the server has.

    Attributes:
        runs: by id: what `upsertBucket` gave, with `history` (line number to row), `summary`,
            `files` (name to bytes) and `uses` (artifact ids).
        artifacts: by id: `collection`, `type`, `digest`, `aliases`, `metadata`, `run`, `state`,
            `files` (name to bytes).
        views: by id: what `upsertView` gave.
        requests: operation names in the order they came.
        bodies: every body as it came.
        faults: of the stand-in itself.
    """

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def artifact(self, collection: str, alias: str = "latest") -> dict[str, Any]:
        """The artifact that has an alias in its collection."""
        found = self.find(collection, alias)
        assert found is not None, (collection, alias)
        return found

    def find(self, collection: str, alias: str) -> dict[str, Any] | None:
        for item in self.artifacts.values():
            if item["collection"] == collection and alias in (*item["aliases"], item["id"]):
                return item
        return None

    def run(self, job_type: str) -> dict[str, Any]:
        """The only run of a job type."""
        (found,) = [run for run in self.runs.values() if run["jobType"] == job_type]
        return found

    def describe(self) -> str:
        """All in a few lines."""
        lines = []
        for key, run in self.runs.items():
            used = [self.artifacts[i]["collection"] for i in run["uses"]]
            lines.append(
                f"run {run['jobType']} ({key}): {len(run['history'])} rows, {len(run['summary'])} "
                f"figures, files {sorted(run['files'])}, uses {used}"
            )
        for item in self.artifacts.values():
            lines.append(
                f"artifact {item['collection']} ({item['type']}, {item['state']}): aliases "
                f"{item['aliases']}, {len(item['files'])} files, "
                f"{sum(map(len, item['files'].values())):,} bytes"
            )
        for view in self.views.values():
            blocks = json.loads(view["spec"])["blocks"]
            lines.append(f"report {view['displayName']!r}: {len(blocks)} blocks")
        return "\n".join(lines)


class StandIn:
    """The server.

    Attributes:
        kept: what it has got.
        mood: what it does with the next request.
        after: with another mood than `accept`: that many requests are accepted first.
    """

    def __init__(self, port: int = 0, log: Callable[[str], None] = lambda line: None) -> None:
        self.kept, self.mood, self.after = Kept(), "accept", 0
        self.log = log
        self._lock = threading.RLock()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: Any) -> None:
                pass

            def _answer(self) -> None:
                stand_in._handle(self)

            do_GET = do_PUT = do_POST = _answer

        class Server(ThreadingHTTPServer):
            def handle_error(self, *about: Any) -> None:
                error = sys.exception()
                if not isinstance(error, ConnectionError | ValueError):  # its client was ended
                    stand_in.kept.faults.append(repr(error))

        self._http = Server(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self.mood = "drop"
        self._http.shutdown()
        self._http.server_close()

    def be(self, mood: Mood, after: int = 0) -> None:
        """Change what is done with requests from here on."""
        with self._lock:
            self.mood, self.after = mood, after

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = self._body(request)
        with self._lock:
            mood = self.mood
            if mood != "accept" and self.after > 0:
                self.after, mood = self.after - 1, "accept"
        if mood == "hang":
            while self.mood == "hang":
                time.sleep(0.05)
        if mood in ("drop", "hang"):
            request.close_connection = True
            request.connection.close()
            return
        if mood == "refuse":
            return self._send(request, 401, {"errors": [{"message": "user is not logged in"}]})
        with self._lock:
            self.kept.bodies.append(body)
            if request.path == "/graphql":
                return self._send(request, 200, self._graphql(json.loads(body)))
            if request.path.endswith("/file_stream"):
                self._stream(request.path.split("/")[-2], json.loads(body))
                return self._send(request, 200, {"exitcode": None, "limits": {}})
            if request.command == "PUT":
                self._store(request.path, body)
            return self._send(request, 200, {})

    @staticmethod
    def _body(request: BaseHTTPRequestHandler) -> bytes:
        if request.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(request.rfile.readline().strip() or b"0", 16):
                parts.append(request.rfile.read(size))
                request.rfile.readline()
            request.rfile.readline()
            return b"".join(parts)
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _graphql(self, call: dict[str, Any]) -> dict[str, Any]:
        query, given = call["query"], call.get("variables") or {}
        name = call.get("operationName") or query.split("(")[0].split("{")[0].split()[-1]
        self.kept.requests.append(name)
        self.log(f"{name} {json.dumps(given)[:200]}")
        method = getattr(self, f"_on_{name}", None)
        if method is None:
            return {"errors": [{"message": f"the stand-in knows no {name}"}]}
        return {"data": method(given)}

    def _on_ServerFeaturesQuery(self, given: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}

    def _on_UpsertBucket(self, given: dict[str, Any]) -> Any:
        run = self.kept.runs.setdefault(
            given["name"],
            {"history": {}, "summary": {}, "files": {}, "uses": [], "config": {}, "jobType": None},
        )
        run["config"] |= json.loads(given.get("config") or "{}")
        run |= {k: v for k, v in given.items() if v is not None and k != "config"}
        return {"upsertBucket": {"bucket": self._bucket(given["name"]), "inserted": True}}

    def _bucket(self, name: str) -> dict[str, Any]:
        run = self.kept.runs[name]
        project = {"id": "p1", "name": run.get("project"), "entity": {"id": "e1", "name": ENTITY}}
        return {
            "id": f"run:{name}",
            "name": name,
            "displayName": run.get("displayName"),
            "description": None,
            "config": "{}",
            "sweepName": None,
            "project": project,
            "historyLineCount": len(run["history"]),
        }

    def _stream(self, run: str, sent: dict[str, Any]) -> None:
        kept = self.kept.runs[run]
        for name, part in (sent.get("files") or {}).items():
            for number, line in enumerate(part["content"], part["offset"]):
                if name == "wandb-history.jsonl":
                    kept["history"][number] = json.loads(line)
                elif name == "wandb-summary.json":
                    kept["summary"] |= json.loads(line)
        if sent.get("complete"):
            kept["exitcode"] = sent.get("exitcode")

    def _store(self, path: str, body: bytes) -> None:
        kind, key, name = path.removeprefix("/storage/").split("/", 2)
        if kind == "run":
            self.kept.runs[key]["files"][name] = body
        elif kind == "artifact":
            self.kept.artifacts[key]["files"][name] = body
        else:
            self.kept.artifacts[key]["manifest"] = json.loads(body)

    def _on_CreateRunFiles(self, given: dict[str, Any]) -> Any:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/storage/run/{given['run']}/{name}"}
            for name in given["files"]
        ]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _on_CreateArtifact(self, given: dict[str, Any]) -> Any:
        wanted = given["input"]
        collection = wanted["artifactCollectionName"]
        found = [
            item
            for item in self.kept.artifacts.values()
            if (item["collection"], item["digest"]) == (collection, wanted["digest"])
        ]
        if not found:
            key = f"a{len(self.kept.artifacts)}"
            found = [
                {
                    "id": key,
                    "collection": collection,
                    "type": wanted["artifactTypeName"],
                    "digest": wanted["digest"],
                    "metadata": json.loads(wanted.get("metadata") or "{}"),
                    "run": wanted["runName"],
                    "aliases": [],
                    "state": "PENDING",
                    "files": {},
                }
            ]
            self.kept.artifacts[key] = found[0]
        for alias in wanted["aliases"] or []:
            self._move(alias["alias"], found[0])
        about = {"id": found[0]["id"], "state": found[0]["state"]}
        return {
            "createArtifact": {"artifact": {**about, "artifactSequence": {"latestArtifact": None}}}
        }

    def _move(self, alias: str, target: dict[str, Any]) -> None:
        """An alias is of one version of a collection."""
        for item in self.kept.artifacts.values():
            if item["collection"] == target["collection"] and alias in item["aliases"]:
                item["aliases"].remove(alias)
        target["aliases"].append(alias)

    def _on_CreateArtifactManifest(self, given: dict[str, Any]) -> Any:
        key = given["artifactID"]
        url = f"{self.url}/storage/manifest/{key}/manifest.json"
        file = {"id": "f", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": f"m:{key}", "file": file}}}

    def _on_UpdateArtifactManifest(self, given: dict[str, Any]) -> Any:
        key = given["artifactManifestID"].removeprefix("m:")
        answer = self._on_CreateArtifactManifest({"artifactID": key})
        return {"updateArtifactManifest": answer["createArtifactManifest"]}

    def _on_CreateArtifactFiles(self, given: dict[str, Any]) -> Any:
        edges = []
        for wanted in given["input"]["artifactFiles"]:
            key, name = wanted["artifactID"], wanted["name"]
            node = {
                "storagePath": f"{key}/{name}",
                "uploadUrl": f"{self.url}/storage/artifact/{key}/{name}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": key},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _on_CommitArtifact(self, given: dict[str, Any]) -> Any:
        item = self.kept.artifacts[given["artifactID"]]
        for name, entry in item.get("manifest", {}).get("contents", {}).items():
            # What a real server checks too.
            digest = base64.b64encode(hashlib.md5(item["files"][name]).digest()).decode()
            assert digest == entry["digest"], name
        item["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": item["id"], "digest": item["digest"]}}}

    def _on_ClientIDMapping(self, given: dict[str, Any]) -> Any:
        return {"clientIDMapping": None}

    def _on_Viewer(self, given: dict[str, Any]) -> Any:
        viewer = {"id": "u1", "entity": ENTITY, "username": ENTITY, "email": "t@t", "flags": "{}"}
        return {"viewer": {**viewer, "teams": {"edges": []}}}

    def _on_GetDefaultEntity(self, given: dict[str, Any]) -> Any:
        return {"viewer": {"id": "u1", "entity": ENTITY}}

    def _project(self, name: str) -> dict[str, Any]:
        entity = {"name": ENTITY}
        return {
            "__typename": "Project",
            "id": "p1",
            "internalId": "1",
            "name": name,
            "entity": entity,
        }

    def _on_GetProjects(self, given: dict[str, Any]) -> Any:
        names = sorted({run["project"] for run in self.kept.runs.values()})
        about = {"entityName": ENTITY, "createdAt": "2026-01-01T00:00:00", "isBenchmark": False}
        about |= {"user": None}
        edges = [{"cursor": None, "node": {**self._project(name), **about}} for name in names]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"edges": edges, "pageInfo": page}}

    def _on_ArtifactMembershipByName(self, given: dict[str, Any]) -> Any:
        collection, _, alias = given["name"].partition(":")
        item = self.kept.find(collection, alias or "latest")
        if item is None or item["state"] != "COMMITTED":
            return {"project": {"artifactCollectionMembership": None}}
        home = {
            "__typename": "ArtifactSequence",
            "name": collection,
            "project": self._project(given["project"]),
        }
        aliases = [
            {"__typename": "ArtifactAlias", "id": f"{item['id']}:{name}", "alias": name}
            for name in item["aliases"]
        ]
        membership = {
            "__typename": "ArtifactCollectionMembership",
            "id": f"m{item['id']}",
            "versionIndex": 0,
            "createdAt": "2026-01-01T00:00:00",
            "aliases": aliases,
            "artifactCollection": home,
            "artifact": self._artifact(item, home),
        }
        return {"project": {"artifactCollectionMembership": membership}}

    def _artifact(self, item: dict[str, Any], home: dict[str, Any]) -> dict[str, Any]:
        return {
            "__typename": "Artifact",
            "id": item["id"],
            "artifactSequence": home,
            "versionIndex": 0,
            "artifactType": {"name": item["type"]},
            "description": None,
            "metadata": json.dumps(item["metadata"]),
            "ttlDurationSeconds": -2,
            "ttlIsInherited": False,
            "tags": [],
            "historyStep": None,
            "state": item["state"],
            "size": 1,
            "digest": item["digest"],
            "digestAlgorithm": "MANIFEST_MD5",
            "commitHash": None,
            "fileCount": len(item["files"]),
            "createdAt": "2026-01-01T00:00:00",
            "updatedAt": None,
        }

    def _on_UseArtifact(self, given: dict[str, Any]) -> Any:
        given = given.get("input", given)
        uses = self.kept.runs[given["runName"]]["uses"]
        if given["artifactID"] not in uses:
            uses.append(given["artifactID"])
        return {"useArtifact": {"artifact": {"id": given["artifactID"], "digest": "", "state": ""}}}

    def _on_Run(self, given: dict[str, Any]) -> Any:
        if given["name"] not in self.kept.runs:
            return {"project": {"run": None}}
        run = self.kept.runs[given["name"]]
        about = {"projectId": 1, "state": "finished", "tags": []}
        about |= {"user": {"name": ENTITY, "username": ENTITY}, "description": None}
        about |= {"summaryMetrics": json.dumps(run["summary"]), "systemMetrics": "{}"}
        about |= {"createdAt": "2026-01-01T00:00:00", "heartbeatAt": None, "historyKeys": None}
        about |= {"group": None, "jobType": run["jobType"], "commit": None, "readOnly": False}
        return {"project": {"run": {**self._bucket(given["name"]), **about, "notes": None}}}

    def _on_AddAliases(self, given: dict[str, Any]) -> Any:
        item = self.kept.artifacts[given["input"]["artifactID"]]
        for alias in given["input"]["aliases"]:
            self._move(alias["alias"], item)
        return {"result": {"success": True}}

    def _on_DeleteAliases(self, given: dict[str, Any]) -> Any:
        item = self.kept.artifacts[given["input"]["artifactID"]]
        for alias in given["input"]["aliases"]:
            item["aliases"].remove(alias["alias"])
        return {"result": {"success": True}}

    def _on_UpdateArtifact(self, given: dict[str, Any]) -> Any:
        item = self.kept.artifacts[given["input"]["artifactID"]]
        home = {"__typename": "ArtifactSequence", "name": item["collection"]}
        home["project"] = self._project("timmflow")
        return {"result": {"artifact": {**self._artifact(item, home), "aliases": []}}}

    def _on_ProjectViews(self, given: dict[str, Any]) -> Any:
        edges = [
            {"node": {"id": key, "name": view["name"], "displayName": view["displayName"]}}
            for key, view in self.kept.views.items()
            if given.get("viewName") in (None, view["displayName"])
        ]
        views = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"allViews": views}}

    def _on_upsertView(self, given: dict[str, Any]) -> Any:
        key = given["id"] or f"view{len(self.kept.views)}"
        self.kept.views[key] = {k: v for k, v in given.items() if v is not None}
        project = {"id": "p1", "name": given["projectName"], "entityName": ENTITY}
        view = {"id": key, "type": "runs", "name": given["name"], "project": project}
        view |= {"displayName": given["displayName"], "description": given["description"]}
        view |= {"spec": given["spec"], "updatedAt": "2026-01-01T00:00:00"}
        return {"upsertView": {"view": view, "inserted": given["id"] is None}}


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """A server for the length of a block."""
    server = StandIn()
    try:
        yield server
        assert server.kept.faults == []
    finally:
        server.close()


if __name__ == "__main__":
    running = StandIn(int(sys.argv[1]), lambda line: print(line, flush=True))
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print(running.kept.describe(), flush=True)
