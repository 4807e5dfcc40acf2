package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ability is what a llama-server program says of itself.
type ability struct {
	version string
	// flags are the options that it knows, of those that came or went over the years.
	flags []string
	// trace is true if level 4 of its log is that of the buffers, and not yet that of the prompts.
	trace bool
}

func (a ability) has(flag string) bool { return slices.Contains(a.flags, flag) }

// llamaFlags are the options that not every llama-server has.
var llamaFlags = []string{"--no-ui", "--no-webui", "--jinja", "--cache-ram", "--no-kv-unified", "--cors-origins", "--offline", "--sleep-idle-seconds"}

// abilityScript asks a program for its version and its help. It may have to wake a GPU for either, so it gets a while.
const abilityScript = `
p=%[1]s brief=
if command -v timeout >/dev/null 2>&1; then brief="timeout %[3]d"
elif command -v perl >/dev/null 2>&1; then brief='perl -e alarm(shift);exec(@ARGV) %[3]d'; fi
v=$($brief "$p" --version 2>&1); say code $?
printf '%%s\n' "$v" | grep '^version: ' | head -n 1 | while read -r l; do say version "$l"; done
printf '%%s\n' "$v" | tail -n 3 | while read -r l; do say said "$l"; done
h=$($brief "$p" --help 2>&1)
for o in %[2]s; do case $h in *"$o"[!a-z-]*) say flag "$o";; esac; done
case $h in *"4: trace"*) say trace 1;; esac
`

