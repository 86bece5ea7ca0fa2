package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// turns gives each limited endpoint to one node of the cluster at a time (deliver.Turns), so that
// its limits hold for the cluster as exactly as for a node. Whose turn it is stands in a bucket, and
// changes hands by compare-and-set: a holder that others wait for ends what it has out, and gives
// the turn back. Nothing is written while it stays where it is.
//
// The turn of a node that is gone is taken when an attempt of it can no longer be under way. A node
// that was away itself, with its lease run out or its process stopped, gives up what it had before
// it sends anything: until it knows that no time is missing, Valid is false.
type turns struct {
	self    string
	life    string // of this process
	log     *slog.Logger
	book    turnBook
	alive   func(node string) bool
	held    func() bool          // this node's lease is good
	quiet   func() time.Duration // bounds how long an attempt of a node that is gone can be under way
	ends    *deliver.Endpoints
	orders  chan turnOrder
	publish func(to string, ask turnAsk) // asks the holder for the turn; to "" tells all that it is free

	mu        sync.Mutex
	confirmed time.Time           // when it was last certain that no time is missing
	mine      map[string]*holding // by endpoint
	wanted    map[string]*wanting
	resting   map[string]time.Time // until when others go first, by endpoint that was given back
	given     map[string]bool      // turns that Endpoints has given back, until they are released
}

// turnAsk is what nodes say to one another about a turn.
type turnAsk struct {
	Endpoint string        `json:"endpoint"`
	Node     string        `json:"node,omitempty"`   // that asks
	Waited   time.Duration `json:"waited,omitempty"` // how long it has waited
}

// holding is a turn of this node.
type holding struct {
	since    time.Time
	revision uint64
	asked    map[string]time.Time // nodes that wait, and since when
}

// wanting is a turn that this node asks for.
type wanting struct {
	since  time.Time
	next   time.Time // of the next look
	free   uint64    // the revision in which the turn was found free for another
	found  time.Time // when
	holder string
	gone   time.Time // since when its holder is not there; zero while it is
}

// turnOrder is something for run to see to.
type turnOrder struct {
	turnAsk
	what string // want, done, cede, free
}

// turnBook is where the turns stand.
type turnBook interface {
	// read gives who has a turn; revision 0 where nobody ever had it.
	read(ctx context.Context, endpoint string) (turnRecord, uint64, error)
	// write replaces the record of a revision; errTurnMoved where another was faster.
	write(ctx context.Context, endpoint string, r turnRecord, revision uint64) (uint64, error)
}

var errTurnMoved = errors.New("the turn has changed hands")

// turnRecord is the value of a turn's key. Holder is empty where it is free.
type turnRecord struct {
	Endpoint string `json:"endpoint"`
	Holder   string `json:"holder,omitempty"`
	Life     string `json:"life,omitempty"`
	// Next has waited longest for a turn that is free. Until it had its chance nobody else takes it:
	// whoever is fastest could be the same node again and again.
	Next string `json:"next,omitempty"`
}

const (
	turnTick = 250 * time.Millisecond
	// turnSlice is how long a turn is kept at least, so that it does not change hands for every
	// notification.
	turnSlice = 500 * time.Millisecond
	// turnCertain is how long a confirmation holds. It is less than the lease of a member, after
	// which the others begin to think that this node is gone.
	turnCertain = 3 * time.Second
	// turnChance is how long a free turn is left to the one who has waited longest.
	turnChance = 2 * turnTick
	// turnMargin is added to the longest attempt of a holder that is gone.
	turnMargin = time.Second
)

func newTurns(self, life string, log *slog.Logger, quiet func() time.Duration) *turns {
	return &turns{
		self: self, life: life, log: log, quiet: quiet, orders: make(chan turnOrder, 4096),
		mine: map[string]*holding{}, wanted: map[string]*wanting{}, resting: map[string]time.Time{}, given: map[string]bool{},
	}
}

// Want is deliver.Turns.
func (t *turns) Want(endpoint string) { t.order(turnOrder{turnAsk{Endpoint: endpoint}, "want"}) }

// Done is deliver.Turns.
func (t *turns) Done(endpoint string) {
	t.mu.Lock()
	t.given[endpoint] = true
	t.mu.Unlock()
	t.order(turnOrder{turnAsk{Endpoint: endpoint}, "done"})
}

// Valid is deliver.Turns.
func (t *turns) Valid() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.confirmed) < turnCertain
}

func (t *turns) order(o turnOrder) {
	select {
	case t.orders <- o:
	default: // looked at again with the next tick, see reconcile
	}
}

// run sees to the turns until ctx ends, and gives back what it has.
func (t *turns) run(ctx context.Context) error {
	tick := time.NewTicker(turnTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			t.leave(context.WithoutCancel(ctx))
			return nil
		case o := <-t.orders:
			t.obey(ctx, o)
		case <-tick.C:
			t.confirm(time.Now())
			t.reconcile(ctx)
			t.look(ctx, time.Now())
		}
	}
}

