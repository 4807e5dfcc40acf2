package remote

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Parsers are how vLLM reads what a model writes.
type Parsers struct {
	// Family is the model's, as people write it. Empty is unknown.
	Family string
	// Tool and Reasoning are the names of vLLM's parsers of calls of tools and of thoughts. Empty is none.
	Tool, Reasoning string
	// Warning says why harnesses will not get calls of tools from it. Empty if they will.
	Warning string
}

// kinship is a row of the table: a family of models.
type kinship struct {
	name string
	// types are values of model_type in config.json, exact or with a * at the end; any, if empty.
	types []string
	// repo matches the name of the model in lower case; any, if nil.
	repo *regexp.Regexp

	tool, reasoning string
	// since is the first version of vLLM that knows the family and its parsers, empty for those of old.
	since string
}

// families is by recipes of vLLM and its lists of parsers. The first row that matches holds, so the special stand before
// the general.
var families = sync.OnceValue(func() []kinship {
	return []kinship{
		// What other families' models were made into.
		{name: "DeepSeek R1 Distill", repo: named(`deepseek-?r1.*distill`), reasoning: "deepseek_r1"},
		{name: "xLAM", repo: named(`xlam`), tool: "xlam"},
		{name: "Hermes", repo: named(`hermes-[234]`), tool: "hermes"},
		{name: "Nemotron Ultra", types: []string{"nemotron_h"}, repo: named(`nemotron-3.*ultra`), tool: "qwen3_coder", reasoning: "nemotron_v3", since: "0.22.0"},
		{name: "Nemotron Super", types: []string{"nemotron_h"}, repo: named(`nemotron-3.*super`), tool: "qwen3_xml", reasoning: "nemotron_v3", since: "0.17.1"},
		{name: "Nemotron Lightning", types: []string{"nemotron_h"}, repo: named(`nemotron-3.*lightning`), tool: "qwen3_xml", reasoning: "nemotron_v3", since: "0.27.1"},
		{name: "Nemotron Nano 3", types: []string{"nemotron_h"}, repo: named(`nemotron-3`), tool: "qwen3_coder", since: "0.11.2"},
		{name: "FunctionGemma", repo: named(`functiongemma`), tool: "functiongemma", since: "0.13.0"},
		{name: "Trinity", types: []string{"afmoe"}, tool: "qwen3_coder", reasoning: "deepseek_r1", since: "0.11.1"},
		{name: "MiniCPM5", repo: named(`minicpm-?5`), tool: "minicpm5", since: "0.21.0"},
		{name: "Mellum", repo: named(`mellum-?2`), tool: "hermes", reasoning: "qwen3", since: "0.23.0"},

		{name: "Qwen3.5 and later", types: []string{"qwen3_5*", "qwen3_6*", "qwen3_8*"}, tool: "qwen3_coder", reasoning: "qwen3", since: "0.17.0"},
		{name: "Qwen3 Coder", types: []string{"qwen3*"}, repo: named(`qwen3?-?coder|coder-next`), tool: "qwen3_coder", since: "0.10.0"},
		{name: "Qwen3 Thinking", types: []string{"qwen3*"}, repo: named(`thinking`), tool: "hermes", reasoning: "qwen3", since: "0.8.5"},
		{name: "Qwen3 Instruct", types: []string{"qwen3*"}, repo: named(`instruct`), tool: "hermes", since: "0.8.5"},
		{name: "Qwen3 Next", types: []string{"qwen3_next"}, tool: "hermes", since: "0.10.0"},
		{name: "Qwen3", types: []string{"qwen3*"}, tool: "hermes", reasoning: "qwen3", since: "0.8.5"},
		{name: "QwQ", types: []string{"qwen2"}, repo: named(`qwq`), tool: "hermes", reasoning: "deepseek_r1"},
		{name: "Qwen2.5", types: []string{"qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_*"}, tool: "hermes"},

		{name: "gpt-oss", types: []string{"gpt_oss"}, tool: "openai", reasoning: "openai_gptoss", since: "0.10.2"},
		{name: "GLM-4.7", types: []string{"glm4_moe*"}, repo: named(`glm-?4\.7`), tool: "glm47", reasoning: "glm45", since: "0.11.0"},
		{name: "GLM-4.5 and 4.6", types: []string{"glm4_moe", "glm4v_moe"}, tool: "glm45", reasoning: "glm45", since: "0.11.0"},
		{name: "GLM-4.7 Flash", types: []string{"glm4_moe_lite"}, tool: "glm47", reasoning: "glm45", since: "0.11.0"},
		{name: "GLM-5", types: []string{"glm_moe_dsa", "glm5*"}, tool: "glm47", reasoning: "glm45", since: "0.16.0"},

		{name: "Kimi K3", types: []string{"kimi_k3*"}, tool: "kimi_k3", reasoning: "kimi_k3", since: "0.27.1"},
		{name: "Kimi K2.5 and later", types: []string{"kimi_k25*", "kimi_k26*", "kimi_k27*"}, tool: "kimi_k2", reasoning: "kimi_k2", since: "0.19.1"},
		{name: "Kimi K2 Thinking", types: []string{"kimi_k2", "deepseek_v3"}, repo: named(`kimi-?k2.*thinking`), tool: "kimi_k2", reasoning: "kimi_k2", since: "0.12.0"},
		{name: "Kimi K2", types: []string{"kimi_k2", "deepseek_v3"}, repo: named(`kimi-?k2`), tool: "kimi_k2", since: "0.12.0"},
		{name: "DeepSeek V4", types: []string{"deepseek_v4*"}, tool: "deepseek_v4", reasoning: "deepseek_v4", since: "0.20.0"},
		{name: "DeepSeek V3.2", types: []string{"deepseek_v32"}, tool: "deepseek_v32", reasoning: "deepseek_v3", since: "0.18.0"},
		{name: "DeepSeek V3.1", types: []string{"deepseek_v3"}, repo: named(`v3\.1`), tool: "deepseek_v31", reasoning: "deepseek_v3", since: "0.12.0"},
		{name: "DeepSeek R1", types: []string{"deepseek_v3"}, repo: named(`r1`), tool: "deepseek_v3", reasoning: "deepseek_r1", since: "0.12.0"},
		{name: "DeepSeek V3", types: []string{"deepseek_v3"}, tool: "deepseek_v3"},

		{name: "Gemma 4", types: []string{"gemma4*"}, tool: "gemma4", reasoning: "gemma4", since: "0.19.1"},
		{name: "Gemma 3", types: []string{"gemma3*"}}, // no parser of vLLM's own
		{name: "Llama 4", types: []string{"llama4*"}, tool: "llama4_pythonic", since: "0.8.5"},
		{name: "Llama 3", types: []string{"llama", "mllama"}, repo: named(`llama-?3`), tool: "llama3_json"},
		{name: "Magistral", types: []string{"mistral*", "ministral*"}, repo: named(`magistral|reasoning`), tool: "mistral", reasoning: "mistral", since: "0.11.0"},
		{name: "Mistral", types: []string{"mistral*", "ministral*", "mixtral", "pixtral"}, tool: "mistral"},

		{name: "MiniMax M3", types: []string{"minimax_m3*"}, tool: "minimax_m3", reasoning: "minimax_m3", since: "0.24.0"},
		{name: "MiniMax M2", types: []string{"minimax_m2*", "minimax"}, repo: named(`m2`), tool: "minimax_m2", reasoning: "minimax_m2", since: "0.11.0"},
		{name: "Seed-OSS", types: []string{"seed_oss"}, tool: "seed_oss", reasoning: "seed_oss", since: "0.11.0"},
		{name: "Step 3.5 and later", types: []string{"step3p5*", "step3p7*"}, tool: "step3p5", reasoning: "step3p5", since: "0.11.0"},
		{name: "Step 3", types: []string{"step3*"}, tool: "step3", reasoning: "step3", since: "0.11.0"},
		{name: "MiMo V2 Flash", types: []string{"mimo_v2*"}, repo: named(`flash`), tool: "qwen3_xml", reasoning: "qwen3", since: "0.11.0"},
		{name: "MiMo V2.5", types: []string{"mimo*"}, repo: named(`v2\.5`), tool: "mimo", reasoning: "mimo", since: "0.21.0"},
		{name: "Granite 4", types: []string{"granitemoehybrid"}, tool: "granite4", since: "0.13.0"},
		{name: "Granite 3", types: []string{"granite", "granitemoe"}, tool: "granite", reasoning: "granite"},
		{name: "Hunyuan A13B", types: []string{"hunyuan_v1_moe"}, tool: "hunyuan_a13b", reasoning: "hunyuan_a13b", since: "0.10.0"},
		{name: "Hy3", types: []string{"hy_v3*"}, tool: "hy_v3", reasoning: "hy_v3", since: "0.26.0"},
		{name: "LFM2 Thinking", types: []string{"lfm2*"}, repo: named(`thinking`), tool: "lfm2", reasoning: "qwen3", since: "0.23.0"},
		{name: "LFM2", types: []string{"lfm2*"}, tool: "lfm2", since: "0.23.0"},
		{name: "Laguna", types: []string{"laguna*"}, tool: "poolside_v1", reasoning: "poolside_v1", since: "0.21.0"},
		{name: "Intern-S1", types: []string{"interns1*", "internlm*"}, tool: "internlm", since: "0.10.0"},
		{name: "Ling 3", types: []string{"bailing*", "ling3*"}, repo: named(`ling-?3`), tool: "ling3", reasoning: "ling3", since: "0.25.0"},
		{name: "dots3", types: []string{"dots*"}, tool: "dots", reasoning: "qwen3", since: "0.28.0"},
		{name: "Inkling", types: []string{"inkling*"}, tool: "inkling", reasoning: "inkling", since: "0.26.0"},
		{name: "Muse Glimmer", types: []string{"muse*"}, tool: "muse_glimmer", reasoning: "muse_glimmer", since: "0.27.0"},
		{name: "Phi-4-mini", types: []string{"phi3", "phi4*"}, repo: named(`phi-?4-mini`), tool: "phi4_mini_json"},
		{name: "OLMo 3", types: []string{"olmo3"}, tool: "olmo3", reasoning: "olmo3", since: "0.11.1"},
		{name: "SmolLM3", types: []string{"smollm3"}, tool: "hermes"},
		{name: "Jamba", types: []string{"jamba"}, tool: "jamba"},
		{name: "ERNIE 4.5", types: []string{"ernie4_5*"}, tool: "ernie45", reasoning: "ernie45", since: "0.11.0"},
		{name: "LongCat Flash", types: []string{"longcat_flash"}, tool: "longcat", since: "0.11.0"},
		{name: "Apertus", types: []string{"apertus"}, tool: "apertus", since: "0.25.0"},
	}
})

