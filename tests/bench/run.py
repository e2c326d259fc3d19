#!/usr/bin/env python3
"""Measures the gateway beside a plain proxy, nginx and no proxy at all, and writes docs/benchmarks.md.

One run, interleaved: round after round, each round every target. A proxy has one core for itself, the load and the upstream
share the other. No figure is judged here; ratios between medians of one run are what to read.
"""

import asyncio
import base64
import hashlib
import http.client
import json
import os
import pathlib
import platform
import re
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / os.environ.get("BENCH_PROFILE", "release")
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = int(os.environ.get("SECONDS_PER_ROUND", "4"))
STREAMS = int(os.environ.get("STREAMS", "2000"))
PASSWORD = secrets.token_urlsafe(16)
PORTS = {"upstream": 18101, "gateway": 18102, "admin": 18103, "quiet": 18104, "quiet_admin": 18105, "plain": 18106, "nginx": 18107, "better-auth": 18108}
# What 64 clients ask for in turn: the label of the table, and what `bench-issue` calls it.
KINDS = {
    "`authorization_code`, with the browser's part": "authorization_code",
    "`refresh_token`": "refresh_token",
    "`client_credentials`": "client_credentials",
    "registrations": "registration",
}
MACHINE_SECRET = secrets.token_urlsafe(32)
CALL = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "answer", "arguments": {"question": "x" * 180}, "_meta": {"progressToken": "bench"}}})
children = []


def start(name, command, core, scratch, **more):
    log = open(scratch / f"{name}.log", "wb")
    child = subprocess.Popen(["taskset", "-c", str(core), *map(str, command)], stdout=log, stderr=log, **more)
    children.append(child)
    return child


def stop_all(*_):
    for child in children:
        if child.poll() is None:
            child.terminate()
    for child in children:
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()


def wait_for(port):
    for _ in range(100):
        try:
            http.client.HTTPConnection("127.0.0.1", port, timeout=1).connect()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"nothing listens on port {port}")


def gateway_yaml(scratch, name, port, admin):
    hashed = subprocess.run([TARGET / "mcpgate", "hash-password"], input=PASSWORD + "\n", text=True, capture_output=True, check=True).stdout.strip()
    path = scratch / f"{name}.yaml"
    path.write_text(
        f"public_url: http://127.0.0.1:{port}\nlisten: 127.0.0.1:{port}\nadmin: {{ listen: \"127.0.0.1:{admin}\" }}\n"
        f"store: {{ sled: {{ path: \"{scratch}/{name}-data\" }} }}\n"
        f"oauth:\n  clients:\n    - {{ client_id: bench-machine, client_secret: \"{MACHINE_SECRET}\", grant_types: [client_credentials] }}\n"
        # All of the load comes from one address.
        f"  limits: {{ register: none, authorize: none, login: none }}\n"
        f"users:\n  - {{ username: ada, password_hash: \"{hashed}\", email: ada@example.com, groups: [engineering] }}\n"
        f"upstreams:\n  - {{ name: bench, path: /mcp, url: \"http://127.0.0.1:{PORTS['upstream']}/mcp\" }}\n"
    )
    return path


