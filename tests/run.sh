#!/usr/bin/env bash
# Everything that has to hold, in order; it stops at the first part that fails and says which.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
export PATH=$target/test-env/tools/bin:$PATH
# The same binary that the tests were built with is the one that clients and browsers meet.
export MCPGATE=$target/debug/mcpgate
# Where tools are kept that are not part of the system; deploy/lint.sh looks there too.
export TEST_ENV=$target/test-env
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
# Tests of the configuration see only the variables that they set.
unset RUST_LOG

summary=()
notes=()

finish() {
    echo
    echo "make test"
    printf '  %s\n' "${summary[@]}"
    [ ${#notes[@]} -eq 0 ] || printf '  note: %s\n' "${notes[@]}"
    printf '  %-58s %4d s\n' "in all" "$SECONDS"
}

part() { # NAME COMMAND…
    local name=$1 since=$SECONDS status=0
    shift
    echo
    echo "=== $name"
    "$@" || status=$?
    if [ "$status" -eq 0 ]; then
        summary+=("$(printf 'ok    %-52s %4d s' "$name" $((SECONDS - since)))")
        return
    fi
    summary+=("$(printf 'FAIL  %-52s %4d s' "$name" $((SECONDS - since)))")
    finish
    echo
    echo "failed: $name (exit code $status): $*"
    exit 1
}

shipped_configurations() {
    local file
    while IFS= read -r file; do
        "$MCPGATE" check -c "$file" || return 1
    done < <(find gateway.yaml deploy -name 'gateway*.yaml' 2>/dev/null | sort)
}

dependencies() {
    # Duplicates are warnings that nobody can act on (deny.toml says why): they are counted, not listed.
    cargo deny --locked --log-level error check --hide-inclusion-graph bans licenses sources || return 1
    if timeout 120 cargo deny --log-level off fetch db >/dev/null 2>&1; then
        cargo deny --locked check --hide-inclusion-graph advisories || return 1
    else
        notes+=("advisories were NOT checked: the RustSec database cannot be fetched from here")
        echo "advisories NOT checked: the RustSec database cannot be fetched from here"
    fi
}

part "setup" tests/setup.sh test
part "format" cargo fmt --check
part "clippy" cargo clippy --locked --quiet --all-targets -- -D warnings
# With the tests, so that dependencies are built once: some have more features there.
part "build" cargo build --locked --all-targets
part "tests" cargo nextest run --locked
part "documentation tests" cargo test --locked --quiet --doc
part "shipped configurations" shipped_configurations
part "real clients" node tests/clients/run.mjs
part "concurrent refresh and theft" node tests/clients/refresh.mjs
part "strict judges" node tests/judges/run.mjs
part "the same servers behind the gateway" node tests/judges/server-conformance.mjs
part "soak, for some seconds" env SOAK_SECONDS=20 python3 tests/soak/run.py
part "identity providers in a browser" node tests/browser/providers.mjs
part "pages in a browser" node tests/clients/with-gateway.mjs node tests/browser/pages.mjs
part "pages for everybody: axe and the keyboard" node tests/browser/accessibility.mjs
part "passkeys in a browser" node tests/browser/passkeys.mjs
part "sign-in pages of one's own" node tests/browser/login-page.mjs
part "the operator's pages in a browser" node tests/browser/administration.mjs
part "conformance" python3 tests/conformance/passed.py docs/conformance.md target/nextest/default/junit.xml
part "dependencies" dependencies
part "deploy" deploy/lint.sh
finish
