package deliver

import (
	"cmp"
	"container/list"
	"errors"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// Endpoints is what the lanes of a node share about the endpoints that they send to: how many
// requests are out, how many a second may be, and whether an endpoint answers at all (its
// breaker). An endpoint is a scheme, a host and a port; what has no host has none of these.
//
// It never waits and starts nothing by itself: a Subscription that may not send now stands in
// the endpoint's queue, in the order in which it came, and takes no place of its lane meanwhile.
type Endpoints struct {
	cfg EndpointsConfig

	// mu guards all and its use. It is taken before the mu of an endpoint, and after that of a
	// lane.
	mu     sync.Mutex
	limits func(*url.URL) Limits
	all    map[string]*endpoint
	prune  int // size at which those that nobody uses are dropped
}

// EndpointsConfig says how endpoints are treated. Its functions are called in the middle of a
// lane's work: they must not wait, nor call a lane or Endpoints.
type EndpointsConfig struct {
	Breaker Breaker
	// Limits are those of an endpoint. Nil: none has any.
	Limits func(*url.URL) Limits
	// Turns, where set, gives the limited endpoints to one node of the cluster at a time.
	Turns Turns
	// Opened and Closed tell of a breaker that this node has opened or closed. May be nil.
	Opened func(EndpointStatus)
	Closed func(EndpointStatus)
	// Tried tells that a try of this node has failed and the breaker stays open. May be nil.
	Tried func(EndpointStatus)
}

// Breaker says when an endpoint that keeps failing is left alone. After Failures failed attempts
// in a row, of whatever Subscriptions, each within Window of the one before, and once the row has
// gone on for After, nothing is sent for Open; then one attempt at a time finds out, and the first
// that is answered ends it. What waits meanwhile spends no attempt. Failures of zero: there is no
// breaker. After lets attempts that follow closely be spent as their Subscriptions ask: a burst
// that is refused becomes dead letters, and only what goes on failing is left alone.
type Breaker struct {
	Failures            int
	Window, After, Open time.Duration
}

// Validate refuses what cannot be meant.
func (b Breaker) Validate() error {
	switch {
	case b.Failures < 0:
		return errors.New("failures is below 0: give 1 or more, or 0 for no breaker")
	case b.Failures > 0 && (b.Window <= 0 || b.Open <= 0):
		return errors.New("window and open must be longer than 0")
	case b.After < 0:
		return errors.New("after must not be below 0")
	}
	return nil
}

// Limits of one endpoint. Zero: no limit.
type Limits struct {
	Concurrency int     // requests out at once
	Rate        float64 // requests begun in a second, evenly spaced
}

func (l Limits) any() bool { return l.Concurrency > 0 || l.Rate > 0 }

// Turns gives limited endpoints to one node of a cluster at a time, so that a limit holds for the
// cluster as exactly as it does for a node. It calls Endpoints.Granted when it is this node's
// turn, and Endpoints.Cede when others wait for theirs.
type Turns interface {
	// Want asks for the turn. It may be called often. Like Done it is called in the middle of a
	// lane's work, must not wait, and calls Endpoints back from elsewhere.
	Want(endpoint string)
	// Done gives the turn back: nothing of this node is out.
	Done(endpoint string)
	// Valid reports whether the turns that were granted are certain to be this node's still.
	Valid() bool
}

// EndpointStatus is what is known of an endpoint.
type EndpointStatus struct {
	Name     string // scheme://host:port
	Limits   Limits
	Out      int       // requests out, of this node
	Waiting  int       // Subscriptions that wait for it, of this node
	Failures int       // failed attempts in a row
	Began    time.Time // when the first of them ended
	Open     bool      // the breaker is open: nothing but a try now and then is sent
	Since    time.Time // when it opened
	Until    time.Time // when the next try may be
	Last     record.Code
}

// NewEndpoints makes one for the lanes of a node.
func NewEndpoints(cfg EndpointsConfig) *Endpoints {
	return &Endpoints{cfg: cfg, limits: cfg.Limits, all: map[string]*endpoint{}, prune: minPrune}
}

const minPrune = 1024

// EndpointName is the name of the endpoint that a Subscription's URL leads to; empty where that
// has no host.
func EndpointName(raw string) string {
	_, name := endpointOf(raw)
	return name
}

func endpointOf(raw string) (*url.URL, string) {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" {
		return nil, ""
	}
	scheme := strings.ToLower(u.Scheme)
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port != "" {
		host += ":" + port
	}
	return u, scheme + "://" + host
}