class Person:
    """A client and the person in front of it, over plain HTTP."""

    def __init__(self, port):
        self.port, self.cookies = port, {}
        body = json.dumps({"redirect_uris": ["https://client.example.com/callback"], "token_endpoint_auth_method": "none", "grant_types": ["authorization_code", "refresh_token"], "client_name": "bench"})
        self.client = json.loads(self.ask("POST", "/register", body, {"content-type": "application/json"})[2])["client_id"]

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        headers = dict(headers or {})
        if self.cookies:
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        for value in answer.headers.get_all("set-cookie") or []:
            name, content = value.split(";")[0].split("=", 1)
            self.cookies[name] = content
        return answer.status, answer.headers, text

    def form(self, page, add):
        form = next(part for part in page.split("<form")[1:] if all(f'name="{name}"' in part for name in add))
        action = re.search(r'action="([^"]*)"', form).group(1)
        fields = {}
        for tag in re.findall(r"<input[^>]*>", form):
            if 'type="hidden"' in tag:
                fields[re.search(r'name="([^"]*)"', tag).group(1)] = re.search(r'value="([^"]*)"', tag).group(1)
        fields.update(add)
        return self.ask("POST", action, urllib.parse.urlencode(fields), {"content-type": "application/x-www-form-urlencoded"})

    def plan(self):
        """What `bench-issue` needs to ask for tokens as this person does, who has agreed once."""
        self.tokens()
        return {
            "address": f"127.0.0.1:{self.port}", "authorize": "/authorize", "token": "/token", "register": "/register",
            "resource": f"http://127.0.0.1:{self.port}/mcp", "redirect": "https://client.example.com/callback",
            # The session alone: each of the 64 is a browser of its own, as the gateway lets one browser have 20 unfinished
            # authorizations.
            "cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items() if name != "oidc_login_prompt"),
            "client": self.client, "scope": "offline_access",
            "machine": {"client": "bench-machine", "secret": MACHINE_SECRET, "scope": ""},
        }

    def follow(self, answer):
        status, headers, text = answer
        while status in (302, 303) and (headers["location"].startswith("/") or headers["location"].startswith(f"http://127.0.0.1:{self.port}/")):
            path = headers["location"].removeprefix(f"http://127.0.0.1:{self.port}")
            status, headers, text = self.ask("GET", path)
        return status, headers, text

    def tokens(self):
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        redirect = "https://client.example.com/callback"
        query = urllib.parse.urlencode({"response_type": "code", "client_id": self.client, "scope": "offline_access", "redirect_uri": redirect, "code_challenge": challenge, "code_challenge_method": "S256"})
        answer = self.follow(self.ask("GET", f"/authorize?{query}"))
        if 'name="password"' in answer[2]:
            answer = self.follow(self.form(answer[2], {"username": "ada", "password": PASSWORD}))
        if 'name="decision"' in answer[2]:
            answer = self.form(answer[2], {"decision": "approve"})
        code = urllib.parse.parse_qs(urllib.parse.urlparse(answer[1]["location"]).query)["code"][0]
        form = urllib.parse.urlencode({"grant_type": "authorization_code", "client_id": self.client, "code": code, "redirect_uri": redirect, "code_verifier": verifier})
        return json.loads(self.ask("POST", "/token", form, {"content-type": "application/x-www-form-urlencoded"})[2])


