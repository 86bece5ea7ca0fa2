package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// Times of a membership. They are fixed, since all nodes must agree on them.
const (
	lease      = 5 * time.Second         // from when a renewal was asked
	renewEvery = 1500 * time.Millisecond // two may fail before the lease is in danger
	lookEvery  = 400 * time.Millisecond
	leaveTime  = 2 * time.Second
	// settle is how long a node that has had no lease does not count itself. Where the bucket's own
	// leader was lost all leases lapse together, and whoever has one again first would take itself for
	// the only member: by then every other node that lives has renewed, and is seen here.
	settle = renewEvery + 3*lookEvery
)

const (
	membersBucket = "MEMBERS"
	membersStream = "KV_" + membersBucket
	memberPrefix  = "$KV." + membersBucket + "."
)

// Member is a node that holds a lease.
type Member struct {
	Name string
	Data []byte    // what it last told of itself
	Seen time.Time // when a sign of life was last seen, by this node's clock
}

// Members are the nodes of the cluster that are alive, this one among them. Each puts its key
// into a bucket of the cluster every 1.5 s. An acknowledged put is a lease of five seconds, from
// when it was asked; who showed no new key for five seconds is gone. So a holder knows of its
// lease's end before the others do, and no clock is compared with another's.
//
// On a single node there is no bucket: the lease is always held.
type Members struct {
	s     *Server
	name  string
	alone bool

	mu      sync.Mutex
	life    string // of this Run: a key that an earlier one left is no sign of life
	data    []byte
	renewed uint64
	until   time.Time // end of the lease; zero while there is none
	settled time.Time // from when this node counts itself: the others had time to show that they live
	others  map[string]*sighting
	told    []string // the view as last told: names, and what each says of itself
	changed chan struct{}

	hurry chan struct{} // the next renewal is due now
}

// sighting is what is known of another node. It is kept when the node has gone, so that a
// replica that lags behind does not bring it back.
type sighting struct {
	life  string
	count uint64
	past  map[string]bool // lives that ended
	data  []byte
	seen  time.Time
	left  bool
}

// memberKey is the value of a member's key.
type memberKey struct {
	Life  string `json:"life"`
	Count uint64 `json:"count"`
	Data  []byte `json:"data,omitempty"`
}

// Join prepares the membership of this node under its name, which is unique in the cluster; data
// is what the others are told. Run takes up the lease. Join waits for the cluster as long as ctx
// lives.
func (s *Server) Join(ctx context.Context, name string, data []byte) (*Members, error) {
	if !validName(name) {
		return nil, fmt.Errorf("join as %q: use letters, digits, '-' and '_'", name)
	}
	m := &Members{
		s: s, name: name, alone: !s.cfg.clustered(), data: slices.Clone(data),
		others: map[string]*sighting{}, changed: make(chan struct{}), hurry: make(chan struct{}, 1),
	}
	if m.alone {
		m.tell()
		return m, nil
	}
	err := s.await(ctx, saysAfter, "waiting for the bucket of the cluster's members", m.makeBucket)
	if err != nil {
		return nil, fmt.Errorf("join as %s: %w", name, err)
	}
	return m, nil
}

// makeBucket creates the bucket where it is missing. Leases mean nothing to those who come after a
// restart of all, but it is on disk: in memory it would have no leader, and nobody a lease, before
// the last of the nodes is back.
func (m *Members) makeBucket(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	_, err := m.s.js.Stream(ctx, membersStream)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return readError(err)
	}
	_, err = m.s.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: membersBucket, Description: "nodes that are alive",
		Storage: jetstream.FileStorage, Replicas: m.s.cfg.Replicas, History: 1,
	})
	if errors.Is(err, jetstream.ErrBucketExists) {
		return nil
	}
	return readError(err)
}

// Held reports whether this node's lease is good now. A process that was stopped and wakes up
// finds it run out.
func (m *Members) Held() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heldLocked(time.Now())
}

