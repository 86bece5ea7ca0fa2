package index

// Impatient makes the index move every group that is asked in vain, whoever is beside it.
func (x *Index) Impatient() *Index {
	x.patience, x.crowded = 1, 0
	return x
}

// Moves counts when groups moved.
func (x *Index) Moves() (n uint64) {
	for _, s := range *x.shelves.Load() {
		n += s.moves.Load()
	}
	return n
}

// Found tells how many groups wait at each feature of a type; those of "" are always asked.
func (x *Index) Found(typ string) map[string]int {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := map[string]int{}
	for _, g := range x.groups {
		for ; g != nil; g = g.next() {
			switch p := g.place(); {
			case len(g.criteria.Types()) == 0 || g.criteria.Types()[0] != typ:
			case p == nil:
				n[""]++
			default:
				n[g.criteria.Accesses()[p.access].Feature.String()]++
			}
		}
	}
	return n
}
