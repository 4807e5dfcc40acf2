package remote

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
)

// offer is a model that a server would answer with.
type offer struct {
	name string
	// told says that the server tells what is loaded; loaded is then whether this model is.
	told, loaded bool
	// context is the tokens that a request may have now, train the model's own limit. 0 is not told.
	context, train int
	quant, family  string
}

// readOffers reads the names of /v1/models. What has none is left out.
func readOffers(body []byte) []offer {
	var said struct {
		Data []struct {
			ID    word  `json:"id"`
			Limit count `json:"max_model_len"`
		} `json:"data"`
	}
	_ = json.Unmarshal(body, &said) // readModels has judged it; a field that is not as expected is left out
	var list []offer
	for _, d := range said.Data {
		if name := clean(string(d.ID)); name != "" {
			list = append(list, offer{name: name, context: d.Limit.tokens()})
		}
	}
	return list
}

// ownerOf is who owns the first model of /v1/models; most servers write their own name there.
func ownerOf(body []byte) string {
	var said struct {
		Data []struct {
			Owner word `json:"owned_by"`
		} `json:"data"`
	}
	_ = json.Unmarshal(body, &said)
	if len(said.Data) == 0 {
		return ""
	}
	return string(said.Data[0].Owner)
}

// owners are the servers that write their name into /v1/models.
var owners = map[string]string{
	"sglang": "SGLang", "tensorrt_llm": "TensorRT-LLM", "omlx": "oMLX", "koboldcpp": "KoboldCpp", "tabbyapi": "TabbyAPI",
}

// recognise names a server that speaks OpenAI's API and is none that rlca starts, and adds what it tells in ways of its
// own. owner is that of its models. Only what is read is asked for. Each that writes no name has a path that the others
// lack; LM Studio answers every path with 200, and an error inside.
func (h *heard) recognise(ctx context.Context, a *api, owner string) {
	h.Engine = owners[strings.ToLower(owner)]
	switch h.Engine {
	case "SGLang":
		h.sglang(ctx, a)
		return
	case "TensorRT-LLM":
		if body, err := a.ask(ctx, "/version"); err == nil {
			h.readVersion(body)
		}
		return
	case "KoboldCpp":
		h.kobold(ctx, a)
		return
	case "TabbyAPI":
		h.tabby(ctx, a)
		return
	case "oMLX":
		return
	}
	for _, is := range []func(context.Context, *api) bool{h.lmStudio, h.tgi, h.mlxLM, h.mlxVLM, h.webUI} {
		if is(ctx, a) {
			return
		}
	}
}

// only gives the one model that is served what the server tells of it.
func (h *heard) only(name string, context int) {
	for i := range h.offers {
		if o := &h.offers[i]; o.name == name || name == "" && len(h.offers) == 1 {
			o.told, o.loaded = true, true
			if context > 0 {
				o.context = context
			}
			h.Model, h.Context = o.name, o.context
		}
	}
}

// studioModel is a row of LM Studio's own list.
type studioModel struct {
	ID     word  `json:"id"`
	Type   word  `json:"type"` // llm, vlm, embeddings
	Arch   word  `json:"arch"`
	Quant  word  `json:"quantization"`
	State  word  `json:"state"` // loaded, not-loaded
	Max    count `json:"max_context_length"`
	Loaded count `json:"loaded_context_length"`
}

// lmStudio reads the list of LM Studio's own API, which tells what is loaded, and with how many tokens. /v1/models has
// all models that were downloaded where they are loaded on demand, else those that are loaded.
func (h *heard) lmStudio(ctx context.Context, a *api) bool {
	var said struct {
		Data []studioModel `json:"data"`
	}
	body, err := a.ask(ctx, "/api/v0/models")
	if err != nil || json.Unmarshal(body, &said) != nil || said.Data == nil {
		return false
	}
	if len(said.Data) > 0 && said.Data[0].State == "" && said.Data[0].Max == 0 {
		return false
	}
	h.Serves = Serves{Engine: "LM Studio"}
	var list []offer
	for _, o := range h.offers {
		i := slices.IndexFunc(said.Data, func(m studioModel) bool { return clean(string(m.ID)) == o.name })
		if i >= 0 {
			m := said.Data[i]
			if m.Type == "embeddings" {
				continue
			}
			o.told, o.loaded = m.State != "", m.State == "loaded"
			o.context, o.train = m.Loaded.tokens(), m.Max.tokens()
			o.quant, o.family = clean(string(m.Quant)), clean(string(m.Arch))
		}
		list = append(list, o)
	}
	h.offers = list
	if i := slices.IndexFunc(list, func(o offer) bool { return o.loaded }); i >= 0 {
		h.Model, h.Context, h.ContextTrain = list[i].name, list[i].context, list[i].train
	} else if len(list) > 0 {
		h.Model, h.ContextTrain = list[0].name, list[0].train
	}
	return true
}

