package remote

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	// vllmSeqs is how many requests are served at once: one person's harness asks for few, and each costs memory.
	vllmSeqs = 8
	// unifiedShare is the most of a unified memory that vLLM is given unasked: what it takes too much freezes the box.
	unifiedShare = 0.80
	// autoSince is the first version that finds out itself how long a context fits.
	autoSince = "0.14.0"
)

// vllmOwn are the flags that rlca sets itself, or that would undo what keeps the server private and known.
var vllmOwn = []string{
	"--host", "--port", "--uds", "--model", "--served-model-name", "--max-model-len", "--api-key", "--config", "--headless",
	"--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs", "--allowed-origins", "--root-path",
}

// vllmOwnEnv are the variables of that kind.
var vllmOwnEnv = []string{"RLCA_OWNER", "VLLM_API_KEY", "VLLM_SERVER_DEV_MODE"}

// inPath puts the folder $1 before the PATH and becomes the rest: compilers of kernels lie beside the interpreter.
const inPath = `PATH=$1:$PATH; export PATH; shift; exec "$@"`

// command is vllm serve.
func (v *VLLM) command(ctx context.Context, f *facts, plan Plan, addr string) (job, error) {
	src, err := v.source(ctx, plan.Model)
	if err != nil {
		return job{}, err
	}
	if f.vllm.image != nil {
		return v.inContainer(ctx, f, plan, src, addr)
	}
	argv, env, err := vllmArgs(plan, src, addr, f.vllm.version)
	if err != nil {
		return job{}, err
	}
	if f.vllm.linux { // its processes reach each other by the address of the box's name, which others may reach, too
		env = append([]string{"GLOO_SOCKET_IFNAME=lo"}, env...)
	}
	argv = append([]string{f.path}, argv...)
	if f.vllm.bin != "" {
		argv = append([]string{"/bin/sh", "-c", inPath, "rlca", f.vllm.bin}, argv...)
	}
	return job{env: env, argv: argv, tail: 600, stall: vllmStall, loading: vllmPhases(), ended: vllmEnded}, nil
}

// vllmArgs are the arguments and the environment that serve a model on addr.
func vllmArgs(plan Plan, src *Source, addr, version string) (argv, env []string, err error) {
	extra, args := plan.splitArgs()
	for _, e := range extra {
		name, _, _ := strings.Cut(e, "=")
		if !isAssignment(e) || slices.Contains(vllmOwnEnv, name) {
			return nil, nil, fmt.Errorf("start vLLM with %s: rlca sets %s itself", e, name)
		}
	}
	for _, a := range args {
		if own := ownFlag(a); own != "" {
			return nil, nil, fmt.Errorf("start vLLM with %s: rlca sets %s itself", a, own)
		}
		if plan.Unified && flagOf(a) == "--kv-cache-memory-bytes" {
			return nil, nil, fmt.Errorf("start vLLM with %s: on unified memory it skips the limit that keeps the box alive; give a share instead: --gpu-memory-utilization", a)
		}
	}

	env = []string{"VLLM_NO_USAGE_STATS=1", "DO_NOT_TRACK=1", "HF_HUB_OFFLINE=1"}
	model := plan.Model
	if repository.MatchString(model) {
		// Its files are where they were found: the process sees no shell files, which may name another cache.
		if i := strings.LastIndex(src.Path, "/models--"); i > 0 {
			env = append(env, "HF_HUB_CACHE="+src.Path[:i])
		}
	} else {
		model = src.Path
	}
	names := []string{alias(model)}
	if plan.Model != names[0] {
		names = append(names, plan.Model)
	}
	host, port := "127.0.0.1", strconv.Itoa(int(portOf(addr)))
	switch {
	case addr == vllmInside:
		host = "0.0.0.0"
	case strings.HasPrefix(addr, "["):
		host = "::1"
	}
	argv = append([]string{"serve", model, "--host", host, "--port", port, "--served-model-name"}, names...)
	switch {
	case plan.Context > 0:
		argv = append(argv, "--max-model-len", strconv.Itoa(plan.Context))
	case version != "" && atLeast(version, autoSince):
		argv = append(argv, "--max-model-len", "auto")
	}
	seqs := max(vllmSeqs, plan.Parallel)
	if plan.Unified {
		seqs = min(seqs, vllmSeqs)
	}
	argv = append(argv, "--max-num-seqs", strconv.Itoa(seqs))
	share := plan.Utilization
	if share == 0 && plan.Unified {
		share = unifiedShare
	}
	if share > 0 {
		argv = append(argv, "--gpu-memory-utilization", strconv.FormatFloat(share, 'f', -1, 64))
	}
	if plan.Tensor > 1 {
		argv = append(argv, "--tensor-parallel-size", strconv.Itoa(plan.Tensor))
	}
	p := parsersOf(src.Config, plan.Model, version)
	given := func(flag string) bool {
		return slices.ContainsFunc(args, func(a string) bool { return flagOf(a) == flag })
	}
	if p.Tool != "" && !given("--tool-call-parser") {
		argv = append(argv, "--enable-auto-tool-choice", "--tool-call-parser", p.Tool)
	}
	if p.Reasoning != "" && !given("--reasoning-parser") {
		argv = append(argv, "--reasoning-parser", p.Reasoning)
	}
	// A page in a browser must not use the port; programs send no origin.
	argv = append(argv, "--allowed-origins", `["http://localhost"]`)
	return append(argv, args...), append(env, extra...), nil
}

// flagOf is the flag of an argument as vLLM reads it: with dashes, without a value. Empty for what is none.
func flagOf(arg string) string {
	if !strings.HasPrefix(arg, "--") {
		return ""
	}
	flag, _, _ := strings.Cut(arg, "=")
	return strings.ReplaceAll(flag, "_", "-")
}

// ownFlag is the flag of ours that an argument would set: vLLM takes the beginning of a flag for the whole.
func ownFlag(arg string) string {
	flag := flagOf(arg)
	if len(flag) <= len("--") {
		return ""
	}
	for _, own := range vllmOwn {
		if strings.HasPrefix(own, flag) {
			return own
		}
	}
	return ""
}

// warnings are what a user of a model should know, which version serves.
func (v *VLLM) warnings(ctx context.Context, plan Plan, version string) []string {
	if _, args := plan.splitArgs(); slices.ContainsFunc(args, func(a string) bool { return flagOf(a) == "--tool-call-parser" }) {
		return nil
	}
	src, err := v.source(ctx, plan.Model)
	if err != nil {
		return nil
	}
	if w := parsersOf(src.Config, plan.Model, version).Warning; w != "" {
		return []string{alias(plan.Model) + ": " + w}
	}
	return nil
}

// atLeast reports whether a version, "0.32.0+cpu", is min or later. One that is not known counts as the latest; so does
// that of a build from sources without their history, "0.1.dev1+g7f41d34".
func atLeast(version, min string) bool {
	if version == "" || strings.HasPrefix(version, "0.1.dev") {
		return true
	}
	v, m := numbers(version), numbers(min)
	return slices.Compare(v[:], m[:]) >= 0
}

// numbers are the first three of a version.
func numbers(version string) (n [3]int) {
	for i, part := range strings.SplitN(strings.TrimPrefix(version, "v"), ".", 4) {
		if i == len(n) {
			break
		}
		end := strings.IndexFunc(part, func(r rune) bool { return r < '0' || r > '9' })
		if end < 0 {
			end = len(part)
		}
		n[i], _ = strconv.Atoi(part[:end])
		if end < len(part) {
			break
		}
	}
	return n
}
