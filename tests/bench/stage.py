"""The machine under the bench: where things are, which core they run on, what they use."""

import http.client
import os
import pathlib
import platform
import re
import resource
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BUILT = TARGET / os.environ.get("BENCH_PROFILE", "release")
EXAMPLES = BUILT / "examples"
# The proxy under test has this core for itself; the load, the upstream and whom other proxies ask share the other.
PROXY_CORE, LOAD_CORE = 0, 1
FIRST_PORT = int(os.environ.get("BENCH_PORT", "18100"))
TICKS = os.sysconf("SC_CLK_TCK")

children = []
_ports = iter(range(FIRST_PORT, FIRST_PORT + 200))


def port():
    return next(_ports)


def files():
    """As many descriptors as the system lets us have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    hard = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def start(name, command, core, scratch, env=None, cwd=None):
    log = open(scratch / f"{name}.log", "ab")
    command = ["taskset", "-c", str(core), *map(str, command)]
    child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})}, cwd=cwd)
    children.append(child)
    return child


def stop(child):
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child in children:
        children.remove(child)


def stop_all():
    for child in children:
        if child.poll() is None:
            child.terminate()
    for child in list(children):
        stop(child)


def wait_for(port, child=None, log=None, seconds=60):
    """Until somebody listens. How long that took."""
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        if child is not None and child.poll() is not None:
            break
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            connection.connect()
            connection.close()
            return time.perf_counter() - started
        except OSError:
            time.sleep(0.02)
    said = log.read_text(errors="replace")[-2000:] if log and log.exists() else ""
    sys.exit(f"nothing listens on port {port}\n{said}")


def family(child):
    """A proxy's own process (taskset has become it) and those that it started."""
    pids, look = [], [child.pid]
    while look:
        pid = look.pop()
        pids.append(pid)
        try:
            look += map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        except OSError:
            pass
    return pids


def resident(child):
    """MiB."""
    total = 0
    for pid in family(child):
        total += int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1))
    return total / 1024


def cpu_seconds(child):
    total = 0
    for pid in family(child):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def find(program, *more):
    for place in ("", *more):
        path = shutil.which(os.path.join(place, program))
        if path:
            return path
    sys.exit(f"{program} is missing: run tests/setup.sh bench")


def output(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    return (done.stdout + done.stderr).strip()


def machine():
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return {
        "cores": os.cpu_count(),
        "processor": model.group(1) if model else platform.machine(),
        "kernel": platform.release().split("-")[0],
        "rustc": output("rustc", "--version").split()[1],
        "profile": BUILT.name,
    }
