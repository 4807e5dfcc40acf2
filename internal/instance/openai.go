package instance

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"rlca/internal/fit"
	"rlca/remote"
)

// engineOpenAI is a server of somebody else's that speaks OpenAI's API. No profile names it: it is found where one
// answers.
const engineOpenAI = "openai"

// kindOf is the engine of a server, by the name that it goes by.
func kindOf(name string) string {
	name = strings.ToLower(name)
	if _, ok := engines[name]; ok {
		return name
	}
	return engineOpenAI
}

// chooseOffered picks the model of a server that is taken as it is: the one that is named, else the one that it has
// loaded. It is not priced, because it is not loaded here.
func (s *Survey) chooseOffered(req Request) error {
	name := req.Profile.Model.Name
	var offered []string
	for _, f := range s.Files {
		offered = append(offered, f.Name)
	}
	switch {
	case s.Running == nil:
		return fmt.Errorf("choose a model on %s: the server there has not loaded one yet: try again in a moment", req.Name)
	case name == "auto" && len(offered) == 0:
		return fmt.Errorf("use %s on %s of the box: it has no model loaded: load one there, or have it load them on demand", s.Running.Title(), s.Running.Address)
	case name == "auto" && s.Running.Model.Name == "":
		return fmt.Errorf("choose a model on %s: %s has several, and does not tell which of them is loaded: name one with --model: %s", req.Name, s.Running.Title(), few(offered))
	case name == "auto":
		name = s.Running.Model.Name
	}
	i := slices.IndexFunc(s.Files, func(f remote.ModelFile) bool { return f.Name == name })
	if i < 0 {
		i = slices.IndexFunc(s.Files, func(f remote.ModelFile) bool { return sameModel(f.Name, name) })
	}
	if i < 0 {
		slices.SortStableFunc(offered, func(a, b string) int { return cmp.Compare(akin(b, name), akin(a, name)) })
		return &remote.ServesOtherError{Engine: s.Running.Engine, Address: s.Running.Address, Serves: few(offered), Want: name}
	}
	s.kept = true
	r := fit.Result{Model: s.Files[i].Name, Quant: s.Files[i].Quant, Context: req.Profile.Model.Context}
	c := s.known(fit.Candidate{OnBox: true, Quant: r.Quant}, r.Model)
	if s.Running.Model.Name == r.Model && s.Running.Model.Context > 0 {
		r.Context = min(r.Context, s.Running.Model.Context)
		if r.Context == 0 {
			r.Context = s.Running.Model.Context
		}
	}
	want := s.Plan.Context
	s.take(c, r)
	s.Plan.Model, s.Plan.Context = r.Model, want // the answer compares it with what the server gives
	return nil
}

// akin is 1 for names of which one has the other in it.
func akin(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	if strings.Contains(a, b) || strings.Contains(b, a) {
		return 1
	}
	return 0
}

// few joins the first names of a list.
func few(names []string) string {
	if more := len(names) - 5; more > 0 {
		return strings.Join(names[:5], ", ") + fmt.Sprintf(", and %d more", more)
	}
	return strings.Join(names, ", ")
}
