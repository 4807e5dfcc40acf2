package instance

import (
	"context"
	"errors"
	"strings"

	"rlca/internal/fit"
	"rlca/remote"
)

// endOrphans ends what engines of rlca's that are gone have left running on the box, and says so before. It comes before the
// memory is measured: what they hold counts as taken. Those of others are returned.
func (i *Instance) endOrphans(ctx context.Context, far Far, emit func(Event)) (others []remote.Orphan) {
	if i.req.Profile.Engine.Name == "none" {
		return nil
	}
	box := boxOf(far, i.log)
	list, err := remote.Orphans(ctx, box)
	if err != nil {
		i.log.Info("orphans", "err", err) // what comes next says it better
		return nil
	}
	var ours []remote.Orphan
	for _, o := range list {
		if o.Ours {
			ours = append(ours, o)
		} else {
			others = append(others, o)
		}
	}
	if len(ours) == 0 {
		return others
	}
	emit(Event{Step: StepNote, Text: "ending what a dead " + ours[0].Engine + " of rlca's left on the box: " + named(ours), Done: true})
	if err := remote.EndOrphans(ctx, box, ours); err != nil {
		emit(Event{Step: StepNote, Text: "warning: " + err.Error(), Done: true})
	}
	return others
}

// named lists them as people read it, no more than a few.
func named(list []remote.Orphan) string {
	var words []string
	for n, o := range list {
		if n == 3 {
			words = append(words, "…")
			break
		}
		words = append(words, o.String())
	}
	return strings.Join(words, ", ")
}

// short reports whether memory is so short that it matters what holds it: the model does not fit, or only just.
func short(s *Survey, err error) bool {
	var e *fit.ShortfallError
	return errors.As(err, &e) || s != nil && s.Fit != nil && s.Fit.Verdict == fit.Tight
}

// tellOrphans warns of what others' dead engines hold. rlca did not start them, so a person ends them.
func tellOrphans(others []remote.Orphan, emit func(Event)) {
	for _, o := range others {
		emit(Event{Step: StepNote, Text: "warning: " + o.String() + " is left of " + article(o.Engine) + " that is gone, and rlca did not start it; to end it, on the box: " + o.Command(), Done: true})
	}
}

func article(engine string) string {
	if strings.HasPrefix(engine, "O") {
		return "an " + engine
	}
	return "a " + engine
}

// leftovers judges what dead engines left running on the box.
func (x *Exam) leftovers(c *checks) {
	for _, o := range x.orphans {
		if o.Ours {
			c.add("orphan", Warn, "rlca disconnect "+x.Request.Name+" --stop-engine ends it, and so does the next rlca connect "+x.Request.Name,
				"%s is left of %s that rlca started and that is gone", o, article(o.Engine))
			continue
		}
		c.add("orphan", Warn, "if nobody needs it, on the box: "+o.Command(), "%s is left of %s that is gone; rlca did not start it", o, article(o.Engine))
	}
}
