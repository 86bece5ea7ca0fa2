package node

import "testing"

func TestADiskIsLowAndFullByShareOrBySizeWhicheverComesFirst(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		name        string
		free, total uint64
		low, full   bool
	}{
		{"half of a large disk", 500 * gib, 1000 * gib, false, false},
		{"9 % of a large disk", 90 * gib, 1000 * gib, true, false},
		{"1 % of a large disk", 10 * gib, 1000 * gib, true, true},
		{"half of a small disk, under 1 GiB", gib / 2, gib, true, false},
		{"a fifth of a small disk, under 256 MiB", gib / 5, gib, true, true},
		{"nothing", 0, 1000 * gib, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &disk{}
			d.free.Store(c.free)
			d.total.Store(c.total)
			if d.low() != c.low || d.full() != c.full {
				t.Errorf("low %v full %v, want %v %v", d.low(), d.full(), c.low, c.full)
			}
		})
	}
}
