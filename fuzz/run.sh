#!/usr/bin/env bash
# Runs every fuzz target for FUZZ_SECONDS (20), or those that are named, and says what was found.
#
# Inputs that lead somewhere new are collected under the target directory and not here: the seeds in corpus/ stay few. The
# stable compiler is enough, because no sanitizer is asked for: what is looked for is a broken rule or a panic, and the
# gateway has no unsafe code of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
export PATH=$target/test-env/tools/bin:$PATH
export CARGO_TARGET_DIR=$target/fuzz
seconds=${FUZZ_SECONDS:-20}

targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for file in fuzz/fuzz_targets/*.rs; do
        targets+=("$(basename "$file" .rs)")
    done
fi

echo "fuzz: building ${#targets[@]} targets, which takes minutes the first time"
cargo fuzz build --sanitizer none

found=()
for name in "${targets[@]}"; do
    collected=$CARGO_TARGET_DIR/collected/$name
    log=$CARGO_TARGET_DIR/$name.log
    mkdir -p "$collected" "fuzz/artifacts/$name"
    if cargo fuzz run --sanitizer none "$name" "$collected" "fuzz/corpus/$name" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        printf '  ok     %-16s %12s inputs\n' "$name" "${runs:-?}"
    else
        printf '  FOUND  %-16s see %s\n' "$name" "$log"
        grep -m 3 -E 'panicked at|ERROR: libFuzzer|Test unit written to' "$log" | sed 's/^/           /' || true
        found+=("$name")
    fi
done
if [ ${#found[@]} -gt 0 ]; then
    echo "fuzz: ${#found[@]} of ${#targets[@]} targets found something: ${found[*]}"
    echo "fuzz: the inputs are in fuzz/artifacts; what is mended goes to fuzz/corpus as a seed"
    exit 1
fi
echo "fuzz: ${#targets[@]} targets, $seconds s each, nothing found"
