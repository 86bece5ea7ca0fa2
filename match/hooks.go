package match

import (
	"context"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
)

// Hooks let others take part in matching. What they answer becomes part of the block, which all
// nodes go by; a runner that starts anew asks again. They must not panic.
type Hooks struct {
	// Before gives the state of the same resource that criteria are asked about, such as body
	// itself. Where ok is false the change meets nothing. An error sets the event aside.
	Before func(ctx context.Context, c *record.Change, body []byte) (state []byte, ok bool, err error)
	// Keep reports whether a Subscription that is met has the event. An error is told where the
	// event is set aside for that Subscription.
	Keep func(ctx context.Context, c *record.Change, body []byte, h index.Hit) (bool, error)
}

// before asks what the criteria are to be asked about. reason says why that cannot be known.
func (m *matcher) before(ctx context.Context, c *record.Change, body []byte) (state []byte, ok bool, reason string, err error) {
	if m.r.Hooks.Before == nil {
		return body, true, "", nil
	}
	within, cancel := context.WithTimeout(ctx, m.budget())
	defer cancel()
	state, ok, fault := m.r.Hooks.Before(within, c, body)
	if ctx.Err() != nil {
		return nil, false, "", ctx.Err()
	}
	if fault != nil {
		return nil, false, oneLine(fault.Error()), nil
	}
	return state, ok, "", nil
}

// keep leaves out the hits that a hook objects to.
func (m *matcher) keep(ctx context.Context, c *record.Change, body []byte, hits []index.Hit, reason string) ([]index.Hit, string, error) {
	if m.r.Hooks.Keep == nil || len(hits) == 0 {
		return hits, reason, nil
	}
	within, cancel := context.WithTimeout(ctx, m.budget())
	defer cancel()
	kept := hits[:0]
	var causes, ids []string
	for _, h := range hits {
		ok, err := m.r.Hooks.Keep(within, c, body, h)
		switch {
		case ctx.Err() != nil:
			return nil, "", ctx.Err()
		case err != nil:
			causes, ids = append(causes, oneLine(err.Error())), append(ids, string(h.ID))
		case ok:
			kept = append(kept, h)
		}
	}
	if len(causes) == 0 {
		return kept, reason, nil
	}
	if reason != "" {
		reason += "; "
	}
	return kept, reason + notAsked(causes, ids), nil
}

// isOf reports whether the state that was parsed is one of the change's resource type.
func (m *matcher) isOf(key fhir.Key) bool {
	return m.tree.Is(m.tree.Get(m.tree.Root(), "resourceType"), key.Type)
}

// oneLine makes another's words fit for a header and a line of the log.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u0085' || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if runes := []rune(s); len(runes) > 200 {
		return string(runes[:200]) + "…"
	}
	return s
}
