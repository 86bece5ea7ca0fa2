package node

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/search"
)

// definitions are what criteria are compiled with: the standard's own search parameters, and what
// stored SearchParameters, ValueSets and CodeSystems add. They follow the log, so that a criteria
// means the same on every node: what stands at its place.
//
// Search parameters are put together when somebody compiles, not at each change.
type definitions struct {
	log  *slog.Logger
	base *search.Definitions // the standard's own

	mu          sync.Mutex
	held        map[fhir.Key]definition    // current SearchParameters
	terminology *search.Terminology        // current ValueSets and CodeSystems
	changed     map[string]record.Sequence // newest change of what bears, or bore, a name
	codes       []string                   // those of the names that are of SearchParameters
	parameters  *search.Definitions        // base with the SearchParameters; nil where they have to be put together
	current     *search.Definitions        // parameters with the terminology; nil if either changed
}

// definition is a stored SearchParameter.
type definition struct {
	at        record.Sequence // its version
	name      string          // see parameterName
	body      []byte
	composite bool // others are components of it
	idle      bool // it is retired, or nothing that could be used
}

func newDefinitions(log *slog.Logger, base *search.Definitions) *definitions {
	return &definitions{log: log, base: base, held: map[fhir.Key]definition{}, changed: map[string]record.Sequence{}}
}

// defines reports whether resources of a type may change what criteria mean.
func defines(typ string) bool {
	return typ == "SearchParameter" || typ == "ValueSet" || typ == "CodeSystem"
}

// parameterName is the name of a search parameter among the names of definitions. No canonical
// URL begins like it.
func parameterName(code string) string { return "?" + code }

func isParameter(name string) bool { return strings.HasPrefix(name, parameterName("")) }

// apply takes a change of a definition over. It returns the names whose meaning it may have
// changed.
func (d *definitions) apply(c record.Change) (names []string) {
	if c.Interaction == fhir.Unchanged {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.Key.Type == "SearchParameter" {
		names = d.applyParameter(c)
	} else {
		names = d.applyTerminology(c)
	}
	for _, n := range names {
		if d.changed[n] == 0 && isParameter(n) {
			d.codes = append(d.codes, n)
		}
		d.changed[n] = c.Sequence
	}
	return names
}

// applyTerminology takes a ValueSet or CodeSystem over. One that cannot be read is none.
func (d *definitions) applyTerminology(c record.Change) []string {
	names := d.terminology.Names(c.Key.Type, c.Key.ID)
	next := d.terminology.Without(c.Key.Type, c.Key.ID)
	if c.Interaction != fhir.Delete {
		with, err := d.terminology.With(c.Key.ID, c.Body)
		if err != nil {
			d.log.Error("a stored resource cannot be used by criteria", "resource", c.Key.String(), "sequence", c.Sequence, "err", err)
		} else {
			next = with
		}
	}
	d.terminology, d.current = next, nil
	for _, n := range next.Names(c.Key.Type, c.Key.ID) {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// applyParameter takes a SearchParameter over.
func (d *definitions) applyParameter(c record.Change) []string {
	now := definition{at: c.Sequence, idle: true}
	if c.Interaction != fhir.Delete {
		now = readParameter(c)
	}
	old := d.held[c.Key]
	if now.idle {
		delete(d.held, c.Key)
	} else {
		d.held[c.Key] = now
	}
	d.parameters, d.current = nil, nil
	var names []string
	add := func(n string) {
		if n != "" && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	add(old.name)
	add(now.name)
	for _, h := range d.held {
		if h.composite {
			add(h.name) // the parameter may be a component of it
		}
	}
	return names
}

// readParameter looks into a SearchParameter.
func readParameter(c record.Change) definition {
	now := definition{at: c.Sequence, body: c.Body, idle: true}
	t := json.Borrow()
	defer t.Release()
	if t.Parse(c.Body, sizeOf(c.Body)) != nil {
		return now
	}
	if code := t.Str(t.Get(t.Root(), "code")); code != "" {
		now.name, now.idle = parameterName(code), t.Is(t.Get(t.Root(), "status"), "retired")
	}
	now.composite = t.Is(t.Get(t.Root(), "type"), "composite")
	return now
}

// now is what criteria are compiled with after everything that was applied.
func (d *definitions) now() *search.Definitions {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current != nil {
		return d.current
	}
	if d.parameters == nil {
		var errs []error
		d.parameters, errs = d.base.WithParameters(d.bodies(fhir.Key{})...)
		for _, err := range errs {
			// What the gate accepted can be used; what an older or newer release accepted perhaps
			// not: it is left out, and criteria that name it are refused.
			if err != nil {
				d.log.Error("a stored SearchParameter cannot be used", "err", err)
			}
		}
	}
	d.current = d.parameters.WithTerminology(d.terminology)
	return d.current
}

// bodies lists the SearchParameters but one, in the order of the log: of two that define the same
// the later counts. Called with mu held.
func (d *definitions) bodies(without fhir.Key) [][]byte {
	var held []definition
	for key, h := range d.held {
		if key != without {
			held = append(held, h)
		}
	}
	slices.SortFunc(held, func(a, b definition) int { return cmp.Compare(a.at, b.at) })
	var out [][]byte
	for _, h := range held {
		out = append(out, h.body)
	}
	return out
}

// check says why a SearchParameter that is to be written could not be used; nil if it can.
func (d *definitions) check(key fhir.Key, body []byte) error {
	d.mu.Lock()
	all := append(d.bodies(key), body)
	d.mu.Unlock()
	_, errs := d.base.WithParameters(all...)
	if len(errs) < len(all) {
		return nil
	}
	return errs[len(all)-1]
}

// uses lists the names of the stored definitions that a compiled criteria depends on, and of
// those that it may depend on: a parameter whose code it mentions. It is exact enough: who uses
// too much is compiled again in vain.
func (d *definitions) uses(c *search.Criteria) []string {
	names := c.Uses()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range d.codes {
		if mentions(c.String(), name) {
			names = append(names, name)
		}
	}
	return names
}

// mentions reports whether the text of a criteria may use the parameter of a name. What is
// percent-encoded may be anything.
func mentions(criteria, name string) bool {
	code, ok := strings.CutPrefix(name, parameterName(""))
	return ok && (strings.Contains(criteria, code) || strings.Contains(criteria, "%"))
}

// basis is the place of the newest change among definitions; 0 if none of them ever was stored.
func (d *definitions) basis(names []string) record.Sequence {
	d.mu.Lock()
	defer d.mu.Unlock()
	newest := record.Sequence(0)
	for _, n := range names {
		newest = max(newest, d.changed[n])
	}
	return newest
}

// unusable says that a Subscription goes on with what it was compiled with before.
func unusable(at record.Sequence, why string) string {
	return fmt.Sprintf("a definition that the criteria uses was changed at %d, and with it the criteria cannot be evaluated, so it is still evaluated as before: %s", at, why)
}
