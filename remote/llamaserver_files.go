package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// aliasOf is the name under which a model is asked for: of a file its own without what every one has, else the name as
// it was given. A comma would part it.
func aliasOf(model string) string {
	name := model
	if strings.HasPrefix(model, "/") || strings.HasPrefix(model, "~") {
		name = splitPart.ReplaceAllString(strings.TrimSuffix(path.Base(model), ".gguf"), "")
	}
	return strings.ReplaceAll(name, ",", "-")
}

// splitPart is how a file that is one of several ends.
var splitPart = regexp.MustCompile(`-\d{5}-of-\d{5}$`)

// file finds the GGUF file of a model: a path, the name of a model of Ollama whose file can be read, or a repository in
// the cache of the Hugging Face hub.
func (e *LlamaServer) file(ctx context.Context, model string) (*Source, error) {
	if strings.HasPrefix(model, "/") || strings.HasPrefix(model, "~") {
		return e.readGGUF(ctx, model, model)
	}
	all, err := e.ollamaFiles(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if !sameName(m.Name, model) {
			continue
		}
		if m.Path == "" {
			return nil, fmt.Errorf("load model %s of Ollama with llama-server: it is not one GGUF file", clean(model))
		}
		return e.readGGUF(ctx, model, m.Path)
	}
	repo := strings.TrimPrefix(strings.TrimPrefix(model, "hf.co/"), "huggingface.co/")
	where, _, _ := strings.Cut(repo, ":")
	if repository.MatchString(where) {
		var missing *ModelMissingError
		s, err := e.readGGUF(ctx, model, repo)
		if !errors.As(err, &missing) {
			return s, err
		}
	}
	missing := &ModelMissingError{Model: clean(model)}
	if files, err := e.Inventory(ctx); err == nil {
		var names []string
		for _, f := range files {
			names = append(names, f.Name)
		}
		missing.Near = near(model, names)
	}
	return nil, missing
}

// readGGUF reads the beginning of a model's file, to know that it is one.
func (e *LlamaServer) readGGUF(ctx context.Context, model, where string) (*Source, error) {
	s, err := ReadModel(ctx, e.box, where, headLeast)
	var missing *ModelMissingError
	switch {
	case errors.As(err, &missing):
		missing.Model = clean(model)
		return nil, missing
	case err != nil:
		return nil, err
	case s.Format != "gguf":
		return nil, fmt.Errorf("load model %s with llama-server: %s has safetensors, and llama-server loads GGUF files only", clean(model), clean(s.Path))
	case s.Missing > 0:
		return nil, fmt.Errorf("load model %s: %d of its %d files are not on the box", clean(model), s.Missing, s.Parts)
	}
	return s, nil
}

// ollamaFiles lists the models of Ollama that lie on the box, whether it is installed or not.
func (e *LlamaServer) ollamaFiles(ctx context.Context) ([]ModelFile, error) {
	o := &Ollama{service{host: e.host}}
	f, err := o.look(ctx)
	if err != nil {
		return nil, err
	}
	found, err := o.onDisk(ctx, f)
	if err != nil {
		return nil, err
	}
	var list []ModelFile
	for _, d := range found {
		list = append(list, d.ModelFile)
	}
	return list, nil
}

// ggufScript lists GGUF files: those of the hub's cache with the name of their repository, and those of the folders that
// people and llama.cpp put them in. Of a split file each part is listed.
const ggufScript = hubCache + `
k=0
file() {
  [ -f "$2" ] && [ $k -lt 400 ] || return
  k=$((k+1))
  s=$(ls -lnL "$2" 2>/dev/null | { read -r a b c d s e; printf '%s' "$s"; })
  say gguf "$s $1 $2"
}
find_hub
for d in "$hub"/models--*; do
  rev=; [ ! -r "$d/refs/main" ] || read -r rev < "$d/refs/main"
  t=$d/snapshots/$rev
  [ -n "$rev" ] && [ -d "$t" ] || { t=$(ls -1td "$d"/snapshots/*/ 2>/dev/null | head -n 1); t=${t%/}; }
  [ -n "$t" ] || continue
  for f in "$t"/*.gguf "$t"/*/*.gguf; do file "${d##*/models--}" "$f"; done
done
for d in "$HOME/models" "${LLAMA_CACHE:-$HOME/.cache/llama.cpp}"; do
  for f in "$d"/*.gguf "$d"/*/*.gguf "$d"/*/*/*.gguf; do file - "$f"; done
done
`

// quantInName finds the quantization in the name of a file, as in "Qwen3-8B-UD-Q4_K_XL.gguf".
var quantInName = regexp.MustCompile(`(?i)[-._]((?:UD-)?(?:I?Q\d[A-Z0-9_]*|TQ\d_\d|BF16|F16|F32|MXFP4(?:_MOE)?))(?:-\d{5}-of-\d{5})?\.gguf$`)

// Inventory lists the GGUF files on the box that llama-server could load: of the hub's cache, of ~/models and llama.cpp's
// own cache, and of Ollama. Nothing but their names and sizes is known.
func (e *LlamaServer) Inventory(ctx context.Context) ([]ModelFile, error) {
	a, err := e.script(ctx, ggufScript)
	if err != nil {
		return nil, fmt.Errorf("list the GGUF files of the box: %w", err)
	}
	list := readGGUFList(a.lines["gguf"])
	ollama, err := e.ollamaFiles(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range ollama {
		if m.Path != "" {
			list = append(list, m)
		}
	}
	return list, nil
}

// readGGUFList reads lines "SIZE REPOSITORY PATH", where a dash is no repository. The name of a model is what a plan may
// say: that of a repository, with the quantization where it has several files, or else the path.
func readGGUFList(lines []string) []ModelFile {
	type row struct {
		ModelFile
		repo string
	}
	var rows []row
	for _, l := range lines {
		size, rest, _ := strings.Cut(l, " ")
		repo, file, _ := strings.Cut(rest, " ")
		n, err := strconv.ParseInt(size, 10, 64)
		if err != nil || n <= 0 || !strings.HasSuffix(file, ".gguf") || strings.Contains(strings.ToLower(path.Base(file)), "mmproj") {
			continue
		}
		m := ModelFile{Name: file, Bytes: n, Path: file}
		if q := quantInName.FindStringSubmatch(path.Base(file)); q != nil {
			m.Quant = strings.ToUpper(q[1])
		}
		// The first part of a split file stands for all of them.
		whole := splitPart.ReplaceAllString(strings.TrimSuffix(file, ".gguf"), "")
		if i := slices.IndexFunc(rows, func(r row) bool {
			return r.Path != file && splitPart.ReplaceAllString(strings.TrimSuffix(r.Path, ".gguf"), "") == whole
		}); i >= 0 {
			rows[i].Bytes += n
			continue
		}
		if repo == "-" {
			repo = ""
		}
		rows = append(rows, row{m, strings.Replace(repo, "--", "/", 1)})
	}
	var list []ModelFile
	for _, r := range rows {
		if repository.MatchString(r.repo) {
			several := slices.ContainsFunc(rows, func(o row) bool { return o.repo == r.repo && o.Path != r.Path })
			switch {
			case !several:
				r.Name = r.repo
			case r.Quant != "":
				r.Name = r.repo + ":" + r.Quant
			}
		}
		list = append(list, r.ModelFile)
	}
	slices.SortStableFunc(list, func(a, b ModelFile) int { return cmp.Compare(a.Name, b.Name) })
	return list
}