// endpoint is one of them. All fields but name and owner are guarded by mu.
type endpoint struct {
	owner *Endpoints
	name  string

	mu      sync.Mutex
	users   int // Subscriptions that may send to it
	limits  Limits
	limiter *rate.Limiter // nil: no rate
	out     int
	full    bool        // maxOut was reached, and too little is free since
	queue   list.List   // of *waiter, those that may not send now
	timer   *time.Timer // the next moment at which one of them may
	turn    turn

	answered time.Time // the last attempt that was answered
	failures int
	began    time.Time // the first of them
	failed   time.Time // the last of them
	last     record.Code
	open     bool
	probing  bool // one attempt is out to see whether the endpoint is back
	since    time.Time
	until    time.Time
	openings int // of this node or another, to tell one from the next
}

// maxOut is how many requests of a node may be out at an endpoint, whatever its limits: as many as
// there are connections to it (resthook). More would wait for one of those, with their time running.
const maxOut = 256

// busy is why one waits for maxOut. It is never recorded.
const busy record.Code = "busy"

// turn is whether the limits of an endpoint are this node's to use.
type turn int

const (
	noTurn   turn = iota
	asked         // for it
	ours          // we may send
	leaving       // others wait: nothing more is begun, and it is given back when nothing is out
	freeTurn      // nobody else can have it
)

// waiter is a Subscription that waits for an endpoint. Its fields are guarded by the endpoint's mu.
type waiter struct {
	place *list.Element
	woken bool // taken out of the queue to try again
	wake  func()
}

// pass is the leave to make one attempt at an endpoint.
type pass struct {
	endpoint *endpoint
	probe    bool
	opening  int // of the breaker, that it is a try for
}

// tries reports whether it is the try for the breaker as it is now: that may have been closed by hand,
// and have opened again, while the attempt was out.
func (l pass) tries() bool { return l.probe && l.opening == l.endpoint.openings }

// verdict is what an attempt says of its endpoint.
type verdict int

const (
	unknown verdict = iota // it did not get there
	alive                  // it answered, perhaps with a refusal
	failing
)

// use finds the endpoint of a URL for one more Subscription; nil where there is none.
func (s *Endpoints) use(raw string) *endpoint {
	if s == nil {
		return nil
	}
	u, name := endpointOf(raw)
	if name == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.find(name)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users++
	if s.limits != nil {
		p.limit(s.limits(u))
	}
	return p
}

// find makes it where it is not known. The caller holds mu.
func (s *Endpoints) find(name string) *endpoint {
	if p := s.all[name]; p != nil {
		return p
	}
	if len(s.all) >= s.prune {
		now := time.Now()
		for name, p := range s.all {
			p.mu.Lock()
			if p.users == 0 && p.out == 0 && !p.closedTo(now) && p.turn != ours && p.turn != leaving {
				delete(s.all, name)
			}
			p.mu.Unlock()
		}
		s.prune = max(minPrune, 2*len(s.all))
	}
	p := &endpoint{owner: s, name: name}
	if s.cfg.Turns == nil {
		p.turn = freeTurn
	}
	s.all[name] = p
	return p
}

func (s *Endpoints) known(name string) *endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[name]
}

// drop says that a Subscription does not send there any more.
func (p *endpoint) drop(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users--
	p.dequeue(w)
	p.poke(time.Now())
}

