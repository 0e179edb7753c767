# The commands of this repository; `make help` lists them. Recipes are one line each: what they do is in the scripts.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo demo-down test chaos check build images simulate model soak bench bench-failover
SEEDS ?= 1..1001
MINUTES ?= 10
RUNS ?= 10
soak: MINUTES = 60

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: ## two hosts on this machine: install what is missing, build, start, wait until all is well
	@compose/scripts/cluster.sh demo

demo-down: ## remove every trace of the demo
	@compose/scripts/cluster.sh down

test: ## unit and property tests, then the end-to-end suite and ten minutes of chaos on a cluster of its own
	@compose/scripts/test.sh

chaos: ## random faults on a cluster of its own under load, judged by what clients saw; MINUTES=10 [SEED=…]
	@compose/scripts/chaos.sh $(MINUTES) $(SEED)

check: ## formatting, lints, documentation, Compose files, alert rules, scripts
	@.ci/check

simulate: ## replicators and agents under random faults; SEEDS=FROM..TO
	@compose/scripts/simulate.sh $(SEEDS)

model: ## every order of events among agents, on larger configurations than in make test; MINUTES=10
	@compose/scripts/setup.sh build > /dev/null
	@BATON_MODEL_MINUTES=$(MINUTES) cargo test --release --locked --quiet --workspace --lib core::sim::exhaustive -- --nocapture

soak: ## a pair under load that compares its replicas all the while; MINUTES=60
	@compose/scripts/setup.sh build test > /dev/null
	@BATON_SOAK_MINUTES=$(MINUTES) cargo test --release --locked --workspace --test soak -- --nocapture

bench: ## speed beside the raw file, the loop device and QEMU's quorum; writes docs/performance.md
	@compose/scripts/bench.sh

bench-failover: ## downtime of a failover beside keepalived, Pacemaker and Heartbeat; writes docs/failover.md; RUNS=10
	@compose/scripts/failover.sh $(RUNS)

build: ## the binaries, release build, in target/release/
	@compose/scripts/setup.sh build
	@cargo build --release --locked

images: build ## all images of the demo
	@compose/scripts/images.sh base services baton
