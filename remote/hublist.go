package remote

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of what a hub may list: its words, plain and packed for the line; files, how large one may be, how long its
// name, and all that is written of them for the box.
const (
	listingMost   = 8 << 20
	listingPacked = 2 << 20
	filesMost     = 2000
	fileMost      = 1 << 44
	nameMost      = 1000
	planMost      = 768 << 10
	// sumMost is up to which size a file is always held against its checksum. A larger one is if it came in pieces: what
	// came in one is what TLS brought, and minutes of reading are not free.
	sumMost = 2 << 30
)

// hubFile is a file of a repository.
type hubFile struct {
	name string
	// etag is its name in the cache: of a large file its SHA-256, of others git's name for it.
	etag  string
	large bool
	size  int64
}

var etagWord = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// readListing reads what a hub says of a repository.
func readListing(body []byte) (commit string, files []hubFile, err error) {
	var said struct {
		Commit   word `json:"sha"`
		Siblings []struct {
			Name word   `json:"rfilename"`
			Size *int64 `json:"size"`
			Blob word   `json:"blobId"`
			LFS  *struct {
				SHA256 word `json:"sha256"`
				OID    word `json:"oid"`
			} `json:"lfs"`
		} `json:"siblings"`
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return "", nil, fmt.Errorf("its list of files is none: %q", clean(string(body[:min(len(body), 100)])))
	}
	if commit = string(said.Commit); !commitWord.MatchString(commit) {
		return "", nil, fmt.Errorf("its commit is %q", clean(commit))
	}
	for _, f := range said.Siblings {
		file := hubFile{name: string(f.Name), etag: string(f.Blob), size: -1}
		if f.Size != nil {
			file.size = *f.Size
		}
		if f.LFS != nil {
			file.etag, file.large = strings.TrimPrefix(cmp.Or(string(f.LFS.SHA256), string(f.LFS.OID)), "sha256:"), true
		}
		files = append(files, file)
	}
	return commit, files, nil
}

