"""What no ready-made linter knows: that the files here fit each other and the program.

Prints every problem and exits 1 if there is one. Run by lint.sh.
"""

import json
import re
import sys
from pathlib import Path

import yaml

DEPLOY = Path(__file__).resolve().parent.parent
TOP = DEPLOY.parent
KUBERNETES = DEPLOY / "kubernetes"
problems = []


def problem(where, text):
    problems.append(f"{where}: {text}")


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


# --- metrics: dashboard and alerts use what src/telemetry.rs has, labels included


def known_metrics():
    """Name -> labels, as the program exposes them."""
    code = (TOP / "src/telemetry.rs").read_text()
    prefix = re.search(r'Registry::new_custom\(Some\("(\w+)"', code).group(1)
    # Until the tests of that file, if it has any.
    code = code.split("#[cfg(test)]")[0]
    body = code[code.index("pub fn new(version") :]
    body = body[: body.index("\n    }\n")]
    # Those of limits are a file of their own.
    body += "".join(path.read_text() for path in sorted((TOP / "src/telemetry").glob("*.rs")))
    metrics = {}
    # counter("name", "help", &["label"…])?, histogram("name", "help", BUCKETS, &[…])?, Opts::new("name", "help"), &[…]
    pattern = r'(counter|gauge|histogram|IntGauge::new|HistogramOpts::new|Opts::new)\(\s*"(\w+)",\s*"[^"]*"([^;?]*)'
    for kind, name, rest in re.findall(pattern, body):
        labels = re.search(r"&\[([^\]]*)\]", rest)
        labels = set(re.findall(r'"(\w+)"', labels.group(1))) if labels else set()
        full = f"{prefix}_{name}"
        if kind in ("histogram", "HistogramOpts::new"):
            metrics[f"{full}_bucket"] = labels | {"le"}
            metrics[f"{full}_count"] = metrics[f"{full}_sum"] = labels
        else:
            metrics[full] = labels
    return metrics


# What Prometheus adds by itself.
SCRAPE_LABELS = {"job", "instance", "__name__"}


def check_expression(where, expression, metrics):
    for name, selector in re.findall(r"\b(mcpgate_\w+)(?:\{([^}]*)\})?", expression):
        if name not in metrics:
            problem(where, f"there is no metric {name} in src/telemetry.rs")
            continue
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector):
            if label not in metrics[name] | SCRAPE_LABELS:
                problem(where, f"{name} has no label {label}")


def check_dashboard(metrics):
    path = DEPLOY / "grafana/mcpgate.json"
    dashboard = json.loads(path.read_text())
    where = "grafana/mcpgate.json"
    ids = [panel["id"] for panel in dashboard["panels"]]
    if len(ids) != len(set(ids)):
        problem(where, "two panels have one id")
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    built_in = {"__rate_interval", "__all"}
    used = set()
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            check_expression(f"{where}, variable {variable['name']}", variable["definition"], metrics)
            used |= set(re.findall(r"mcpgate_\w+", variable["definition"]))
    for panel in dashboard["panels"]:
        place = f"{where}, panel {panel['title']}"
        if panel["type"] == "row":
            continue
        if not panel["targets"] or not panel.get("description"):
            problem(place, "it needs a query and a description")
        position = panel["gridPos"]
        if position["x"] + position["w"] > 24:
            problem(place, "it is wider than the dashboard")
        for target in panel["targets"]:
            check_expression(place, target["expr"], metrics)
            used |= set(re.findall(r"mcpgate_\w+", target["expr"]))
            for name in re.findall(r"\$\{?(\w+)", target["expr"]):
                if name not in variables | built_in:
                    problem(place, f"there is no variable {name}")
    # A metric that is on no panel is one that nobody looks at.
    for name in metrics:
        base = re.sub(r"_(bucket|count|sum)$", "", name)
        if not any(re.sub(r"_(bucket|count|sum)$", "", seen) == base for seen in used):
            problem(where, f"no panel shows {base}")


def check_alerts(metrics):
    handbook = (TOP / "docs/operating.md").read_text()
    tests = (DEPLOY / "prometheus/alerts.test.yaml").read_text()
    for group in documents(DEPLOY / "prometheus/alerts.yaml")[0]["groups"]:
        for rule in group["rules"]:
            where = f"prometheus/alerts.yaml, {rule['alert']}"
            check_expression(where, rule["expr"], metrics)
            if rule["alert"] not in handbook:
                problem(where, "docs/operating.md does not say what to do about it")
            if not re.search(rf"alertname: {rule['alert']}\n\s+exp_alerts", tests):
                problem(where, "no test in alerts.test.yaml makes it fire")
            if rule["labels"]["severity"] not in ("critical", "warning", "info"):
                problem(where, "unknown severity")


# --- compose.yaml: nobody reaches the upstream but the gateway


