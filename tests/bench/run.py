#!/usr/bin/env python3
"""Measures the gateway beside other proxies and writes docs/benchmarks.md.

One run, interleaved: round after round, each round every target. A proxy has one core for itself, the load and the upstream
share the other. No figure is judged here; ratios between medians of one run are what to read.

    BENCH=throughput,features make bench    some parts alone; the others keep what was measured before
    ROUNDS=5 SECONDS_PER_ROUND=3 STREAMS=10000 TOKENS=1000000 AGENTGATEWAY_BIN=/path make bench
    python3 tests/bench/run.py report       the tables again, out of docs/benchmarks/results.json
    python3 tests/bench/run.py guard        instructions for each request, held against the budget
"""

import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import features
import gateway
import guard
import peers
import report
import stage
import tools

ROUNDS = int(os.environ.get("ROUNDS", "4"))
SECONDS = int(os.environ.get("SECONDS_PER_ROUND", "3"))
STREAMS = int(os.environ.get("STREAMS", "10000"))
TOKENS = int(os.environ.get("TOKENS", "1000000"))
RATE = int(os.environ.get("RATE", "2000"))
RESULTS = pathlib.Path(os.environ.get("RESULTS", stage.ROOT / "docs" / "benchmarks" / "results.json"))
# Descriptors that a proxy needs for itself.
SPARE = 2000
KINDS = ("authorization_code", "refresh_token", "client_credentials", "registration")


class Bench:
    """What all parts need: the upstream, a token for each kind of proxy, and a place for files."""

    def __init__(self, scratch):
        self.scratch, self.files = scratch, stage.files()
        port = stage.port()
        self.upstream = f"127.0.0.1:{port}"
        self.secret = os.urandom(16).hex()
        stage.start("upstream", [stage.EXAMPLES / "bench-upstream", self.upstream, self.secret], stage.LOAD_CORE, scratch)
        stage.wait_for(port)
        self.upstream_port = port
        self.web_token, keys = peers.json_web_token(scratch)
        self.values = {
            "UPSTREAM": self.upstream, "UPSTREAM_PORT": port, "JUDGE": self.upstream, "TOKEN": self.secret,
            "tokens": self.token_for, "FILES": self.files, "STREAMS": (self.files - SPARE) // 2, **keys,
        }

    def token_for(self, variant):
        return self.web_token if "jwt" in variant else self.secret

    def gateway(self, name, **more):
        return gateway.Gateway(name, self.upstream, **more)


def progress(*words):
    print(time.strftime("%H:%M:%S"), *words, flush=True)


# --- the parts


def throughput(bench):
    """Requests in a second at 64 connections, CPU for each, and latencies at a fixed rate."""
    targets = {"no proxy": (None, bench.upstream_port, bench.secret)}
    for peer in peers.all_peers():
        child = peer.start(bench.scratch, bench.values)
        for variant, label in peer.variants.items():
            targets[label] = (child, peer.ports[variant], bench.token_for(variant))
    for label, name, env in (("mcpgate", "gateway", None), ("mcpgate, access log off", "quiet", {"RUST_LOG": "info,mcpgate::access=off"})):
        at = bench.gateway(name, env=env)
        child = at.start(bench.scratch)
        targets[label] = (child, at.port, at.token)
    found = {label: {name: [] for name in ("rate", "cpu", "p50", "p99", "calm_p50", "calm_p99", "calm_rate", "calm_cpu")} for label in targets}
    for label, (_, port, token) in targets.items():
        tools.wrk(f"http://127.0.0.1:{port}/mcp", token, 1, bench.scratch)
    for turn in range(ROUNDS):
        for label, (child, port, token) in targets.items():
            before = stage.cpu_seconds(child) if child else 0
            busy = tools.wrk(f"http://127.0.0.1:{port}/mcp", token, SECONDS, bench.scratch)
            between = stage.cpu_seconds(child) if child else 0
            calm = tools.own("rate", port, "/mcp", token, tools.CALL, RATE, SECONDS)
            after = stage.cpu_seconds(child) if child else 0
            values = found[label]
            for name in ("rate", "p50", "p99"):
                values[name].append(busy[name])
            values["cpu"].append((between - before) / busy["count"] * 1e6)
            values["calm_p50"].append(calm["p50"])
            values["calm_p99"].append(calm["p99"])
            values["calm_rate"].append(calm["rate"])
            values["calm_cpu"].append((after - between) / calm["count"] * 1e6)
        progress(f"throughput, round {turn + 1} of {ROUNDS}:", ", ".join(f"{label} {values['rate'][-1]:,.0f}" for label, values in found.items()))
    return {"rate": RATE, "targets": found}


