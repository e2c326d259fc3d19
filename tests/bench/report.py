"""Tables and plots out of what was measured."""

import html
import pathlib
import statistics

import guard
import stage

median = statistics.median
LABELS = {
    "authorization_code": "`authorization_code`, with the browser's part",
    "refresh_token": "`refresh_token`",
    "client_credentials": "`client_credentials`",
    "registration": "registrations",
}


def spread(values, digits=0):
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *("| " + " | ".join(row) + " |" for row in rows), ""]


def origin(part, what):
    machine = part["machine"]
    versions = "".join(f", {name} {version}" for name, version in part.get("versions", {}).items())
    debug = "" if machine["profile"] == "release" else f" **Built with the profile {machine['profile']}: worth nothing.**"
    return [f"{part['date']}; {machine['cores']} cores of {machine['processor']}, Linux {machine['kernel']}, rustc {machine['rustc']}{versions}; {what}.{debug}", ""]


# --- the parts


def throughput(part):
    targets = part["targets"]
    base = {label: median(values["rate"]) for label, values in targets.items()}
    nginx, plain = base["nginx"], base["plain pingora"]
    rows = []
    for label, values in targets.items():
        alone = label == "no proxy"
        rows.append([
            label, spread(values["rate"]), f"{base[label] / nginx:.2f}", f"{base[label] / plain:.2f}",
            "" if alone else f"{median(values['cpu']):.1f}", f"{median(values['p99']):.2f}",
            f"{median(values['calm_p50']):.3f}", f"{median(values['calm_p99']):.3f}", "" if alone else f"{median(values['calm_cpu']):.1f}",
        ])
    head = ["", "requests/s, 64 connections", "of nginx", "of plain pingora", "CPU for each, µs", "p99 at 64, ms", f"p50 at {part['rate']:,}/s, ms", f"p99 at {part['rate']:,}/s, ms", f"CPU for each at {part['rate']:,}/s, µs"]
    plots = {
        "throughput": bars("Requests in a second, 64 connections, one core", {label: value for label, value in base.items() if label != "no proxy"}, "{:,.0f}"),
        "latency": bars(f"p99 at {part['rate']:,} requests in a second, ms", {label: median(values["calm_p99"]) for label, values in targets.items()}, "{:.2f}"),
    }
    lines = table(head, rows) + origin(part, f"{part['rounds']} rounds of {part['seconds']} s and {part['seconds']} s, medians (and extremes)")
    return lines + picture("throughput", "Requests in a second") + picture("latency", "p99 at a fixed rate"), plots


def events(part):
    rows = [
        [label, f"{found['first']['p50']:.3f}", f"{found['first']['p99']:.3f}", f"{found['delay']['p50']:.3f}", f"{found['delay']['p99']:.3f}", f"{found['unevenness']['p50']:.3f}", f"{found['unevenness']['p99']:.3f}"]
        for label, found in part["targets"].items()
    ]
    head = ["ms", "first event, p50", "p99", "later events are late by, p50", "p99", "unevenness, p50", "p99"]
    return table(head, rows) + origin(part, "200 streams one after the other for the first event; 50 side by side with an event every 10 ms for the others"), {}


def memory(part):
    head = ["", "at rest, MiB", *(f"KiB for each of {step:,} idle streams" for step in part["steps"]), "CPU while they idle, %", "after they are gone, MiB"]
    rows = [
        [label, f"{found['rest']:.1f}", *(f"{found['each'][str(step)]:.1f}" for step in part["steps"]), f"{found['idle_cpu'] * 100:.1f}", f"{found['after']:.1f}"]
        for label, found in part["targets"].items()
    ]
    plots = {"memory": bars(f"KiB for each of {part['steps'][-1]:,} idle streams", {label: found["each"][str(part["steps"][-1])] for label, found in part["targets"].items()}, "{:.1f}")}
    return table(head, rows) + origin(part, "each freshly started") + picture("memory", "Memory for each idle stream"), plots


def priced(part):
    rows, costs = [], {}
    for label, found in part["features"].items():
        # Each round is held against itself: what slows the machine down slows both.
        cost = [(1 - after / before) * 100 for before, after in zip(found["base"], found["with"])]
        costs[label] = median(cost)
        rows.append([label, f"{median(found['base']):,.0f}", f"{median(found['with']):,.0f}", f"{median(cost):.1f} % ({min(cost):.1f}–{max(cost):.1f})", f"{median(found['base_cpu']):.1f}", f"{median(found['with_cpu']):.1f}"])
    head = ["", "requests/s without", "with", "cost", "CPU for each without, µs", "with"]
    lines = table(head, rows)
    lines += [f"- {label} was not measured: {problem}" for label, problem in part["skipped"].items()]
    lines += [""] if part["skipped"] else []
    return lines + origin(part, f"{part['rounds']} rounds of {part['seconds']} s, 64 connections, medians (and extremes)"), {}


def tokens(part):
    rows = []
    for kind, label in LABELS.items():
        ours, theirs = (part["rates"][name][kind] for name in ("mcpgate", "better-auth"))
        rows.append([label, spread(ours), spread(theirs), f"{median(ours) / max(median(theirs), 1):.1f}"])
    lines = table(["in a second, for 64 clients", "mcpgate", "Better Auth", "ratio"], rows)
    stored = part["store"]
    lines += table(["refresh tokens replaced in a second by 64 writers", ""], [
        ["the store alone, writers share a flush", f"{stored['shared']:,}"],
        ["the store alone, one flush for each write", f"{stored['alone']:,}"],
        ["ratio of the two", f"{stored['shared'] / max(stored['alone'], 1):.1f}"],
    ])
    return lines + origin(part, f"{part['rounds']} rounds of {part['seconds']} s, medians (and extremes)"), {}


