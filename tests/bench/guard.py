"""Instructions and system calls for each request, which do not depend on how busy the machine is.

The gateway and the plain pingora proxy run under callgrind, one after the other, and answer a fixed number of requests on one
connection. Counted is what is between a zeroing and a dump, so that starting and signing in are not in it. The ratio of the
two is held against a budget: compilers change both alike.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import time

import gateway
import peers
import stage
import tools

WARM, COUNT = 300, 1000
BUDGET = pathlib.Path(__file__).parent / "budget.json"


def measure(bench):
    found = {}
    plain = next(peer for peer in peers.all_peers() if peer.name == "pingora")
    port = plain.ports["plain"]
    command = plain.command({**bench.values, "PORT_PLAIN": port})
    found["plain pingora"] = counted(bench, "plain", command, port, lambda: bench.secret)
    at = bench.gateway("guarded")
    command = [gateway.PROGRAM, "serve", "-c", at.write(bench.scratch)]

    def sign_in():
        return gateway.Person(at.port).tokens()["access_token"]

    found["mcpgate"] = counted(bench, "guarded", command, at.port, sign_in)
    return {"targets": found}


def counted(bench, name, command, port, sign_in):
    valgrind, control = stage.find("valgrind"), stage.find("callgrind_control")
    out = bench.scratch / f"callgrind.{name}"
    wrapped = [valgrind, "--tool=callgrind", f"--callgrind-out-file={out}", "--separate-threads=no", *command]
    child = stage.start(f"callgrind-{name}", wrapped, stage.PROXY_CORE, bench.scratch)
    stage.wait_for(port, child, bench.scratch / f"callgrind-{name}.log", 120)
    token = sign_in()
    tools.own("repeat", port, "/mcp", token, tools.CALL, WARM)
    controlled(control, "-z", child)
    tools.own("repeat", port, "/mcp", token, tools.CALL, COUNT)
    controlled(control, "-d", child)
    deadline = time.monotonic() + 30
    dump = pathlib.Path(f"{out}.1")
    while not (dump.exists() and "totals:" in dump.read_text(errors="replace")[-200:]):
        if time.monotonic() > deadline:
            sys.exit(f"callgrind wrote no profile of {name}: {[path.name for path in bench.scratch.iterdir()]}")
        time.sleep(0.1)
    instructions = int(re.search(r"(?:totals|summary):\s+(\d+)", dump.read_text(errors="replace")).group(1))
    profile = os.environ.get("PROFILE_TO")
    if profile:
        pathlib.Path(profile).mkdir(parents=True, exist_ok=True)
        (pathlib.Path(profile) / f"callgrind.{name}").write_bytes(dump.read_bytes())
    stage.stop(child)
    return {"instructions": instructions / COUNT, "calls": system_calls(bench, name, command, port, sign_in)}


def controlled(control, what, child):
    # There are moments when it does not answer: it is busy.
    for _ in range(5):
        done = subprocess.run([control, what, str(child.pid)], capture_output=True, text=True)
        if "OK" in done.stdout:
            return
        time.sleep(0.5)
    sys.exit(f"callgrind_control {what}: {done.stdout}{done.stderr}")


def system_calls(bench, name, command, port, sign_in):
    """By name, for each request."""
    out = bench.scratch / f"strace.{name}"
    child = stage.start(f"strace-{name}", command, stage.PROXY_CORE, bench.scratch)
    stage.wait_for(port, child)
    token = sign_in()
    tools.own("repeat", port, "/mcp", token, tools.CALL, WARM)
    tracer = subprocess.Popen([stage.find("strace"), "-f", "-c", "-o", out, "-p", str(child.pid)], stderr=subprocess.DEVNULL)
    stage.children.append(tracer)
    time.sleep(1)
    tools.own("repeat", port, "/mcp", token, tools.CALL, COUNT)
    tracer.send_signal(2)
    tracer.wait(20)
    stage.stop(child)
    calls = {}
    for line in out.read_text().splitlines():
        fields = line.split()
        if len(fields) >= 5 and re.fullmatch(r"[\d.]+", fields[0]) and fields[-1] != "total":
            each = int(fields[3]) / COUNT
            if each >= 0.05:
                calls[fields[-1]] = round(each, 2)
    return calls


def ratio(part):
    return part["targets"]["mcpgate"]["instructions"] / part["targets"]["plain pingora"]["instructions"]


def judge(part):
    """0 within the budget, else 1; says both."""
    budget = json.loads(BUDGET.read_text())
    ours, plain = (part["targets"][name]["instructions"] for name in ("mcpgate", "plain pingora"))
    most = budget["instructions_of_plain_pingora"]
    calls = sum(part["targets"]["mcpgate"]["calls"].values())
    print(f"instructions for each request: {ours:,.0f}; plain pingora {plain:,.0f}; ratio {ratio(part):.3f}, at most {most}")
    print(f"system calls for each request: {calls:.2f}, at most {budget['system_calls']}:", part["targets"]["mcpgate"]["calls"])
    bad = ratio(part) > most or calls > budget["system_calls"]
    if bad:
        print("over the budget of tests/bench/budget.json: find out why, or change the budget with the reason in the commit")
    return 1 if bad else 0
