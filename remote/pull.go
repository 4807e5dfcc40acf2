package remote

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	// chunk is how much of the progress is read from the box at once.
	chunk = 256 << 10
	// lostLimit is how many times in a row the box may not be asked before a pull is given up here.
	lostLimit = 8
	// barrenLimit is how many attempts in a row may bring nothing: fewer for one that never brought anything.
	barrenLimit, barrenAtFirst = 12, 4
)

// pull downloads a model on the box. With curl there, a loop of its own does it, and goes on when the link does not;
// without, the request is held from here.
func (o *Ollama) pull(ctx context.Context, j *journal, f *facts, addr, model string, progress func(Progress)) error {
	progress(Progress{Step: StepPull, Text: "pulling " + model})
	o.log.Info("pull", "model", model, "address", addr, "on_box", f.curl != "")
	if f.curl == "" {
		return o.pullFromHere(ctx, addr, model, progress)
	}
	return o.pullOnBox(ctx, j, addr, model, progress)
}

// pullBody is the request of a pull.
func pullBody(model string) map[string]any {
	body := map[string]any{"model": model, "stream": true}
	if insecureHost(model) {
		body["insecure"] = true
	}
	return body
}

// loopScript runs on the box: it asks for the pull again and again until it has succeeded, an ending was met, or
// nothing has come for a while. $1 is the progress file, which is also its standard output, $2 the URL, $3 the body.
// An attempt is barren if it brought no more than the one before. A full disk cannot take a last word, but a name.
const loopScript = `f=$1 url=$2 body=$3 n=0 had= pause=1
while :; do
  from=$(($(wc -c < "$f")))
  curl -sS -N --noproxy '*' -X POST -H 'Content-Type: application/json' --data "$body" "$url" 2>/dev/null
  code=$?
  said=$(tail -c +$((from+1)) "$f" | tail -n 40)
  case $said in *'"status":"success"'*) exit 0;; esac
  final=
  case $said in %s) final=1;; esac
  [ $code -ne 23 ] || { : > "${f%%.ndjson}.full"; exit 1; }
  have=$(printf '%%s\n' "$said" | sed -n 's/.*"completed":\([0-9]*\).*/\1/p' | tail -n 1)
  if [ -n "$have" ] && [ "$have" != "$had" ]; then n=0 pause=1 limit=%d; had=$have; fi
  n=$((n+1))
  if [ -n "$final" ] || [ $n -ge ${limit:-%d} ]; then
    printf '\n{"rlca":"end","code":%%s}\n' $code || : > "${f%%.ndjson}.full"
    exit 1
  fi
  printf '\n{"rlca":"again","code":%%s}\n' $code || { : > "${f%%.ndjson}.full"; exit 1; }
  sleep $pause
  pause=$((pause*2)); [ $pause -le 15 ] || pause=15
done`

// endingPattern are the endings as a pattern of the shell's case.
func endingPattern() string {
	var words []string
	for _, e := range endings {
		words = append(words, `*`+quote(e.text)+`*`)
	}
	return strings.Join(words, "|")
}

func pullJob(model string) string {
	sum := sha256.Sum256([]byte(canonical(model)))
	return "pull-" + hex.EncodeToString(sum[:6])
}