def starting(part):
    rows = [
        ["until it accepts connections, empty store, s", spread(part["empty"], 2)],
        [f"the same, {part['tokens']:,} living tokens, s", spread(part["full"], 2)],
        ["memory then, MiB", f"{part['rest']:.0f}"],
        ["the store on disk, MiB", f"{part['disk']:,.0f}"],
        ["writing them through the store's trait took, s", f"{part['filled_in']:.0f}"],
    ]
    return table(["", ""], rows) + origin(part, "three starts each, medians (and extremes)"), {}


def guarded(part):
    rows = []
    for label, found in part["targets"].items():
        calls = found["calls"]
        rows.append([label, f"{found['instructions']:,.0f}", f"{sum(calls.values()):.1f}", ", ".join(f"{name} {count:g}" for name, count in sorted(calls.items(), key=lambda entry: -entry[1]))])
    lines = table(["", "instructions for each request", "system calls", "which"], rows)
    return [*lines, f"The gateway needs {guard.ratio(part):.2f} times the instructions of the plain proxy.", "", *origin(part, f"{guard.COUNT:,} requests on one connection; instructions outside the kernel, by callgrind; system calls by strace")], {}


def aims(parts):
    """What this is built to reach, and what was reached."""
    rows = []

    def aim(text, value, form, good):
        rows.append([text, form.format(value), "yes" if good(value) else "no"])

    if "throughput" in parts:
        targets = parts["throughput"]["targets"]
        rate = {label: median(values["rate"]) for label, values in targets.items()}
        late = {label: median(values["calm_p99"]) for label, values in targets.items()}
        ours = rate["mcpgate"]
        aim("of the plain pingora proxy, at least 0.97", ours / rate["plain pingora"], "{:.2f}", lambda value: value >= 0.97)
        aim("of nginx without a check, at least 0.6", ours / rate["nginx"], "{:.2f}", lambda value: value >= 0.6)
        aim("of Envoy `jwt_authn`, at least 3", ours / rate["Envoy `jwt_authn`"], "{:.1f}", lambda value: value >= 3)
        if "agentgateway `jwtAuth`" in rate:
            aim("of agentgateway `jwtAuth`, at least 4", ours / rate["agentgateway `jwtAuth`"], "{:.1f}", lambda value: value >= 4)
        aim("p99 at the fixed rate, of that of nginx `auth_request`, at most 1", late["mcpgate"] / late["nginx `auth_request`"], "{:.2f}", lambda value: value <= 1)
    if "memory" in parts:
        most = str(parts["memory"]["steps"][-1])
        aim("KiB for each idle stream, at most 32", parts["memory"]["targets"]["mcpgate"]["each"][most], "{:.1f}", lambda value: value <= 32)
    ruled = parts.get("features", {}).get("features", {}).get("tool rules, 1 KiB")
    if ruled:
        cost = median((1 - after / before) * 100 for before, after in zip(ruled["base"], ruled["with"]))
        aim("cost of tool rules on bodies of 1 KiB, in %, under 10", cost, "{:.1f}", lambda value: value < 10)
    return table(["aim", "measured", "met"], rows) if rows else []


# --- plots


def picture(name, text):
    return [f"![{text}](benchmarks/{name}.svg)", ""]


def bars(title, values, form):
    """Horizontal bars, longest first; ours stand out. Readable on light and on dark pages."""
    entries = sorted(values.items(), key=lambda entry: -entry[1])
    most = max(values.values()) or 1
    left, wide, high = 230, 420, 22
    height = 34 + high * len(entries)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + wide + 90} {height}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>{html.escape(title)}</title>",
        "<style>text{fill:#333}@media(prefers-color-scheme:dark){text{fill:#ccc}}</style>",
        f'<text x="{left}" y="16" font-weight="bold">{html.escape(title)}</text>',
    ]
    for index, (label, value) in enumerate(entries):
        top = 28 + index * high
        length = max(value / most * wide, 1)
        colour = "#d9730d" if label.startswith("mcpgate") else "#7a8ca3"
        parts += [
            f'<text x="{left - 8}" y="{top + 13}" text-anchor="end">{html.escape(label.replace("`", ""))}</text>',
            f'<rect x="{left}" y="{top}" width="{length:.1f}" height="{high - 5}" rx="2" fill="{colour}"/>',
            f'<text x="{left + length + 6:.1f}" y="{top + 13}">{form.format(value)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


# --- the file

SECTIONS = {
    "throughput": ("Beside other proxies", throughput),
    "events": ("Events", events),
    "memory": ("Memory", memory),
    "features": ("What each feature costs", priced),
    "tokens": ("Issuing tokens", tokens),
    "start": ("Starting", starting),
    "guard": ("Instructions and system calls", guarded),
}


def write(results, elsewhere=None):
    """Into docs/, or where a trial keeps its results."""
    parts = results["parts"]
    lines = aims(parts)
    plots = {}
    for name, (title, make) in SECTIONS.items():
        if name in parts:
            made, drawn = make(parts[name])
            lines += [f"### {title}", "", *made]
            plots |= drawn
    lines += ["All values are in [results.json](benchmarks/results.json).", ""]
    docs = elsewhere or stage.ROOT / "docs"
    path = docs / "benchmarks.md"
    begin, end = "<!-- measured: begin -->", "<!-- measured: end -->"
    text = path.read_text() if path.exists() else f"{begin}\n{end}\n"
    head, rest = text.split(begin)
    path.write_text(head + begin + "\n" + "\n".join(lines).rstrip() + "\n" + end + rest.split(end)[1])
    (docs / "benchmarks").mkdir(exist_ok=True)
    for name, plot in plots.items():
        (docs / "benchmarks" / f"{name}.svg").write_text(plot)
    print("\n".join(lines))
