#!/usr/bin/env python3
"""Mixed load for a long time, while the configuration is reloaded, tokens are revoked and upstreams die and come back.

    SOAK_SECONDS=600 python3 tests/soak/run.py

Every answer has to carry the nonce of its request and the name of its caller: none may be lost, none may reach somebody
else. The gateway's memory has to stay where it is, and every descriptor has to come back. Exit code 1 if anything does not
hold. MCPGATE names the program; SOAK_RELOADS=0 leaves the reloads out.
"""

import asyncio
import collections
import json
import os
import pathlib
import random
import re
import resource
import secrets
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

from client import Broken, Connection, Person

HERE = pathlib.Path(__file__).resolve().parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target"))
PROGRAM = os.environ.get("MCPGATE", str(TARGET / "release/mcpgate"))
SECONDS = int(os.environ.get("SOAK_SECONDS", "600"))
RELOADS = os.environ.get("SOAK_RELOADS", "1") != "0"
USERS = 6
TOKEN_SECONDS = 25
# The part of the time after which memory has to stay where it is.
WARM_UP = 0.3
# A stream does not outlive its token by more; docs/security.md says two seconds.
STREAM_ENDS = 8
# Connections that are there and do nothing.
CROWD = min(10_000, 30 * SECONDS)
# Until an upstream that was killed is back, and what was on its way to it is over.
AFTERMATH = 2.0
# Calls that may take longer than this are a failure, like those that never end: nothing here is slow of itself.
PATIENT = 15.0
SECRETS = re.compile(r"mg[a-z]{2}_[\w-]{8,}|\$argon2id\$")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Upstream:
    """A server that is killed now and then; who asks it at that time may hear of it."""

    def __init__(self, name):
        self.name, self.port, self.process, self.down = name, free_port(), None, []

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(sys.executable, HERE / "upstream.py", str(self.port), stdout=subprocess.PIPE)
        line = await asyncio.wait_for(self.process.stdout.readline(), 20)
        assert line == b"listening\n", f"the upstream {self.name} does not start: {line}"

    async def restart(self):
        since = time.monotonic()
        self.down.append([since, float("inf")])
        self.process.kill()
        await self.process.wait()
        await asyncio.sleep(random.uniform(0.05, 0.5))
        await self.start()
        self.down[-1][1] = time.monotonic() + AFTERMATH

    def disturbed(self, since):
        return any(since <= end and time.monotonic() >= begin for begin, end in self.down)

    async def stop(self):
        self.process.kill()
        await self.process.wait()


class Caller:
    """Somebody with tokens for one upstream, who refreshes them in time."""

    def __init__(self, soak, person, upstream):
        self.soak, self.person, self.upstream = soak, person, upstream
        self.path = f"/{upstream.name}/mcp"
        self.lock = asyncio.Lock()
        self.generation = 0
        self.ends = 0.0
        self.client_id = None

    async def sign_in(self):
        self.client_id = self.client_id or await self.person.register()
        self.take(await self.person.sign_in(self.client_id, f"{self.person.issuer}{self.path}"))
        self.soak.count["sign-ins"] += 1

    def take(self, tokens):
        self.access, self.refresh = tokens["access_token"], tokens["refresh_token"]
        self.ends = time.monotonic() + tokens["expires_in"]
        self.generation += 1

    async def token(self):
        """A token that is good for a while yet, and its generation."""
        async with self.lock:
            if self.ends - time.monotonic() < 6:
                status, tokens = await self.person.post("/token", {"grant_type": "refresh_token", "refresh_token": self.refresh, "client_id": self.client_id})
                if status != 200:
                    self.soak.violation(f"a refresh of {self.person.username} failed: {status} {tokens}")
                    await self.sign_in()
                else:
                    self.take(tokens)
                    self.soak.count["refreshes"] += 1
            return self.access, self.generation

    async def revoke(self):
        """Ends the grant. From then on its token is worth nothing; then the person signs in again."""
        async with self.lock:
            self.generation += 1
            old = self.access
            stream = Connection("127.0.0.1", self.soak.port)
            held = await stream.request("GET", self.path, {"Authorization": f"Bearer {old}", "X-Nonce": "revoked"}) if self.path != "/old" else 0
            status, _ = await self.person.post("/revoke", {"token": self.refresh, "client_id": self.client_id})
            if status != 200:
                self.soak.violation(f"a revocation was answered with {status}")
            connection = Connection("127.0.0.1", self.soak.port)
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"nonce": "revoked"}}).encode()
            status = await connection.request("POST", self.path, {"Authorization": f"Bearer {old}", "Content-Type": "application/json"}, body)
            connection.close()
            if status != 401:
                self.soak.violation(f"a revoked token was answered with {status}")
            if held == 200:
                try:
                    async with asyncio.timeout(STREAM_ENDS):
                        async for _ in stream.pieces():
                            pass
                except Broken:
                    pass
                except TimeoutError:
                    self.soak.violation(f"a stream goes on {STREAM_ENDS} s after its token was revoked")
            stream.close()
            await self.sign_in()
            self.soak.count["revocations"] += 1


