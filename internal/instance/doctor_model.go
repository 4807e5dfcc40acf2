package instance

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"rlca/internal/fit"
	"rlca/probe"
	"rlca/profiles"
	"rlca/remote"
)

// model judges the model and how it is loaded.
func (x *Exam) model(c *checks) {
	if x.none() {
		if d := x.serves; d != nil && d.Model != "" {
			c.add("model", Fine, "", "%s", d.Model)
			x.context(c, d.Context, d.ContextTrain, d.Engine)
		}
		return
	}
	if x.stub {
		c.add("model", Fail, "choose one that lies on the box: rlca models "+x.Request.Name, "%s runs elsewhere: prompts would leave the box", x.wanted())
		return
	}
	name, m := x.wanted(), x.loaded()
	srv := x.server()
	if srv != nil && m != nil && (m.SizeBytes > 0 || srv.Engine != "Ollama") { // the others tell no size, and serve what they have loaded
		c.add("model", Fine, "", "%s, loaded", name)
		x.context(c, m.Context, x.limit(), srv.Engine)
		if m.SizeBytes > 0 {
			x.placement(c, m)
		}
		x.tools(c, name)
		return
	}
	s := x.survey
	var missing *remote.ModelMissingError
	var beyond *fit.ContextError
	switch {
	case s == nil || x.findErr() != nil:
		if m != nil {
			c.add("model", Fine, "", "%s, not loaded now: the next request loads it", name)
		}
	case errors.As(x.lookErr, &missing):
		c.err(x, "model", Fail, x.lookErr, "")
	case errors.As(x.lookErr, &beyond):
		c.add("model", Fine, "", "%s", name)
		c.add("context", Fail, fmt.Sprintf("rlca connect %s --context %d", x.Request.Name, beyond.Limit), "%s", x.lookErr)
	case x.lookErr != nil && s.Fit == nil:
		c.err(x, "model", Fail, x.lookErr, "")
	case !s.OnBox && x.Status != nil && x.Status.Model != nil:
		c.add("model", Fail, x.again("--yes"), "%s is not on the box any more", name)
	case !s.OnBox && s.Fit != nil:
		size := ""
		if s.Fit.Weights != nil {
			size = " of " + s.Fit.Weights.String()
		}
		c.add("model", Warn, "rlca connect "+x.Request.Name+" --model "+name+" --yes", "%s is not on the box: a download%s", name, size)
	case x.Status != nil:
		c.add("model", Fine, "", "%s, not loaded now: the next request loads it", name)
		x.tools(c, name)
	default:
		c.add("model", Fine, "", "%s is on the box, connect loads it", name)
		if want := x.want(); s.Plan.Context > 0 {
			x.context(c, min(s.Plan.Context, want), x.limit(), s.EngineName)
		}
		x.tools(c, name)
	}
}

// wanted is the name of the model that is served, or would be.
func (x *Exam) wanted() string {
	switch {
	case x.Status != nil && x.Status.Model != nil:
		return x.Status.Model.Name
	case x.survey != nil && x.survey.Plan.Model != "":
		return x.survey.Plan.Model
	}
	return x.Request.Profile.Model.Name
}

// loaded is how the engine holds the model; nil if that is not known, with a size of 0 if it does not.
func (x *Exam) loaded() *remote.Loaded {
	if x.Status == nil {
		return x.held
	}
	m := x.Status.Model
	if m == nil {
		return nil
	}
	return &remote.Loaded{Name: m.Name, Context: m.Context, SizeBytes: m.SizeBytes, VRAMBytes: m.VRAMBytes}
}

// want is the context that the profile wants; 0 in it is the most that fits.
func (x *Exam) want() int {
	return cmp.Or(x.Request.Profile.Model.Context, profiles.Default().Model.Context)
}

// limit is the model's own, 0 if it is not known.
func (x *Exam) limit() int {
	var beyond *fit.ContextError
	switch {
	case errors.As(x.lookErr, &beyond):
		return beyond.Limit
	case x.survey != nil && x.survey.Fit != nil && x.survey.Fit.ModelLimit != nil:
		return *x.survey.Fit.ModelLimit
	}
	return 0
}

// context judges how much of a prompt the model sees.
func (x *Exam) context(c *checks, got, limit int, engine string) {
	want := x.want()
	wanted := "coding harnesses need " + fit.Tokens(want)
	if want != profiles.Default().Model.Context {
		wanted = "the profile wants " + fit.Tokens(want)
	}
	cut := "longer prompts are refused"
	if engine == "Ollama" {
		cut = "longer prompts are cut without a word"
	}
	switch {
	case got == 0:
		c.add("context", Warn, "a newer engine tells it: update it on the box", "the engine does not tell how many tokens a request may have")
	case got >= want:
		c.add("context", Fine, "", "%s tokens", fit.Tokens(got))
	case limit > 0 && got >= limit:
		c.add("context", Warn, "choose a model with a longer window: rlca models "+x.Request.Name,
			"%s tokens are the model's own limit, %s: %s", fit.Tokens(got), wanted, cut)
	case x.Request.Profile.Model.Context == 0:
		c.add("context", Fine, "", "%s tokens, the most that fits", fit.Tokens(got))
	default:
		c.add("context", Warn, x.again(fmt.Sprintf("--context %d", want)), "loaded with %s tokens, %s: %s", fit.Tokens(got), wanted, cut)
	}
}

