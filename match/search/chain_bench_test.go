package search

import (
	"fmt"
	"testing"
)

// BenchmarkChain holds one Observation against criteria that each ask its Patient something else,
// reading included.
func BenchmarkChain(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var all []*Criteria
			for i := range n {
				all = append(all, chainedCriteria(b, fmt.Sprintf("Observation?subject:Patient.identifier=http://example.org|%d", i)))
			}
			w := newWorld(patient("p", `"identifier":[{"system":"http://example.org","value":"7"}],"name":[{"family":"Chalmers","given":["Peter","James"]}]`))
			r := beside(b, w, observation("o", "Patient/p", `"status":"final"`))
			b.ReportAllocs()
			for b.Loop() {
				r.Reset(r.Tree(), Envelope{ID: "o"})
				for _, c := range all {
					c.Match(r)
				}
			}
		})
	}
}
