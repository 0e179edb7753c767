# The commands of this repository; `make help` lists them. Recipes are one line each: what they do is in the scripts.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo demo-down test check build images simulate bench
SEEDS ?= 1..1001

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: ## two hosts on this machine: install what is missing, build, start, wait until all is well
	@compose/scripts/cluster.sh demo

demo-down: ## remove every trace of the demo
	@compose/scripts/cluster.sh down

test: ## unit and property tests, then the end-to-end suite on a cluster of its own
	@compose/scripts/test.sh

check: ## formatting, lints, documentation, Compose files, alert rules, scripts
	@.ci/check

simulate: ## replicators and agents under random faults; SEEDS=FROM..TO
	@compose/scripts/simulate.sh $(SEEDS)

bench: ## speed beside the raw file, the loop device and QEMU's quorum; writes docs/performance.md
	@compose/scripts/bench.sh

build: ## the binaries, release build, in target/release/
	@compose/scripts/setup.sh build
	@cargo build --release --locked

images: build ## all images of the demo
	@compose/scripts/images.sh base services baton
