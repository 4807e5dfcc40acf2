package remote

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Limits of what is read of a model: how long it may take, the least and the most of a head, what of it comes over the
// line, and the most of a config.json and of an index.
const (
	sourceLimit = 2 * time.Minute
	headLeast   = 24
	headMost    = 64 << 20
	headBytes   = 3 << 20
	headPlain   = 256 << 10 // up to here it is not worth a gzip
	configMost  = 1 << 20
	indexMost   = 256 << 10
)

// Source is a model in the file system of the box, whether an engine knows it or not.
type Source struct {
	// Path is the GGUF file, of a split one its first part, or the folder with config.json.
	Path string `json:"path"`
	// Format is "gguf" or "safetensors".
	Format string `json:"format"`
	// Bytes is the size of the file, of all parts, or of all *.safetensors. 0 is not known.
	Bytes int64 `json:"bytes"`
	// Parts is of how many files the model consists, Missing how many of them are not there; Bytes is without those.
	Parts   int `json:"parts"`
	Missing int `json:"missing"`
	// Head is the beginning of a GGUF file.
	Head []byte `json:"-"`
	// Config is config.json, Index the first 256 KiB of model.safetensors.index.json, nil if there is none.
	Config []byte `json:"-"`
	Index  []byte `json:"-"`
}

// ReadModel looks for a model in the files of the box and reads what tells its memory use. name is a path, "/…" or
// "~/…", of a GGUF file or of a folder with config.json and *.safetensors or with GGUF files, or the name of a Hugging
// Face repository that lies in the hub's cache of this account, "org/name". Where there are several GGUF files,
// ":Q4_K_M" at the end of the name says which; without it that is the one, if it is there.
//
// Of a GGUF file the first bytes are read, head or less: at most 3 MiB cross the line, gzipped where the box can. 0 is
// enough to know it for one. No weights are read.
//
// Nothing there is a *ModelMissingError, whose Near are the files that lie in their place.
func ReadModel(ctx context.Context, box Box, name string, head int) (*Source, error) {
	body, err := sourceBody(name, head)
	if err != nil {
		return nil, err
	}
	h := newHost(box)
	h.places = nil
	a, err := h.scriptFor(ctx, sourceLimit, body)
	if err != nil {
		return nil, fmt.Errorf("read model %s: %w", clean(name), err)
	}
	return readSource(a, name, head)
}