func named(pattern string) *regexp.Regexp { return regexp.MustCompile(pattern) }

func (f *kinship) matches(kind, name string) bool {
	if f.repo != nil && !f.repo.MatchString(name) {
		return false
	}
	return len(f.types) == 0 || slices.ContainsFunc(f.types, func(t string) bool {
		begin, open := strings.CutSuffix(t, "*")
		return kind == t || open && strings.HasPrefix(kind, begin)
	})
}

// parsersOf finds the parsers for a model by its config.json and its name, on a version of vLLM, which may be empty.
func parsersOf(config []byte, model, version string) Parsers {
	var said struct {
		Type          word   `json:"model_type"`
		Architectures []word `json:"architectures"`
		Text          struct {
			Type word `json:"model_type"`
		} `json:"text_config"`
	}
	_ = json.Unmarshal(config, &said) // what cannot be read matches no type
	model = strings.TrimRight(model, "/")
	model = cmp.Or(repositoryOf(model), model)
	name := strings.ToLower(model[strings.LastIndexByte(model, '/')+1:])
	const without = ", so harnesses will get no calls of tools from it"
	for _, kind := range slices.Compact([]string{string(said.Type), string(said.Text.Type)}) {
		i := slices.IndexFunc(families(), func(f kinship) bool { return f.matches(kind, name) })
		if i < 0 {
			continue
		}
		f := families()[i]
		p := Parsers{Family: f.name}
		switch {
		case !atLeast(version, f.since):
			p.Warning = fmt.Sprintf("vLLM %s is too old for %s, which needs %s%s", version, f.name, f.since, without)
		case f.tool == "":
			p.Reasoning = f.reasoning
			p.Warning = fmt.Sprintf("vLLM cannot read calls of %s%s", f.name, without)
		default:
			p.Tool, p.Reasoning = f.tool, f.reasoning
		}
		return p
	}
	kind := clean(string(said.Type))
	if kind == "" && len(said.Architectures) > 0 {
		kind = clean(string(said.Architectures[0]))
	}
	return Parsers{Warning: fmt.Sprintf("rlca does not know how models of the kind %q call tools in vLLM%s; if you do, name it: [engine] args = [\"--enable-auto-tool-choice\", \"--tool-call-parser=NAME\"]", cmp.Or(kind, "unknown"), without)}
}