// pullOnBox launches the loop, or finds one that already works on this model, and follows its progress.
func (o *Ollama) pullOnBox(ctx context.Context, j *journal, addr, model string, progress func(Progress)) error {
	body, err := json.Marshal(pullBody(model))
	if err != nil {
		return err
	}
	name := pullJob(model)
	for try := 0; ; try++ {
		mark := nonce()
		j.pulling(name, mark)
		loop := fmt.Sprintf(loopScript, endingPattern(), barrenLimit, barrenAtFirst)
		var l *launched
		err := o.lasting(ctx, o.poll, func() (err error) {
			l, err = o.launch(ctx, mark, job{
				name: name, address: addr, log: name + ".ndjson", fresh: true,
				argv: []string{"/bin/sh", "-c", `f=$HOME/.rlca/$1; shift; rm -f "${f%.ndjson}.full"; exec /bin/sh -c "$3" rlca-pull "$f" "$1" "$2"`,
					"sh", name + ".ndjson", "http://" + addr + "/api/pull", string(body), loop},
			})
			return err
		})
		if err != nil {
			return fmt.Errorf("pull %s on the box: %w", model, err)
		}
		if !l.ours {
			delete(j.pulls, name) // somebody else's: we only look on
		}
		p, err := o.follow(ctx, name, model, progress)
		done, total := p.sum()
		switch {
		case err != nil && ctx.Err() != nil:
			stopped := &PullStoppedError{Model: model, Done: done, Total: total, Running: !l.ours, Err: ctx.Err()}
			if l.ours {
				stopped.Running = !o.stopPull(ctx, j, name, mark)
			}
			return stopped
		case err != nil:
			return fmt.Errorf("follow the pull of %s on the box: %w", model, err)
		case p.success:
			_, err := o.halt(ctx, name, l.mark, pullFiles(name)...)
			delete(j.pulls, name)
			if err != nil {
				o.log.Warn("pull done, its files stay", "err", err)
			}
			return nil
		case p.ended:
			_, err := o.halt(ctx, name, l.mark, pullFiles(name)...)
			delete(j.pulls, name)
			return errors.Join(p.err(model), err)
		case try >= 2:
			return &PullError{Model: model, Class: "other", Text: "the download ended without a word, three times"}
		}
		o.log.Warn("the pull on the box was ended by somebody else, it is begun again", "model", model)
	}
}

// pullFiles are what a download leaves beside its record.
func pullFiles(name string) []string { return []string{name + ".ndjson", name + ".full"} }

// stopPull ends our loop after ctx has ended. What cannot be reached stays in the journal.
func (o *Ollama) stopPull(ctx context.Context, j *journal, name, mark string) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	if _, err := o.halt(ctx, name, mark, pullFiles(name)...); err != nil {
		return false
	}
	delete(j.pulls, name)
	return true
}

// err says how a pull ended that has not succeeded.
func (p *pullStream) err(model string) error {
	text := p.failure
	class, _ := classify(text)
	if text == "" {
		class, text = "network", "the engine on the box was not reached"
		if p.code == 0 {
			class, text = "other", "it ended without a word"
		}
	}
	return &PullError{Model: model, Class: class, Text: text}
}

// tailScript says whether the loop runs, and what it wrote from an offset on.
const tailScript = `
name=%s from=%d f=$D/$name.ndjson
record $name && mine && say alive 1
[ -e "$D/$name.full" ] && say full 1
[ -r "$f" ] || return
n=$(($(wc -c < "$f") - from))
if [ $n -lt 0 ]; then say shrunk 1; return; fi
[ $n -le %d ] || n=%[3]d
[ $n -gt 0 ] || return
printf '\n%%s raw:new=%%s\n' "$N" $n; tail -c +$((from+1)) "$f" | head -c $n
`

// follow reads the progress until the loop has succeeded, given up, or gone.
func (o *Ollama) follow(ctx context.Context, name, model string, progress func(Progress)) (*pullStream, error) {
	p := &pullStream{}
	rate := &rate{}
	from, lost := 0, 0
	for {
		a, err := o.script(ctx, fmt.Sprintf(tailScript, quote(name), from, chunk))
		if err != nil {
			if ctx.Err() != nil {
				return p, ctx.Err()
			}
			// The link may have gone: the pull has not, and the next script waits for the link.
			if lost++; lost >= lostLimit {
				return p, err
			}
			o.log.Debug("pull: no word from the box", "err", err)
		} else {
			lost = 0
			if a.get("shrunk") != "" { // another loop has begun
				p, from = &pullStream{}, 0
				continue
			}
			piece := a.raw["new"]
			from += len(piece)
			p.add(piece)
			if a.get("full") != "" {
				p.ended, p.failure = true, "no space left on device"
			}
			if p.success || p.ended {
				return p, nil
			}
			if len(piece) == chunk {
				continue // there is more
			}
			progress(p.progress(model, rate, time.Now(), " (on the box; safe to close the lid)"))
			if a.get("alive") == "" && len(piece) == 0 {
				p.flush()
				return p, nil
			}
		}
		select {
		case <-ctx.Done():
			return p, ctx.Err()
		case <-time.After(o.poll):
		}
	}
}