// limit takes over limits. The caller holds mu.
func (p *endpoint) limit(l Limits) {
	if p.limits == l {
		return
	}
	if p.limits.Rate != l.Rate {
		p.limiter = nil
		if l.Rate > 0 {
			p.limiter = emptied(l.Rate)
		}
	}
	p.limits = l
}

// emptied is a limiter that gives its first leave after one interval: what was sent just before,
// by this node or another, is not known to it. One at a time makes it exact: in no span of time
// are there more than the rate allows.
func emptied(perSecond float64) *rate.Limiter {
	l := rate.NewLimiter(rate.Limit(perSecond), 1)
	l.Allow()
	return l
}

// enter asks for one attempt. Where it may not be made now, why is given, and w stands in the queue
// until its wake is called.
func (p *endpoint) enter(w *waiter, now time.Time) (leave pass, why record.Code) {
	p.mu.Lock()
	wanted := p.wantTurn()
	leave, why = p.admit(w, now)
	if why != "" && w.place == nil {
		if w.woken {
			w.place = p.queue.PushFront(w) // it was first, and stays so
		} else {
			w.place = p.queue.PushBack(w)
		}
	}
	w.woken = false
	p.rearm(now)
	p.mu.Unlock()
	if wanted {
		p.owner.cfg.Turns.Want(p.name)
	}
	return leave, why
}

func (p *endpoint) admit(w *waiter, now time.Time) (pass, record.Code) {
	free, why := p.free(now)
	if free == 0 {
		return pass{}, why
	}
	if !w.woken && p.queue.Len() > 0 && p.queue.Front() != w.place {
		p.poke(now) // those that came before go first
		return pass{}, why
	}
	p.dequeue(w)
	if p.limiter != nil {
		p.limiter.AllowN(now, 1)
	}
	p.out++
	if p.open {
		p.probing = true
	}
	return pass{p, p.open, p.openings}, ""
}

// free is how many attempts may begin now; where there is none, why not, or else why there are
// not more.
func (p *endpoint) free(now time.Time) (n int, why record.Code) {
	n, why = 1<<30, record.RateLimited
	if p.limits.any() && p.turn != freeTurn && (p.turn != ours || !p.owner.cfg.Turns.Valid()) {
		return 0, record.RateLimited
	}
	if p.open {
		if p.probing || now.Before(p.until) {
			return 0, record.BreakerOpen
		}
		n, why = 1, record.BreakerOpen
	}
	if p.limits.Concurrency > 0 {
		n = min(n, max(0, p.limits.Concurrency-p.out))
	}
	// Once full, it is open again when a good part is free: waking one for each that ends costs more
	// than the send.
	p.full = p.out >= maxOut || p.full && p.out > maxOut-maxOut/8
	if p.full && n > 0 {
		return 0, busy
	}
	n = min(n, maxOut-p.out)
	if p.limiter != nil && n > 0 {
		n = min(n, int(p.limiter.TokensAt(now)))
	}
	return n, why
}

// wantTurn notes that the turn is asked for, and reports whether it must be.
func (p *endpoint) wantTurn() bool {
	if !p.limits.any() || p.turn != noTurn {
		return false
	}
	p.turn = asked
	return true
}

// poke wakes as many as may go, in their order. The caller holds mu.
func (p *endpoint) poke(now time.Time) {
	free, _ := p.free(now)
	for ; free > 0 && p.queue.Len() > 0; free-- {
		w := p.queue.Front().Value.(*waiter)
		p.dequeue(w)
		w.woken = true
		w.wake()
	}
	p.rearm(now)
}

func (p *endpoint) dequeue(w *waiter) {
	if w.place != nil {
		p.queue.Remove(w.place)
		w.place = nil
	}
}

// decline says that a Subscription has nothing to send just now: its turn is the next one's.
func (p *endpoint) decline(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dequeue(w)
	if w.woken {
		w.woken = false
		p.poke(time.Now())
	}
}

