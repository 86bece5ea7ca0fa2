# Needs make, Go and the Go module proxy; nothing else. `make` alone lists the targets.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# The version is that of the newest tag, else of the newest entry of the change log.
VERSION := $(shell git describe --tags --dirty 2>/dev/null || sed -n 's/^\#\# \([0-9][^ ]*\).*/\1/p' CHANGELOG.md | head -n 1)
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.stampedVersion=$(VERSION) -X main.stampedCommit=$(COMMIT)

# Tests look for data races where cgo and a C compiler are found; the race detector needs both.
RACE := $(shell test "$$(go env CGO_ENABLED)" = 1 && command -v "$$(go env CC | cut -d ' ' -f 1)" >/dev/null 2>&1 && echo -race)

FUZZTIME  ?= 10m
BENCHTIME ?= 1s
BENCH     ?= --events 100000

.PHONY: help run cluster build test short lint e2e fuzz bench chaos soak mutants cover clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 18

run: build ## build, then run one node with defaults in the foreground, data in ./carillon-data
	bin/carillon serve --dev

cluster: build ## build, then run three nodes in the foreground, configuration and data in ./carillon-cluster
	@test -e carillon-cluster || bin/carillon cluster init --quiet --local 3 --dir ./carillon-cluster
	@cmd/carillon/dist/cluster.sh bin/carillon ./carillon-cluster

build: ## build bin/carillon, static, with its version
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/carillon ./cmd/carillon

test: lint ## everything that CI runs: lint, then all tests, with -race where a C compiler is found
	@test -n "$(RACE)" || echo "no cgo or no C compiler: the tests run without -race"
	go test $(RACE) -timeout 45m ./...

short: lint ## a minute's worth: all packages but e2e, without -race
	go test -short $$(go list ./... | grep -v /e2e)

lint: ## gofmt, go vet, staticcheck
	@unformatted=$$("$$(go env GOROOT)/bin/gofmt" -l .); \
	if [ -n "$$unformatted" ]; then echo "not formatted with gofmt:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go tool staticcheck ./...

e2e: ## the promises, on the real binary
	go test -count=1 -v -timeout 45m ./e2e/...

chaos: ## ten minutes of faults under load, drawn by SEED, on NODES nodes; needs root, iproute2, e2fsprogs, iptables, strace for all of them
	E2E_CHAOS=1 E2E_CRASHES=10 go test -count=1 -v -timeout 90m -run 'Invariant01|AFullDisk' ./e2e
	E2E_CHAOS=1 E2E_FOR=8m E2E_SEED=$(SEED) E2E_NODES=$(NODES) go test -count=1 -v -timeout 0 -run 'TestChaos$$' ./e2e/chaos

soak: ## the same for as long as FOR says (1h)
	E2E_CHAOS=1 E2E_FOR=$(or $(FOR),1h) E2E_SEED=$(SEED) E2E_NODES=$(NODES) go test -count=1 -v -timeout 0 -run 'TestChaos$$' ./e2e/chaos

mutants: ## builds with seeded bugs, each of which the checker of chaos must find
	E2E_MUTANTS=all E2E_SEED=$(SEED) E2E_NODES=$(NODES) go test -count=1 -v -timeout 0 -run 'TestMutants$$' ./e2e/chaos

fuzz: ## each fuzz test of the module for FUZZTIME (10m); `make test` runs the inputs that were saved
	@grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n 1 dirname | sort -u | while read -r package; do \
		names=$$(go test -list '^Fuzz' "$$package" </dev/null) || exit 1; \
		for name in $$(echo "$$names" | grep '^Fuzz'); do \
			echo "$$package $$name"; \
			go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10s "$$package" </dev/null || exit 1; \
		done || exit 1; \
	done

bench: build ## micro benchmarks for BENCHTIME each, then `carillon bench $(BENCH)`
	go test -run '^$$' -bench . -benchtime $(BENCHTIME) -benchmem ./...
	bin/carillon bench $(BENCH)

cover: ## test coverage, into coverage.html
	go test -short -coverprofile coverage.out -coverpkg ./... ./...
	go tool cover -html coverage.out -o coverage.html
	go tool cover -func coverage.out | tail -n 1

clean: ## remove what the other targets made, but not ./carillon-data and ./carillon-cluster
	rm -rf bin coverage.out coverage.html carillon-bench-*