// ability asks the program at path. One that cannot even say its version is an error.
func (e *LlamaServer) ability(ctx context.Context, path string) (ability, error) {
	const seconds = 5
	a, err := e.script(ctx, fmt.Sprintf(abilityScript, quote(path), strings.Join(llamaFlags, " "), seconds))
	if err != nil {
		return ability{}, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	able := ability{version: llamaBuild(a.get("version")), flags: a.lines["flag"], trace: a.get("trace") != ""}
	if a.get("version") != "" {
		return able, nil
	}
	bad := &StartError{Engine: e.title, Address: e.address, Log: a.lines["said"]}
	switch a.int("code") {
	case 128 + 4:
		bad.Class, bad.Reason, bad.Remedy = "build", path+" ends with an illegal instruction: it was built for another CPU", "build llama.cpp on the box"
	case 128 + 6, 128 + 7, 128 + 11:
		bad.Class, bad.Reason, bad.Remedy = "build", path+" crashes when it is asked for its version", "build llama.cpp on the box"
	case 126, 127:
		bad.Class, bad.Reason, bad.Remedy = "install", path+" cannot be run", "install llama.cpp anew, or build it on the box"
	default: // an old one without a version, or a GPU that is slow to wake: the start will show
		return able, nil
	}
	return able, bad
}

var (
	newBuild = regexp.MustCompile(`\(build (\d+), commit ([0-9a-z]+)\)`)
	oldBuild = regexp.MustCompile(`^version: (\d+) \(([0-9a-z]+)\)`)
)

// llamaBuild reads "version: 0.6.0-dev (build 11549, commit unknown)", and "version: 6014 (abcdef)" of older ones.
func llamaBuild(line string) string {
	m := newBuild.FindStringSubmatch(line)
	if m == nil {
		m = oldBuild.FindStringSubmatch(line)
	}
	if m == nil {
		return ""
	}
	return llamaVersion("b" + m[1] + "-" + m[2])
}

// command is a llama-server with the model of the plan.
func (e *LlamaServer) command(ctx context.Context, f *facts, plan Plan, addr string) (job, error) {
	m, err := e.file(ctx, plan.Model)
	if err != nil {
		return job{}, err
	}
	env, extra, err := llamaExtra(plan)
	if err != nil {
		return job{}, err
	}
	able, err := e.ability(ctx, f.path)
	var start *StartError
	if errors.As(err, &start) {
		start.Address = addr
	}
	if err != nil {
		return job{}, err
	}
	return job{
		env: env, argv: slices.Concat([]string{f.path}, llamaArgs(plan, able, m.Path, addr), extra), stall: llamaStall,
		loading: func(lines []string) Progress { return llamaLoading(aliasOf(plan.Model), m.Bytes, lines) },
		ended:   func(s *StartError) error { return llamaEnded(plan.Model, s) },
	}, nil
}

// llamaArgs are the arguments of a server that we start, without those of the plan. An option that the program does not
// know would end it, so only those are given that its help names.
func llamaArgs(plan Plan, able ability, file, addr string) []string {
	var args []string
	add := func(words ...string) { args = append(args, words...) }
	// The context is that of all requests together, and an explicit number of them parts it.
	if plan.Context > 0 {
		add("-c", strconv.Itoa(plan.Context*max(1, plan.Parallel)))
	}
	if plan.Parallel > 0 {
		add("-np", strconv.Itoa(plan.Parallel))
		if plan.Parallel > 1 && able.has("--no-kv-unified") {
			add("--no-kv-unified")
		}
	}
	host, port, _ := net.SplitHostPort(addr)
	add("-m", file, "--alias", aliasOf(plan.Model), "--host", host, "--port", port)
	if able.trace {
		add("-lv", "4") // below it nothing is said of buffers
	}
	switch {
	case able.has("--no-ui"):
		add("--no-ui")
	case able.has("--no-webui"):
		add("--no-webui")
	}
	if able.has("--jinja") {
		add("--jinja") // older ones call no tools without it
	}
	if able.has("--offline") {
		add("--offline")
	}
	if able.has("--cors-origins") {
		add("--cors-origins", "localhost") // else any page in a browser may ask
	}
	if plan.Unified && able.has("--cache-ram") {
		add("--cache-ram", "0") // up to 8 GiB of old prompts, which no fit counts
	}
	if keep := seconds(plan.KeepAlive); keep > 0 && able.has("--sleep-idle-seconds") {
		add("--sleep-idle-seconds", strconv.Itoa(keep))
	}
	return args
}

// seconds reads a time as Plan.KeepAlive has it. What is for ever, or none, is 0.
func seconds(keep string) int {
	if n, err := strconv.Atoi(keep); err == nil {
		return max(0, n)
	}
	if d, err := time.ParseDuration(keep); err == nil && d > 0 {
		return max(1, int(d.Seconds()))
	}
	return 0
}

// llamaOwn are the arguments, and the variables, that rlca gives itself: what listens and who may ask, the model and its
// context.
var (
	llamaOwn = []string{
		"--host", "--port", "--reuse-port", "--alias", "-a", "--api-key", "--api-key-file", "--api-prefix", "--ssl-key-file", "--ssl-cert-file",
		"--model", "-m", "--model-url", "-mu", "--hf-repo", "-hf", "-hfr", "--hf-file", "-hff", "--docker-repo", "-dr", "--models-dir", "--models-preset",
		"--ctx-size", "-c", "--parallel", "-np", "--log-disable", "--kv-unified-per-slot",
	}
	llamaOwnEnv = []string{
		"LLAMA_ARG_HOST", "LLAMA_ARG_PORT", "LLAMA_ARG_REUSE_PORT", "LLAMA_ARG_ALIAS", "LLAMA_API_KEY", "LLAMA_ARG_API_KEY_FILE", "LLAMA_ARG_API_PREFIX",
		"LLAMA_ARG_SSL_KEY_FILE", "LLAMA_ARG_SSL_CERT_FILE", "LLAMA_ARG_MODEL", "LLAMA_ARG_MODEL_URL", "LLAMA_ARG_HF_REPO", "LLAMA_ARG_HF_FILE",
		"LLAMA_ARG_DOCKER_REPO", "LLAMA_ARG_MODELS_DIR", "LLAMA_ARG_MODELS_PRESET", "LLAMA_ARG_CTX_SIZE", "LLAMA_ARG_N_PARALLEL",
		"LLAMA_ARG_KV_UNIFIED_PER_SLOT", "RLCA_OWNER",
	}
)

// llamaExtra is what a plan adds. It cannot undo what keeps the server private and makes it the one that was planned.
func llamaExtra(plan Plan) (env, args []string, err error) {
	env, args = plan.splitArgs()
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if !isAssignment(e) || slices.Contains(llamaOwnEnv, name) {
			return nil, nil, fmt.Errorf("start llama-server with %s: rlca sets %s itself", e, name)
		}
	}
	for _, a := range args {
		flag := a
		if strings.HasPrefix(a, "--") {
			flag = strings.ReplaceAll(a, "_", "-") // as llama.cpp does
		}
		if slices.Contains(llamaOwn, flag) {
			return nil, nil, fmt.Errorf("start llama-server with %s: rlca sets %s itself", a, flag)
		}
	}
	return env, args, nil
}

// llamaLoading says how far a start is, by the end of its log.
func llamaLoading(model string, size int64, lines []string) Progress {
	p := Progress{Step: StepLoad, Total: size, Text: "loading " + model}
	if size > 0 {
		p.Text += ", " + gib(size)
	}
	if slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "warming up the model") }) {
		p.Text = "warming up " + model
	}
	return p
}

// llamaFailure is a way in which llama-server does not come up.
type llamaFailure struct {
	// text is what it writes.
	text *regexp.Regexp
	// class is a StartError's.
	class string
	// means says to a person what it is, remedy what can be done; $1 is the first group of text.
	means, remedy string
}