// rearm sets the timer for the moment at which the first of the queue may go, where that is known.
func (p *endpoint) rearm(now time.Time) {
	if p.queue.Len() == 0 {
		return
	}
	var wait time.Duration
	switch {
	case p.open && now.Before(p.until):
		wait = p.until.Sub(now)
	case p.open && p.probing, p.full, p.limits.Concurrency > 0 && p.out >= p.limits.Concurrency:
		return // who ends wakes
	case p.limiter != nil && p.limiter.TokensAt(now) < 1:
		wait = time.Duration((1 - p.limiter.TokensAt(now)) / p.limits.Rate * float64(time.Second))
	default:
		// Those that were woken may not come back: their lane may have stopped meanwhile.
		wait = time.Second
	}
	wait = max(wait, 50*time.Microsecond)
	if p.timer == nil {
		p.timer = time.AfterFunc(wait, p.due)
	} else {
		p.timer.Reset(wait)
	}
}

// due looks after those that wait. A limit that came while they did (SetLimits) needs a turn, which
// nobody has asked for.
func (p *endpoint) due() {
	p.mu.Lock()
	wanted := p.queue.Len() > 0 && p.wantTurn()
	p.poke(time.Now())
	p.mu.Unlock()
	if wanted {
		p.owner.cfg.Turns.Want(p.name)
	}
}

// end gives the leave back, with what the attempt has shown.
func (l pass) end(v verdict, code record.Code, now time.Time) {
	if l.endpoint == nil {
		return
	}
	p := l.endpoint
	p.mu.Lock()
	p.out--
	var tell func(EndpointStatus)
	switch v {
	case alive:
		p.answered = now
		tell = p.closed()
	case failing:
		tell = p.failedOnce(l.tries(), code, now)
	}
	if l.tries() {
		p.probing = false
	}
	gone := p.turn == leaving && p.out == 0
	if gone {
		p.turn = noTurn
		if p.queue.Len() > 0 {
			p.turn = asked
		}
	}
	again := p.turn == asked
	p.poke(now)
	status := p.status()
	p.mu.Unlock()
	if gone {
		p.owner.cfg.Turns.Done(p.name)
		if again {
			p.owner.cfg.Turns.Want(p.name)
		}
	}
	if tell != nil {
		tell(status)
	}
}

// closed ends a run of failures, and whatever it has led to.
func (p *endpoint) closed() (tell func(EndpointStatus)) {
	p.failures, p.last = 0, record.Accepted
	if !p.open {
		return nil
	}
	p.open, p.probing = false, false
	return p.owner.cfg.Closed
}

func (p *endpoint) failedOnce(probe bool, code record.Code, now time.Time) (tell func(EndpointStatus)) {
	b := p.owner.cfg.Breaker
	if p.failures > 0 && now.Sub(p.failed) > b.Window {
		p.failures = 0
	}
	if p.failures == 0 {
		p.began = now
	}
	p.failures, p.failed, p.last = p.failures+1, now, code
	switch {
	case b.Failures == 0:
	case p.open && probe:
		p.until = now.Add(b.Open)
		return p.owner.cfg.Tried
	case p.open: // began before it was opened
	case p.failures >= b.Failures && now.Sub(p.began) >= b.After:
		p.open, p.since, p.until = true, now, now.Add(b.Open)
		p.openings++
		return p.owner.cfg.Opened
	}
	return nil
}

func (p *endpoint) status() EndpointStatus {
	return EndpointStatus{
		Name: p.name, Limits: p.limits, Out: p.out, Waiting: p.queue.Len(), Failures: p.failures,
		Began: p.began, Open: p.open, Since: p.since, Until: p.until, Last: p.last,
	}
}

// closedTo reports whether the breaker is open and somebody, here or at another node, still tries. One
// whose Subscriptions are all gone nobody will ever close.
func (p *endpoint) closedTo(now time.Time) bool {
	return p.open && (p.users > 0 || now.Before(p.until))
}

