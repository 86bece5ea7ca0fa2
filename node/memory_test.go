package node

import "testing"

func TestMemoryLimitGivesToABurstAndTakesBackAfterIt(t *testing.T) {
	var m memory
	at := func(live int64, collecting, busy float64) int64 { return m.limit(live, collecting, busy) >> 20 }
	if got := at(10<<20, 0.01, 1); got != 124 {
		t.Errorf("a quiet start is limited to %d MiB, want 124", got)
	}
	collecting, busy := 0.01, 1.0
	var most int64
	for range 20 { // a fifth of the CPU goes into collecting
		collecting, busy = collecting+0.1, busy+0.5
		most = at(10<<20, collecting, busy)
	}
	if most != 124+256 {
		t.Errorf("a burst is limited to %d MiB, want 380", most)
	}
	for range 60 { // nothing was collected since
		most = at(10<<20, collecting, busy)
	}
	if most != 124 {
		t.Errorf("%d MiB stay with a node that has nothing to do, want 124", most)
	}
	if got := at(200<<20, collecting, busy); got != 200*7/5+24 {
		t.Errorf("200 MiB alive are limited to %d MiB, want %d", got, 200*7/5+24)
	}
}