def check_compose():
    where = "compose.yaml"
    compose = documents(DEPLOY / "compose.yaml")[0]
    services, networks = compose["services"], compose["networks"]
    for name, service in services.items():
        for port in service.get("ports", []):
            if not str(port).startswith("127.0.0.1:"):
                problem(where, f"{name} publishes {port} beyond this machine")
        if not service.get("read_only") or service.get("cap_drop") != ["ALL"]:
            problem(where, f"{name} needs read_only and cap_drop: [ALL]")
        if "no-new-privileges:true" not in service.get("security_opt", []):
            problem(where, f"{name} needs no-new-privileges")
        for config in service.get("configs", []):
            if config["source"] not in compose["configs"]:
                problem(where, f"there is no config {config['source']}")
        build = service.get("build")
        if build and not (DEPLOY / build["context"] / build["dockerfile"]).is_file():
            problem(where, f"{name} is built from {build['dockerfile']}, which is not there")
    for name, config in compose["configs"].items():
        if not (DEPLOY / config["file"]).is_file():
            problem(where, f"the file of config {name} is not there")
    gateway = documents(DEPLOY / "gateway.compose.yaml")[0]
    for upstream in gateway["upstreams"]:
        host = re.match(r"http://([\w.-]+):(\d+)/", upstream["url"]).group(1)
        service = services.get(host)
        if service is None:
            problem("gateway.compose.yaml", f"{host} is no service of compose.yaml")
        elif service.get("ports") or not all(networks[network].get("internal") for network in service["networks"]):
            problem(where, f"{host} has to be on internal networks only, without ports")


# --- images: nobody is root, and the number is the one that the manifests have


def check_images():
    pods = {}
    for name in ("statefulset.yaml", "upstream.yaml"):
        pod = documents(KUBERNETES / name)[0]["spec"]["template"]["spec"]
        pods[pod["containers"][0]["image"].split(":")[0]] = pod["securityContext"]["runAsUser"]
    for file, image in (("Dockerfile", "mcpgate"), ("everything.Dockerfile", "mcp-everything")):
        last_stage = re.split(r"^FROM ", (DEPLOY / file).read_text(), flags=re.MULTILINE)[-1]
        users = re.findall(r"^USER (\S+)", last_stage, flags=re.MULTILINE)
        if not users or users[-1] != f"{pods[image]}:{pods[image]}" or pods[image] == 0:
            problem(file, f"its last stage has to run as {pods[image]}:{pods[image]}, like the pod")


# --- Kubernetes: what refers to something finds it


def check_kubernetes():
    kustomization = documents(KUBERNETES / "kustomization.yaml")[0]
    for name in kustomization["resources"]:
        if not (KUBERNETES / name).is_file():
            problem("kustomization.yaml", f"{name} is not there")
    listed = set(kustomization["resources"]) | {"kustomization.yaml", "config.yaml", "secret.example.yaml", "servicemonitor.yaml"}
    for path in KUBERNETES.glob("*.yaml"):
        if path.name not in listed:
            problem("kustomization.yaml", f"{path.name} is not listed")

    everything = [d for name in kustomization["resources"] for d in documents(KUBERNETES / name)]
    workloads = [d for d in everything if d["kind"] in ("StatefulSet", "Deployment")]
    services = {d["metadata"]["name"]: d for d in everything if d["kind"] == "Service"}
    generated = {g["name"] for g in kustomization["configMapGenerator"]}
    secret = documents(KUBERNETES / "secret.example.yaml")[0]

    def matches(labels, selector):
        return all(labels.get(key) == value for key, value in selector.items())

    def ports(workload):
        return {p["name"]: p["containerPort"] for c in workload["spec"]["template"]["spec"]["containers"] for p in c["ports"]}

    for workload in workloads:
        name, spec = workload["metadata"]["name"], workload["spec"]
        pod, labels = spec["template"]["spec"], spec["template"]["metadata"]["labels"]
        if not matches(labels, spec["selector"]["matchLabels"]):
            problem(name, "its selector does not match its pods")
        if workload["kind"] == "StatefulSet":
            if spec["replicas"] != 1:
                problem(name, "the store is for one process: replicas has to be 1")
            if spec["serviceName"] not in services:
                problem(name, f"there is no service {spec['serviceName']}")
        volumes = {v["name"]: v for v in pod.get("volumes", [])}
        volumes |= {t["metadata"]["name"]: t for t in spec.get("volumeClaimTemplates", [])}
        for volume in volumes.values():
            if "configMap" in volume and volume["configMap"]["name"] not in generated:
                problem(name, f"there is no config map {volume['configMap']['name']}")
            if "secret" in volume and volume["secret"]["secretName"] != secret["metadata"]["name"]:
                problem(name, "secret.example.yaml has another name")
        # What the namespace's level `restricted` asks for.
        if not pod["securityContext"].get("runAsNonRoot") or "seccompProfile" not in pod["securityContext"]:
            problem(name, "it needs runAsNonRoot and a seccompProfile")
        for container in pod["containers"]:
            context = container["securityContext"]
            if (
                context.get("allowPrivilegeEscalation") is not False
                or context.get("readOnlyRootFilesystem") is not True
                or context["capabilities"]["drop"] != ["ALL"]
            ):
                problem(name, "its container is not as restricted as it has to be")
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    problem(name, f"there is no volume {mount['name']}")
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                for kind in ("httpGet", "tcpSocket"):
                    port = container.get(probe, {}).get(kind, {}).get("port")
                    if port is not None and port not in ports(workload):
                        problem(name, f"{probe} asks a port {port} that is not there")

    for name, service in services.items():
        chosen = [w for w in workloads if matches(w["spec"]["template"]["metadata"]["labels"], service["spec"]["selector"])]
        if len(chosen) != 1:
            problem(name, f"the service selects {len(chosen)} workloads")
            continue
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in ports(chosen[0]):
                problem(name, f"there is no port {port['targetPort']}")

    gateway = documents(KUBERNETES / "config.yaml")[0]
    for upstream in gateway["upstreams"]:
        host, port = re.match(r"http://([\w-]+):(\d+)/", upstream["url"]).groups()
        service = services.get(host)
        if service is None or int(port) not in [p["port"] for p in service["spec"]["ports"]]:
            problem("kubernetes/config.yaml", f"no service is {host}:{port}")
            continue
        for workload in workloads:
            labels = workload["spec"]["template"]["metadata"]["labels"]
            if matches(labels, service["spec"]["selector"]) and labels.get("app.kubernetes.io/component") != "upstream":
                problem(workload["metadata"]["name"], "its pods lack the label that the network policy goes by")
    for ingress in (d for d in everything if d["kind"] == "Ingress"):
        hosts = [rule["host"] for rule in ingress["spec"]["rules"]]
        if [f"https://{host}" for host in hosts] != [gateway["public_url"]]:
            problem("ingress.yaml", "its host is not that of public_url")
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                target = services.get(path["backend"]["service"]["name"])
                if target is None or path["backend"]["service"]["port"]["name"] not in [p["name"] for p in target["spec"]["ports"]]:
                    problem("ingress.yaml", "its backend is not there")
    monitor = documents(KUBERNETES / "servicemonitor.yaml")[0]
    admin = services["mcpgate-admin"]
    if monitor["kind"] != "ServiceMonitor" or not matches(admin["metadata"]["labels"], monitor["spec"]["selector"]["matchLabels"]):
        problem("servicemonitor.yaml", "it does not select the service mcpgate-admin")
    if monitor["spec"]["endpoints"][0]["port"] not in [p["name"] for p in admin["spec"]["ports"]]:
        problem("servicemonitor.yaml", "it names a port that is not there")