// repository is the name of one on Hugging Face, and what may stand behind it.
var repository = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)/([A-Za-z0-9][A-Za-z0-9._-]*)$`)

var quantWord = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// sourceBody writes the script that looks for a model.
func sourceBody(name string, head int) (string, error) {
	if strings.ContainsFunc(name, unicode.IsControl) || len(name) > 4096 {
		return "", fmt.Errorf("model %q: a name has no control characters and at most 4096 bytes", clean(name))
	}
	where, hubFolder, quant := name, "", ""
	if i := strings.LastIndexByte(name, ':'); i >= 0 && quantWord.MatchString(name[i+1:]) {
		where, quant = name[:i], strings.ToLower(name[i+1:])
	}
	switch repo := repository.FindStringSubmatch(where); {
	case strings.HasPrefix(where, "/") || where == "~" || strings.HasPrefix(where, "~/"):
	case repo != nil:
		where, hubFolder = "", "models--"+repo[1]+"--"+repo[2]
	default:
		return "", fmt.Errorf("model %q: want a path, /… or ~/…, or a Hugging Face repository, org/name", clean(name))
	}
	if len(where) > 1 {
		where = strings.TrimRight(where, "/")
	}
	// Some paths have a colon of their own: the script looks for the whole first.
	full := ""
	if hubFolder == "" && quant != "" {
		full = name
	}
	n := max(headLeast, min(head, headMost))
	return fmt.Sprintf(sourceScript, quote(where), quote(full), quote(hubFolder), quote(quant), n, headPlain, headBytes, configMost), nil
}

// sourceScript finds a model and prints what is known of it. frame prints bytes as they are, up to the next line of
// ours. Sizes come from ls, which any box has: some wc read a file to count it.
const sourceScript = hubCache + `
t=%[1]s whole=%[2]s repo=%[3]s quant=%[4]s n=%[5]d
size() {
  s=$(ls -lnL "$1" 2>/dev/null | { read -r a b c d s e; printf '%%s' "$s"; })
  case $s in ''|*[!0-9]*) s=$(stat -L -c %%s "$1" 2>/dev/null || stat -L -f %%z "$1" 2>/dev/null);; esac
  case $s in ''|*[!0-9]*) s=0;; esac
}
frame() { printf '\n%%s raw:%%s=*\n' "$N" "$1"; }
denied() { frame denied; printf '%%s' "$1"; }
gguf() {
  f=$1
  case $f in
  *-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9].gguf)
    of=${f##*-of-} stem=${f%%-[0-9][0-9][0-9][0-9][0-9]-of-*}
    say parts "${of%%.gguf}"
    for g in "$stem"-[0-9][0-9][0-9][0-9][0-9]-of-"$of"; do [ -f "$g" ] && size "$g" && say part "$s"; done
    f=$stem-00001-of-$of
    [ -f "$f" ] || { say first missing; return; };;
  *) size "$f"; say parts 1; say part "$s";;
  esac
  [ -r "$f" ] || { denied "$f"; return; }
  say format gguf
  frame path; printf '%%s' "$f"
  if [ "$n" -gt %[6]d ] && command -v gzip >/dev/null 2>&1 && [ "$(printf ab | head -c 1 2>/dev/null)" = a ]; then
    frame gz; dd if="$f" bs=65536 count=$(( (n+65535)/65536 )) 2>/dev/null | gzip -1 -c 2>/dev/null | head -c %[7]d
  else
    [ "$n" -le %[7]d ] || n=%[7]d
    frame head; dd if="$f" bs=65536 count=$(( (n+65535)/65536 )) 2>/dev/null
  fi
}
# pick: of several GGUF files the wanted one, by its name
pick() {
  f= one= k=0 q=${quant:-q4_k_m}
  for g in "$t"/*.gguf "$t"/*/*.gguf; do
    [ -f "$g" ] && [ $k -lt 400 ] || continue
    low=$(printf '%%s' "${g##*/}" | tr A-Z a-z)
    case $low in
    *mmproj*) continue;;
    *-00001-of-*.gguf) ;;
    *-[0-9][0-9][0-9][0-9][0-9]-of-*.gguf) continue;;
    esac
    k=$((k+1)) one=$g
    [ $k -gt 20 ] || say near "${g#"$t"/}"
    case $low in "$q".gguf|*[-._]"$q".gguf|*[-._]"$q"-00001-of-*.gguf) [ -n "$f" ] || f=$g;; esac
  done
  [ -n "$f" ] || [ -n "$quant" ] || [ $k -ne 1 ] || f=$one
  if [ -n "$f" ]; then gguf "$f"
  elif [ $k -gt 0 ] && [ -z "$quant" ]; then say several 1
  elif [ $k -eq 0 ] && [ ! -f "$t/config.json" ]; then say other 1
  else say missing 1; fi # config.json alone: the weights were not fetched
}
if [ -n "$repo" ]; then
  find_hub
  d=$hub/$repo rev= t=
  [ ! -d "$d" ] || [ -x "$d" ] || { denied "$d"; return; }
  [ -r "$d/refs/main" ] && read -r rev < "$d/refs/main"
  if [ -n "$rev" ] && [ -d "$d/snapshots/$rev" ]; then t=$d/snapshots/$rev
  else t=$(ls -1td "$d"/snapshots/*/ 2>/dev/null | head -n 1); t=${t%%/}; fi
  [ -n "$t" ] || t=$d/snapshots/none
fi
case $whole in "~/"*) whole=$HOME/${whole#"~/"};; esac
[ -z "$whole" ] || [ ! -e "$whole" ] || { t=$whole quant=; }
case $t in "~") t=$HOME;; "~/"*) t=$HOME/${t#"~/"};; esac
if [ ! -e "$t" ]; then
  p=$t
  while [ -n "$p" ] && [ ! -e "$p" ]; do p=${p%%/*}; done
  [ -n "$p" ] || p=/
  if [ -d "$p" ] && [ ! -x "$p" ]; then denied "$p"; else say missing 1; fi
  return
fi
if [ -f "$t" ]; then
  case $t in *.safetensors|*/config.json) t=${t%%/*};; *) gguf "$t"; return;; esac
fi
[ -d "$t" ] || { say other 1; return; }
[ -r "$t" ] && [ -x "$t" ] || { denied "$t"; return; }
k=0
if [ -z "$quant" ] && [ -f "$t/config.json" ]; then
  for g in "$t"/*.safetensors; do
    [ -f "$g" ] && [ $k -lt 2000 ] || continue
    k=$((k+1)); size "$g"; say weights "$s ${g##*/}"
  done
