package search

// maxSought bounds the references of one resource that are followed to find criteria; with more,
// criteria are asked without having been found.
const maxSought = 64

// access is by what the resources that the chain leads to have. Only a chain of one link to one
// type has it: each reference is then followed once, whatever is asked of its end.
func (x *chain) access(d *Definitions) (Access, int) {
	if len(x.ends) != 1 || x.param.index < 0 || x.param.mayFail() {
		return Access{}, 0
	}
	next := x.ends[0].next
	if !next.direct() {
		return Access{}, 0
	}
	a, weight := next.access(d)
	a.Feature.link, a.Feature.to = x.param, x.ends[0].typ
	return a, weight
}

// there is a linked feature as the resources have it that the link leads to.
func (f Feature) there() Feature {
	f.typ, f.link, f.to = f.to, nil, ""
	return f
}

// LinkedHashes is Hashes for a linked feature: what the resources have that r refers to. It is not
// known if one of them cannot be read, or if there are too many; criteria that have the feature
// are then to be asked as if they had been found, and tell what is the matter. So they are after a
// panic, which is one of the criteria that are asked next, and not of all.
func (r *Resource) LinkedHashes(f Feature) (hashes []uint64, known bool) {
	r.linked = r.linked[:0]
	if !f.Linked() || f.typ != r.name {
		return nil, true
	}
	defer func() {
		if recover() != nil {
			r.Reset(r.tree, r.envelope) // it may hold half of the values
			hashes, known = nil, false
		}
	}()
	s := *r.values(f.link)
	if s.fault || s.to-s.from > maxSought {
		return nil, false
	}
	for i := s.from; i < s.to; i++ {
		v := r.references[i] // copied: asking another resource may read more of this one
		to := r.destination(&v)
		if string(to.typ) != f.to {
			continue
		}
		other, kept, err := r.arrive(to)
		if err != nil {
			r.others.discard(other, kept)
			return nil, false
		}
		r.takeHashes(other, f.there())
		r.others.discard(other, kept)
	}
	return r.linked, true
}

// takeHashes adds what another resource has; nil has nothing.
func (r *Resource) takeHashes(other *Resource, f Feature) {
	if other == nil {
		return
	}
	work := other.work
	r.linked = append(r.linked, other.Hashes(f)...)
	if other != r {
		r.work += other.work - work + uint64(len(other.tree.Source())/stride)
	}
}