def in_ms(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def load(url, token, connections, seconds, scratch):
    script = scratch / "post.lua"
    script.write_text(f'wrk.method = "POST"\nwrk.body = [[{CALL}]]\nwrk.headers["Content-Type"] = "application/json"\nwrk.headers["Accept"] = "application/json, text/event-stream"\nwrk.headers["Authorization"] = "Bearer {token}"\n')
    text = subprocess.run(["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script, url], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        sys.exit(f"the load met errors at {url}:\n{text}")
    found = lambda pattern: re.search(pattern, text, re.MULTILINE).group(1)
    return float(found(r"Requests/sec:\s+([\d.]+)")), in_ms(found(r"^\s+50%\s+(\S+)")), in_ms(found(r"^\s+99%\s+(\S+)"))


async def first_event(port, path, token):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    started = time.perf_counter()
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n".encode())
    await reader.readuntil(b"data: first")
    took = (time.perf_counter() - started) * 1000
    return took, writer


def resident(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1))


def family(child):
    """A proxy's own process: taskset has become it; nginx's worker is its child."""
    kids = pathlib.Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    return [child.pid, *map(int, kids)]


async def hold_streams(port, path, token, child):
    before = sum(resident(pid) for pid in family(child))
    writers = []
    for _ in range(STREAMS // 50):
        opened = await asyncio.gather(*(first_event(port, path, token) for _ in range(50)))
        writers.extend(writer for _, writer in opened)
    await asyncio.sleep(1)
    after = sum(resident(pid) for pid in family(child))
    for writer in writers:
        writer.close()
    await asyncio.sleep(2)
    return before / 1024, (after - before) / STREAMS


def row(name, values, unit="", digits=0):
    return f"{statistics.median(values):,.{digits}f}{unit} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def main():
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="mcpgate-bench-"))
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    try:
        run(scratch, nginx)
    finally:
        stop_all()
        shutil.rmtree(scratch, ignore_errors=True)


def run(scratch, nginx):
    ports = PORTS
    # nginx as a plain proxy with upstream keep-alive, one worker.
    (scratch / "nginx.conf").write_text(
        f"worker_processes 1; daemon off; pid {scratch}/nginx.pid; error_log {scratch}/nginx-error.log; worker_rlimit_nofile 65536;\n"
        "events { worker_connections 16384; }\n"
        f"http {{ access_log off; client_body_temp_path {scratch}/b; proxy_temp_path {scratch}/p; fastcgi_temp_path {scratch}/f; uwsgi_temp_path {scratch}/u; scgi_temp_path {scratch}/s;\n"
        f"upstream back {{ server 127.0.0.1:{ports['upstream']}; keepalive 1024; }}\n"
        f"server {{ listen 127.0.0.1:{ports['nginx']} backlog=4096; location / {{ proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off; keepalive_requests 1000000000; }} }} }}\n"
    )
    start("upstream", [TARGET / "examples" / "bench-upstream", f"127.0.0.1:{ports['upstream']}"], 1, scratch)
    proxies = {
        "nginx": start("nginx", [nginx, "-c", scratch / "nginx.conf", "-p", scratch], 0, scratch),
        "plain pingora": start("plain", [TARGET / "examples" / "bench-plain-proxy", f"127.0.0.1:{ports['plain']}", f"127.0.0.1:{ports['upstream']}"], 0, scratch),
        "mcpgate": start("gateway", [TARGET / "mcpgate", "serve", "-c", gateway_yaml(scratch, "gateway", ports["gateway"], ports["admin"])], 0, scratch),
        "mcpgate, access log off": start("quiet", [TARGET / "mcpgate", "serve", "-c", gateway_yaml(scratch, "quiet", ports["quiet"], ports["quiet_admin"])], 0, scratch, env={**os.environ, "RUST_LOG": "warn"}),
    }
    for name in ("upstream", "nginx", "plain", "gateway", "quiet"):
        wait_for(ports[name])
    person, quiet = Person(ports["gateway"]), Person(ports["quiet"])
    token, quiet_token = person.tokens()["access_token"], quiet.tokens()["access_token"]
    targets = {
        "no proxy": (ports["upstream"], "x"),
        "nginx": (ports["nginx"], "x"),
        "plain pingora": (ports["plain"], "x"),
        "mcpgate": (ports["gateway"], token),
        "mcpgate, access log off": (ports["quiet"], quiet_token),
    }
    rates, busy, calm = ({name: [] for name in targets} for _ in range(3))
    for name, (port, bearer) in targets.items():
        load(f"http://127.0.0.1:{port}/mcp", bearer, 64, 1, scratch)
    for turn in range(ROUNDS):
        print(f"round {turn + 1} of {ROUNDS}", flush=True)
        for name, (port, bearer) in targets.items():
            rate, _, p99 = load(f"http://127.0.0.1:{port}/mcp", bearer, 64, SECONDS, scratch)
            rates[name].append(rate)
            busy[name].append(p99)
            _, p50, p99 = load(f"http://127.0.0.1:{port}/mcp", bearer, 1, 2, scratch)
            calm[name].append((p50, p99))
    print("streams", flush=True)
    events = {name: [] for name in targets}

    async def delays():
        for _ in range(100):
            for name, (port, bearer) in targets.items():
                took, writer = await first_event(port, "/mcp", bearer)
                events[name].append(took)
                writer.close()

    asyncio.run(delays())
    memory = {}
    for name, child in proxies.items():
        port, bearer = targets[name]
        memory[name] = asyncio.run(hold_streams(port, "/mcp", bearer, child))
    print("tokens", flush=True)
    issued = issue(scratch, person)
    stop_all()
    stored = json.loads(subprocess.run([TARGET / "examples" / "bench-issue", "store", scratch / "issue", "5"], text=True, capture_output=True, check=True).stdout)
    write(nginx, rates, busy, calm, events, memory, issued, stored)


def node_modules():
    """Better Auth as installed, and its version."""
    home = ROOT / "tests" / "bench" / "better-auth"
    package = home / "node_modules" / "better-auth" / "package.json"
    if not package.exists():
        sys.exit("Better Auth is not installed: run tests/setup.sh bench")
    return home, json.loads(package.read_text())["version"]


def issue(scratch, person):
    """Rates for each server and kind, a value for each round; servers take turns, one core for either, one for the load."""
    home, _ = node_modules()
    directory = scratch / "better-auth"
    directory.mkdir()
    log = open(scratch / "better-auth.log", "wb")
    child = subprocess.Popen(["taskset", "-c", "0", "node", home / "server.mjs", str(PORTS["better-auth"]), directory], stdout=subprocess.PIPE, stderr=log, text=True)
    children.append(child)
    line = child.stdout.readline()
    if not line:
        sys.exit("Better Auth did not start:\n" + (scratch / "better-auth.log").read_text())
    plans = {"mcpgate": person.plan(), "better-auth": json.loads(line)}
    rates = {name: {kind: [] for kind in KINDS.values()} for name in plans}
    for turn in range(ROUNDS):
        for kind in KINDS.values():
            for name, plan in plans.items():
                done = subprocess.run(["taskset", "-c", "1", TARGET / "examples" / "bench-issue", "http", kind, str(SECONDS)], input=json.dumps(plan), text=True, capture_output=True)
                if done.returncode != 0:
                    sys.exit(f"{kind} at {name}: {done.stderr}")
                rates[name][kind].append(json.loads(done.stdout)["rate"])
                print(f"round {turn + 1}: {name} {kind} {rates[name][kind][-1]}", flush=True)
    return rates


def write(nginx, rates, busy, calm, events, memory, issued, stored):
    median = statistics.median
    base = {name: median(values) for name, values in rates.items()}
    lines = [
        "| | requests/s, 64 connections | of nginx | of plain pingora | p99 at 64, ms | p50 alone, ms | p99 alone, ms | first event, ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in rates:
        lines.append(
            f"| {name} | {row(name, rates[name])} | {base[name] / base['nginx']:.2f} | {base[name] / base['plain pingora']:.2f} | {median(busy[name]):.2f} "
            f"| {median(p for p, _ in calm[name]):.3f} | {median(p for _, p in calm[name]):.3f} | {median(events[name]):.3f} |"
        )
    lines += ["", f"| | memory at rest, MiB | KiB for each of {STREAMS:,} idle streams |", "| --- | --- | --- |"]
    lines += [f"| {name} | {rest:.1f} | {each:.1f} |" for name, (rest, each) in memory.items()]
    lines += [
        "",
        "| in a second, for 64 clients | mcpgate | Better Auth | ratio |",
        "| --- | --- | --- | --- |",
    ]
    for label, kind in KINDS.items():
        ours, theirs = issued["mcpgate"][kind], issued["better-auth"][kind]
        lines.append(f"| {label} | {row(label, ours)} | {row(label, theirs)} | {median(ours) / max(median(theirs), 1):.1f} |")
    lines += [
        "",
        "| refresh tokens replaced in a second by 64 writers | |",
        "| --- | --- |",
        f"| the store alone, writers share a flush | {stored['shared']:,} |",
        f"| the store alone, one flush for each write | {stored['alone']:,} |",
        f"| ratio of the two | {stored['shared'] / max(stored['alone'], 1):.1f} |",
    ]
    _, better_auth = node_modules()
    node = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout.strip()
    version = subprocess.run([nginx, "-v"], capture_output=True, text=True).stderr.strip().split("/")[-1]
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.split()[1]
    lines += ["", f"{time.strftime('%Y-%m-%d')}; {os.cpu_count()} cores, Linux {platform.release().split('-')[0]}, nginx {version}, rustc {rustc}, Better Auth {better_auth} on Node {node}; {ROUNDS} rounds of {SECONDS} s, medians (and extremes)."]
    path = ROOT / "docs" / "benchmarks.md"
    text = path.read_text()
    begin, end = "<!-- measured: begin -->", "<!-- measured: end -->"
    head, rest = text.split(begin)
    path.write_text(head + begin + "\n" + "\n".join(lines) + "\n" + end + rest.split(end)[1])
    print("\n".join(lines))


if __name__ == "__main__":
    main()