// placement judges whether the model lies where it is fast.
func (x *Exam) placement(c *checks, m *remote.Loaded) {
	r := x.report()
	gpu := r != nil && r.Best() != nil && r.Best().Kind != probe.HostPool
	less := "a shorter context or a smaller model: rlca models " + x.Request.Name
	switch {
	case m.VRAMBytes >= m.SizeBytes:
		c.add("placement", Fine, "", "all on the GPU")
	case m.VRAMBytes > 0:
		c.add("placement", Warn, less, "%d %% on the CPU: slow", (m.SizeBytes-m.VRAMBytes)*100/m.SizeBytes)
	case gpu:
		c.add("placement", Warn, "rlca logs "+x.Request.Name+" --engine says why the engine does not use it\nif it does not fit there: "+less, "on the CPU alone, although the box has a GPU: slow")
	case r != nil && len(r.Accelerators) > 0:
		c.add("placement", Fine, "", "on the CPU: engines cannot use the box's GPU")
	default:
		c.add("placement", Fine, "", "on the CPU")
	}
}

// tools judges whether harnesses can work with the model.
func (x *Exam) tools(c *checks, name string) {
	calls := x.can != nil && slices.Contains(x.can, "tools")
	if x.can == nil {
		if x.survey == nil || x.survey.chosen.Model.Tools == "" {
			return
		}
		calls = x.survey.chosen.Model.Tools == "yes"
	}
	if calls {
		c.add("tools", Fine, "", "%s calls tools", name)
		return
	}
	c.add("tools", Warn, "choose one that does: rlca models "+x.Request.Name, "%s calls no tools: a harness can talk with it, and change no file", name)
}

// memory judges what the model takes and what is left.
func (x *Exam) memory(c *checks) {
	trouble := ""
	if r := x.report(); r != nil {
		m := r.Memory
		trouble = scarce(&probe.Sample{TotalBytes: m.TotalBytes, AvailableBytes: m.AvailableBytes, SwapTotalBytes: m.SwapTotalBytes, SwapUsedBytes: m.SwapUsedBytes}, nil)
	}
	var parts []string
	if x.Status != nil && x.Status.Memory != nil {
		m := x.Status.Memory
		trouble = cmp.Or(m.Warning, trouble)
		if m.ModelBytes != nil {
			s := fit.Bytes(*m.ModelBytes).String() + " the model"
			if m.PredictedBytes != nil {
				s += " (predicted " + fit.Bytes(*m.PredictedBytes).String() + ")"
			}
			parts = append(parts, s)
		}
	} else if s := x.survey; s != nil && s.Fit != nil {
		var short *fit.ShortfallError
		if errors.As(x.lookErr, &short) {
			c.err(x, "memory", Fail, x.lookErr, "")
			return
		}
		if s.Fit.Total != nil {
			line := fitLine(s.Fit)
			if word := s.verdictWord(); word != "not known" {
				line += ", " + word
			}
			parts = append(parts, line)
		}
	}
	parts = append(parts, x.left()...)
	switch {
	case trouble != "":
		c.add("memory", Warn, "a shorter context or a smaller model: rlca models "+x.Request.Name, "%s", strings.Join(append([]string{trouble}, parts...), " · "))
	case len(parts) > 0:
		c.add("memory", Fine, "", "%s", strings.Join(parts, " · "))
	}
}

// left says how much memory there is now, and how much swap is in use.
func (x *Exam) left() (parts []string) {
	var free, total, swap *int64
	if r := x.report(); r != nil {
		if p := r.Best(); p != nil {
			free, total = p.FreeBytes, p.TotalBytes
		}
		swap = r.Memory.SwapUsedBytes
	} else if x.Status != nil && x.Status.Memory != nil {
		free, swap = x.Status.Memory.AvailableBytes, x.Status.Memory.SwapUsedBytes
	}
	switch {
	case free != nil && total != nil:
		parts = append(parts, fmt.Sprintf("%.1f of %s free now", fit.Bytes(*free).GiB(), fit.Bytes(*total)))
	case free != nil:
		parts = append(parts, fit.Bytes(*free).String()+" free now")
	}
	if swap != nil && *swap > 0 {
		parts = append(parts, "swap "+fit.Bytes(*swap).String())
	}
	return parts
}

// roomy is the room on a disk below which a download soon fails.
const roomy = 5 << 30

// disk judges the room where models lie.
func (x *Exam) disk(c *checks) {
	r := x.report()
	if r == nil {
		return
	}
	disks := slices.Clone(r.Disk)
	if len(disks) > 1 { // models lie elsewhere
		disks = slices.DeleteFunc(disks, func(d probe.Disk) bool { return d.Path == "/" })
	}
	var room []string
	told := map[int64]bool{} // folders on one disk have the same room
	for _, d := range disks {
		if d.FreeBytes == nil || told[*d.FreeBytes] {
			continue
		}
		told[*d.FreeBytes] = true
		if *d.FreeBytes < roomy {
			c.add("disk", Warn, "on the box: ollama list, then ollama rm MODEL; or OLLAMA_MODELS on a bigger disk", "only %s free in %s, where models lie", fit.Bytes(*d.FreeBytes), d.Path)
			continue
		}
		room = append(room, fmt.Sprintf("%s %s free", d.Path, fit.Bytes(*d.FreeBytes)))
	}
	if len(room) > 0 {
		c.add("disk", Fine, "", "%s", strings.Join(room, " · "))
	}
}
