# make demo   the whole main job on this machine, nothing needed but Go
# make test   every test that this machine can run; names the real peers it could not use
# make help   the rest

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS   = -s -w -X main.version=$(VERSION)
FUZZTIME ?= 60s
BENCHRUNS ?= 5
# The race detector needs a C compiler; without one the tests run without it.
RACE     := $(shell command -v cc >/dev/null 2>&1 && echo -race)
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
PLATFORMS = linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

.PHONY: demo test check bench fuzz build cross peers help

demo: build
	@bin/rlca demo

test:
	@[ -n "$(RACE)" ] || [ "$$CI" != true ] || { echo "test: no C compiler, and CI must have one for -race" >&2; exit 1; }
	$(GO) test $(RACE) -timeout 15m ./...
	@.ci/peers missing

check:
	@bad=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$bad" ] || { echo "gofmt: $$bad" >&2; exit 1; }
	@for os in linux darwin windows; do echo "go vet, $$os"; GOOS=$$os $(GO) vet ./... || exit 1; done
	$(GO) run $(STATICCHECK) ./...

bench: build
	RLCA_BENCH_RUNS=$(BENCHRUNS) $(GO) test -count=1 -timeout 20m -run '^TestBench' -v -tags bench ./cmd/rlca | grep -v -E '^ *(=== |--- |PASS|ok)'

fuzz:
	@for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/rlca

cross:
	@for p in $(PLATFORMS); do \
		echo "build $$p"; \
		CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o dist/$$p/ ./cmd/rlca || exit 1; \
	done

peers:
	.ci/peers install

help:
	@printf '%s\n' \
		'make demo    connect to an embedded box, ask it something, cut the link, see it heal' \
		'make test    all tests; real peers that are missing are named in the last line' \
		'make check   gofmt, go vet for three systems, staticcheck' \
		'make bench   throughput, round trip and connect time beside ssh and autossh, medians of one run' \
		'make fuzz    every fuzz target for FUZZTIME (60s)' \
		'make build   bin/rlca' \
		'make cross   dist/ for linux, darwin, windows on amd64 and arm64' \
		'make peers   installs or builds the real peers of the tests (Debian, root): sshd, Ollama, autossh, fish, tcsh, curl'
