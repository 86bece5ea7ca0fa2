package index_test

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/search"
)

// BenchmarkGrowth compares whole events at a thousand and at a hundred thousand Subscriptions. A
// machine with other work disturbs both. So they take turns, and of every few events the fastest
// of all turns counts.
func BenchmarkGrowth(b *testing.B) {
	for _, w := range []town{sparse, dense} {
		b.Run(w.name, func(b *testing.B) {
			few, many := newTurns(b, w, 1_000), newTurns(b, w, 100_000)
			runtime.GC()
			defer debug.SetGCPercent(debug.SetGCPercent(-1))
			for b.Loop() {
				few.turn(b)
				many.turn(b)
			}
			b.ReportMetric(few.event(), "few-ns")
			b.ReportMetric(many.event(), "many-ns")
			b.ReportMetric(many.event()/few.event(), "ratio")
		})
	}
}

// turns are of one size of a town.
type turns struct {
	events [][]byte
	match  matcher
	tree   json.Tree
	r      *search.Resource
	least  []time.Duration // of each stretch of events
}

const stretch = 64

func newTurns(b *testing.B, w town, n int) *turns {
	s := setting(b, w, n)
	_, match := indexed(s.criteria)
	return &turns{events: s.events, match: match(), r: search.NewResource(search.R4(), nil), least: make([]time.Duration, len(s.events)/stretch)}
}

func (t *turns) turn(b *testing.B) {
	for i := range t.least {
		began := cpu()
		for _, e := range t.events[i*stretch : (i+1)*stretch] {
			if err := t.tree.Parse(e, json.Limits{}); err != nil {
				b.Fatal(err)
			}
			t.r.Reset(&t.tree, search.Envelope{})
			t.match(t.r)
		}
		if took := cpu() - began; t.least[i] == 0 || took < t.least[i] {
			t.least[i] = took
		}
	}
}

// event is what one took.
func (t *turns) event() float64 {
	sum := time.Duration(0)
	for _, d := range t.least {
		sum += d
	}
	return float64(sum) / float64(len(t.least)*stretch)
}
