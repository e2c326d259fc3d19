"""What makes the load, and what it says afterwards."""

import http.client
import json
import re
import subprocess
import sys

import stage

# About 300 bytes, as a small call is.
CALL = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "answer", "arguments": {"question": "x" * 180}, "_meta": {"progressToken": "bench"}}})
# 1 KiB.
CALL_KIB = CALL.replace("x" * 180, "x" * (180 + 1024 - len(CALL)))
LIST = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
INITIALIZE = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}}
MEDIA = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


class Failed(Exception):
    """A load that met errors says nothing."""


def in_ms(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[unit]


def wrk(url, tokens, seconds, scratch, connections=64, body=CALL, headers=None):
    """Requests in a second, how many there were, and p50 and p99 in ms. Several tokens (a file) are used in turn."""
    lua = [f"local body = [[{body}]]", "local headers = {}"]
    for name, value in {**MEDIA, **(headers or {})}.items():
        lua.append(f"headers[{json.dumps(name)}] = {json.dumps(value)}")
    if isinstance(tokens, str):
        lua += [f'headers["Authorization"] = "Bearer {tokens}"', 'wrk.method = "POST"', "wrk.body = body", "wrk.headers = headers"]
    else:
        # Requests are made before the load begins.
        lua += [
            "local requests, turn = {}, 0",
            "function init()",
            f"  for token in io.lines({json.dumps(str(tokens))}) do",
            '    headers["Authorization"] = "Bearer " .. token',
            '    requests[#requests + 1] = wrk.format("POST", nil, headers, body)',
            "  end",
            "end",
            "function request() turn = turn % #requests + 1; return requests[turn] end",
        ]
    script = scratch / "post.lua"
    script.write_text("\n".join(lua) + "\n")
    command = ["taskset", "-c", str(stage.LOAD_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script, url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or re.search(r"Socket errors: .*[1-9]", text):
        raise Failed(f"the load met errors at {url}:\n{text}")
    found = lambda pattern: re.search(pattern, text, re.MULTILINE).group(1)
    return {
        "rate": float(found(r"Requests/sec:\s+([\d.]+)")),
        "count": int(found(r"(\d+) requests in")),
        "p50": in_ms(found(r"^\s+50%\s+(\S+)")),
        "p99": in_ms(found(r"^\s+99%\s+(\S+)")),
    }


def h2load(url, token, seconds, scratch, protocol, port):
    """The same load in HTTP/1.1 or HTTP/2: 64 connections, one request at a time on each."""
    body = scratch / "call.json"
    body.write_text(CALL)
    command = ["taskset", "-c", str(stage.LOAD_CORE), "h2load", "-t1", "-c64", "-m1", f"-D{seconds}", "-d", body, f"--connect-to=127.0.0.1:{port}"]
    command += ["--h1"] if protocol == "h1" else []
    for name, value in {**MEDIA, "Authorization": f"Bearer {token}"}.items():
        command += ["-H", f"{name}: {value}"]
    text = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    count = int(re.search(r"status codes: (\d+) 2xx", text).group(1))
    errors = re.search(r"(\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text).groups()
    if not count or any(map(int, errors)):
        raise Failed(f"the load met errors at {url}:\n{text}")
    return {"rate": float(re.search(r"([\d.]+) req/s", text).group(1)), "count": count}


def status(port, token, body=CALL):
    """Of one call."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/mcp", body, {**MEDIA, "Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def own(mode, port, path, token, *more):
    command = ["taskset", "-c", str(stage.LOAD_CORE), stage.EXAMPLES / "bench-load", mode, f"127.0.0.1:{port}", path, *more]
    done = subprocess.run([str(part) for part in command], input=f"{token}\n", text=True, capture_output=True)
    if done.returncode != 0:
        sys.exit(f"{mode} at port {port}: {done.stderr}")
    return json.loads(done.stdout)


class Holder:
    """Holds idle streams."""

    def __init__(self, port, path, token):
        command = ["taskset", "-c", str(stage.LOAD_CORE), stage.EXAMPLES / "bench-load", "hold", f"127.0.0.1:{port}", path]
        self.child = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.child.stdin.write(f"{token}\n")
        stage.children.append(self.child)

    def hold(self, count):
        self.child.stdin.write(f"{count}\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        if not line:
            sys.exit(f"{count} streams could not be held")
        return json.loads(line)["held"]

    def close(self):
        self.child.stdin.close()
        self.child.wait(60)
        stage.children.remove(self.child)
