package remote

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// showLimit is how many models are asked for their metadata, showAtOnce how many at a time.
const showLimit, showAtOnce = 64, 4

// Inventory lists the models on the box: what the server that answers has, with their metadata, else what lies on
// disk. Models that run elsewhere, and copies that rlca made, are left out. An empty list is no error.
func (o *Ollama) Inventory(ctx context.Context) ([]ModelFile, error) {
	f, err := o.look(ctx)
	if err != nil {
		return nil, err
	}
	s, _, err := o.find(ctx, f, o.address)
	var other *ForeignError
	if err != nil && !errors.As(err, &other) {
		return nil, err
	}
	if s != nil {
		return o.served(ctx, f, s)
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

// served asks a server for its models.
func (o *Ollama) served(ctx context.Context, f *facts, s *Server) ([]ModelFile, error) {
	a := o.api(s.Address)
	tags, err := a.tags(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the models of %s: %w", s.Title(), err)
	}
	var list []ModelFile
	for _, t := range tags {
		if t.RemoteHost != "" || f.made(s.Address, t.Name) {
			continue
		}
		list = append(list, ModelFile{Name: t.Name, Digest: t.Digest, Bytes: t.Size, Quant: known(t.Details.Quant), Family: clean(t.Details.Family)})
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, showAtOnce)
	for i := range list[:min(len(list), showLimit)] {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if show, err := a.show(ctx, list[i].Name); err == nil { // without it the catalog or the size will do
				list[i].Info, list[i].Tensors = show.Info, show.tensors()
			}
		})
	}
	wg.Wait()
	return list, ctx.Err()
}

func known(quant string) string {
	if quant = clean(quant); quant == "unknown" {
		return ""
	}
	return quant
}

// diskFile is a model on disk, and the models folder that it lies in.
type diskFile struct {
	ModelFile
	dir string
	// rank is 1 for a model in the first folder, the account's own.
	rank int
}

// diskScript prints every manifest of the models folders that can be read, and the small file that names its
// quantization. A manifest is a JSON file at manifests/HOST/NAMESPACE/MODEL/TAG.
const diskScript = `
seen= k=0
for dir in %s; do
  k=$((k+1))
  real=$(cd "$dir/manifests" 2>/dev/null && pwd -P) || continue
  case $seen in *"|$real|"*) continue;; esac; seen="$seen|$real|"
  say "dir$k" "$dir"
  i=0
  find "$dir/manifests/" -type f 2>/dev/null | head -n 400 | while IFS= read -r f; do
    [ -r "$f" ] && n=$(($(wc -c < "$f"))) && [ $n -gt 0 ] && [ $n -le 16384 ] || continue
    i=$((i+1))
    say "file" "$k $i ${f#"$dir/manifests/"}"
    printf '\n%%s raw:m%%s.%%s=%%s\n' "$N" $k $i $n; cat "$f"
    c=$dir/blobs/sha256-$(tr -d ' \n' < "$f" | sed -n 's/.*"config":{[^}]*"digest":"sha256:\([0-9a-f]*\)".*/\1/p')
    [ -r "$c" ] && n=$(($(wc -c < "$c"))) && [ $n -le 16384 ] || continue
    printf '\n%%s raw:c%%s.%%s=%%s\n' "$N" $k $i $n; cat "$c"
  done
done
`

// disk runs the script over the models folders of this account and of a system service.
func (o *Ollama) disk(ctx context.Context, f *facts) (*answer, error) {
	if o.windows() {
		return o.diskWindows(ctx, f)
	}
	dirs := []string{f.models, path.Join(f.home, ".ollama", "models"), "/usr/share/ollama/.ollama/models", "/var/lib/ollama/models", "/var/lib/ollama/.ollama/models"}
	var words []string
	for _, d := range dirs {
		words = append(words, quote(d))
	}
	return o.script(ctx, fmt.Sprintf(diskScript, strings.Join(words, " ")))
}

// onDisk reads the models folders of this account and of a system service.
func (o *Ollama) onDisk(ctx context.Context, f *facts) ([]diskFile, error) {
	a, err := o.disk(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("read the models folders: %w", err)
	}
	var list []diskFile
	for _, line := range a.lines["file"] {
		var k, i int
		if _, err := fmt.Sscanf(line, "%d %d", &k, &i); err != nil {
			continue
		}
		key := fmt.Sprintf("%d.%d", k, i)
		_, rel, _ := strings.Cut(strings.TrimPrefix(line, fmt.Sprintf("%d ", k)), " ")
		m, ok := readManifest(rel, a.raw["m"+key], a.raw["c"+key])
		if !ok || slices.ContainsFunc(f.derived, func(d copied) bool { return sameName(d.name, m.Name) }) {
			continue
		}
		dir := a.get(fmt.Sprintf("dir%d", k))
		switch {
		case o.windows():
			m.Path = "" // no script reads a file's beginning there
		case m.Path != "":
			m.Path = path.Join(dir, m.Path)
		}
		list = append(list, diskFile{ModelFile: m, dir: dir, rank: k})
	}
	// The account's own folder hides the same name elsewhere.
	slices.SortFunc(list, func(x, y diskFile) int {
		return cmp.Or(strings.Compare(canonical(x.Name), canonical(y.Name)), x.rank-y.rank)
	})
	return slices.CompactFunc(list, func(x, y diskFile) bool { return sameName(x.Name, y.Name) }), nil
}

// blobDigest is the name of a blob in a manifest; its file has a dash for the colon.
var blobDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// readManifest reads one manifest; rel is its path below manifests/, config the small file that it names, if it could
// be read. Its hash is the model's digest, as the API tells it; Path is below the models folder.
func readManifest(rel string, manifest, config []byte) (ModelFile, bool) {
	parts := strings.Split(rel, "/")
	if len(parts) != 4 {
		return ModelFile{}, false
	}
	var m struct {
		Layers []struct {
			MediaType string `json:"mediaType"`
			Size      int64  `json:"size"`
			Digest    string `json:"digest"`
		} `json:"layers"`
	}
	if json.Unmarshal(bytes.TrimSpace(manifest), &m) != nil {
		return ModelFile{}, false
	}
	name := parts[2] + ":" + parts[3]
	switch {
	case parts[0] == hub && parts[1] == "library":
	case parts[0] == hub:
		name = parts[1] + "/" + name
	default:
		name = parts[0] + "/" + parts[1] + "/" + name
	}
	sum := sha256.Sum256(manifest)
	f := ModelFile{Name: clean(name), Digest: hex.EncodeToString(sum[:])}
	var blobs []string
	for _, l := range m.Layers {
		if l.MediaType == "application/vnd.ollama.image.model" && l.Size > 0 {
			f.Bytes += l.Size
			blobs = append(blobs, l.Digest)
		}
	}
	if len(blobs) == 1 && blobDigest.MatchString(blobs[0]) {
		f.Path = "blobs/" + strings.Replace(blobs[0], ":", "-", 1)
	}
	if f.Bytes <= 0 {
		return ModelFile{}, false // a stub of a model that runs elsewhere, or an adapter
	}
	var c struct {
		Quant  string `json:"file_type"`
		Family string `json:"model_family"`
	}
	if json.Unmarshal(bytes.TrimSpace(config), &c) == nil {
		f.Quant, f.Family = known(c.Quant), clean(c.Family)
	}
	return f, true
}