const (
	lessMemory = "a shorter context, a smaller quantization, or fewer requests at once; end what else holds memory on the box"
	noRepack   = "build llama.cpp on the box; if it was built for AMX, this helps: args = [\"--no-repack\"]"
)

// llamaFailures are the texts of real failures, the surest first.
var llamaFailures = sync.OnceValue(func() []llamaFailure {
	return []llamaFailure{
		{regexp.MustCompile(`error: invalid argument: (\S+)`), "arguments", "this llama-server does not know the argument $1", "take $1 out of args, or look for its new name: llama-server --help"},
		{regexp.MustCompile(`error while handling argument "?([^":]+)"?`), "arguments", "this llama-server cannot use what was given to the argument $1", "correct $1 in args"},
		{regexp.MustCompile(`error while loading shared libraries: ([^:]+)`), "install", "the library $1 lacks on the box", "install what holds $1 on the box, or build llama.cpp there"},
		{regexp.MustCompile(`unknown model architecture: '([^']+)'`), "version", "this llama-server does not know models of the kind $1", "a newer llama.cpp on the box"},
		{regexp.MustCompile(`unknown pre-tokenizer type: '([^']+)'`), "version", "this llama-server does not know the tokenizer $1", "a newer llama.cpp on the box"},
		{regexp.MustCompile(`invalid magic|not within the file bounds|unexpectedly reached end of file|failed to read magic|corrupted or incomplete`), "model", "the model's file is broken, or not all of it is there", "download it again"},
		{regexp.MustCompile(`missing tensor '[^']+'|wrong number of tensors`), "model", "the model's file and this llama-server do not suit each other", "another file of the model, or a newer llama.cpp"},
		{regexp.MustCompile(`(?i)kernel: .*(?:out of memory|oom-kill)`), "memory", "the box ran out of memory, and its kernel ended llama-server", lessMemory},
		{regexp.MustCompile(`(?i)kernel: .*(?:invalid opcode|illegal instruction)`), "build", "it was built for another CPU than that of the box", noRepack},
		{regexp.MustCompile(`kernel: .*(?:segfault|general protection)`), "build", "it crashed", noRepack},
		{regexp.MustCompile(`CUDA driver version is insufficient|no kernel image is available`), "driver", "it does not suit the GPU or its driver", "a newer driver, or a llama.cpp that was built for this GPU"},
	}
})

// spared are lines that speak of memory and do not mean the end: it goes on without what it did not get.
var spared = regexp.MustCompile(`pinned memory|failed to fit params`)

// complaint is what a log says of an error, in whatever words.
var complaint = regexp.MustCompile(`(?i)error|fail|abort|fatal|exiting|cannot|unable|couldn't|not found|no such| E `)

// llamaEnded says why a start came to nothing, by the end of its log. What is the model's, or memory's, is a *LoadError,
// too.
func llamaEnded(model string, e *StartError) error {
	because := func(class, means, remedy, line string) error {
		e.Class, e.Reason, e.Remedy, e.Log = class, means, remedy, []string{llamaWords(line)}
		if class == "memory" || class == "model" || class == "version" {
			e.Err, e.Log = &LoadError{Model: model, OutOfMemory: class == "memory", Text: llamaWords(line)}, nil
		}
		return e
	}
	for _, f := range llamaFailures() {
		for _, l := range e.Log {
			if m := f.text.FindStringSubmatchIndex(l); m != nil {
				expand := func(s string) string { return string(f.text.ExpandString(nil, s, l, m)) }
				return because(f.class, expand(f.means), expand(f.remedy), l)
			}
		}
	}
	for _, l := range e.Log {
		if !spared.MatchString(l) && loadError(model, l).OutOfMemory {
			return because("memory", "memory ran out", lessMemory, l)
		}
	}
	for _, words := range []string{"error loading model", "failed to load model"} {
		for _, l := range e.Log {
			if strings.Contains(l, words) {
				return because("model", "it could not load the model", "", l)
			}
		}
	}
	e.Class = "other"
	if e.Reason == errDied.Error() && !slices.ContainsFunc(e.Log, complaint.MatchString) {
		e.Class, e.Reason = "build", "it ended without a word: it does not suit the CPU of the box, or the kernel ended it because memory ran out"
		e.Remedy = noRepack + "; else " + lessMemory
	}
	return e
}

// logPrefix is what llama-server writes before its words: a time, a level, and sometimes who speaks.
var logPrefix = regexp.MustCompile(`^[0-9.]+ [A-Z] (?:(?:srv|cmn|slot|que|res|spec)\s+)?`)

// llamaWords is a line of its log without what stands before the words.
func llamaWords(line string) string { return logPrefix.ReplaceAllString(line, "") }
