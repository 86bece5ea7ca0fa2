# Needs make, Go and the Go module proxy; nothing else. `make` alone lists the targets.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# The version is that of the newest tag, else of the newest entry of the change log.
VERSION := $(shell git describe --tags --dirty 2>/dev/null || sed -n 's/^\#\# \([0-9][^ ]*\).*/\1/p' CHANGELOG.md | head -n 1)
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.stampedVersion=$(VERSION) -X main.stampedCommit=$(COMMIT)

# Tests look for data races where cgo and a C compiler are found; the race detector needs both.
RACE := $(shell test "$$(go env CGO_ENABLED)" = 1 && command -v "$$(go env CC | cut -d ' ' -f 1)" >/dev/null 2>&1 && echo -race)

FUZZTIME  ?= 30s
BENCHTIME ?= 1s
BENCH     ?= --events 100000

.PHONY: help run build test short lint e2e fuzz bench chaos cover clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 18

run: build ## build, then run one node with defaults in the foreground, data in ./carillon-data
	bin/carillon serve --dev

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

chaos: ## e2e with many kills and simulated power cuts; power cuts need root and loop devices
	E2E_CHAOS=1 E2E_CRASHES=20 go test -count=1 -v -timeout 90m ./e2e/...

fuzz: ## each fuzz test for FUZZTIME (30s)
	@grep -rl --include='*_test.go' '^func Fuzz' . | while read -r file; do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' "$$file"); do \
			echo "$$(dirname "$$file") $$name"; \
			go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")" </dev/null || exit 1; \
		done || exit 1; \
	done

bench: build ## micro benchmarks for BENCHTIME each, then `carillon bench $(BENCH)`
	go test -run '^$$' -bench . -benchtime $(BENCHTIME) -benchmem ./...
	bin/carillon bench $(BENCH)

cover: ## test coverage, into coverage.html
	go test -short -coverprofile coverage.out -coverpkg ./... ./...
	go tool cover -html coverage.out -o coverage.html
	go tool cover -func coverage.out | tail -n 1

clean: ## remove what the other targets made, but not ./carillon-data
	rm -rf bin coverage.out coverage.html carillon-bench-*