// confirm notes that no time is missing, or gives up everything where that is not certain.
func (t *turns) confirm(now time.Time) {
	t.mu.Lock()
	certain := t.held() && now.Sub(t.confirmed) < turnCertain
	var lost []string
	if !certain {
		for endpoint := range t.mine {
			lost = append(lost, endpoint)
		}
		clear(t.mine)
	}
	t.mu.Unlock()
	for _, endpoint := range lost {
		t.ends.Revoke(endpoint)
	}
	t.mu.Lock()
	if t.held() {
		t.confirmed = now
	}
	t.mu.Unlock()
}

// reconcile takes up what was given back and asked for while the queue of orders was full.
func (t *turns) reconcile(ctx context.Context) {
	t.mu.Lock()
	given := slices.Collect(maps.Keys(t.given))
	t.mu.Unlock()
	for _, endpoint := range given {
		t.release(ctx, endpoint)
	}
	for _, endpoint := range t.ends.Asking() {
		t.want(endpoint)
	}
}

func (t *turns) want(endpoint string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mine[endpoint] == nil && t.wanted[endpoint] == nil {
		t.wanted[endpoint] = &wanting{since: time.Now(), next: t.resting[endpoint]}
	}
}

func (t *turns) obey(ctx context.Context, o turnOrder) {
	now := time.Now()
	switch o.what {
	case "want":
		t.want(o.Endpoint)
		t.look(ctx, now)
	case "free":
		t.mu.Lock()
		if w := t.wanted[o.Endpoint]; w != nil && !now.Before(t.resting[o.Endpoint]) {
			w.next = now
		}
		t.mu.Unlock()
		t.look(ctx, now)
	case "cede":
		t.mu.Lock()
		h := t.mine[o.Endpoint]
		if h != nil {
			h.heard(o.turnAsk, now)
		}
		t.mu.Unlock()
		switch {
		case h == nil:
			t.repair(ctx, o.Endpoint)
		case now.Sub(h.since) >= turnSlice:
			t.ends.Cede(o.Endpoint)
		}
	case "done":
		t.release(ctx, o.Endpoint)
	}
}

// heard notes who waits for a turn of this node.
func (h *holding) heard(a turnAsk, now time.Time) {
	since := now.Add(-a.Waited)
	if before, known := h.asked[a.Node]; a.Node != "" && (!known || since.Before(before)) {
		h.asked[a.Node] = since
	}
}

// next is who has waited longest; empty where nobody does.
func (h *holding) next() (node string) {
	for name, since := range h.asked {
		if first := h.asked[node]; node == "" || since.Before(first) || since.Equal(first) && name < node {
			node = name
		}
	}
	return node
}

// release gives a turn back and tells who waits. The others go first: this node asks again a
// little later.
func (t *turns) release(ctx context.Context, endpoint string) {
	t.mu.Lock()
	h := t.mine[endpoint]
	delete(t.mine, endpoint)
	delete(t.given, endpoint)
	if h != nil {
		t.resting[endpoint] = time.Now().Add(turnSlice)
	}
	t.mu.Unlock()
	if h == nil {
		return
	}
	_, err := t.book.write(ctx, endpoint, turnRecord{Endpoint: endpoint, Next: h.next()}, h.revision)
	if err != nil && !errors.Is(err, errTurnMoved) {
		// It stands as ours, and is taken up again, or by others when they find us gone.
		t.log.Debug("a turn was not given back", "endpoint", endpoint, "err", err)
	}
	t.publish("", turnAsk{Endpoint: endpoint})
}

// repair frees a turn that stands as this node's and is not: giving it back had failed, or its lease
// had run out meanwhile. What it has out since then ends first.
func (t *turns) repair(ctx context.Context, endpoint string) {
	if s, known := t.ends.Find(endpoint); known && s.Out > 0 {
		return // who waits asks again
	}
	r, revision, err := t.book.read(ctx, endpoint)
	if err == nil && r.Holder == t.self {
		_, err = t.book.write(ctx, endpoint, turnRecord{Endpoint: endpoint}, revision)
	}
	if err != nil {
		t.log.Debug("a turn was not given back", "endpoint", endpoint, "err", err)
		return
	}
	t.publish("", turnAsk{Endpoint: endpoint})
}

// look tries to get what is wanted and due.
func (t *turns) look(ctx context.Context, now time.Time) {
	t.mu.Lock()
	for endpoint, until := range t.resting {
		if now.After(until) {
			delete(t.resting, endpoint)
		}
	}
	due := map[string]*wanting{}
	for endpoint, w := range t.wanted {
		if !now.Before(w.next) {
			due[endpoint] = w
		}
	}
	t.mu.Unlock()
	for endpoint, w := range due {
		w.next = now.Add(turnTick)
		if !t.Valid() {
			continue
		}
		h, err := t.take(ctx, endpoint, w, now)
		if err != nil && !errors.Is(err, errTurnMoved) {
			t.log.Debug("a turn was not asked for", "endpoint", endpoint, "err", err)
		}
		if h == nil {
			continue
		}
		t.mu.Lock()
		t.mine[endpoint] = h
		delete(t.wanted, endpoint)
		t.mu.Unlock()
		if !t.ends.Granted(endpoint) {
			t.release(ctx, endpoint)
		}
	}
}