// pullFromHere holds the request through the link, and asks again when it breaks.
func (o *Ollama) pullFromHere(ctx context.Context, addr, model string, progress func(Progress)) error {
	p := &pullStream{}
	rate := &rate{}
	var had int64
	barren, limit := 0, barrenAtFirst
	for pause := o.poll; ; pause = min(2*pause, 15*time.Second) {
		p.failure, p.code = "", 0
		err := o.pullOnce(ctx, addr, model, p, func() {
			progress(p.progress(model, rate, time.Now(), " (through this machine; keep it awake)"))
		})
		done, total := p.sum()
		if ctx.Err() != nil {
			return &PullStoppedError{Model: model, Done: done, Total: total, Err: ctx.Err()}
		}
		if p.success {
			return nil
		}
		var status *statusError
		switch {
		case p.failure != "":
		case errors.As(err, &status):
			p.failure = status.Text
		case err != nil:
			p.failure = clean(err.Error())
		}
		if done > had {
			had, barren, limit, pause = done, 0, barrenLimit, o.poll
		}
		barren++
		if _, final := classify(p.failure); final || barren >= limit {
			return p.err(model)
		}
		select {
		case <-ctx.Done():
			return &PullStoppedError{Model: model, Done: done, Total: total, Err: ctx.Err()}
		case <-time.After(pause):
		}
	}
}

// pullOnce makes one attempt and calls tell about once a poll.
func (o *Ollama) pullOnce(ctx context.Context, addr, model string, p *pullStream, tell func()) error {
	resp, err := o.api(addr).send(ctx, "POST", "/api/pull", pullBody(model))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	buf := make([]byte, 32<<10)
	told := time.Now()
	for {
		n, err := resp.Body.Read(buf)
		p.add(buf[:n])
		if err == io.EOF {
			p.flush()
			return nil
		}
		if err != nil {
			return err
		}
		if time.Since(told) >= o.poll {
			told = time.Now()
			tell()
		}
	}
}

// rate measures how fast bytes come, over the last ten seconds or so.
type rate struct {
	at    []time.Time
	bytes []int64
}

// add takes a sum and returns bytes per second, 0 while it is unknown.
func (r *rate) add(now time.Time, sum int64) float64 {
	r.at, r.bytes = append(r.at, now), append(r.bytes, sum)
	for len(r.at) > 2 && now.Sub(r.at[1]) >= 10*time.Second {
		r.at, r.bytes = r.at[1:], r.bytes[1:]
	}
	span := now.Sub(r.at[0]).Seconds()
	if span < 0.5 {
		return 0
	}
	return float64(sum-r.bytes[0]) / span
}

// progress says where the pull stands.
func (p *pullStream) progress(model string, r *rate, now time.Time, where string) Progress {
	done, total := p.sum()
	out := Progress{Step: StepPull, Done: done, Total: total}
	switch {
	case p.failure != "":
		out.Text = fmt.Sprintf("pulling %s: trying again after: %s", model, p.failure)
	case total == 0 || p.phase != "" && done == total:
		phase := p.phase
		if phase == "" || phase == "pulling manifest" {
			phase = "asking the registry"
		}
		out.Text = fmt.Sprintf("pulling %s: %s", model, phase)
	default:
		out.Text = "pulling " + gibOf(done, total)
		if v := r.add(now, done); v > 0 {
			out.Text += fmt.Sprintf(", %s/s, %s left", gib(int64(v)), left(time.Duration(float64(total-done)/v*float64(time.Second))))
		}
		out.Text += where
	}
	return out
}
