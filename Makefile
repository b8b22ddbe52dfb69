# kerege. `make` alone prints the targets.
SHELL := /bin/bash
export CGO_ENABLED := 0
VERSION ?= 0.1.0-dev
LDFLAGS := -s -w -X github.com/kerege/kerege/command.version=$(VERSION)

.DEFAULT_GOAL := help
.PHONY: help build demo test unit e2e bench fuzz lint generate tools clean

help: ## print the targets
	@awk -F':.*## ' '/^[a-z0-9]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/kerege
	@go build -trimpath -ldflags '$(LDFLAGS)' -o bin/kerege .
	@go build -trimpath -o bin/app ./e2e/app

demo: ## three hosts call each other through captured, mutually authenticated Envoys (KEEP=1, CONSUL=1, SYSTEMD=1, NOMAD=1)
	@tools/install.sh debian envoy $(if $(CONSUL),consul) $(if $(NOMAD),consul debian-nomad nomad)
	@$(MAKE) --no-print-directory build
	@go build -o bin/demo ./demo
	@bin/demo $(if $(KEEP),-keep) $(if $(CONSUL),-consul) $(if $(SYSTEMD),-systemd) $(if $(NOMAD),-nomad)

test: lint e2e fuzz ## everything that must pass: lint, unit, golden, property, end to end, short fuzz

unit: ## unit, golden and property tests
	@go test ./...

e2e: tools build ## all tests, with real Envoy, Consul and iptables in namespaces
	@go test -tags e2e -count=1 -p 1 -timeout 30m ./...

fuzz: ## each fuzz target for a few seconds
	@tools/fuzz.sh $(or $(FUZZTIME),3s)

bench: tools build ## the benchmarks of docs/performance.md, each with floor or peer in the same run (ONLY=3,10, ARGS=-large)
	@go build -trimpath -o bin/bench ./bench
	@bin/bench $(if $(ONLY),-only $(ONLY)) $(ARGS)

lint: ## gofmt, vet, and generated files that are out of date
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'gofmt: the files above'; exit 1; }
	@go vet ./... && go vet -tags e2e ./...

generate: ## regenerate protobuf code and references
	@tools/generate.sh

tools: ## get the pinned Envoy, Consul and what Debian has, into your cache
	@tools/install.sh debian envoy consul cloud-init

clean: ## remove what was built here
	@rm -rf bin out
