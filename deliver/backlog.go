package deliver

import (
	"slices"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// share divides places, so that one kind of attempt never waits for another kind: a big
// replay or a recovering endpoint delays no fresh notification.
type share int

const (
	freshShare  share = iota // first attempts
	retryShare               // later ones
	replayShare              // rounds after the first
	shares
)

// phase is where a match in memory stands.
type phase int

const (
	queued    phase = iota // behind another match of its resource
	ready                  // first of its resource and due: sent as soon as there is a place
	waiting                // first of its resource, and it is not yet time or its token is not here
	sending                // at the endpoint
	recording              // answered; its outcome is being stored
)

// entry is a pending match in memory. From the outcome of an attempt on it knows more than the
// store, which folds that outcome a moment later; so it stays in memory until its round ends.
type entry struct {
	Pending
	phase phase
	until time.Time // not before this for a reason of our own; no outcome says it
	began time.Time // of the attempt in progress
	place bool      // takes a place of the lane: at the endpoint, or with a token

	token   Token     // in hand; nil when there is none or it is out
	touched time.Time // when the token was last delivered or extended
	tokenBy time.Time // the token is out, and comes back by then or is lost; zero: none is out
}

func (e *entry) share() share {
	switch {
	case e.Round > 0:
		return replayShare
	case e.Attempts > 0:
		return retryShare
	}
	return freshShare
}

// due is when it may be sent.
func (e *entry) due() time.Time {
	if e.until.After(e.NotBefore) {
		return e.until
	}
	return e.NotBefore
}

// out reports whether an attempt is in progress.
func (e *entry) out() bool { return e.phase == sending || e.phase == recording }

// backlog is what one Subscription has pending: a window on the store.
//
// Its matches are chained by resource, and only the first of a chain can be sent. With a strict
// order there is one chain. All fields are guarded by the lane's mu.
type backlog struct {
	id    fhir.ID
	birth record.Sequence

	target  Target
	state   State
	asked   bool                // target is known
	stale   bool                // target is to be asked for (again)
	stopped *stop               // an endpoint or the policy ended sending; until Changed
	turns   int                 // of the shares, when several could send
	last    record.Code         // of the last attempt; empty before the first
	failing bool                // the last attempt failed
	slow    bool                // the last attempt was slow
	atWork  map[*entry]struct{} // at the endpoint
	hinder  hindrance           // what keeps us from the endpoint, on our own side

	admission admission // to what it shares with others: the endpoint

	entries map[record.Sequence]*entry // by event
	chains  map[fhir.Key][]*entry
	ready   [shares]fifo[*entry] // those in phase ready, and some that no longer are
	// holding are those ready ones that hold a token, hence a place. They go first: in a full
	// lane only what goes can free a place.
	holding [shares]fifo[*entry]
	sending [shares]int
	unsaved int // in phase recording
	places  int

	// cursor: every match up to it was seen by this lane: it is in memory or has ended. A
	// replay has a number at or below it, and a round above zero.
	cursor   fhir.EventNumber
	more     bool // the store has matches behind the cursor that are not in memory
	behind   bool // the store has replays that are not in memory
	behindAt fhir.EventNumber
	again    bool                    // and more of them since the present scan began
	takeover fhir.EventNumber        // highest number at takeover
	ended    map[record.Sequence]int // rounds of replays that ended, until the store knows it

	withdrawing bool
	withdrawn   fhir.EventNumber // everything up to it was withdrawn
	inRunnable  bool
	inDirty     bool
	inStarved   bool
}

// backlog finds that of a birth, or begins it.
func (l *Lane) backlog(id fhir.ID, birth record.Sequence) *backlog {
	b := l.backlogs[birth]
	if b == nil {
		b = &backlog{
			id: id, birth: birth, stale: true,
			atWork:  make(map[*entry]struct{}),
			entries: make(map[record.Sequence]*entry),
			chains:  make(map[fhir.Key][]*entry),
			ended:   make(map[record.Sequence]int),
		}
		l.backlogs[birth] = b
		l.markDirty(b)
	}
	return b
}

// sendable reports whether anything of it may be sent at all.
func (b *backlog) sendable() bool {
	return b.asked && !b.stale && b.state == Sendable && b.stopped == nil && !b.withdrawing
}

// known reports whether a match is in memory, or ended in a way that the store may not know yet.
func (b *backlog) known(p Pending) bool {
	if e := b.entries[p.Event]; e != nil {
		return true
	}
	round, ok := b.ended[p.Event]
	return ok && p.Round <= round
}

// room reports whether one more match of the share may be loaded.
func (l *Lane) room(b *backlog, s share) bool { return l.vacant(b, s) > 0 }

// vacant is how many more matches of the share may be loaded.
func (l *Lane) vacant(b *backlog, s share) int {
	if !b.asked || b.state == Withdrawn {
		return 0
	}
	limit := maxLoaded
	if l.loaded >= maxLoadedLane {
		limit = l.cfg.Window
	}
	return max(0, min(l.cfg.Window-b.ready[s].len(), limit-len(b.entries)))
}

// chain names what a match must stay in order with.
func (b *backlog) chain(p Pending) fhir.Key {
	if b.target.Order == OrderStrict {
		return fhir.Key{}
	}
	if mutant("order-ignored") {
		return fhir.Key{Type: "Event", ID: p.Key.ID + fhir.ID(rune('a'+p.Number%26))}
	}
	return p.Key
}

// add loads a match. A replay goes in by its number, in front of later matches of its resource
// unless they are out already.
func (l *Lane) add(b *backlog, p Pending) {
	e := &entry{Pending: p}
	if !l.quiet.IsZero() && p.Number <= b.takeover {
		// The owner before may still be sending this one, or an earlier one of its resource.
		e.until = l.quiet.Add(b.target.timeout())
	}
	b.entries[p.Event] = e
	l.loaded++
	if p.Attempts > 0 && b.last == "" {
		b.failing = true // under the owner before, who told of it
	}
	l.link(b, e)
}

// link puts a match into its chain.
func (l *Lane) link(b *backlog, e *entry) {
	key := b.chain(e.Pending)
	c := b.chains[key]
	i := len(c)
	for i > 0 && c[i-1].Number > e.Number && !c[i-1].out() {
		i--
	}
	if i == 0 && len(c) > 0 {
		c[0].phase = queued // its place in a ready list lapses with the phase
	}
	b.chains[key] = slices.Insert(c, i, e)
	if i == 0 {
		l.activate(b, e)
	}
}

// requeue puts a match that is to be tried again behind earlier ones of its chain that were replayed
// while it was out: another owner of the lane, who reads them from the store, would send those first.
func (l *Lane) requeue(b *backlog, e *entry) {
	c := b.chains[b.chain(e.Pending)]
	i := slices.Index(c, e)
	was := i
	for i+1 < len(c) && c[i+1].Number < e.Number && !c[i+1].out() {
		c[i], c[i+1] = c[i+1], c[i]
		i++
	}
	if i > 0 {
		e.phase = queued
	}
	if was == 0 && i > 0 {
		l.activate(b, c[0])
	}
}

// activate decides what the first of a chain waits for.
func (l *Lane) activate(b *backlog, e *entry) {
	if e.due().After(time.Now()) || (e.Attempts > 0 && e.token == nil) {
		e.phase = waiting
		return
	}
	l.makeReady(b, e)
}

func (l *Lane) makeReady(b *backlog, e *entry) {
	e.phase = ready
	if e.token != nil {
		b.holding[e.share()].push(e)
	} else {
		b.ready[e.share()].push(e)
	}
	l.markRunnable(b)
}

// remove drops a match whose round has ended, or that was withdrawn.
func (l *Lane) remove(b *backlog, e *entry) {
	delete(b.entries, e.Event)
	l.loaded--
	e.token, e.tokenBy = nil, time.Time{}
	e.phase = queued
	l.vacate(b, e)
	key := b.chain(e.Pending)
	c := b.chains[key]
	i := slices.Index(c, e)
	c = slices.Delete(c, i, i+1)
	b.chains[key] = c
	switch {
	case len(c) == 0:
		delete(b.chains, key)
	case i == 0 && !c[0].out():
		l.activate(b, c[0])
	}
	if l.wantsReading(b) {
		l.markDirty(b)
	}
}

// rechain follows a change of order.
func (l *Lane) rechain(b *backlog) {
	all := make([]*entry, 0, len(b.entries))
	for _, e := range b.entries {
		all = append(all, e)
	}
	slices.SortFunc(all, func(x, y *entry) int {
		if x.out() != y.out() { // what is out stays in front
			if x.out() {
				return -1
			}
			return 1
		}
		return int(int64(x.Number) - int64(y.Number))
	})
	b.chains = make(map[fhir.Key][]*entry)
	b.ready, b.holding = [shares]fifo[*entry]{}, [shares]fifo[*entry]{}
	for _, e := range all {
		key := b.chain(e.Pending)
		b.chains[key] = append(b.chains[key], e)
		if e.out() {
			continue
		}
		if e.phase = queued; b.chains[key][0] == e {
			l.activate(b, e)
		}
	}
}

// firstReady is the next of a share that may be sent, and the list that it heads.
func (b *backlog) firstReady(s share) (*entry, *fifo[*entry]) {
	for _, list := range [...]*fifo[*entry]{&b.holding[s], &b.ready[s]} {
		for list.len() > 0 {
			if e := list.peek(); e.phase == ready && e.share() == s {
				return e, list
			}
			list.pop()
		}
	}
	return nil, nil
}

// sound reports whether the endpoint answers well: the last attempt was accepted in good time,
// and none at work takes long.
func (b *backlog) sound(now time.Time, slowAfter time.Duration) bool {
	if b.failing || b.slow {
		return false
	}
	for e := range b.atWork {
		if now.Sub(e.began) > slowAfter {
			return false
		}
	}
	return true
}

// capacity is the number of places of the lane.
func (l *Lane) capacity() int {
	if l.cfg.Places > 0 {
		return l.cfg.Places
	}
	return max(minPlaces, 2*len(l.backlogs))
}

// mayLaunch reports whether an attempt may take a place. One that is not sound has a single
// attempt out anyway, and keeps it up to three quarters however many tokens it holds: their
// waits may be hours, and the attempt is what finds out that the endpoint is back.
func (l *Lane) mayLaunch(b *backlog, now time.Time) bool {
	used, all := l.places, l.capacity()
	return used < all && (b.sound(now, l.cfg.SlowAfter) || 4*used <= 3*all)
}

// mayPlace reports whether a token may take one more place. Over half of them in use, a
// Subscription that is not sound holds one; over three quarters, none.
func (l *Lane) mayPlace(b *backlog, now time.Time) bool {
	if l.places >= l.capacity() {
		return false
	}
	return b.sound(now, l.cfg.SlowAfter) || b.places < l.modestShare()
}

// mayKeep reports whether it may keep the place that it has.
func (l *Lane) mayKeep(b *backlog, now time.Time) bool {
	return b.sound(now, l.cfg.SlowAfter) || b.places <= l.modestShare()
}

// modestShare is what a Subscription that is not sound may hold.
func (l *Lane) modestShare() int {
	used, all := l.places, l.capacity()
	switch {
	case 4*used > 3*all:
		return 0
	case 2*used > all:
		return 1
	}
	return all
}

func (l *Lane) occupy(b *backlog, e *entry) {
	if !e.place {
		e.place = true
		b.places++
		l.places++
	}
}

// vacate gives up the place of what is neither at the endpoint nor has a token.
func (l *Lane) vacate(b *backlog, e *entry) {
	if !e.place || e.phase == sending || e.token != nil || !e.tokenBy.IsZero() {
		return
	}
	e.place = false
	b.places--
	l.places--
	l.feedStarved()
}

// feedStarved lets those try again that found no place.
func (l *Lane) feedStarved() {
	for _, b := range l.starved {
		b.inStarved = false
		l.markRunnable(b)
	}
	l.starved = l.starved[:0]
}

func (l *Lane) starve(b *backlog) {
	if !b.inStarved {
		b.inStarved = true
		l.starved = append(l.starved, b)
	}
}

func (l *Lane) markRunnable(b *backlog) {
	if !b.inRunnable {
		b.inRunnable = true
		l.runnable.push(b)
	}
}

func (l *Lane) markDirty(b *backlog) {
	if !b.inDirty {
		b.inDirty = true
		l.dirty.push(b)
	}
}

// rescan notes that replays are to be read from the store.
func (b *backlog) rescan() {
	if b.behind {
		b.again = true
		return
	}
	b.behind, b.behindAt = true, 0
}
