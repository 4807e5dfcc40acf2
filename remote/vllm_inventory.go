package remote

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// cachedMost is how many repositories of the cache are looked at.
const cachedMost = 300

// cachedScript lists the repositories of the hub's cache that have safetensors: files, of how many, bytes, and the kind
// of model and of quantization that config.json tells.
const cachedScript = hubCache + `
find_hub
k=0
for d in "$hub"/models--*/; do
  d=${d%%/} rev= t=
  [ $k -lt %d ] && [ -d "$d/snapshots" ] || continue
  [ -r "$d/refs/main" ] && read -r rev < "$d/refs/main"
  t=$d/snapshots/$rev
  [ -n "$rev" ] && [ -d "$t" ] || { t=$(ls -1td "$d"/snapshots/*/ 2>/dev/null | head -n 1); t=${t%%/}; }
  [ -f "$t/config.json" ] || continue
  set -- "$t"/*.safetensors
  [ -f "$1" ] || continue
  k=$((k+1))
  say repo "${d##*/models--}"
  ls -lnL "$t"/*.safetensors 2>/dev/null | while read -r a b c e s r; do say file "$k $s ${r##*/}"; done
  for w in model_type quant_method quant_algo; do
    say "$w" "$k $(dd if="$t/config.json" bs=65536 count=4 2>/dev/null | tr -d '\n' | sed -n "s/^[^}]*\"$w\"[[:space:]]*:[[:space:]]*\"\([^\"]*\)\".*/\1/p" | head -n 1)"
  done
done
`

// Inventory lists what the account's cache of the hub has for vLLM, and what a server that answers has beside it.
func (v *VLLM) Inventory(ctx context.Context) ([]ModelFile, error) {
	f, err := v.look(ctx)
	if err != nil {
		return nil, err
	}
	s, _, err := v.find(ctx, f, v.address)
	var other *ForeignError
	if err != nil && !errors.As(err, &other) {
		return nil, err
	}
	list, err := v.cached(ctx)
	if err != nil {
		return nil, err
	}
	if s != nil {
		rows, err := v.models(ctx, s.Address)
		if err != nil {
			return nil, fmt.Errorf("list the models of %s: %w", s.Title(), err)
		}
		for _, r := range rows {
			base := r.loaded().Base
			if r.Parent == "" && !slices.ContainsFunc(list, func(m ModelFile) bool { return m.Name == base || m.Name == repositoryOf(base) }) {
				list = append(list, ModelFile{Name: base})
			}
		}
	}
	return list, nil
}

// cached lists the complete repositories of the hub's cache.
func (v *VLLM) cached(ctx context.Context) ([]ModelFile, error) {
	a, err := v.scriptFor(ctx, sourceLimit, fmt.Sprintf(cachedScript, cachedMost))
	if err != nil {
		return nil, fmt.Errorf("list the models in the hub's cache: %w", err)
	}
	var list []ModelFile
	for k, folder := range a.lines["repo"] {
		mine := strconv.Itoa(k+1) + " "
		of := func(key string) (words []string) {
			for _, l := range a.lines[key] {
				if w, ok := strings.CutPrefix(l, mine); ok {
					words = append(words, w)
				}
			}
			return words
		}
		src := &Source{}
		src.weights(of("file"))
		org, name, ok := strings.Cut(folder, "--")
		if !ok || src.Missing > 0 || src.Bytes == 0 {
			continue
		}
		m := ModelFile{Name: org + "/" + name, Bytes: src.Bytes}
		first := func(keys ...string) string {
			for _, key := range keys {
				if w := of(key); len(w) > 0 {
					return w[0]
				}
			}
			return ""
		}
		m.Family, m.Quant = first("model_type"), first("quant_algo", "quant_method")
		list = append(list, m)
	}
	return list, nil
}