func (m *Members) heldLocked(now time.Time) bool { return m.alone || now.Before(m.until) }

// View are the members that are alive, by name; this node among them while it holds its lease. It is
// empty while nothing is known: no lease, and nobody seen, or not long enough since to have seen all.
func (m *Members) View() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.viewLocked(time.Now())
}

func (m *Members) viewLocked(now time.Time) []Member {
	var view []Member
	if m.heldLocked(now) && now.Before(m.settled) {
		return nil
	}
	if m.heldLocked(now) {
		view = append(view, Member{m.name, m.data, now})
	}
	for name, o := range m.others {
		if !o.left && now.Sub(o.seen) < lease {
			view = append(view, Member{name, o.data, o.seen})
		}
	}
	slices.SortFunc(view, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return view
}

// Changed is closed when View has other names than before, or one of them tells something else of
// itself. Take the channel before the view, or a change between the two is missed.
func (m *Members) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// SetData is what this node tells the others of itself from now on. They are told at once, by a
// renewal out of turn.
func (m *Members) SetData(data []byte) {
	m.mu.Lock()
	m.data = slices.Clone(data)
	m.mu.Unlock()
	m.tell()
	select {
	case m.hurry <- struct{}{}:
	default:
	}
}

// Run renews the lease and looks for the others until ctx ends (nil). Then it gives the lease
// back, so that the others need not wait for its end; that takes two seconds at most.
func (m *Members) Run(ctx context.Context) error {
	if m.alone {
		<-ctx.Done()
		return nil
	}
	m.begin()
	var looking sync.WaitGroup
	defer looking.Wait()
	looked := make(chan struct{})
	looking.Go(func() { m.look(ctx, looked) })
	select { // who knows only itself would take over everything
	case <-looked:
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	m.keep(ctx)
	m.leave(context.WithoutCancel(ctx))
	return nil
}

// begin starts a life of its own: one that was given back is over for the others.
func (m *Members) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.life, m.renewed = nuid.Next(), 0
}

// keep renews the lease.
func (m *Members) keep(ctx context.Context) {
	said := false
	for ctx.Err() == nil {
		asked := time.Now()
		err := m.renew(ctx, asked)
		next := asked.Add(renewEvery)
		switch {
		case err == nil && said:
			said = false
			m.s.log.Info("lease of this node is renewed again")
		case err != nil && ctx.Err() == nil:
			// Not for a change of leader that is over before the lease is in danger.
			if !said && m.left(time.Now()) < lease/2 {
				said = true
				m.s.log.Warn("lease of this node is not renewed, will try again", "err", err)
			}
			next = time.Now().Add(renewEvery / 5)
			if errors.Is(err, nats.ErrNoResponders) { // no leader at this moment, or no bucket
				if err := m.makeBucket(ctx); err != nil {
					m.s.log.Debug("bucket of the members was not made", "err", err)
				}
			}
		}
		wait(ctx, time.Until(next))
	}
}

// left is how long the lease is still good.
func (m *Members) left(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.until.Sub(now)
}

func (m *Members) renew(ctx context.Context, asked time.Time) error {
	m.mu.Lock()
	m.renewed++
	key, err := json.Marshal(memberKey{Life: m.life, Count: m.renewed, Data: m.data})
	m.mu.Unlock()
	if err != nil {
		return err
	}
	// An answer that comes later is not counted: by then the next renewal has been asked.
	if err := m.put(ctx, &nats.Msg{Data: key, Header: nats.Header{}}, renewEvery); err != nil {
		return err
	}
	m.mu.Lock()
	if now := time.Now(); !m.heldLocked(now) {
		m.settled = now.Add(settle)
	}
	m.until = asked.Add(lease)
	m.mu.Unlock()
	m.tell()
	return nil
}

func (m *Members) put(ctx context.Context, msg *nats.Msg, timeout time.Duration) error {
	msg.Subject = memberPrefix + m.name
	msg.Header[nats.ExpectedStreamHdr] = []string{membersStream}
	q, err := m.s.answers.send(msg)
	if err != nil {
		return err
	}
	_, err = q.await(ctx, timeout)
	return err
}

// leave gives the lease back. It has ended for this node before the others hear of it.
func (m *Members) leave(ctx context.Context) {
	m.mu.Lock()
	m.until = time.Time{}
	m.mu.Unlock()
	m.tell()
	err := m.put(ctx, &nats.Msg{Header: nats.Header{"KV-Operation": {"DEL"}}}, leaveTime)
	if err != nil {
		m.s.log.Info("lease of this node was not given back, the others wait for its end", "node", m.name, "err", err)
	}
}

// look reads the keys of all members again and again, and closes looked after the first answer.
// Reading is steadier than a subscription with a consumer, which is lost together with its node
// just when it is needed.
func (m *Members) look(ctx context.Context, looked chan<- struct{}) {
	first := sync.OnceFunc(func() { close(looked) })
	defer first()
	prefix := m.s.nc.nc.NewInbox() + "."
	answers := make(chan *nats.Msg, 1024)
	sub, err := m.s.nc.nc.ChanSubscribe(prefix+"*", answers)
	if err != nil {
		m.s.log.Error("members cannot be read", "err", err)
		return
	}
	defer sub.Unsubscribe()
	for n := 0; ; n++ {
		if m.read(ctx, prefix+strconv.Itoa(n), answers) {
			first()
		}
		m.tell()
		if !wait(ctx, lookEvery) {
			return
		}
	}
}

// read asks for the newest value of every key. Any replica may answer: the one in this process
// does where there is one.
func (m *Members) read(ctx context.Context, reply string, answers <-chan *nats.Msg) (all bool) {
	err := m.s.nc.nc.PublishRequest("$JS.API.DIRECT.GET."+membersStream, reply, []byte(`{"multi_last":["`+memberPrefix+`*"]}`))
	if err != nil {
		return false
	}
	timeout := time.NewTimer(time.Second)
	defer timeout.Stop()
	for {
		select {
		case msg := <-answers:
			if msg.Subject != reply {
				continue // of a question that was given up
			}
			if msg.Header.Get("Nats-Sequence") == "" { // the end, or no key at all, or nobody there
				status := msg.Header.Get("Status")
				return status == "204" || status == "404"
			}
			m.see(msg)
		case <-timeout.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// see takes a key for a sign of life if it is newer than what was known.
func (m *Members) see(msg *nats.Msg) {
	name := strings.TrimPrefix(msg.Header.Get("Nats-Subject"), memberPrefix)
	if name == m.name {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.others[name]
	if msg.Header.Get("KV-Operation") != "" {
		if o != nil && !o.left {
			o.left = true
			o.past[o.life] = true // a life that was given back does not go on
		}
		return
	}
	var key memberKey
	if err := json.Unmarshal(msg.Data, &key); err != nil {
		m.s.log.Warn("key of a member cannot be read", "node", name, "err", err)
		return
	}
	if o == nil {
		o = &sighting{past: map[string]bool{}}
		m.others[name] = o
	}
	if o.past[key.Life] || key.Life == o.life && key.Count <= o.count {
		return
	}
	if o.life != "" && key.Life != o.life {
		o.past[o.life] = true
	}
	o.life, o.count, o.data, o.seen, o.left = key.Life, key.Count, key.Data, time.Now(), false
}

// tell closes Changed if the view is another than before.
func (m *Members) tell() {
	m.mu.Lock()
	defer m.mu.Unlock()
	var view []string
	for _, v := range m.viewLocked(time.Now()) {
		view = append(view, v.Name, string(v.Data))
	}
	if slices.Equal(view, m.told) {
		return
	}
	m.told = view
	close(m.changed)
	m.changed = make(chan struct{})
}