// check refuses what would lie outside of the cache, or is too large to be meant.
func (f hubFile) check() error {
	switch {
	case f.name == "" || len(f.name) > nameMost || !utf8.ValidString(f.name) || path.Clean(f.name) != f.name || strings.HasPrefix(f.name, "/") ||
		f.name == ".." || strings.HasPrefix(f.name, "../") || strings.ContainsFunc(f.name, isControl) || strings.Contains(f.name, `\`):
		return fmt.Errorf("it lists a file %q, and that is no name for one", clean(f.name))
	case f.size < 0 || f.size > fileMost:
		return fmt.Errorf("it says no size of %s that a file has", clean(f.name))
	case !etagWord.MatchString(f.etag) || f.large && len(f.etag) != 64:
		return fmt.Errorf("it says no checksum of %s", clean(f.name))
	}
	for part := range strings.SplitSeq(f.name, "/") {
		if len(part) > 255 || strings.TrimSpace(part) != part {
			return fmt.Errorf("it lists a file %q, and that is no name for one", clean(f.name))
		}
	}
	return nil
}

func isControl(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r)
}

// pick chooses the files that an engine reads.
func (r Repo) pick(files []hubFile) ([]hubFile, error) {
	if r.Quant == "" {
		if list := checkpoint(files); list != nil {
			return list, nil
		}
	}
	return r.gguf(files)
}

// asides are folders in which repositories keep the same weights once more for other programs.
var asides = regexp.MustCompile(`^(onnx|original|metal|coreml|openvino|gguf|flax|tf)/`)

// besides are the small files that an engine reads beside the weights. Code is read only if the user says so to it.
var besides = regexp.MustCompile(`\.(json|jinja|model|txt|tiktoken|bpe|py)$|^(tokenizer|vocab)[^/]*$`)

// other are files of weights that engines here do not read, whatever they are called.
var other = regexp.MustCompile(`\.(bin|pth|pt|gguf|h5|msgpack|onnx|ckpt|safetensors|ot|zip|gz|tar)$`)

// checkpoint is what belongs to the safetensors of a repository, nil if it has none: those at its root, and small files.
// Some hold all weights once more, whole, as consolidated*.safetensors.
func checkpoint(files []hubFile) []hubFile {
	var parts, whole, rest []hubFile
	config := false
	for _, f := range files {
		switch {
		case strings.HasSuffix(f.name, ".safetensors") && !strings.Contains(f.name, "/"):
			if strings.HasPrefix(f.name, "consolidated") {
				whole = append(whole, f)
			} else {
				parts = append(parts, f)
			}
		case asides.MatchString(f.name) || other.MatchString(f.name):
		case besides.MatchString(f.name):
			config = config || f.name == "config.json"
			if !strings.HasPrefix(f.name, "consolidated.") { // the index of those
				rest = append(rest, f)
			}
		}
	}
	if len(parts) == 0 {
		parts = whole
	}
	if len(parts) == 0 || !config {
		return nil
	}
	return append(parts, rest...)
}

var part = regexp.MustCompile(`-(\d{5})-of-(\d{5})\.gguf$`)

// gguf is the GGUF file of a quantization with all its parts, chosen by the rule that ReadModel has for files of a box.
func (r Repo) gguf(files []hubFile) ([]hubFile, error) {
	quant := cmp.Or(strings.ToLower(r.Quant), "q4_k_m")
	var firsts []hubFile
	found := -1
	files = slices.Clone(files)
	// As a shell sorts them: those at the root come first.
	slices.SortStableFunc(files, func(a, b hubFile) int {
		return cmp.Or(cmp.Compare(strings.Count(a.name, "/"), strings.Count(b.name, "/")), strings.Compare(a.name, b.name))
	})
	for _, f := range files {
		low := strings.ToLower(path.Base(f.name))
		m := part.FindStringSubmatch(low)
		if !strings.HasSuffix(f.name, ".gguf") || strings.Count(f.name, "/") > 1 || strings.Contains(low, "mmproj") || m != nil && m[1] != "00001" {
			continue
		}
		stem := strings.TrimSuffix(part.ReplaceAllString(low, ".gguf"), ".gguf")
		before, ok := strings.CutSuffix(stem, quant)
		if ok && found < 0 && (before == "" || strings.ContainsAny(before[len(before)-1:], "-._")) {
			found = len(firsts)
		}
		firsts = append(firsts, f)
	}
	if found < 0 && r.Quant == "" && len(firsts) == 1 {
		found = 0
	}
	if found < 0 {
		return nil, r.noQuant(firsts)
	}
	first := firsts[found]
	m := part.FindStringSubmatch(first.name)
	if m == nil {
		return []hubFile{first}, nil
	}
	stem, of := strings.TrimSuffix(first.name, m[0]), atoi(m[2])
	var list []hubFile
	for _, f := range files {
		if n := part.FindStringSubmatch(f.name); n != nil && n[2] == m[2] && strings.TrimSuffix(f.name, n[0]) == stem {
			list = append(list, f)
		}
	}
	if len(list) != of {
		return nil, &PullError{Model: r.String(), Class: "format", Text: fmt.Sprintf("the hub has %d of its %d parts", len(list), of)}
	}
	return list, nil
}

// noQuant says what there is instead.
func (r Repo) noQuant(firsts []hubFile) error {
	var names []string
	for _, f := range firsts {
		names = append(names, clean(path.Base(f.name)))
	}
	switch {
	case len(names) == 0 && r.Quant == "":
		return &PullError{Model: r.String(), Class: "format", Text: "the repository has neither safetensors with a config.json nor GGUF files"}
	case len(names) == 0:
		return &PullError{Model: r.String(), Class: "format", Text: "the repository has no GGUF files"}
	}
	if len(names) > 20 {
		names = append(names[:20], "…")
	}
	if r.Quant == "" {
		return &PullError{Model: r.String(), Class: "name", Text: fmt.Sprintf("there are several: name one, as in %s:Q8_0, of %s", r.Name, strings.Join(names, ", "))}
	}
	return &PullError{Model: r.String(), Class: "name", Text: fmt.Sprintf("there is no %s, but %s", r.Quant, strings.Join(names, ", "))}
}

// plan makes of what the box and the hub say the list that the download works through. An error is a *PullError.
//
//	cache FOLDER · commit COMMIT · ref BRANCH · quant QUANT · base ADDRESS · proto PROTOCOLS
//	blob SIZE ETAG CHECK BLOCKS ADDRESS   a file to have, the smallest first: what is refused is refused soon
//	link SIZE ETAG NAME                   a name for one, the weights first: what they need is there before config.json
func (r Repo) plan(s *hubFacts) (string, error) {
	fail := func(class, text string) (string, error) {
		return "", &PullError{Model: r.String(), Class: class, Text: text}
	}
	commit, all, err := readListing(s.listing)
	if err != nil {
		return fail("other", "what the hub says cannot be used: "+err.Error())
	}
	files, err := r.pick(all)
	if err != nil {
		return "", err
	}
	if len(files) > filesMost {
		return fail("format", fmt.Sprintf("the repository has %d files, and %d is the most that rlca fetches", len(files), filesMost))
	}
	for _, f := range files {
		if err := f.check(); err != nil {
			return fail("other", "what the hub says cannot be used: "+err.Error())
		}
	}
	slices.SortStableFunc(files, func(a, b hubFile) int { return cmp.Or(cmp.Compare(a.size, b.size), strings.Compare(a.name, b.name)) })
	var list, links strings.Builder
	fmt.Fprintf(&list, "cache %s\ncommit %s\nquant %s\nbase %s\nproto %s\n", s.cache, commit, r.Quant, s.endpoint+"/"+r.Name+"/resolve/"+commit, s.proto)
	if r.Revision != commit {
		fmt.Fprintf(&list, "ref %s\n", r.Revision)
	}
	sizes := map[string]int64{}
	var need int64
	for _, f := range files {
		if size, ok := sizes[f.etag]; ok {
			if size != f.size {
				return fail("other", fmt.Sprintf("what the hub says cannot be used: it says two sizes of %s", clean(f.name)))
			}
			continue
		}
		sizes[f.etag] = f.size
		if there := s.blobs[f.etag]; there != f.size {
			need += f.size - min(s.blobs[f.etag+"."+r.job()+".incomplete"], f.size)
		}
		check := "-"
		switch {
		case f.large && f.size < sumMost:
			check = "all:" + f.etag
		case f.large:
			check = "pieces:" + f.etag
		}
		// The shells count in 512 bytes or in 1024: what is sent beyond the size ends soon after it.
		fmt.Fprintf(&list, "blob %d %s %s %d %s\n", f.size, f.etag, check, f.size/512+2048, escapePath(f.name))
	}
	for _, f := range slices.Backward(files) {
		fmt.Fprintf(&links, "link %d %s %s\n", f.size, f.etag, f.name)
	}
	if s.free >= 0 && need > s.free {
		return "", &PullError{Model: r.String(), Class: "space", Need: need, Have: s.free, Text: fmt.Sprintf("it needs %s on the disk of %s, and %s are free", gib(need), s.disk, gib(s.free))}
	}
	text := list.String() + links.String()
	if len(text) > planMost {
		return fail("format", "the names of its files are too many and too long")
	}
	return text, nil
}

// escape makes s one part of an address.
func escape(s string) string { return strings.ReplaceAll(url.PathEscape(s), "'", "%27") }

func escapePath(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = escape(p)
	}
	return strings.Join(parts, "/")
}

// listed reads ls -ln: the sizes of plain files by their names, which have no spaces.
func listed(out []byte) map[string]int64 {
	sizes := map[string]int64{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 9 || !strings.HasPrefix(f[0], "-") {
			continue
		}
		if n, err := strconv.ParseInt(f[4], 10, 64); err == nil && n >= 0 {
			sizes[path.Base(f[len(f)-1])] = n
		}
	}
	return sizes
}

// partsOf are the sizes of the unfinished files of a download, by the names that they will have.
func partsOf(out []byte, name string) map[string]int64 {
	sizes := map[string]int64{}
	for file, n := range listed(out) {
		if etag, ok := strings.CutSuffix(file, "."+name+".incomplete"); ok {
			sizes[etag] = n
		}
	}
	return sizes
}

var percent = regexp.MustCompile(`^\d+%$`)

// freeOf reads the line of df -Pk: the number before the percents, in KiB. Names of disks and places may have spaces.
func freeOf(line string) int64 {
	f := strings.Fields(line)
	for i := 3; i < len(f); i++ {
		if n, err := strconv.ParseInt(f[i-1], 10, 64); percent.MatchString(f[i]) && err == nil && n >= 0 && n < 1<<50 {
			return n << 10
		}
	}
	return -1
}
