#!/usr/bin/env bash
# Checks every file in deploy/, and the links of the documents. Nothing is run but the linters: no container, no cluster.
#
#   deploy/lint.sh                     pinned tools are installed once below target/test-env (or $TEST_ENV)
#   MCPGATE=path/to/mcpgate …          checks the configurations in deploy/ with the program as well
#
# A missing tool is a failure that says what to install.
set -euo pipefail

deploy=$(cd "$(dirname "$0")" && pwd)
top=$(dirname "$deploy")
tools=${TEST_ENV:-$top/target/test-env}/lint
mkdir -p "$tools"
tools=$(cd "$tools" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mcpgate=${MCPGATE:+$(realpath "$MCPGATE")}

passed=0
failed=0
problem() {
    printf 'lint: %s\n' "$*" >&2
    exit 1
}
# check NAME COMMAND…: prints what the command said only if it fails.
check() {
    local name=$1
    shift
    if "$@" >"$scratch/output" 2>&1; then
        passed=$((passed + 1))
        printf 'ok      %s\n' "$name"
    else
        failed=$((failed + 1))
        printf 'FAILED  %s\n' "$name"
        sed 's/^/        /' "$scratch/output"
    fi
}

# --- the tools

command -v python3 >/dev/null || problem "python3 is missing; apt-get install python3 python3-venv"
command -v systemd-analyze >/dev/null || problem "systemd-analyze is missing; apt-get install systemd"

requirements=$deploy/lint/requirements.txt
if ! cmp -s "$requirements" "$tools/installed.txt"; then
    rm -rf "$tools/venv" "$tools/installed.txt"
    python3 -m venv "$tools/venv" || problem "no Python environment could be made; apt-get install python3-venv"
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$requirements" ||
        problem "the linters could not be installed; is the Python package index reachable?"
    cp "$requirements" "$tools/installed.txt"
fi
bin=$tools/venv/bin

# promtool alone, out of Debian's package: the server would come with a service.
promtool=$(command -v promtool || true)
if [ -z "$promtool" ]; then
    promtool=$tools/promtool
    if [ ! -x "$promtool" ]; then
        for tool in apt-get dpkg-deb; do
            command -v "$tool" >/dev/null || problem "promtool is missing; install Prometheus' tools and put promtool on the PATH"
        done
        fetch() { (cd "$scratch" && apt-get download prometheus >"$scratch/apt" 2>&1); }
        # On a fresh machine the package lists are missing, and only root may fetch them.
        fetch || { [ "$(id -u)" = 0 ] && apt-get update >"$scratch/apt" 2>&1 && fetch; } || {
            cat "$scratch/apt" >&2
            problem "promtool could not be fetched; run apt-get update, or apt-get install prometheus"
        }
        dpkg-deb --fsys-tarfile "$scratch"/prometheus_*.deb | tar -x -C "$scratch" ./usr/bin/promtool
        mv "$scratch/usr/bin/promtool" "$promtool"
    fi
fi

# --- the checks

check "shell script" "$bin/shellcheck" "$deploy/lint.sh"
check "YAML" "$bin/yamllint" --strict --config-file "$deploy/lint/yamllint.yaml" "$deploy"
check "Dockerfiles" "$bin/hadolint" --config "$deploy/lint/hadolint.yaml" "$deploy/Dockerfile" "$deploy/everything.Dockerfile"
check "compose file, by its schema" "$bin/check-jsonschema" --builtin-schema vendor.compose-spec "$deploy/compose.yaml"

manifests=()
for file in "$deploy"/kubernetes/*.yaml; do
    case ${file##*/} in
    # Not kinds that Kubernetes itself knows; checks.py looks at them.
    kustomization.yaml | servicemonitor.yaml | config.yaml) ;;
    *) manifests+=("$file") ;;
    esac
done
# The oldest version with ReadWriteOncePod, and the newest that has a schema here.
for version in 1.29 1.37; do
    check "Kubernetes manifests, by the schemas of $version" \
        "$bin/kubernetes-validate" --strict --quiet --kubernetes-version "$version" "${manifests[@]}"
done

cd "$deploy/prometheus"
check "alert rules" "$promtool" check rules --lint-fatal alerts.yaml
check "Prometheus configuration" "$promtool" check config prometheus.yaml
check "alert rules, each on its case" "$promtool" test rules alerts.test.yaml
cd "$top"
"$bin/python" "$deploy/lint/dashboard_rules.py" >"$scratch/dashboard.yaml"
check "queries of the dashboard" "$promtool" check rules "$scratch/dashboard.yaml"

# The program need not be installed for the unit to be looked at.
sed 's#/usr/local/bin/mcpgate#/bin/true#' "$deploy/mcpgate.service" >"$scratch/mcpgate.service"
# An unknown key is a remark to systemd, but a protection lost to us: nothing may be said.
systemd_says_nothing() {
    local said status=0
    said=$(systemd-analyze verify --man=no "$1" 2>&1) || status=$?
    said=$(grep -F "${1##*/}" <<<"$said" || true)
    [ "$status" = 0 ] && [ -z "$said" ] && return
    printf '%s\n(exit code %s)\n' "$said" "$status"
    return 1
}
check "systemd unit" systemd_says_nothing "$scratch/mcpgate.service"
check "systemd unit, exposure below 2.0" \
    systemd-analyze security --no-pager --offline=yes --threshold=20 "$scratch/mcpgate.service"

check "dashboard, alerts, manifests, documents" "$bin/python" "$deploy/lint/checks.py"

if [ -n "$mcpgate" ]; then
    check "gateway.compose.yaml, by mcpgate" "$mcpgate" check --config "$deploy/gateway.compose.yaml"
    # The secret is where the manifests put it only in a cluster.
    "$bin/python" -c '
import sys, yaml
sys.stdout.write(yaml.safe_load(open(sys.argv[1]))["stringData"]["ada.hash"])
' "$deploy/kubernetes/secret.example.yaml" >"$scratch/ada.hash"
    sed "s#/etc/mcpgate/secrets#$scratch#" "$deploy/kubernetes/config.yaml" >"$scratch/gateway.yaml"
    check "kubernetes/config.yaml, by mcpgate" "$mcpgate" check --config "$scratch/gateway.yaml"
else
    printf 'not run configurations of deploy/, by mcpgate: set MCPGATE to the program\n'
fi

printf 'deploy: %d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
