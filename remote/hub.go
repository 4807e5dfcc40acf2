package remote

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Repo is a repository of a Hugging Face hub, or a part of one.
type Repo struct {
	// Name is "org/name".
	Name string
	// Quant says which GGUF file is wanted, all parts of it: "Q4_K_M". Empty is the safetensors of the repository; if it
	// has none, its Q4_K_M, or the one GGUF file that it has.
	Quant string
	// Revision is a branch, a tag or a commit. Empty is "main".
	Revision string
	// Token, if set, gives the secret for repositories that ask who is there. Nil, or an empty token, leaves it to what
	// the account on the box has of its own: HF_TOKEN, or what a login of hf left.
	Token func() (string, error)
}

// String is how a Repo is named where models are: "org/name", "org/name:Q4_K_M".
func (r Repo) String() string {
	if r.Quant == "" {
		return r.Name
	}
	return r.Name + ":" + r.Quant
}

// FetchRepo downloads a repository on the box, into the cache of the hub there, which all engines of this account know,
// and returns what it then is. What is there already is not fetched again. The caller sees in which Path it lies.
//
// The download runs on the box and goes on when the link does not. One that runs already, begun from whichever laptop,
// is followed. When ctx ends the error is a *PullStoppedError: what came is kept, and the next call goes on from there.
// What may pass, a hub that is away or overloaded, is tried again for as long as ctx lives, and progress says so; what
// will not is a *PullError.
func FetchRepo(ctx context.Context, box Box, want Repo, progress func(Progress)) (*Source, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	return newFetcher(newHost(box)).fetch(ctx, &journal{}, want, progress)
}

// fetcher downloads from a Hugging Face hub on a box.
type fetcher struct {
	host
	poll  time.Duration // how often the progress is asked for
	stall time.Duration // a transfer without a byte for so long is begun again from where it is
}

// newFetcher works on the box of a host, with its places: where a box has no curl, a python3 in one of them is used.
func newFetcher(h host) *fetcher { return &fetcher{host: h, poll: time.Second, stall: 2 * time.Minute} }

const (
	hubLimit    = 2 * time.Minute // of the script that asks the hub for its list
	hubPatience = time.Minute     // between two tries that ask for the list, at most
)

var (
	revisionWord = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._/-]*$`)
	tokenWord    = regexp.MustCompile(`^[A-Za-z0-9._~+/=-]+$`)
	commitWord   = regexp.MustCompile(`^[0-9a-f]{40}$`)
	jobWord      = regexp.MustCompile(`^hub-[0-9a-f]{12}$`)
)

// check looks at what was asked for before it becomes part of an address or a path.
func (r Repo) check() error {
	switch {
	case !repository.MatchString(r.Name) || len(r.Name) > 200 || strings.Contains(r.Name, "..") || strings.Contains(r.Name, "--"):
		return fmt.Errorf("repository %q: want org/name", clean(r.Name))
	case r.Quant != "" && !quantWord.MatchString(r.Quant):
		return fmt.Errorf("repository %s: %q is no name of a quantization", r.Name, clean(r.Quant))
	case len(r.Revision) > 200 || !revisionWord.MatchString(r.Revision) || path.Clean(r.Revision) != r.Revision || strings.Contains(r.Revision, ".."):
		return fmt.Errorf("repository %s: %q is no revision", r.Name, clean(r.Revision))
	}
	return nil
}

// job is the name of the download on the box: one at a time for what is the same.
func (r Repo) job() string {
	sum := sha256.Sum256([]byte(r.Name + "\n" + strings.ToLower(r.Quant) + "\n" + r.Revision))
	return "hub-" + hex.EncodeToString(sum[:6])
}

// hubFiles are what a download leaves beside its record.
func hubFiles(name string) []string { return []string{name + ".log", name + ".full", name + ".list"} }

// endRepo ends one download of a journal, whose pulls have its name and mark. What came is kept.
func (h *host) endRepo(ctx context.Context, name, mark string) (ended bool, err error) {
	r, err := h.halt(ctx, name, mark, hubFiles(name)...)
	return r.pid != 0, err
}

// stopRepos ends every download from a hub that rlca began on the box, from whichever laptop, and says what that was.
func (h *host) stopRepos(ctx context.Context) (did []string, err error) {
	a, err := h.script(ctx, `rm -f "$D"/hub-*.rlca*