class Soak:
    def __init__(self, directory):
        self.directory = directory
        self.port, self.admin = free_port(), free_port()
        # `steady` is never killed: whatever happens to the other must not be felt there.
        self.upstreams = [Upstream("steady"), Upstream("shaky")]
        self.count = collections.Counter()
        self.excused = collections.Counter()
        self.times = collections.defaultdict(list)
        self.violations = []
        self.memory = []
        self.over = False

    def violation(self, text):
        self.violations.append(text)
        if len(self.violations) <= 20:
            print(f"  VIOLATION after {time.monotonic() - self.since:.1f} s: {text}", flush=True)

    def configure(self, generation=0):
        password = subprocess.run([PROGRAM, "hash-password"], input="soak\n", capture_output=True, text=True, check=True).stdout.strip() if generation == 0 else self.password_hash
        self.password_hash = password
        scopes = [{"name": "soak:use", "description": f"Use it, as said in version {generation}"}]
        limits = dict.fromkeys(("register", "client_configuration", "authorize", "login", "token", "revoke", "introspect", "userinfo", "par", "device_authorization", "device"), 1_000_000)
        upstreams = [{"name": one.name, "path": f"/{one.name}/mcp", "url": f"http://127.0.0.1:{one.port}/mcp", "scopes": ["soak:use"]} for one in self.upstreams]
        steady = self.upstreams[0]
        upstreams.append({"name": "old", "path": "/old", "url": f"http://127.0.0.1:{steady.port}", "scopes": ["soak:use"]})
        if generation % 2:
            upstreams.append({"name": "now-and-then", "path": "/now-and-then/mcp", "url": f"http://127.0.0.1:{steady.port}/mcp"})
        configuration = {
            "public_url": f"http://127.0.0.1:{self.port}", "listen": f"127.0.0.1:{self.port}", "admin": {"listen": f"127.0.0.1:{self.admin}"},
            "store": {"sled": {"path": str(self.directory / "data")}},
            "oauth": {"access_token_expires_in": f"{TOKEN_SECONDS}s", "limits": limits}, "scopes": scopes, "upstreams": upstreams,
            "users": [{"username": f"user-{number}", "password_hash": password} for number in range(USERS)],
        }
        file = self.directory / "gateway.yaml"
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(configuration))
        fresh.rename(file)
        return file

    # --- one exchange of each kind

    async def exchange(self, kind, caller, work):
        """Runs one exchange and judges how it ended."""
        since = time.monotonic()
        generation = caller.generation
        try:
            token, generation = await caller.token()
            since = time.monotonic()
            async with asyncio.timeout(PATIENT):
                wrong = await work({"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Accept": "application/json, text/event-stream"})
        except Broken as error:
            wrong = str(error)
        except TimeoutError:
            wrong = f"it took more than {PATIENT} s"
        if wrong is None:
            self.count[kind] += 1
            self.times[kind].append(time.monotonic() - since)
        elif "crossed" in wrong:
            self.violation(f"{kind}: {wrong}")
        elif caller.upstream.disturbed(since):
            self.excused[f"{kind}, upstream down"] += 1
        elif caller.generation != generation:
            self.excused[f"{kind}, token revoked"] += 1
        else:
            self.violation(f"{kind} of {caller.person.username} at {caller.upstream.name}: {wrong}")

    def judge(self, caller, nonce, said):
        if said.get("nonce") != nonce or said.get("user") != caller.person.username or said.get("client") != caller.client_id:
            return f"crossed: {nonce} of {caller.person.username} got {said}"
        return None

    async def call(self, connection, caller, kind, headers, method="tools/call"):
        nonce = secrets.token_hex(8)
        message = {"jsonrpc": "2.0", "id": nonce, "method": method, "params": {"nonce": nonce, "kind": kind, "name": "any", "padding": "x" * random.choice((10, 300, 5_000, 40_000))}}
        status = await connection.request("POST", caller.path, headers, json.dumps(message).encode())
        if status != 200:
            return f"status {status}: {(await connection.rest())[:200]}"
        if kind != "sse":
            reply = json.loads(await connection.rest())
            return self.judge(caller, nonce, reply.get("result", {}))
        seen = []
        async for _, data in connection.events():
            value = json.loads(data)
            said = value.get("result") or value.get("params")
            if wrong := self.judge(caller, nonce, said):
                # In the middle of an answer: nothing can follow on this connection.
                connection.close()
                return wrong
            seen.append(said.get("number"))
        return None if seen == [0, 1, 2, 3, None] else f"lost: the events {seen}"

    async def calls(self, caller, kind):
        connection = Connection("127.0.0.1", self.port)
        while not self.over:
            await self.exchange(f"calls, {kind}", caller, lambda headers: self.call(connection, caller, kind, headers))
            if random.random() < 0.02:
                connection.close()
            await asyncio.sleep(random.uniform(0.002, 0.03))
        connection.close()

    async def sessions(self, caller):
        while not self.over:
            connection = Connection("127.0.0.1", self.port)

            async def converse(headers):
                if wrong := await self.call(connection, caller, "json", headers, "initialize"):
                    return wrong
                session = connection.header("mcp-session-id")
                headers = headers | {"Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25"}
                if wrong := await self.steal(caller, session):
                    return wrong
                for _ in range(4):
                    if wrong := await self.call(connection, caller, random.choice(("json", "sse")), headers):
                        return wrong
                status = await connection.request("DELETE", caller.path, headers)
                await connection.rest()
                return None if status == 200 else f"DELETE: status {status}"

            await self.exchange("sessions", caller, converse)
            connection.close()
            await asyncio.sleep(random.uniform(0.01, 0.1))

    async def steal(self, caller, session):
        """Somebody else's session is as good as none."""
        other = random.choice([one for one in self.callers if one.path == caller.path and one is not caller])
        token, generation = await other.token()
        thief = Connection("127.0.0.1", self.port)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Mcp-Session-Id": session}
        status = await thief.request("POST", caller.path, headers, b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"nonce":"stolen"}}')
        thief.close()
        if status == 404 or other.generation != generation:
            return None
        return f"crossed: the session of {caller.person.username} was answered with {status} to {other.person.username}"

    async def streams(self, caller):
        while not self.over:
            connection = Connection("127.0.0.1", self.port)
            nonce = secrets.token_hex(8)

            async def listen(headers):
                status = await connection.request("GET", caller.path, headers | {"X-Nonce": nonce, "Accept": "text/event-stream"})
                if status != 200:
                    return f"status {status}: {(await connection.rest())[:200]}"
                until, number = time.monotonic() + random.uniform(0.5, 4), 0
                async for _, data in connection.events():
                    said = json.loads(data)
                    if wrong := self.judge(caller, nonce, said):
                        return wrong
                    if said["number"] != number:
                        return f"lost: event {number}, {said['number']} came"
                    number += 1
                    if time.monotonic() > until or self.over:
                        return None
                return "the stream ended of itself"

            await self.exchange("GET streams", caller, listen)
            connection.close()
            await asyncio.sleep(random.uniform(0.01, 0.2))

    async def old_clients(self, caller):
        """As clients of 2024-11-05 do it: what is posted is answered on the stream."""
        while not self.over:
            stream, posts = Connection("127.0.0.1", self.port), Connection("127.0.0.1", self.port)

            async def converse(headers):
                status = await stream.request("GET", "/old/sse", headers | {"Accept": "text/event-stream"})
                if status != 200:
                    return f"status {status}: {(await stream.rest())[:200]}"
                events = stream.events()
                name, endpoint = await anext(events)
                if name != "endpoint":
                    return f"the first event is {name}"
                if not endpoint.startswith("/old/"):
                    return f"the endpoint leads past the gateway: {endpoint}"
                for _ in range(5):
                    nonce = secrets.token_hex(8)
                    message = {"jsonrpc": "2.0", "id": nonce, "method": "tools/call", "params": {"nonce": nonce, "name": "any"}}
                    status = await posts.request("POST", endpoint, headers, json.dumps(message).encode())
                    await posts.rest()
                    if status != 202:
                        return f"POST: status {status}"
                    _, data = await anext(events)
                    if wrong := self.judge(caller, nonce, json.loads(data)["result"]):
                        return wrong
                return None

            await self.exchange("2024-11-05", caller, converse)
            stream.close()
            posts.close()
            await asyncio.sleep(random.uniform(0.05, 0.2))

    # --- those who are no good clients

    async def rude(self, caller):
        """Goes away in the middle of everything, in order and not."""
        while not self.over:
            token, _ = await caller.token()
            head = f"POST {caller.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {token}\r\n"
            message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"nonce": "rude", "kind": "sse"}})
            said = random.choice((
                head,
                f"{head}Content-Length: 100000\r\n\r\n{{",
                f"{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5",
                f"{head}Content-Length: {len(message)}\r\n\r\n{message}",
                head.replace("POST", "GET") + "\r\n",
                "nonsense\r\n\r\n",
            ))
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(said.encode())
            await asyncio.sleep(random.uniform(0, 0.1))
            if random.random() < 0.5:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.close()
            self.count["broken off"] += 1

    async def crowd(self):
        """Very many connections that say nothing or half a head: during the warm-up, so that memory is looked at afterwards."""
        while not self.over and not self.warm():
            self.count["silent connections"] += CROWD
            held, began = [], time.monotonic()
            for number in range(CROWD):
                if self.over:
                    break
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                if number % 4 == 0:
                    writer.write(b"POST /steady/mcp HTTP/1.1\r\nX-Half: ")
                held.append(writer)
            while not self.over and not self.warm() and time.monotonic() < began + 15:
                await asyncio.sleep(0.1)
            for writer in held:
                writer.close()
            await asyncio.sleep(1)
        while not self.over:
            await asyncio.sleep(0.2)

    def warm(self):
        return time.monotonic() - self.since > SECONDS * WARM_UP

    # --- what happens meanwhile

    async def every(self, seconds, work):
        while not self.over:
            await asyncio.sleep(random.uniform(0.5, 1.5) * seconds)
            if not self.over:
                await work()

    async def restart_upstream(self):
        await self.upstreams[1].restart()
        self.count["upstream restarts"] += 1

    async def reload(self):
        """Every other version has one upstream more: whether it is there tells which version is in force."""
        self.count["reloads"] += 1
        generation = self.count["reloads"]
        self.configure(generation)
        self.process.send_signal(signal.SIGHUP)
        wanted = 200 if generation % 2 else 404
        for _ in range(50):
            connection = Connection("127.0.0.1", self.port)
            status = await connection.request("GET", "/.well-known/oauth-protected-resource/now-and-then/mcp")
            connection.close()
            if status == wanted:
                return
            await asyncio.sleep(0.1)
        self.violation(f"version {generation} of the configuration did not come into force")

    async def watch(self):
        while not self.over:
            self.memory.append((time.monotonic(), self.resident()))
            if self.process.returncode is not None:
                self.violation(f"the gateway ended with {self.process.returncode}")
                self.over = True
            await asyncio.sleep(0.5)

    def resident(self):
        try:
            status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
            return int(re.search(r"VmRSS:\s+(\d+)", status).group(1))
        except (OSError, AttributeError):
            return 0

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    # --- all of it

    async def run(self):
        self.since = time.monotonic()
        for upstream in self.upstreams:
            await upstream.start()
        log = open(self.directory / "log", "wb")
        self.process = await asyncio.create_subprocess_exec(PROGRAM, "serve", "-c", self.configure(), stderr=log, env={**os.environ, "RUST_LOG": "info"})
        for _ in range(200):
            if b"listening on" in (self.directory / "log").read_bytes():
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError(f"the gateway does not start: {(self.directory / 'log').read_text()}")
        self.callers = callers = []
        old = Upstream("old")
        # It is the steady one under another name.
        old.down = self.upstreams[0].down
        for number in range(USERS):
            person = Person(self.port, f"user-{number}", "soak")
            for upstream in (*self.upstreams, old):
                caller = Caller(self, person, upstream)
                if upstream is old:
                    caller.path = "/old"
                callers.append(caller)
        await asyncio.gather(*(caller.sign_in() for caller in callers))
        await asyncio.sleep(5)
        before = self.descriptors()
        self.since = time.monotonic()
        until = self.since + SECONDS
        work = [self.watch()]
        for caller in callers:
            if caller.upstream is old:
                work.append(self.old_clients(caller))
                continue
            for kind in ("json", "json", "sse", "slow"):
                work.append(self.calls(caller, kind))
            work += [self.sessions(caller), self.streams(caller), self.streams(caller)]
        work += [self.rude(caller) for caller in callers[:2]]
        work.append(self.crowd())
        work.append(self.every(2, lambda: random.choice(callers).revoke()))
        work.append(self.every(6, self.restart_upstream))
        if RELOADS:
            work.append(self.every(4, self.reload))
        tasks = [asyncio.create_task(one) for one in work]
        while time.monotonic() < until and not self.over:
            done = [task for task in tasks if task.done()]
            # Nothing of it ends before its time; why, is said below.
            self.over = self.over or bool(done)
            await asyncio.sleep(0.2)
        self.over = True
        for outcome in await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60):
            if isinstance(outcome, BaseException):
                self.violation(f"the test itself broke: {outcome!r}")
        await self.finish(before)

    async def finish(self, before):
        # Kept connections to upstreams go after a few seconds.
        for _ in range(40):
            if self.descriptors() <= before + 2:
                break
            await asyncio.sleep(0.25)
        after = self.descriptors()
        if after > before + 2:
            self.violation(f"{after} descriptors are open, {before} were at the beginning")
        metrics = Connection("127.0.0.1", self.admin)
        await metrics.request("GET", "/metrics")
        text = (await metrics.rest()).decode()
        metrics.close()
        for line in re.findall(r"^mcpgate_open_(?:streams|connections).* [1-9]\d*$", text, re.M):
            self.violation(f"still counted as open: {line}")
        self.process.terminate()
        code = await asyncio.wait_for(self.process.wait(), 30)
        if code != 0:
            self.violation(f"the gateway ended with {code}")
        for upstream in self.upstreams:
            await upstream.stop()
        if leaks := SECRETS.findall((self.directory / "log").read_text()):
            self.violation(f"{len(leaks)} secrets in the log, such as {leaks[0][:9]}…")
        self.report(before, after)

    def report(self, before, after):
        print(f"\nsoak: {SECONDS} s, {PROGRAM}")
        for kind in sorted(self.times):
            times = sorted(self.times[kind])
            print(f"  {kind:24} {len(times):8}   median {statistics.median(times) * 1000:8.1f} ms   99 % {times[int(len(times) * 0.99)] * 1000:8.1f} ms")
        for what in ("sign-ins", "refreshes", "revocations", "reloads", "upstream restarts", "broken off", "silent connections"):
            print(f"  {what:24} {self.count[what]:8}")
        for what, number in sorted(self.excused.items()):
            print(f"  excused: {what:40} {number:6}")
        samples = [(at - self.since, kib) for at, kib in self.memory if at - self.since > SECONDS * WARM_UP + 5]
        slope, grown = fit(samples)
        first, last = self.memory[0][1], self.memory[-1][1]
        print(f"  memory: {first / 1024:.1f} MiB at the beginning, {last / 1024:.1f} MiB at the end; {slope * 60 / 1024:+.2f} MiB a minute after the warm-up")
        print(f"  descriptors: {before} before, {after} after")
        # What a small heap moves about by is not a leak: over the whole time it may gain an eighth, or a few MiB.
        if grown > max(first / 8, 6 * 1024):
            self.violation(f"memory grew by {grown / 1024:.1f} MiB after the warm-up")
        for kind in ("calls, json", "calls, sse", "calls, slow", "sessions", "GET streams", "2024-11-05"):
            if not self.times[kind]:
                self.violation(f"none of the kind {kind} came to its end")
        for what in ("refreshes", "revocations", "upstream restarts", *(["reloads"] if RELOADS else [])):
            if SECONDS >= 30 and not self.count[what]:
                self.violation(f"there were no {what}")
        print(f"  {'no response was lost or crossed' if not self.violations else f'{len(self.violations)} VIOLATIONS'}")


def fit(samples):
    """Kibibytes a second by least squares, and what that comes to over all samples."""
    if len(samples) < 2:
        return 0.0, 0.0
    mean_x, mean_y = (statistics.fmean(column) for column in zip(*samples))
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread
    return slope, slope * (samples[-1][0] - samples[0][0])


def main():
    if not pathlib.Path(PROGRAM).exists():
        sys.exit(f"there is no {PROGRAM}: build it first (cargo build --release)")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if CROWD + 1_000 > most:
        sys.exit(f"{CROWD} connections need more descriptors than the {most} that are allowed: ulimit -n")
    with tempfile.TemporaryDirectory(prefix="mcpgate-soak-") as directory:
        soak = Soak(pathlib.Path(directory))
        try:
            asyncio.run(soak.run())
        finally:
            for process in [*(one.process for one in soak.upstreams), getattr(soak, "process", None)]:
                if process is not None and process.returncode is None:
                    os.kill(process.pid, signal.SIGKILL)
        if soak.violations:
            log = (pathlib.Path(directory) / "log").read_text().splitlines()
            print("the gateway's last warnings:", *[line for line in log if "WARN" in line or "ERROR" in line][-15:], sep="\n  ")
            sys.exit(1)


main()