// sglang reads how many tokens SGLang has room for: a request may have no more, whatever the model's length is.
func (h *heard) sglang(ctx context.Context, a *api) {
	var said struct {
		Version word  `json:"version"`
		Pool    count `json:"max_total_num_tokens"`
	}
	body, err := a.ask(ctx, "/server_info")
	if err != nil {
		body, err = a.ask(ctx, "/get_server_info") // before April 2026
	}
	if err != nil || json.Unmarshal(body, &said) != nil {
		return
	}
	h.Version = clean(string(said.Version))
	pool := said.Pool.tokens()
	for i := range h.offers {
		if o := &h.offers[i]; pool > 0 && o.context > pool {
			o.context = pool
		}
	}
	if pool > 0 && h.Context > pool {
		h.Context = pool
	}
}

// tgi reads /info of Text Generation Inference.
func (h *heard) tgi(ctx context.Context, a *api) bool {
	var said struct {
		Model   word  `json:"model_id"`
		Router  word  `json:"router"`
		Version word  `json:"version"`
		Total   count `json:"max_total_tokens"`
	}
	body, err := a.ask(ctx, "/info")
	if err != nil || json.Unmarshal(body, &said) != nil || said.Model == "" || said.Router != "text-generation-router" && said.Total == 0 {
		return false
	}
	h.Engine, h.Version = "TGI", clean(string(said.Version))
	h.only("", said.Total.tokens())
	return true
}

// mlxLM knows mlx_lm.server by Python's own web server and its word of health. It tells no context.
func (h *heard) mlxLM(ctx context.Context, a *api) bool {
	ctx, cancel := context.WithTimeout(ctx, describeLimit)
	defer cancel()
	resp, err := a.send(ctx, "GET", "/health", nil)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	var said struct {
		Status word `json:"status"`
	}
	if !strings.HasPrefix(resp.Header.Get("Server"), "BaseHTTP/") || json.Unmarshal(text, &said) != nil || said.Status != "ok" {
		return false
	}
	h.Engine = "mlx_lm.server"
	return true
}

// mlxVLM knows the server of MLX-VLM by the title of its API. It tells no context.
func (h *heard) mlxVLM(ctx context.Context, a *api) bool {
	var said struct {
		Info struct {
			Title   word `json:"title"`
			Version word `json:"version"`
		} `json:"info"`
	}
	body, err := a.ask(ctx, "/openapi.json")
	if err != nil || json.Unmarshal(body, &said) != nil || !strings.HasPrefix(string(said.Info.Title), "MLX-VLM") {
		return false
	}
	h.Engine, h.Version = "MLX-VLM", clean(string(said.Info.Version))
	return true
}

// webUI knows text-generation-webui by its question for the loaded model. It tells no context.
func (h *heard) webUI(ctx context.Context, a *api) bool {
	var said struct {
		Name *string `json:"model_name"`
	}
	body, err := a.ask(ctx, "/v1/internal/model/info")
	if err != nil || json.Unmarshal(body, &said) != nil || said.Name == nil {
		return false
	}
	h.Engine = "text-generation-webui"
	h.only(clean(*said.Name), 0)
	return true
}

// kobold reads the version of KoboldCpp, and the context that it was started with.
func (h *heard) kobold(ctx context.Context, a *api) {
	if body, err := a.ask(ctx, "/api/extra/version"); err == nil {
		h.readVersion(body)
	}
	var said struct {
		Value count `json:"value"`
	}
	if body, err := a.ask(ctx, "/api/extra/true_max_context_length"); err == nil && json.Unmarshal(body, &said) == nil {
		h.only("", said.Value.tokens())
	}
}

// tabby reads which model TabbyAPI has loaded: /v1/models has all that lie in its folder.
func (h *heard) tabby(ctx context.Context, a *api) {
	var said struct {
		ID         word `json:"id"`
		Parameters struct {
			Length count `json:"max_seq_len"`
		} `json:"parameters"`
	}
	if body, err := a.ask(ctx, "/v1/model"); err == nil && json.Unmarshal(body, &said) == nil && said.ID != "" {
		h.only(clean(string(said.ID)), said.Parameters.Length.tokens())
	}
}
