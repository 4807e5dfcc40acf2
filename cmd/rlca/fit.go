package main

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"github.com/spf13/cobra"

	"rlca/internal/fit"
	"rlca/internal/instance"
)

func (a *app) fitCmd() *cobra.Command {
	var w want
	var m fitMachine
	var params, bits float64
	c := &cobra.Command{
		Use: "fit [HOST]", Short: "does a model fit, and at which context; exit 3 if not", Args: cobra.MaximumNArgs(1),
		Long: `fit answers for a box (fit HOST --model M), or without one:

  rlca fit --memory 32GB --model qwen3-coder:30b --quant Q4_K_M --context 32768
  rlca fit --memory 24GB --gpus 2 --model qwen3-coder:30b --context 128k
  rlca fit --memory 80GB --engine vllm --model Qwen/Qwen3-8B --context 32k
  rlca fit --memory 32GB --params 30 --bits 4        the plain rule: parameters × bits / 8 against 65 %

On a box MODEL may also be a .gguf file, a folder with a config.json, or a repository that lies in the box's cache of
Hugging Face (--engine llama-server or vllm); with --engine none it is what serves at the engine's address now.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			set := cmd.Flags().Changed
			if set("params") || set("bits") {
				if len(args) > 0 || !set("memory") || !set("params") || !set("bits") {
					return usagef("--params and --bits go together, with --memory and without HOST")
				}
				size, err := fit.ParseSize(m.memory)
				if err != nil {
					return usagef("--memory %s: %v", m.memory, err)
				}
				r, err := fit.PlainCheck(params, bits, size)
				if err != nil {
					return usagef("%v", err)
				}
				return a.answerFit(instance.Price{Result: &r}, w.asJSON)
			}
			if len(args) == 0 {
				if !set("memory") || w.model == "" {
					return usagef("without HOST fit needs --memory and --model, or --memory, --params and --bits")
				}
				return a.fitOffline(cmd, w, m)
			}
			if set("memory") || set("gpus") {
				return usagef("--memory and --gpus are for fit without HOST: a box is measured")
			}
			req, err := a.wanted(cmd, args[0], w)
			if err != nil {
				return err
			}
			r, err := a.reach(&req, quiet)
			if err != nil {
				return err
			}
			defer r.Close()
			req.KVType, req.Utilization = m.kv, m.utilization
			price, err := instance.Ask(a.ctx, req, r, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			return a.answerFit(price, w.asJSON)
		},
	}
	f := c.Flags()
	f.StringVar(&m.memory, "memory", "", "`SIZE` that a model may use, as 32GB or 24GiB; for vLLM all that a GPU has")
	f.IntVar(&m.gpus, "gpus", 1, "`N` GPUs of that memory each")
	f.StringVar(&w.engine, "engine", "", "`ENGINE`: ollama, llama-server, vllm; for a box also none")
	f.Float64Var(&m.utilization, "utilization", 0, "share of a GPU that vLLM may take, its --gpu-memory-utilization")
	f.StringVar(&w.model, "model", "", "`MODEL`: an Ollama tag or a name of the catalog")
	f.StringVar(&w.quant, "quant", "", "`QUANT`ization, as Q4_K_M")
	f.StringVar(&w.context, "context", "", "`TOKENS` per request; 0 is the most that fits")
	f.IntVar(&w.parallel, "parallel", 0, "`N` requests at once")
	f.StringVar(&m.kv, "kv", "", "`TYPE` of the KV cache: f16, q8_0, q4_0; for vLLM auto, fp8")
	f.Float64Var(&params, "params", 0, "parameters in billions, for the plain rule")
	f.Float64Var(&bits, "bits", 0, "bits per parameter, for the plain rule")
	f.BoolVar(&w.acceptNew, "accept-new", false, "take the key of a host that is not known yet")
	f.BoolVar(&w.asJSON, "json", false, "as JSON")
	return c
}

// fitMachine is a machine that is told, not measured.
type fitMachine struct {
	memory, kv  string
	gpus        int
	utilization float64
}

func (a *app) fitOffline(cmd *cobra.Command, w want, m fitMachine) error {
	size, err := fit.ParseSize(m.memory)
	if err != nil {
		return usagef("--memory %s: %v", m.memory, err)
	}
	if m.gpus < 1 || m.gpus > 1024 {
		return usagef("--gpus %d: from 1 to 1024", m.gpus)
	}
	catalog, err := fit.LoadCatalog(a.catalog())
	if err != nil {
		return err
	}
	model, err := catalog.Find(w.model)
	if err != nil {
		return err
	}
	context := 0
	if cmd.Flags().Changed("context") {
		if context, err = fit.ParseTokens(w.context); err != nil {
			return usagef("--context %s: %v", w.context, err)
		}
	}
	quant := cmp.Or(w.quant, fit.QuantIn(w.model))
	if w.engine == "vllm" {
		if w.parallel != 0 {
			return usagef("--parallel %d: vLLM serves as many at once as its cache holds; the answer says how many", w.parallel)
		}
		r, err := fit.CheckVLLM(fit.VLLMAsk{
			VLLMCache: fit.VLLMCache{Model: model, Context: context, Tensor: m.gpus, KVType: m.kv},
			Quant:     quant, Total: slices.Repeat([]fit.Bytes{size}, m.gpus), Utilization: m.utilization,
		})
		if err != nil {
			return usagef("%v", err)
		}
		return a.answerFit(instance.Price{Result: &r.Result, VLLM: &r}, w.asJSON)
	}
	if m.utilization != 0 {
		return usagef("--utilization is for --engine vllm")
	}
	ask := fit.Ask{Model: model, Quant: quant, Context: context, Parallel: w.parallel, KVType: m.kv, Budget: &size, GPU: true, Engine: w.engine}
	if m.gpus > 1 {
		ask.Cards, ask.Budget = slices.Repeat([]fit.Bytes{size}, m.gpus), nil
	}
	r, err := fit.Check(ask)
	if err != nil {
		return usagef("%v", err)
	}
	return a.answerFit(instance.Price{Result: &r}, w.asJSON)
}

func (a *app) answerFit(p instance.Price, asJSON bool) error {
	if asJSON {
		if err := a.json(p.Value()); err != nil {
			return err
		}
	} else {
		showFit(a.out, *p.Result)
		if p.VLLM != nil {
			showVLLM(a.out, *p.VLLM)
		}
	}
	if p.Verdict == fit.No {
		return &silent{code: exitNoFit}
	}
	return nil
}

// showVLLM adds what vLLM does with its budget, and what it would refuse.
func showVLLM(w io.Writer, r fit.VLLMResult) {
	if r.Why != "" {
		fmt.Fprintln(w, "why         "+r.Why)
		return
	}
	fmt.Fprintf(w, "%-11s %-10s %d tokens, %.1f requests of %s at once\n", "cache", r.Available, r.Cache.Tokens, r.Cache.Concurrency, fit.Tokens(r.Context))
	fmt.Fprintf(w, "%-11s --gpu-memory-utilization %.2f --max-model-len %d --max-num-seqs %d\n", "flags", r.Utilization, r.Context, r.Seqs)
}

// showFit writes the parts of an answer, one a line, and the total with the limit beside it.
func showFit(w io.Writer, r fit.Result) {
	row := func(key string, b *fit.Bytes, note string) {
		if b != nil && (*b > 0 || key == "weights") {
			fmt.Fprintf(w, "%-11s %-10s %s\n", key, b, note)
		}
	}
	from := map[fit.Source]string{fit.FromFile: "file on the box", fit.FromAPI: "told by the engine", fit.FromCatalog: "size of the published file",
		fit.FromParams: "from parameters × bits"}[r.Source]
	row("weights", r.Weights, from)
	kv := "of one request of " + fit.Tokens(r.Context) + " tokens"
	if r.KVPerToken != nil {
		kv = fmt.Sprintf("%d tokens × %d bytes, %s", r.Context*max(1, r.Parallel), int64(*r.KVPerToken), r.KVType)
	}
	row("KV cache", r.KV, kv)
	row("state", r.State, "recurrent layers")
	row("buffers", r.Compute, r.ComputeRule)
	row("repacked", r.Repack, "a second copy of the weights for this CPU")
	row("embeddings", r.Tied, "a second copy of them in Ollama's own engine")
	row("reserve", r.Reserve, "what the runtime takes for itself")
	if r.Total == nil {
		fmt.Fprintln(w, "total       not known")
		return
	}
	line := fmt.Sprintf("%-11s %s", "total", r.Total)
	if r.ErrorBand != nil {
		line += fmt.Sprintf(" ± %.0f %%", *r.ErrorBand*100)
	}
	if r.Budget != nil {
		line += fmt.Sprintf("   of %s: %s", r.Budget, verdictText(r))
	}
	fmt.Fprintln(w, line)
	for _, n := range r.Notes {
		fmt.Fprintln(w, "note        "+n)
	}
}

func verdictText(r fit.Result) string {
	word := map[fit.Verdict]string{fit.Fits: "fits", fit.Tight: "tight", fit.No: "does not fit"}[r.Verdict]
	switch {
	case r.MaxContext == nil:
	case *r.MaxContext == 0:
		word += ", at no context"
	case r.ModelLimit != nil && *r.MaxContext >= *r.ModelLimit:
		word += fmt.Sprintf(", up to the model's own limit of %d tokens", *r.ModelLimit)
	default:
		word += fmt.Sprintf(", up to %d tokens", *r.MaxContext)
	}
	return word
}
