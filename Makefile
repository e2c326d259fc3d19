# `make` shows what there is.

.DEFAULT_GOAL := help
BENCH_PROGRAMS := $(foreach name,upstream plain-proxy issue load fill,--example bench-$(name))
.PHONY: help demo test bench bench-guard fuzz soak setup clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Build the gateway and run it in front of a small MCP server of its own
	@tests/setup.sh build
	cargo build --release --locked
	@$${CARGO_TARGET_DIR:-target}/release/mcpgate demo

test: ## Check everything: format, lints, tests, real clients, pages in a browser, dependencies, deploy/
	@tests/run.sh

bench: ## Measure, and write docs/benchmarks.md; BENCH=throughput,memory for parts of it
	@tests/setup.sh bench
	cargo build --release --locked --bins $(BENCH_PROGRAMS)
	@python3 tests/bench/run.py

bench-guard: ## Hold the instructions for each request against their budget
	@tests/setup.sh guard
	cargo build --release --locked --bins $(BENCH_PROGRAMS)
	@python3 tests/bench/run.py guard

fuzz: ## Give every parser of outside text nonsense, FUZZ_SECONDS (20) each
	@tests/setup.sh fuzz
	@fuzz/run.sh

soak: ## Load it for SOAK_SECONDS (600), with reloads, revocations and dying upstreams: nothing lost, crossed or leaked
	@tests/setup.sh build
	cargo build --release --locked --bin mcpgate
	@python3 tests/soak/run.py

setup: ## Install what `make test` needs
	@tests/setup.sh test

clean: ## Remove all that was built or installed here
	cargo clean
	rm -rf tests/clients/node_modules tests/browser/node_modules tests/bench/better-auth/node_modules fuzz/target fuzz/artifacts
