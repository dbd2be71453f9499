# SPDX-License-Identifier: Apache-2.0
"""A model hub on this machine, with faults on demand, that huggingface_hub's client downloads from, too. Standard library only."""
import base64
import hashlib
import http.server
import json
import sys
import threading
import time
import urllib.parse

COMMIT = {"main": "a" * 40, "v1": "b" * 40}


def is_large(path):
    return path.endswith((".safetensors", ".bin", ".parquet", ".gguf", ".onnx")) or path.startswith("data/")


def blob_hash(path, content):
    return hashlib.sha256(content).hexdigest() if is_large(path) else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """repositories: {"models/org/name" or "datasets/org/name": {path: bytes}}. faults: {path: [fault, ...]}, each for one download of
    that file. Everything asked for is in requests: (what, path, range, token)."""

    def __init__(self):
        self.repositories, self.faults, self.requests, self.gated, self.token, self.extra_entries = {}, {}, [], set(), None, []
        self.old = {}  # repositories at the tag v1
        self.blobs, self.parts, self.commits, self.chunk, self.lost = {}, {}, [], 10000, []
        self.history = []  # of the repository of each commit
        self.readers = set()  # tokens that may only read
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.do_GET()

            def send(self, status, data=b"", length=None, **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(data) if length is None else length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def do_GET(self):
                try:
                    self.answer()
                except (BrokenPipeError, ConnectionResetError):
                    pass

            def do_POST(self):
                self.do_GET()

            def do_PUT(self):
                self.do_GET()

            def answer(self):
                if self.command in ("POST", "PUT"):
                    return self.receive(self.path.split("?")[0], self.rfile.read(int(self.headers.get("Content-Length", 0))))
                url = urllib.parse.urlsplit(self.path)
                path = urllib.parse.unquote(url.path)
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                what = "cdn" if path.startswith("/cdn/") else "tree" if "/tree/" in path else "resolve" if "/resolve/" in path else "api"
                hub.requests.append((what, path.split("/resolve/")[-1].split("/", 1)[-1] if what == "resolve" else path, self.headers.get("Range"), token))
                if what == "cdn":
                    _, _, kind, owner, name, commit, file = path.split("/", 6)
                    return self.content(file, hub.files(f"{kind}/{owner}/{name}", commit)[file], {})
                if hub.token and token not in {"", hub.token} | hub.readers:
                    return self.send(401, X_Error_Message="Invalid credentials in Authorization header")
                if path == "/api/whoami-v2":
                    return self.json({"type": "user", "name": "me", "auth": {}}) if token else self.send(401)
                if path.startswith("/api/"):
                    if path.removeprefix("/api/") in hub.repositories:
                        return self.json({"id": path[len("/api/models/"):]})
                    if path.count("/") < 6:
                        return self.send(404)
                    kind, owner, name, call, revision = path[len("/api/"):].split("/", 4)
                    where = f"{kind}/{owner}/{name}"
                    if where not in hub.repositories:
                        return self.send(401, X_Error_Code="RepoNotFound")
                    commit = COMMIT.get(revision, revision)
                    if commit not in COMMIT.values() or (commit == COMMIT["v1"] and where not in hub.old):
                        return self.send(404, X_Error_Code="RevisionNotFound")
                    if call == "revision":
                        return self.json({"_id": "1", "id": f"{owner}/{name}", "sha": commit, "siblings": [], "tags": []})
                    return self.tree(where, commit, int(urllib.parse.parse_qs(url.query).get("cursor", ["0"])[0]))
                before, rest = path[1:].split("/resolve/")
                where = before if before.startswith("datasets/") else "models/" + before
                commit, file = rest.split("/", 1)
                commit = COMMIT.get(commit, commit)
                if where in hub.gated and token != hub.token:
                    return self.send(401, X_Error_Code="GatedRepo")
                files = hub.files(where, commit)
                if file not in files:
                    return self.send(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
                etag = f'"{blob_hash(file, files[file])}"'
                if (hub.faults.get(file) or [""])[0] == "loop":
                    return self.send(302, Location=self.path)
                if is_large(file):
                    location = f"http://localhost:{hub.port}/cdn/{where}/{commit}/{urllib.parse.quote(file)}"
                    return self.send(302, Location=location, X_Repo_Commit=commit, X_Linked_Etag=etag, X_Linked_Size=str(len(files[file])))
                self.content(file, files[file], {"ETag": etag, "X-Repo-Commit": commit})

            def receive(self, path, data):
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                what = "put" if path.startswith("/put/") else "post"
                hub.requests.append((what, path, None, token))
                faults = hub.faults.get(path.rsplit("/", 1)[0] + "/" if what == "put" else path.split("/")[-2], [])
                if faults:
                    fault = faults.pop(0)
                    if fault == "lost":
                        data = b"lost"
                    elif fault == "hold":
                        hub.resume.wait(30)
                    elif fault == "expire":
                        hub.token = "hf_new"
                    elif fault == "cut":
                        self.close_connection = True
                        return None
                    elif fault:
                        return self.send(int(fault), Retry_After="0")
                if what == "put":
                    oid, part = path[len("/put/"):].split("/")
                    hub.parts[(oid, int(part))] = data
                    return self.send(200, ETag=f'"{part}-{hashlib.md5(data).hexdigest()}"')
                if token not in {hub.token} | hub.readers and not (token == "" and path.startswith("/complete/")):  # a signed address
                    return self.send(401, X_Error_Message="Invalid credentials in Authorization header")
                if token in hub.readers:
                    return self.send(403, X_Error_Message="Forbidden: read only")
                if path == "/api/repos/create":
                    wanted = json.loads(data)
                    where = f"models/{wanted.get('organization') or 'me'}/{wanted['name']}"
                    if where in hub.repositories:
                        return self.send(409, b"{}")
                    hub.repositories[where] = {}
                    hub.created = wanted
                    return self.json({"url": f"{hub.endpoint}/{where[7:]}", "name": where[7:], "id": where[7:]})
                if path == "/api/validate-yaml":
                    return self.json({"errors": [], "warnings": []})
                if "/branch/" in path:
                    return self.json({})
                if "/preupload/" in path:
                    files = json.loads(data)["files"]
                    assert all(base64.b64decode(file["sample"], validate=True) or file["size"] == 0 for file in files)
                    return self.json({"files": [{"path": file["path"], "uploadMode": "lfs" if is_large(file["path"]) else "regular", "shouldIgnore":
                                                 file["path"] == "ignored.txt"} for file in files]})
                if path.endswith("/info/lfs/objects/batch"):
                    objects = []
                    for wanted in json.loads(data)["objects"]:
                        entry = dict(wanted)
                        if wanted["oid"] not in hub.blobs:
                            count = -(-wanted["size"] // hub.chunk)
                            put = lambda part: f"http://localhost:{hub.port}/put/{wanted['oid']}/{part}"
                            upload = {"href": put(1)} if count == 1 else {"href": f"{hub.endpoint}/complete/{wanted['oid']}", "header": {
                                "chunk_size": str(hub.chunk), **{str(i): put(i) for i in range(1, count + 1)}}}
                            entry["actions"] = {"upload": upload, "verify": {"href": f"{hub.endpoint}/verify/{wanted['oid']}"}}
                        objects.append(entry)
                    return self.json({"transfer": "basic", "objects": objects})
                if path.startswith("/complete/"):
                    parts = json.loads(data)["parts"]
                    oid = path.split("/")[-1]
                    right = all(part["etag"] == f'"{i + 1}-{hashlib.md5(hub.parts[(oid, i + 1)]).hexdigest()}"' for i, part in enumerate(parts))
                    return self.json({}) if right else self.send(400)
                if path.startswith("/verify/"):
                    oid = path.split("/")[-1]
                    content = b"".join(data for (of, _), data in sorted(hub.parts.items()) if of == oid)
                    if hashlib.sha256(content).hexdigest() != oid:
                        return self.send(500)
                    hub.blobs[oid] = content
                    return self.json({})
                if "/commit/" in path:
                    where = path[len("/api/"):].split("/commit/")[0]
                    lines = [json.loads(line) for line in data.splitlines()]
                    for line in lines[1:]:
                        value = line["value"]
                        if line["key"] == "deletedFile":
                            del hub.repositories[where][value["path"]]
                            continue
                        hub.repositories[where][value["path"]] = hub.blobs[value["oid"]] if line["key"] == "lfsFile" else base64.b64decode(value["content"])
                    hub.history.append(dict(hub.repositories[where]))
                    hub.commits.append((where, path.split("/commit/")[1], lines[0]["value"]["summary"]))
                    return self.json({"success": True, "commitOid": COMMIT["main"], "commitUrl": f"{hub.endpoint}/{where[7:]}/commit/{COMMIT['main']}"})
                return self.send(404)

            def json(self, value, **headers):
                self.send(200, json.dumps(value).encode(), Content_Type="application/json", **headers)

            def tree(self, where, commit, cursor):
                entries = [{"type": "directory", "path": "data", "oid": "0" * 40, "size": 0}]
                for file, data in sorted(hub.files(where, commit).items()):
                    entry = {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
                    if is_large(file):
                        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
                    entries.append(entry)
                entries += hub.extra_entries
                page, rest = entries[cursor:cursor + 3], len(entries) > cursor + 3
                link = f'<http://127.0.0.1:{hub.port}/api/{where}/tree/{commit}?recursive=True&expand=False&cursor={cursor + 3}>; rel="next"'
                self.json(page, **({"Link": link} if rest else {}))

            def content(self, file, data, headers):
                faults = hub.faults.get(file, [])
                fault = faults.pop(0) if faults and self.command == "GET" else ""
                given = self.headers.get("Range")
                begin = int(given.removeprefix("bytes=").removesuffix("-")) if given and fault != "no range" else 0
                if begin:
                    headers = dict(headers, Content_Range=f"bytes {begin}-{len(data) - 1}/{len(data)}")
                part, status = data[begin:], 206 if begin else 200
                if fault == "429":
                    return self.send(429, Retry_After="1")
                if fault.isdigit():
                    return self.send(int(fault))
                if fault == "wrong":
                    return self.send(status, bytes(len(part)), **headers)
                if fault == "long":
                    return self.send(status, part + b"more", **headers)
                if fault in ("cut", "slow"):
                    self.send(status, part[:len(part) // 2], length=len(part), **headers)
                    self.wfile.flush()
                    if fault == "slow":
                        hub.resume.wait(30)
                        return self.wfile.write(part[len(part) // 2:])
                    self.close_connection = True
                    return None
                self.send(status, part, **headers)

        self.resume = threading.Event()
        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that was killed
                    super().handle_error(request, client_address)

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def files(self, where, commit):
        return self.old[where] if commit == COMMIT["v1"] else self.repositories[where]

    def asked(self, what):
        return [path for kind, path, _, _ in self.requests if kind == what]

    def wait_for(self, what, file, seconds=20):
        end = time.monotonic() + seconds
        while not any(path.endswith(file) for path in self.asked(what)) and time.monotonic() < end:
            time.sleep(0.01)