// take gets a turn that is free, that this node had before, or whose holder is gone for long
// enough; nil where none of that is so.
func (t *turns) take(ctx context.Context, endpoint string, w *wanting, now time.Time) (*holding, error) {
	r, revision, err := t.book.read(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	if r.Holder != w.holder {
		w.holder, w.gone = r.Holder, time.Time{}
	}
	switch {
	case r.Holder == "" && t.isFor(r.Next, w, revision, now):
		return nil, nil
	case r.Holder == "" || r.Holder == t.self:
		// What an earlier process of this node had out ended with it.
	case t.alive(r.Holder):
		w.gone = time.Time{}
		t.publish(r.Holder, turnAsk{Endpoint: endpoint, Node: t.self, Waited: now.Sub(w.since)})
		return nil, nil
	case w.gone.IsZero():
		w.gone = now
		return nil, nil
	case now.Sub(w.gone) < t.quiet()+turnMargin:
		return nil, nil
	}
	revision, err = t.book.write(ctx, endpoint, turnRecord{Endpoint: endpoint, Holder: t.self, Life: t.life}, revision)
	if err != nil {
		return nil, err
	}
	return &holding{since: time.Now(), revision: revision, asked: map[string]time.Time{}}, nil
}

// isFor reports whether a turn that is free is another's to take, who has waited longer.
func (t *turns) isFor(other string, w *wanting, revision uint64, now time.Time) bool {
	if w.free != revision {
		w.free, w.found = revision, now
	}
	return other != "" && other != t.self && t.alive(other) && now.Sub(w.found) < turnChance
}

// leave gives everything back at a stop.
func (t *turns) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	t.mu.Lock()
	t.confirmed = time.Time{}
	var all []string
	for endpoint := range t.mine {
		all = append(all, endpoint)
	}
	t.mu.Unlock()
	for _, endpoint := range all {
		t.release(ctx, endpoint)
	}
}

// turnBucket keeps the turns of a cluster.
type turnBucket struct {
	js       jetstream.JetStream
	replicas int

	mu sync.Mutex
	kv jetstream.KeyValue
}

const turnTimeout = 2 * time.Second

// open makes the bucket where it is missing. It is on disk, so that a node whose turn it was is
// still known after a restart of all.
func (b *turnBucket) open(ctx context.Context) (jetstream.KeyValue, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kv != nil {
		return b.kv, nil
	}
	kv, err := b.js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: "TURNS", Description: "whose turn it is to send to limited endpoints",
		Storage: jetstream.FileStorage, Replicas: b.replicas, History: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("bucket of the turns: %w", err)
	}
	b.kv = kv
	return kv, nil
}

// turnKey names an endpoint in the alphabet of keys.
func turnKey(endpoint string) string {
	sum := sha256.Sum256([]byte(endpoint))
	return hex.EncodeToString(sum[:])
}

func (b *turnBucket) read(ctx context.Context, endpoint string) (r turnRecord, revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	kv, err := b.open(ctx)
	if err != nil {
		return r, 0, err
	}
	e, err := kv.Get(ctx, turnKey(endpoint))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return r, 0, nil
	}
	if err != nil {
		return r, 0, fmt.Errorf("turn of %s: %w", endpoint, err)
	}
	if err := json.Unmarshal(e.Value(), &r); err != nil {
		return r, 0, fmt.Errorf("turn of %s cannot be read: %w", endpoint, err)
	}
	return r, e.Revision(), nil
}

func (b *turnBucket) write(ctx context.Context, endpoint string, r turnRecord, revision uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	kv, err := b.open(ctx)
	if err != nil {
		return 0, err
	}
	var next uint64
	if revision == 0 {
		next, err = kv.Create(ctx, turnKey(endpoint), record.Encode(r))
	} else {
		next, err = kv.Update(ctx, turnKey(endpoint), record.Encode(r), revision)
	}
	var refused *jetstream.APIError
	if errors.Is(err, jetstream.ErrKeyExists) || errors.As(err, &refused) && refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return 0, errTurnMoved
	}
	if err != nil {
		return 0, fmt.Errorf("turn of %s: %w", endpoint, err)
	}
	return next, nil
}

// turnSubject is where a node hears that others wait for a turn of it; that of no node is where all
// hear that one is free.
func turnSubject(node string) string {
	if node == "" {
		return "carillon.turn.free"
	}
	return "carillon.turn.want." + node
}

// hear follows what other nodes say about turns until ctx ends.
func (t *turns) hear(ctx context.Context, conn *nats.Conn) error {
	for subject, what := range map[string]string{turnSubject(t.self): "cede", turnSubject(""): "free"} {
		sub, err := conn.Subscribe(subject, func(m *nats.Msg) {
			var ask turnAsk
			if json.Unmarshal(m.Data, &ask) == nil {
				t.order(turnOrder{ask, what})
			}
		})
		if err != nil {
			return fmt.Errorf("hear of turns from other nodes: %w", err)
		}
		defer sub.Unsubscribe()
	}
	<-ctx.Done()
	return nil
}
