# SPDX-License-Identifier: Apache-2.0
"""The part of MLflow's REST interface that a run is reported to, on this machine. Standard library only."""
import base64
import http.server
import json
import threading
import urllib.parse


class Mlflow:
    """runs: {id: {"status", "name", "experiment", "params", "metrics": [[key, value, step]], "tags"}}. faults: statuses for the next
    requests. refuses: every request gets this status."""

    def __init__(self):
        self.runs, self.experiments, self.artifacts, self.faults, self.refuses, self.users = {}, {}, {}, [], None, set()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def answer(self, status, value=None):
                data = json.dumps(value or {}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def handle_request(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.users.add(base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode())
                if server.refuses or server.faults:
                    return self.answer(server.refuses or server.faults.pop(0), {"error_code": "REFUSED", "message": "not today"})
                path = urllib.parse.urlsplit(self.path)
                if self.command == "PUT":
                    server.artifacts[path.path.split("/artifacts/", 1)[1]] = json.loads(body)
                    return self.answer(200)
                call, given = path.path.split("/api/2.0/mlflow/")[1], json.loads(body or b"{}")
                if call == "experiments/get-by-name":
                    name = urllib.parse.parse_qs(path.query)["experiment_name"][0]
                    found = name in server.experiments
                    return self.answer(200 if found else 404, {"experiment": {"experiment_id": server.experiments.get(name)}})
                if call == "experiments/create":
                    server.experiments[given["name"]] = "7"
                    return self.answer(200, {"experiment_id": "7"})
                if call == "runs/create":
                    run = f"run{len(server.runs)}"
                    server.runs[run] = {"name": given["run_name"], "experiment": given["experiment_id"], "status": "RUNNING", "params": {}, "metrics": [], "tags": {}}
                    return self.answer(200, {"run": {"info": self.info(run)}})
                run = server.runs.get(given["run_id"])
                if run is None:
                    return self.answer(404)
                if call == "runs/update":
                    run["status"] = given["status"]
                    return self.answer(200, {"run_info": self.info(given["run_id"])})
                if call == "runs/log-batch":
                    run["params"].update({item["key"]: item["value"] for item in given.get("params", [])})
                    run["metrics"] += [[item["key"], item["value"], item["step"]] for item in given.get("metrics", [])]
                    return self.answer(200)
                if call == "runs/set-tag":
                    run["tags"][given["key"]] = given["value"]
                    return self.answer(200)
                return self.answer(404)

            def info(self, run):
                return {"run_id": run, "artifact_uri": f"mlflow-artifacts:/7/{run}/artifacts"}

            do_GET = do_POST = do_PUT = handle_request

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