def each_alone(bench):
    """One proxy after the other, freshly started and the only one: label, process, port, token."""
    for peer in peers.all_peers():
        child = peer.start(bench.scratch, bench.values)
        variant = "plain"
        yield peer.variants[variant], child, peer.ports[variant], bench.token_for(variant)
        stage.stop(child)
    at = bench.gateway("alone")
    child = at.start(bench.scratch)
    yield "mcpgate", child, at.port, at.token
    stage.stop(child)


def memory(bench):
    """Resident memory at rest, and for each idle stream."""
    most = min(STREAMS, (bench.files - SPARE) // 2)
    steps = sorted({min(1000, most), most})
    found = {}
    for label, child, port, token in each_alone(bench):
        # So that what is made at the first request is there.
        tools.own("repeat", port, "/mcp", token, tools.CALL, 200)
        time.sleep(1)
        rest = stage.resident(child)
        holder, each = tools.Holder(port, "/mcp", token), {}
        for step in steps:
            holder.hold(step)
            time.sleep(2)
            each[step] = (stage.resident(child) - rest) / step * 1024
        before = stage.cpu_seconds(child)
        time.sleep(2)
        idle = (stage.cpu_seconds(child) - before) / 2
        holder.close()
        time.sleep(3)
        found[label] = {"rest": rest, "each": each, "idle_cpu": idle, "after": stage.resident(child)}
        progress(f"memory: {label} {rest:.1f} MiB,", ", ".join(f"{step:,}: {value:.1f} KiB" for step, value in each.items()))
    return {"steps": steps, "targets": found}


def events(bench):
    """How soon the first event is there, how late the others are, and how evenly they come."""
    found = {"no proxy": {}}
    found["no proxy"] = tools.own("events", bench.upstream_port, "/mcp", bench.secret, 50)
    for label, _, port, token in each_alone(bench):
        tools.own("repeat", port, "/mcp", token, tools.CALL, 200)
        found[label] = tools.own("events", port, "/mcp", token, 50)
        progress(f"events: {label}, first {found[label]['first']['p50']:.3f} ms, then {found[label]['delay']['p50']:.3f} ms late")
    return {"targets": found}


def fill(bench, count, shown):
    """A store with living tokens, some of which are written to a file."""
    at = bench.gateway("filled", store=bench.scratch / f"filled-{count}")
    done = subprocess.run([stage.EXAMPLES / "bench-fill", at.store, str(count), gateway.MACHINE, at.resource, str(shown)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"the store could not be filled: {done.stderr}")
    tokens = bench.scratch / f"tokens-{count}"
    tokens.write_text(done.stdout)
    return at, tokens, float(done.stderr.split()[-1])


def priced(bench):
    """What each feature costs, against the same load without it."""
    cold, cold_tokens, _ = fill(bench, features.COLD, features.COLD)
    warm_tokens = bench.scratch / "tokens-warm"
    warm_tokens.write_text(cold_tokens.read_text().split("\n")[0] + "\n")
    files = {"cold": cold_tokens, "warm": warm_tokens}
    certificate = gateway.certificate(bench.scratch)
    nginx = peers.nginx_upstream()
    nginx.start(bench.scratch, {**bench.values, "CERTIFICATE": certificate[0], "CERTIFICATE_KEY": certificate[1]})
    gateways = {**features.gateways(bench.upstream, nginx.ports, certificate), "cold": cold}
    problems = {name: at.problem(bench.scratch) for name, at in gateways.items()}
    found, skipped = {}, {}
    for feature in features.FEATURES:
        problem = problems[feature.other] or problems[feature.base]
        if problem:
            skipped[feature.label] = problem
            progress(f"features: {feature.label} is not measured: {problem}")
        else:
            found[feature.label] = {"base": [], "with": [], "base_cpu": [], "with_cpu": []}
    for name, at in gateways.items():
        if not problems[name]:
            at.start(bench.scratch, sign_in=name != "cold")
    for turn in range(ROUNDS):
        for feature in features.FEATURES:
            if feature.label not in found:
                continue
            try:
                one_round(bench, feature, gateways, files, found[feature.label], turn == 0)
            except tools.Failed as failure:
                # One that fails is no reason to measure none.
                skipped[feature.label] = str(failure).splitlines()[0]
                del found[feature.label]
                progress(f"features: {feature.label} is not measured: {failure}")
        progress(f"features, round {turn + 1} of {ROUNDS}")
    return {"features": found, "skipped": skipped}


def one_round(bench, feature, gateways, files, found, warm_up):
    for side, name, load in (("base", feature.base, feature.base_load), ("with", feature.other, feature.load)):
        at = gateways[name]
        if warm_up:
            features.measure(at, load, 1, bench.scratch, files)
        before = stage.cpu_seconds(at.child)
        measured = features.measure(at, load, SECONDS, bench.scratch, files)
        found[side].append(measured["rate"])
        found[side + "_cpu"].append((stage.cpu_seconds(at.child) - before) / measured["count"] * 1e6)


def tokens(bench):
    """Tokens and registrations in a second, beside Better Auth; and the store alone."""
    home, version = better_auth()
    directory = bench.scratch / "better-auth"
    directory.mkdir()
    log = open(bench.scratch / "better-auth.log", "wb")
    command = ["taskset", "-c", str(stage.PROXY_CORE), "node", home / "server.mjs", str(stage.port()), directory]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    stage.children.append(child)
    line = child.stdout.readline()
    if not line:
        sys.exit("Better Auth did not start:\n" + (bench.scratch / "better-auth.log").read_text())
    at = bench.gateway("issuer")
    at.start(bench.scratch)
    plans = {"mcpgate": at.person.plan(), "better-auth": json.loads(line)}
    rates = {name: {kind: [] for kind in KINDS} for name in plans}
    for turn in range(ROUNDS):
        for kind in KINDS:
            for name, plan in plans.items():
                done = subprocess.run(["taskset", "-c", str(stage.LOAD_CORE), stage.EXAMPLES / "bench-issue", "http", kind, str(SECONDS)], input=json.dumps(plan), text=True, capture_output=True)
                if done.returncode != 0:
                    sys.exit(f"{kind} at {name}: {done.stderr}")
                rates[name][kind].append(json.loads(done.stdout)["rate"])
        progress(f"tokens, round {turn + 1} of {ROUNDS}:", ", ".join(f"{kind} {rates['mcpgate'][kind][-1]} : {rates['better-auth'][kind][-1]}" for kind in KINDS))
    stage.stop(child)
    stage.stop(at.child)
    stored = json.loads(subprocess.run([stage.EXAMPLES / "bench-issue", "store", bench.scratch / "issue", str(SECONDS)], text=True, capture_output=True, check=True).stdout)
    node = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout.strip()
    return {"rates": rates, "store": stored, "versions": {"Better Auth": version, "Node": node}}


def better_auth():
    """Better Auth as installed, and its version."""
    home = stage.ROOT / "tests" / "bench" / "better-auth"
    package = home / "node_modules" / "better-auth" / "package.json"
    if not package.exists():
        sys.exit("Better Auth is not installed: run tests/setup.sh bench")
    return home, json.loads(package.read_text())["version"]


def starting(bench):
    """From the start of the program to the first connection: with an empty store, and with one full of tokens."""
    empty = []
    for turn in range(3):
        at = bench.gateway(f"empty-{turn}")
        stage.stop(at.start(bench.scratch, sign_in=False))
        empty.append(at.started_in)
    progress(f"start: filling a store with {TOKENS:,} tokens")
    at, shown, filled_in = fill(bench, TOKENS, 1000)
    full, rest = [], 0
    for _ in range(3):
        child = at.start(bench.scratch, sign_in=False)
        full.append(at.started_in)
        rest = stage.resident(child)
        token = shown.read_text().split("\n")[0]
        tools.own("repeat", at.port, "/mcp", token, tools.CALL, 1)
        stage.stop(child)
    size = sum(path.stat().st_size for path in at.store.rglob("*") if path.is_file())
    progress(f"start: {statistics.median(empty):.2f} s empty, {statistics.median(full):.2f} s full")
    return {"tokens": TOKENS, "empty": empty, "full": full, "filled_in": filled_in, "rest": rest, "disk": size / 2**20}


PARTS = {"throughput": throughput, "events": events, "memory": memory, "features": priced, "tokens": tokens, "start": starting, "guard": guard.measure}


def main():
    wanted = os.environ.get("BENCH", ",".join(PARTS)).split(",")
    if sys.argv[1:] == ["report"]:
        wanted = []
    elif sys.argv[1:] == ["guard"]:
        wanted = ["guard"]
    elif sys.argv[1:]:
        sys.exit(__doc__)
    unknown = set(wanted) - set(PARTS)
    if unknown:
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"parts": {}}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for name in wanted:
        scratch = pathlib.Path(tempfile.mkdtemp(prefix="mcpgate-bench-"))
        started = time.monotonic()
        try:
            part = PARTS[name](Bench(scratch))
        finally:
            stage.stop_all()
            shutil.rmtree(scratch, ignore_errors=True)
        part |= {"date": time.strftime("%Y-%m-%d"), "rounds": ROUNDS, "seconds": SECONDS, "machine": stage.machine(), "took": round(time.monotonic() - started)}
        if name in ("throughput", "events", "memory"):
            part["versions"] = peers.versions()
        results["parts"][name] = json.loads(json.dumps(part))
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    if sys.argv[1:] == ["guard"]:
        sys.exit(guard.judge(results["parts"]["guard"]))
    report.write(results, RESULTS.parent if "RESULTS" in os.environ else None)


if __name__ == "__main__":
    main()