// Status lists the endpoints that are in use or whose breaker is open, by name.
func (s *Endpoints) Status() []EndpointStatus {
	var out []EndpointStatus
	now := time.Now()
	s.mu.Lock()
	for _, p := range s.all {
		p.mu.Lock()
		if p.users > 0 || p.closedTo(now) {
			out = append(out, p.status())
		}
		p.mu.Unlock()
	}
	s.mu.Unlock()
	slices.SortFunc(out, func(a, b EndpointStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Find is the status of one endpoint; false where nothing is known of it.
func (s *Endpoints) Find(name string) (EndpointStatus, bool) {
	p := s.known(name)
	if p == nil {
		return EndpointStatus{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status(), true
}

// OpenBreakers counts the breakers that are open.
func (s *Endpoints) OpenBreakers() (n int) {
	for _, p := range s.Status() {
		if p.Open {
			n++
		}
	}
	return n
}

// OpenedElsewhere takes over that another node has opened a breaker after failures that went on for
// the time of row: this node makes no try of its own before until. It reports false, and leaves its
// breaker closed, where the endpoint has answered this node in that time: a node sees the attempts
// of its own lanes alone, and what fails for one of the Subscriptions may be all that it sees.
//
// A breaker that is open here already stays as it is. Each node that has something waiting makes
// tries of its own, since the endpoint may be back for those of its Subscriptions and for no other.
func (s *Endpoints) OpenedElsewhere(name string, since, until time.Time, row time.Duration) bool {
	if s.cfg.Breaker.Failures == 0 {
		return true
	}
	s.mu.Lock()
	p := s.find(name)
	p.mu.Lock()
	s.mu.Unlock()
	defer p.mu.Unlock()
	if !p.answered.IsZero() && since.Sub(p.answered) < row {
		return false
	}
	if !p.open {
		p.openings++
		p.open, p.probing, p.since, p.until = true, false, since, until
	}
	p.rearm(time.Now())
	return true
}

// Reset closes a breaker by hand, or because another node has found the endpoint back. It reports
// whether it was open.
func (s *Endpoints) Reset(name string) bool {
	p := s.known(name)
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.open
	p.closed()
	p.poke(time.Now())
	return was
}

// SetLimits changes what limits endpoints have, from now on.
func (s *Endpoints) SetLimits(limits func(*url.URL) Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits = limits
	for name, p := range s.all {
		if u, err := url.Parse(name); err == nil {
			p.mu.Lock()
			p.limit(limits(u))
			p.poke(time.Now())
			p.mu.Unlock()
		}
	}
}

// Granted says that it is this node's turn to use the limits of an endpoint. It reports whether the
// turn is wanted; if not it has not been taken.
func (s *Endpoints) Granted(name string) bool {
	p := s.known(name)
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.turn {
	case asked:
		p.turn = ours
		if p.limiter != nil {
			p.limiter = emptied(p.limits.Rate)
		}
		p.poke(time.Now())
	case noTurn:
		return false
	}
	return true
}

// Revoke says that a turn is not this node's any more, or not for certain: it is asked for again
// where it is wanted.
func (s *Endpoints) Revoke(name string) {
	p := s.known(name)
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.turn == freeTurn {
		return
	}
	p.turn = noTurn
	if p.queue.Len() > 0 {
		p.turn = asked
	}
}

// Asking lists the endpoints whose turn is wanted.
func (s *Endpoints) Asking() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, p := range s.all {
		p.mu.Lock()
		if p.turn == asked {
			names = append(names, name)
		}
		p.mu.Unlock()
	}
	return names
}

// Cede says that another node waits for its turn: nothing more begins here, and Turns.Done is
// called when nothing is out.
func (s *Endpoints) Cede(name string) {
	p := s.known(name)
	if p == nil {
		s.cfg.Turns.Done(name)
		return
	}
	p.mu.Lock()
	done, again := false, false
	if p.turn == ours {
		p.turn = leaving
	}
	if p.turn == leaving && p.out == 0 {
		done, p.turn = true, noTurn
		if p.queue.Len() > 0 {
			again, p.turn = true, asked
		}
	}
	p.mu.Unlock()
	if done {
		s.cfg.Turns.Done(name)
	}
	if again {
		s.cfg.Turns.Want(name)
	}
}
