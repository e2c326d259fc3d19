# `make` shows what there is.

.DEFAULT_GOAL := help
.PHONY: help demo test bench fuzz soak setup clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Build the gateway and run it in front of a small MCP server of its own
	@tests/setup.sh build
	cargo build --release --locked
	@$${CARGO_TARGET_DIR:-target}/release/mcpgate demo

test: ## Check everything: format, lints, tests, real clients, pages in a browser, dependencies, deploy/
	@tests/run.sh

bench: ## Measure, and write docs/benchmarks.md
	@tests/setup.sh bench
	cargo build --release --locked --bins --example bench-upstream --example bench-plain-proxy --example bench-issue
	@python3 tests/bench/run.py

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