# --- how long a stop may take


def check_grace():
    code = (TOP / "src/app.rs").read_text()
    grace = int(re.search(r"DRAIN_GRACE: Duration = Duration::from_secs\((\d+)\)", code).group(1))
    unit = re.search(r"TimeoutStopSec=(\d+)s", (DEPLOY / "mcpgate.service").read_text())
    statefulset = documents(KUBERNETES / "statefulset.yaml")[0]["spec"]["template"]["spec"]
    compose = documents(DEPLOY / "compose.yaml")[0]["services"]["gateway"]["stop_grace_period"]
    for where, seconds in (
        ("mcpgate.service", int(unit.group(1))),
        ("statefulset.yaml", statefulset["terminationGracePeriodSeconds"]),
        ("compose.yaml", int(compose.removesuffix("s"))),
    ):
        if seconds < grace + 10:
            problem(where, f"it kills after {seconds} s, and the gateway may take {grace} s and close its store")
    for path in (DEPLOY / "mcpgate.service", KUBERNETES / "statefulset.yaml", DEPLOY / "compose.yaml", TOP / "docs/operating.md"):
        for said in re.findall(r"\b[Ss]treams get (?:up to|at most) (\d+) s", path.read_text()):
            if int(said) != grace:
                problem(path.name, f"it says {said} s where the program has {grace} s")


# --- documents: links and file names lead somewhere


def check_documents():
    pages = [TOP / "README.md", TOP / "CHANGELOG.md", *sorted((TOP / "docs").glob("*.md")), *sorted(DEPLOY.rglob("*.md"))]
    for page in pages:
        where = page.relative_to(TOP)
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            found = (page.parent / target).resolve() if target else page
            if not found.exists():
                problem(where, f"the link to {link} leads nowhere")
            elif anchor and found.suffix == ".md" and anchor not in anchors(found):
                problem(where, f"{target or page.name} has no heading #{anchor}")
    architecture = (TOP / "docs/architecture.md").read_text()
    for name in set(re.findall(r"`([\w/]+\.rs)`", architecture)):
        if not ((TOP / "src" / name).is_file() or (TOP / name).is_file()):
            problem("docs/architecture.md", f"there is no {name}")


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


METRICS = known_metrics()
if len(METRICS) < 12:
    problem("src/telemetry.rs", f"only {len(METRICS)} metrics were found in it; this check has to learn how it is written now")
check_dashboard(METRICS)
check_alerts(METRICS)
check_compose()
check_images()
check_kubernetes()
check_grace()
check_documents()
for line in problems:
    print(line, file=sys.stderr)
if problems:
    sys.exit(1)
print(f"dashboard, alerts, manifests and documents fit each other and the program ({len(METRICS)} series)")