fi
if [ $k -eq 0 ]; then pick; return; fi
c=$t/config.json i=$t/model.safetensors.index.json
[ -r "$c" ] || { denied "$c"; return; }
size "$c"
[ "$s" -le %[8]d ] || { say other 1; return; }
say format safetensors
frame path; printf '%%s' "$t"
frame config; cat "$c" 2>/dev/null
[ ! -r "$i" ] || { frame index; dd if="$i" bs=65536 count=4 2>/dev/null; }
`

// readSource understands what the script said.
func readSource(a *answer, name string, head int) (*Source, error) {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("read model %s: %s", clean(name), fmt.Sprintf(format, args...))
	}
	near := a.lines["near"]
	switch path := clean(string(a.raw["denied"])); {
	case path != "":
		return nil, fail("this account may not read %s on the box", path)
	case a.get("missing") != "":
		return nil, &ModelMissingError{Model: clean(name), Near: near}
	case a.get("several") != "":
		return nil, fail("there are several: name one, as in %s:Q8_0, of %s", clean(name), strings.Join(near, ", "))
	case a.get("first") != "":
		return nil, fail("its first part is not there")
	case a.get("other") != "":
		return nil, fail("what lies there is no model: neither a GGUF file nor a folder with config.json and *.safetensors")
	}
	s := &Source{Path: string(a.raw["path"]), Format: a.get("format")}
	if s.Path == "" || s.Format == "" {
		return nil, fail("the box said nothing of it: %s", strings.Join(a.lines["noise"], " · "))
	}
	if s.Format == "safetensors" {
		s.Config, s.Index = a.raw["config"], a.raw["index"]
		if len(s.Index) > indexMost {
			s.Index = s.Index[:indexMost]
		}
		s.weights(a.lines["weights"])
		return s, nil
	}
	sizes := a.lines["part"]
	s.Parts = max(atoi(a.get("parts")), len(sizes))
	s.Missing, s.Bytes = s.Parts-len(sizes), sum(sizes)
	var err error
	if s.Head, err = unpack(a, max(headLeast, min(head, headMost))); err != nil {
		return nil, fail("%v", err)
	}
	if !bytes.HasPrefix(s.Head, []byte("GGUF")) {
		return nil, fail("%s is no GGUF file: it begins with %q", clean(s.Path), clean(string(s.Head[:min(len(s.Head), 8)])))
	}
	s.Head = s.Head[:min(len(s.Head), max(head, 0))]
	return s, nil
}

// unpack gives at most limit bytes of a head. One that was cut gives what it holds.
func unpack(a *answer, limit int) ([]byte, error) {
	packed, ok := a.raw["gz"]
	if !ok {
		return a.raw["head"][:min(len(a.raw["head"]), limit)], nil
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("unpack its beginning: %w", err)
	}
	head, err := io.ReadAll(io.LimitReader(z, int64(limit)))
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("unpack its beginning: %w", err)
	}
	return head, nil
}

var shard = regexp.MustCompile(`-\d{5}-of-(\d{5})\.safetensors$`)

// weights adds up the files of a checkpoint, "SIZE NAME" each. Some repositories hold it twice: whole, as
// consolidated*.safetensors, and in parts; the latter are what engines load.
func (s *Source) weights(lines []string) {
	var whole, parts []string
	of := 0
	for _, l := range lines {
		size, name, _ := strings.Cut(l, " ")
		if strings.HasPrefix(name, "consolidated") {
			whole = append(whole, size)
			continue
		}
		parts = append(parts, size)
		if m := shard.FindStringSubmatch(name); m != nil {
			of = atoi(m[1])
		}
	}
	if len(parts) == 0 {
		parts = whole
	}
	s.Parts = max(len(parts), of)
	s.Missing, s.Bytes = s.Parts-len(parts), sum(parts)
}

// sum adds sizes; one that was not told makes the whole unknown.
func sum(sizes []string) int64 {
	var all int64
	for _, size := range sizes {
		n, err := strconv.ParseInt(size, 10, 64)
		if err != nil || n <= 0 || n > 1<<50 {
			return 0
		}
		all += n
	}
	return all
}

func atoi(s string) int {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil || n < 0 || n > 1<<20 {
		return 0
	}
	return n
}
