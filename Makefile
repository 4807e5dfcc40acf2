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

.PHONY: demo test test-vllm test-harnesses first-hour harness-report peers-vllm peers-harnesses lab fit-report check bench bench-sleep fuzz build cross peers help

demo: build
	@bin/rlca demo

test:
	@[ -n "$(RACE)" ] || [ "$$CI" != true ] || { echo "test: no C compiler, and CI must have one for -race" >&2; exit 1; }
	$(GO) test $(RACE) -timeout 25m ./...
	@.ci/peers missing

# Takes minutes and 3 GB of memory, so it does not run beside the other tests.
test-vllm:
	RLCA_TEST_VLLM=1 $(GO) test -count=1 -timeout 30m -run '^TestReal(VLLM|Ray)$$' -v ./cmd/rlca

# Takes a minute and network namespaces of its own (root).
test-harnesses:
	RLCA_TEST_HARNESSES=1 $(GO) test -count=1 -timeout 15m -run '^Test(Harnesses|FirstHour)$$' -v ./cmd/rlca

# What the README says of the first hour, word by word, on a fresh home (root, and what make peers-harnesses installs).
first-hour:
	RLCA_TEST_HARNESSES=1 $(GO) test -count=1 -timeout 15m -run '^TestFirstHour$$' -v ./cmd/rlca

# Every fault for every harness, about ten minutes: the table of docs/harnesses.md.
harness-report:
	RLCA_TEST_HARNESSES=1 RLCA_HARNESS_REPORT=$(CURDIR)/docs/harnesses.md $(GO) test -count=1 -timeout 40m -run '^TestHarnesses$$' -v ./cmd/rlca

lab:
	RLCA_LAB_STRICT=1 $(GO) test -count=1 -timeout 10m -run '^TestLink' -v ./internal/netlab

fit-report:
	$(GO) test -count=1 -run '^TestFitReport$$' -v ./internal/fit

check:
	@bad=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$bad" ] || { echo "gofmt: $$bad" >&2; exit 1; }
	@for os in linux darwin windows; do echo "go vet, $$os"; GOOS=$$os $(GO) vet ./... || exit 1; done
	$(GO) run $(STATICCHECK) ./...

bench: build
	RLCA_BENCH_RUNS=$(BENCHRUNS) $(GO) test -count=1 -timeout 20m -run '^TestBench$$$(RUN)' -v -tags bench ./cmd/rlca | grep -v -E '^ *(=== |--- |PASS|ok)'

bench-sleep:
	.ci/bench-sleep

fuzz:
	@GO='$(GO)' .ci/fuzz $(FUZZTIME)

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/rlca

cross:
	@for p in $(PLATFORMS); do \
		echo "build $$p"; \
		CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o dist/$$p/ ./cmd/rlca || exit 1; \
	done

peers:
	.ci/peers install

peers-vllm:
	.ci/peers-vllm install

peers-harnesses:
	.ci/peers-harnesses install

help:
	@printf '%s\n' \
		'make demo    connect to an embedded box, ask it something, cut the link, see it heal' \
		'make test    all tests; real peers that are missing are named in the last line' \
		'make test-vllm   a real vLLM on the CPU: started, asked, failed, stopped; and one over two boxes with Ray (make peers-vllm installs them, 6 GB)' \
		'make test-harnesses  Qwen Code, Codex CLI, Claude Code and OpenCode through rlca launch, with a tool call and a cut each, and first-hour (make peers-harnesses installs them, 1.5 GB; Linux, root)' \
		'make first-hour  the commands of the README by which a person gets from a clone to a file that a harness wrote, on a fresh home' \
		'make harness-report  the same through every fault; writes the table of docs/harnesses.md' \
		'make lab     the link on a network that is delayed, cut and renumbered, held to the times of docs/link.md (Linux, root)' \
		'make fit-report  the fit against figures that engines published and that were measured (RLCA_FIT_CASES, RLCA_FIT_LIVE)' \
		'make check   gofmt, go vet for three systems, staticcheck' \
		'make bench   memory, throughput, round trip, tokens, held callers, connect and heal beside ssh and autossh, medians of one run; RUN=/idle for one part' \
		'make bench-sleep  a laptop in a virtual machine that really sleeps, beside ssh and autossh; says what it needs' \
		'make fuzz    every fuzz target for FUZZTIME (60s)' \
		'make build   bin/rlca' \
		'make cross   dist/ for linux, darwin, windows on amd64 and arm64' \
		'make peers   installs or builds the real peers of the tests (Debian, root): sshd, Ollama, llama-server, SmolLM2-135M, autossh, fish, tcsh, zsh, busybox, curl, Chromium'