for f in "$D"/hub-*.pid; do [ -e "$f" ] && { f=${f##*/}; say pull "${f%.pid}"; }; done
`+tidyScript)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, name := range a.lines["pull"] {
		if !jobWord.MatchString(name) {
			continue
		}
		ended, err := h.halt(ctx, name, "", hubFiles(name)...)
		if err != nil {
			errs = append(errs, err)
		} else if ended.pid != 0 {
			did = append(did, "stopped a download, what came is kept")
		}
		did = append(did, ended.did()...)
	}
	return did, errors.Join(errs...)
}

// fetch is FetchRepo for a caller that has a journal of its own. progress is not nil.
func (h *fetcher) fetch(ctx context.Context, j *journal, want Repo, progress func(Progress)) (*Source, error) {
	want.Revision = cmp.Or(want.Revision, "main")
	if err := want.check(); err != nil {
		return nil, err
	}
	token := ""
	if want.Token != nil {
		var err error
		if token, err = want.Token(); err != nil {
			return nil, fmt.Errorf("get the token for %s: %w", want, err)
		}
		if token = strings.TrimSpace(token); token != "" && (len(token) > 500 || !tokenWord.MatchString(token)) {
			return nil, fmt.Errorf("the token for %s holds what no token does", want)
		}
	}
	name := want.job()
	var best int64 // a bar does not go back, whoever begins anew
	for try := 0; ; try++ {
		progress(Progress{Step: StepPull, Text: fmt.Sprintf("pulling %s: asking the hub", want)})
		b, err := h.begin(ctx, j, want, token, progress)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, &PullStoppedError{Model: want.String(), Running: j.pulls[name] != "" && !h.stopRepo(ctx, j, name), Err: ctx.Err()}
		case err != nil:
			return nil, err
		case b.there != nil:
			return b.there, nil
		}
		p, err := h.follow(ctx, name, newHubStream(b.cache, best), want, progress)
		done, total := p.sum()
		best = p.best
		ours := b.mark == j.pulls[name]
		switch {
		case err != nil && ctx.Err() != nil:
			stopped := &PullStoppedError{Model: want.String(), Done: done, Total: total, Running: true, Err: ctx.Err()}
			if ours {
				stopped.Running = !h.stopRepo(ctx, j, name)
			}
			return nil, stopped
		case err != nil:
			return nil, fmt.Errorf("follow the pull of %s on the box: %w", want, err)
		case p.success, p.ended:
			if _, err := h.endRepo(ctx, name, b.mark); err != nil {
				h.log.Warn("pull ended, its files stay", "err", err)
			} else if ours {
				delete(j.pulls, name)
			}
			if p.class == "gone" && try < 2 {
				continue // a launch whose answer was lost took it, and has ended already
			}
			if !p.success {
				return nil, want.failure(p.class, p.status, p.reason, p.failure, token != "")
			}
			h.log.Info("pulled", "model", want.String(), "bytes", total)
			return h.pulled(ctx, want, p)
		case try >= 2:
			return nil, &PullError{Model: want.String(), Class: "other", Text: "the download ended without a word, three times"}
		}
		h.log.Warn("the pull on the box was ended by somebody else, it is begun again", "model", want.String())
	}
}

// pulled reads what a finished download left: of the revision that was asked for, whatever others lie beside it.
func (h *fetcher) pulled(ctx context.Context, want Repo, p *hubStream) (*Source, error) {
	name := p.cache + "/snapshots/" + p.commit
	if p.quant != "" {
		name += ":" + p.quant
	}
	s, err := ReadModel(ctx, h.box, name, 0)
	if err == nil && s.Missing > 0 {
		err = fmt.Errorf("%d of its %d parts are not in the repository", s.Missing, s.Parts)
	}
	if err != nil {
		return nil, fmt.Errorf("pull %s on the box: it came whole, and is no model: %w", want, err)
	}
	return s, nil
}

// stopRepo ends our download after ctx has ended. What cannot be reached stays in the journal.
func (h *fetcher) stopRepo(ctx context.Context, j *journal, name string) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	if _, err := h.endRepo(ctx, name, j.pulls[name]); err != nil {
		return false
	}
	delete(j.pulls, name)
	return true
}

// begun is a download that runs on the box, or that was not needed.
type begun struct {
	mark  string
	cache string  // the folder of the repository; empty if another laptop began it
	there *Source // the hub is away, and the model lies there
}

// begin finds the download that runs, or asks the hub what there is and launches one.
func (h *fetcher) begin(ctx context.Context, j *journal, want Repo, token string, progress func(Progress)) (*begun, error) {
	name := want.job()
	for pause, try := h.poll, 0; ; pause, try = min(2*pause, hubPatience), try+1 {
		mark := nonce()
		var s *hubFacts
		err := h.lasting(ctx, h.poll, func() (err error) {
			s, err = h.look(ctx, want, name, mark, token)
			return err
		})
		if errors.As(err, new(*PullError)) {
			return nil, err // it says so itself
		}
		if err != nil {
			return nil, fmt.Errorf("pull %s on the box: %w", want, err)
		}
		if s.mark != "" {
			return &begun{mark: s.mark}, nil
		}
		if s.passing != "" {
			if try == 0 && want.Revision == "main" {
				if there, err := ReadModel(ctx, h.box, want.String(), 0); err == nil && there.Missing == 0 {
					h.log.Warn("the hub does not answer, what lies on the box is used", "model", want.String(), "said", s.passing)
					return &begun{there: there}, nil
				}
			}
			progress(Progress{Step: StepPull, Text: fmt.Sprintf("pulling %s: trying again after: %s", want, s.passing)})
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(max(pause, s.after)):
			}
			continue
		}
		list, err := want.plan(s)
		if err != nil {
			return nil, err
		}
		return h.start(ctx, j, want, mark, token, s, list)
	}
}

// start leaves the list, and the token if one was given, on the box and launches the download.
func (h *fetcher) start(ctx context.Context, j *journal, want Repo, mark, token string, s *hubFacts, list string) (*begun, error) {
	name := want.job()
	l, err := func() (*launched, error) {
		var a *answer
		err := h.lasting(ctx, h.poll, func() (err error) {
			a, err = h.scriptFor(ctx, hubLimit, assign("name", name, "mark", mark, "key", token, "repo", s.cache)+
				fmt.Sprintf(hubStage, mark, list))
			return err
		})
		switch {
		case err != nil:
			return nil, err
		case a.get("denied") != "":
			return nil, &PullError{Model: want.String(), Class: "permission", Text: a.get("denied")}
		case a.int("staged") != len(list):
			return nil, fmt.Errorf("write to ~/.rlca on the box: %s", strings.Join(a.lines["noise"], " · "))
		}
		j.pulling(name, mark) // before it is: a cut can come at any time
		var l *launched
		err = h.lasting(ctx, h.poll, func() (err error) {
			l, err = h.launch(ctx, mark, job{
				name: name, log: name + ".log", fresh: true,
				argv: []string{"/bin/sh", "-c", hubShell + hubLoop, "rlca-hub", name, mark, strconv.Itoa(int(h.stall / time.Second))},
			})
			return err
		})
		return l, err
	}()
	if err != nil || !l.ours { // nobody will take up what was left for the launch
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		if _, err := h.script(ctx, assign("name", name, "mark", mark)+`rm -f "$D/$name.$mark".*`+"\n"+tidyScript); err != nil {
			h.log.Warn("left on the box", "what", "the list of a download", "err", err)
		}
	}
	var final *PullError
	switch {
	case errors.As(err, &final):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("pull %s on the box: %w", want, err)
	case !l.ours:
		delete(j.pulls, name) // somebody else's: we only look on
		return &begun{mark: l.mark}, nil
	}
	h.log.Info("pull", "model", want.String(), "into", s.cache)
	return &begun{mark: mark, cache: s.cache}, nil
}

// hubFacts is what one script finds out before a download.
type hubFacts struct {
	// mark is that of a download that runs already; the rest is empty then.
	mark string
	// cache is the folder of the repository, endpoint the hub's address, proto what may be spoken with it.
	cache, endpoint, proto string
	// listing is what the hub says of the repository.
	listing []byte
	// blobs are sizes of files that are there, by name; name the suffix of unfinished ones.
	blobs map[string]int64
	// free is what the disk has left, -1 if that is not known; disk where that is.
	free int64
	disk string
	// passing is why the hub gave no list, if it may give one later, and after how long.
	passing string
	after   time.Duration
}

// look asks for all of that. An error that is final is a *PullError.
func (h *fetcher) look(ctx context.Context, want Repo, name, mark, token string) (*hubFacts, error) {
	folder := "models--" + strings.ReplaceAll(want.Name, "/", "--")
	a, err := h.scriptFor(ctx, hubLimit, assign("name", name, "mark", mark, "key", token, "folder", folder,
		"ask", "/api/models/"+want.Name+"/revision/"+escape(want.Revision)+"?blobs=true", "most", strconv.Itoa(listingMost),
		"packed", strconv.Itoa(listingPacked))+hubShell+hubLook)
	if err != nil {
		return nil, err
	}
	fail := func(class, format string, args ...any) (*hubFacts, error) {
		return nil, &PullError{Model: want.String(), Class: class, Text: fmt.Sprintf(format, args...)}
	}
	s := &hubFacts{
		mark: a.get("alive"), cache: string(a.raw["cache"]), endpoint: a.get("endpoint"), proto: a.get("proto"),
		blobs: listed(a.raw["blobs"]), disk: clean(string(a.raw["disk"])), free: freeOf(a.get("df")),
	}
	switch {
	case s.mark != "":
		return s, nil
	case a.get("badendpoint") != "":
		return fail("other", "HF_ENDPOINT on the box is %s, and rlca speaks https with a hub", a.get("badendpoint"))
	case a.get("notool") != "":
		return fail("other", "there is neither curl nor python3 on the box to download with")
	case a.get("error") != "":
		return fail("permission", "write to ~/.rlca on the box: %s", a.get("error"))
	case !strings.HasPrefix(s.cache, "/") || strings.ContainsFunc(s.cache, isControl):
		return fail("other", "the cache of the hub on the box lies at %q, which is no path", clean(s.cache))
	}
	if a.get("rc") == "" {
		return nil, fmt.Errorf("the box said nothing of the hub: %s", strings.Join(a.lines["noise"], " · "))
	}
	if a.get("old") != "" && token != "" {
		h.log.Warn("curl on the box is older than 7.58 and would tell a token to strangers: it gets none")
	}
	if class := a.get("class"); class != "" {
		return nil, want.failure(class, a.int("code"), a.get("reason"), a.get("why"), token != "")
	}
	if a.int("rc") != 0 || a.int("code") != 200 {
		s.passing = saidOf(a.int("code"), a.get("why"))
		s.after = time.Duration(min(a.int("after"), int(hubPatience/time.Second)*10)) * time.Second
		return s, nil
	}
	if s.listing, err = unpack(a, listingMost); err != nil {
		s.passing = "the list of its files did not come whole: " + clean(err.Error())
	}
	return s, nil
}

// saidOf says in words how a request ended that may be made again.
func saidOf(code int, why string) string {
	switch why = clean(why); {
	case code == 429:
		return "the hub asks for patience (429)"
	case code >= 400:
		return fmt.Sprintf("the hub answers %d", code)
	case why != "":
		return why
	}
	return "the hub was not reached"
}

// failure is a download, or a question to the hub, that ended for good.
func (r Repo) failure(class string, code int, reason, why string, token bool) error {
	e := &PullError{Model: r.String(), Class: class, Text: clean(why)}
	page := "https://huggingface.co/" + r.Name
	switch {
	case class == "name" && reason == "RevisionNotFound":
		e.Text = "the repository has no revision " + r.Revision
	case class == "name" && code == 401:
		e.Text = "the hub has no such repository, or it is private and needs a token"
	case class == "name" && reason == "EntryNotFound":
		e.Text = "the hub lists a file and does not have it"
	case class == "name":
		e.Text = "the hub has no such repository"
	case class == "auth" && token && reason == "GatedRepo":
		e.Text = "the account of the token may not have it: accept the licence on " + page + " with that account"
	case class == "auth" && reason == "GatedRepo":
		e.Text = "its licence has to be accepted: accept it on " + page + ", then give a token"
	case class == "auth" && token:
		e.Text = fmt.Sprintf("the hub refuses the token (%d): it may be private, or its licence not accepted on %s", code, page)
	case class == "auth":
		e.Text = fmt.Sprintf("the hub refuses (%d): accept the licence on %s if it has one, then give a token", code, page)
	case e.Text == "" && code > 0:
		e.Text = fmt.Sprintf("the hub answers %d", code)
	case e.Text == "":
		e.Text = "it ended without a word"
	}
	return e
}

// hubStream reads the log of a download. Its layers are the files by their names in the cache.
type hubStream struct {
	pullStream
	cache, commit, quant string
	done                 map[string]bool
	failing              map[string]string // files that are tried again, and why
	told                 int64             // the sum when parts were told last
	// class, status and reason say how it ended, beside failure.
	class  string
	status int
	reason string
	// leapt is set when files turned out to be there, which no rate shall count.
	leapt bool
}

func newHubStream(cache string, best int64) *hubStream {
	return &hubStream{pullStream: pullStream{layers: map[string]layer{}, phase: "asking the hub", best: best}, cache: cache, done: map[string]bool{}, failing: map[string]string{}}
}

// add reads the next piece of the log.
func (p *hubStream) add(b []byte) {
	p.rest = append(p.rest, b...)
	for {
		line, rest, ok := bytes.Cut(p.rest, []byte("\n"))
		if !ok {
			break
		}
		p.line(string(line))
		p.rest = rest
	}
	if len(p.rest) > pullLineLimit {
		p.rest = nil
	}
}

func (p *hubStream) line(s string) {
	word, rest, _ := strings.Cut(s, " ")
	f := strings.SplitN(rest, " ", 4)
	switch word {
	case "cache":
		p.cache = rest
	case "commit":
		p.commit = rest
	case "quant":
		p.quant = rest
	case "blob": // SIZE ETAG …
		if n, err := strconv.ParseInt(f[0], 10, 64); err == nil && n >= 0 && n <= fileMost && len(f) > 1 && len(p.layers) < filesMost {
			p.layers[f[1]] = layer{0, n}
			p.phase = "checking what came" // once all of it has
		}
	case "have", "done":
		if l, ok := p.layers[f[0]]; ok {
			p.layers[f[0]], p.done[f[0]] = layer{l.total, l.total}, true
			delete(p.failing, f[0])
			p.leapt = p.leapt || word == "have"
		}
	case "again": // ETAG CODE SECONDS WHY
		if _, ok := p.layers[f[0]]; ok && len(f) == 4 {
			p.failing[f[0]] = saidOf(atoi(f[1]), f[3])
		}
	case "end": // CLASS CODE REASON WHY
		if len(f) == 4 {
			p.ended, p.class, p.status, p.reason, p.failure = true, f[0], atoi(f[1]), f[2], clean(f[3])
		}
	case "success":
		p.success = true
	}
}

// parts takes the sizes of unfinished files as they are now. A failure is worth a word while nothing else comes.
func (p *hubStream) parts(sizes map[string]int64) {
	for etag, l := range p.layers {
		if p.done[etag] {
			continue
		}
		n := min(sizes[etag], l.total)
		if n > l.done {
			delete(p.failing, etag)
		}
		p.layers[etag] = layer{n, l.total}
	}
	if p.ended {
		return
	}
	done, _ := p.sum()
	p.failure = ""
	if done == p.told {
		for _, etag := range slices.Sorted(maps.Keys(p.failing)) {
			p.failure = p.failing[etag]
		}
	}
	p.told = done
}

// follow reads the progress until the download has succeeded, given up, or gone.
func (h *fetcher) follow(ctx context.Context, name string, p *hubStream, want Repo, progress func(Progress)) (*hubStream, error) {
	speed := &rate{}
	from, lost := 0, 0
	for {
		a, err := h.script(ctx, assign("name", name, "from", strconv.Itoa(from), "most", strconv.Itoa(chunk), "cache", p.cache)+hubTail)
		if err != nil {
			if ctx.Err() != nil {
				return p, ctx.Err()
			}
			// The link may have gone: the download has not, and the next script waits for the link.
			if lost++; lost >= lostLimit {
				return p, err
			}
			h.log.Debug("pull: no word from the box", "err", err)
		} else {
			lost = 0
			if a.get("shrunk") != "" { // another has begun
				p, from = newHubStream(p.cache, p.best), 0
				continue
			}
			piece := a.raw["new"]
			from += len(piece)
			p.add(piece)
			p.parts(partsOf(a.raw["parts"], name))
			if a.get("full") != "" {
				p.ended, p.class, p.failure = true, "space", "no space left on the disk of "+clean(p.cache)+"; what came is kept"
			}
			if p.success || p.ended {
				return p, nil
			}
			if len(piece) == chunk {
				continue // there is more
			}
			if p.leapt || from == len(piece) {
				speed, p.leapt = &rate{}, false
			}
			progress(p.progress(want.String(), speed, time.Now(), " (on the box; safe to close the lid)"))
			if a.get("alive") == "" && len(piece) == 0 {
				return p, nil
			}
		}
		select {
		case <-ctx.Done():
			return p, ctx.Err()
		case <-time.After(h.poll):
		}
	}
}
