package index

import "github.com/carillon-fhir/carillon/match/search"

// Which of its conditions finds a criteria is a guess when it is posted: references are taken
// to tell more than codes. Where every Encounter of a hospital names the same organization,
// criteria on organization and class would all be asked by each. So places among many count how
// often they are asked in vain, and groups that suffer move to another of their accesses, where
// nothing or less is known against them.
//
// Who notices is an event's reader, and it is also who moves them, some at a time, if it gets
// the lock at once; changes of Subscriptions move some more. No answer changes by it; see
// shelf.match.

const (
	// patience is how often a group is asked in vain before it is looked at. It is looked at
	// again at each power of two, so settled groups cost less and less.
	patience = 64

	// crowded is how many places beside one another make it worth counting whom an event asks
	// in vain. A few cost little, whoever they are.
	crowded = 8

	// bearable is the part of a type's events below which vain questions hurt nobody: a hundred
	// thousand such groups cost an event some twenty questions.
	bearable = 1.0 / 4096

	// fewMoves are made at once, or an eighth of those that are due: an event that is behind
	// them waits for it, and each turn goes once over the list that they leave.
	fewMoves = 256
)

// relieve makes places of a crowd better known and moves what is known to be badly placed. It
// does nothing if somebody else holds the lock.
func (x *Index) relieve(c crowd) {
	if !x.mu.TryLock() {
		return
	}
	defer x.mu.Unlock()
	if c.posting != nil {
		c.each(func(p *place) {
			if !p.left && !p.restless && p.wasted.Load() >= x.patience {
				p.restless = true
				x.restless = append(x.restless, p)
			}
		})
	}
	x.moveSome()
}

// each visits the places of a crowd.
func (c crowd) each(visit func(*place)) {
	if c.slot != nil {
		c.slot.places.each(visit)
		return
	}
	c.posting.ranges.root.Load().each(visit)
}

// moveSome moves groups from the end of restless. Called with mu held.
func (x *Index) moveSome() {
	if len(x.restless) == 0 {
		return
	}
	from := max(0, len(x.restless)-max(fewMoves, len(x.restless)/8))
	due := x.restless[from:]
	type step struct {
		shelf *shelf
		left  *place
	}
	var steps []step
	for _, p := range due {
		p.restless = false
		if p.left {
			continue
		}
		s := x.shelvesOf(p.group.criteria)[0] // what can be found by something is of one type
		if accesses, next := x.better(s, p); next >= 0 {
			to := &place{}
			s.put(to, p.group, accesses, next)
			p.group.rare.place = to
			steps = append(steps, step{s, p})
		}
	}
	for _, m := range steps {
		m.shelf.moves.Add(1)
	}
	c := newCleaning()
	for _, m := range steps {
		c.place(m.shelf, m.left)
	}
	c.run()
	clear(due)
	x.restless = x.restless[:from]
	if from == 0 {
		x.restless = nil
	}
	x.pending.Store(from > 0)
}

// better finds the access by which fewer events would ask the group of a place in vain: half as
// many at most, or as far as is known none. next is negative if there is none.
func (x *Index) better(s *shelf, p *place) (accesses []search.Access, next int) {
	here := p.rate(s.events.Load())
	if here < bearable {
		return nil, -1
	}
	accesses = p.group.criteria.Accesses()
	if len(accesses) == 1 {
		return nil, -1
	}
	g := p.group
	if g.seldom().tried == nil {
		g.rare.tried = make([]float32, len(accesses))
	}
	tried := g.rare.tried
	tried[p.access] = here
	next = -1
	least := here / 2
	for i := range accesses {
		if tried[i] == 0 {
			tried[i] = x.reputation(s, &accesses[i])
		}
		if tried[i] < least {
			next, least = i, tried[i]
		}
	}
	return accesses, next
}

// rate is the part of the events since the group came that have asked it in vain.
func (p *place) rate(events uint64) float32 {
	return float32(p.wasted.Load()) / float32(max(1, events-p.since))
}

// reputation is the rate that a group would have at an access, as far as others that are there
// tell; 0 if they tell nothing. A small crowd counts nothing, and need not.
func (x *Index) reputation(s *shelf, a *search.Access) float32 {
	p := s.posting(a.Feature)
	if p == nil {
		return 0
	}
	sum, events := float32(0), s.events.Load()
	for _, h := range a.Hashes {
		slot := p.hashes.slot(nonzero(h))
		if slot == nil {
			continue
		}
		if more := slot.places.more.all(); len(more) >= max(1, x.crowded) && events-more[0].since >= uint64(x.patience) {
			sum += more[0].rate(events)
		}
	}
	return sum
}
