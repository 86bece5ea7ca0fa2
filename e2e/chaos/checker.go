package chaos

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Violation is a promise that was not kept.
type Violation struct {
	Check string // which promise, as the table in DESIGN.md names it
	Text  string
}

// String is one line.
func (v Violation) String() string { return v.Check + ": " + v.Text }

// Report is what the checker found.
type Report struct {
	Violations []Violation
	Counts     Counts
	Faults     map[string]*FaultReport
	Impossible map[string]string // faults that could not be made, and why
}

// Counts are how much was looked at: a run in which nothing happened proves nothing.
type Counts struct {
	Acknowledged, Refused, Unknown int
	Owed                           int // (acknowledged write, Subscription) pairs that had to arrive
	Arrivals                       int
	Duplicates, DuplicatesAllowed  int // arrivals after one that was answered with success
	Overlaps                       int // a newer version that came before the older one was accepted
	DeadLetters                    int
	ReadBack                       int
}

// FaultReport is what one kind of fault cost.
type FaultReport struct {
	Made     int
	AckGaps  []time.Duration // longest time without an acknowledgement, around each
	SendGaps []time.Duration // the same for arrivals
	Ready    []time.Duration // from the end of the fault until all nodes served
}

// place is one version of one resource.
type place struct {
	resource string
	version  uint64
}

// op is one write as its writer knows it.
type op struct {
	Record          // as asked
	outcome  Kind   // Acknowledged, Refused or Unknown; Asked while the writer never heard
	version  uint64 // as acknowledged
	askedAt  time.Duration
	heardAt  time.Duration
	text     string
	status   int
	resource resource
}

type opID struct {
	resource string
	seq      int
}

// match is what is known of one event number of a Subscription.
type match struct {
	place
	webhookID   string
	interaction string
	firstAt     time.Duration
	acceptedAt  time.Duration // when a success was answered; 0 if never
	arrivals    int
	repeats     int // after the success
	dead        bool
}

// checker holds a history in the form in which it is asked about.
type checker struct {
	subs    []Subscription
	records []Record
	ops     map[opID]*op
	order   []*op                        // as asked
	made    map[place]*op                // acknowledged, by version
	matches map[string]map[uint64]*match // by Subscription and number
	changes map[string][]change          // by Subscription, in order
	report  Report
	seen    map[string]int // violations by check, so that one bug does not print thousands of lines
}

// worst is how many violations of one check are told in full.
const worst = 10

// Check holds a history to the promises. It is a function of the history alone.
func Check(records []Record, subs []Subscription) Report {
	records = slices.Clone(records)
	slices.SortStableFunc(records, func(a, b Record) int { return cmp.Compare(a.At, b.At) })
	c := &checker{
		subs: subs, records: records, ops: map[opID]*op{}, made: map[place]*op{},
		matches: map[string]map[uint64]*match{}, seen: map[string]int{},
		report: Report{Faults: map[string]*FaultReport{}, Impossible: map[string]string{}},
	}
	c.changing()
	c.writes()
	c.arrivals()
	c.listed()
	c.lost()
	c.numbers()
	c.resourceOrder()
	c.versions()
	c.readBack()
	c.duplicates()
	c.faults()
	for check, n := range c.seen {
		if n > worst {
			c.report.Violations = append(c.report.Violations, Violation{check, fmt.Sprintf("and %d more", n-worst)})
		}
	}
	slices.SortStableFunc(c.report.Violations, func(a, b Violation) int { return cmp.Compare(a.Check, b.Check) })
	return c.report
}

func (c *checker) violate(check, format string, args ...any) {
	if c.seen[check]++; c.seen[check] <= worst {
		c.report.Violations = append(c.report.Violations, Violation{check, fmt.Sprintf(format, args...)})
	}
}

// writes joins what was asked with what was answered.
func (c *checker) writes() {
	for _, r := range c.records {
		id := opID{r.Resource, r.Seq}
		switch r.Kind {
		case Asked:
			o := &op{Record: r, outcome: Asked, askedAt: r.At}
			if len(r.Body) > 0 {
				_ = json.Unmarshal(r.Body, &o.resource) // written by the workload itself
			}
			c.ops[id] = o
			c.order = append(c.order, o)
		case Acknowledged, Refused, Unknown:
			o := c.ops[id]
			if o == nil {
				c.violate("history", "%s %s #%d was never asked", r.Kind, r.Resource, r.Seq)
				continue
			}
			o.outcome, o.version, o.heardAt, o.status, o.text = r.Kind, r.Version, r.At, r.Status, r.Text
		}
	}
	for _, o := range c.order {
		switch o.outcome {
		case Acknowledged:
			c.report.Counts.Acknowledged++
		case Refused:
			c.report.Counts.Refused++
			if o.status/100 == 4 {
				c.violate("refused", "%s %s #%d, a plain write, was refused with %d: %s", o.Interaction, o.Resource, o.Seq, o.status, o.text)
			}
		default:
			c.report.Counts.Unknown++
		}
	}
}

// versions: an acknowledged version belongs to one write, and versions rise in the order in
// which a resource was written.
func (c *checker) versions() {
	last := map[string]*op{}
	for _, o := range c.order {
		if o.outcome != Acknowledged {
			continue
		}
		if o.version == 0 {
			if o.Interaction == "write" {
				c.violate("versions", "%s #%d was acknowledged without a version", o.Resource, o.Seq)
			}
			continue
		}
		if before := last[o.Resource]; before != nil && before.heardAt < o.askedAt && before.version >= o.version {
			c.violate("versions", "%s: write #%d was acknowledged as version %d, and #%d, asked for later, as %d",
				o.Resource, before.Seq, before.version, o.Seq, o.version)
		}
		last[o.Resource] = o
	}
}

// arrivals looks at each notification for itself.
func (c *checker) arrivals() {
	for _, o := range c.order {
		if o.outcome == Acknowledged && o.version > 0 {
			c.made[place{o.Resource, o.version}] = o
		}
	}
	for _, r := range c.records {
		switch r.Kind {
		case Arrived:
			c.report.Counts.Arrivals++
			c.arrived(r)
		case Finding:
			c.violate("finding", "%s %s %s event %d: %s", r.Node, r.Subscription, r.Resource, r.Number, r.Text)
		}
	}
}

func (c *checker) sub(id string) *Subscription {
	i := slices.IndexFunc(c.subs, func(s Subscription) bool { return s.ID == id })
	if i < 0 {
		return nil
	}
	return &c.subs[i]
}

func (c *checker) arrived(r Record) {
	s := c.sub(r.Subscription)
	if s == nil {
		c.violate("unwanted", "a notification of %q arrived, which is no Subscription of this run", r.Subscription)
		return
	}
	c.justified(r, s)
	m := c.match(r.Subscription, r.Number)
	if m.arrivals == 0 && !m.dead {
		m.place, m.webhookID, m.interaction, m.firstAt = place{r.Resource, r.Version}, r.WebhookID, r.Interaction, r.At
	} else if m.place != (place{r.Resource, r.Version}) || m.webhookID != r.WebhookID || m.interaction != r.Interaction {
		c.violate("numbers", "%s event %d stands for %s of %s version %d (%s) and for %s of %s version %d (%s)", r.Subscription, r.Number,
			m.interaction, m.resource, m.version, m.webhookID, r.Interaction, r.Resource, r.Version, r.WebhookID)
	}
	m.arrivals++
	if m.acceptedAt > 0 && r.At > m.acceptedAt {
		m.repeats++
	}
	if r.Status/100 == 2 && m.acceptedAt == 0 {
		m.acceptedAt = r.Answered
	}
}

func (c *checker) match(subscription string, number uint64) *match {
	if c.matches[subscription] == nil {
		c.matches[subscription] = map[uint64]*match{}
	}
	m := c.matches[subscription][number]
	if m == nil {
		m = &match{}
		c.matches[subscription][number] = m
	}
	return m
}

// justified: what arrives was written, as it is, and is what the Subscription asks for.
func (c *checker) justified(r Record, s *Subscription) {
	parts := strings.Split(r.WebhookID, ".")
	if len(parts) != 3 || parts[0] != r.Subscription || parts[2] != fmt.Sprint(r.Number) {
		c.violate("numbers", "%s event %d has the webhook-id %q", r.Subscription, r.Number, r.WebhookID)
	}
	if r.Interaction == "delete" {
		if !s.Deletes {
			c.violate("unwanted", "%s got a delete of %s, which it does not ask for", r.Subscription, r.Resource)
		}
		return // which one it was, the node's list of events says
	}
	o := c.ops[opID{r.Resource, r.Seq}]
	switch {
	case o == nil || o.Interaction != "write":
		c.violate("unwanted", "%s got %s #%d version %d, which nobody wrote", r.Subscription, r.Resource, r.Seq, r.Version)
	case o.Sum != r.Sum:
		c.violate("fidelity", "%s got %s #%d version %d with another content than was written", r.Subscription, r.Resource, r.Seq, r.Version)
	case o.outcome == Refused:
		c.violate("unwanted", "%s got %s #%d version %d, which was refused (%d)", r.Subscription, r.Resource, r.Seq, r.Version, o.status)
	case !c.mayWant(o, s):
		c.violate("unwanted", "%s got %s #%d version %d, which %s does not match", r.Subscription, r.Resource, r.Seq, r.Version, s.Criteria)
	case o.outcome == Acknowledged && o.version != r.Version:
		c.violate("versions", "%s got %s #%d as version %d; it was acknowledged as %d", r.Subscription, r.Resource, r.Seq, r.Version, o.version)
	case o.outcome != Acknowledged && o.version != 0 && o.version != r.Version:
		c.violate("versions", "%s got %s #%d as version %d; it arrived as %d before: one write was made twice", r.Subscription, r.Resource, r.Seq, r.Version, o.version)
	case o.outcome != Acknowledged:
		o.version = r.Version
	}
}

// listed takes in what the nodes list: dead letters, and the events of each Subscription. All
// nodes must list the same.
func (c *checker) listed() {
	type event struct {
		place
		interaction string
	}
	lists := map[string]map[uint64]map[string]event{} // Subscription, number, node
	for _, r := range c.records {
		switch r.Kind {
		case Dead:
			c.report.Counts.DeadLetters++
			if s := c.sub(r.Subscription); s == nil || !s.Mortal {
				c.violate("dead", "%s event %d of %s is a dead letter, but its attempts have no end", r.Subscription, r.Number, r.Resource)
			}
			if o := c.made[place{r.Resource, r.Version}]; o != nil && r.Sum != "" && r.Sum != o.Sum {
				c.violate("dead", "the dead letter %s event %d of %s holds another content than was written", r.Subscription, r.Number, r.Resource)
			}
			m := c.match(r.Subscription, r.Number)
			m.dead = true
			if m.resource == "" { // it never arrived
				m.place = place{r.Resource, r.Version}
			}
		case Numbered:
			if lists[r.Subscription] == nil {
				lists[r.Subscription] = map[uint64]map[string]event{}
			}
			if lists[r.Subscription][r.Number] == nil {
				lists[r.Subscription][r.Number] = map[string]event{}
			}
			lists[r.Subscription][r.Number][r.Node] = event{place{r.Resource, r.Version}, r.Interaction}
		}
	}
	for subscription, numbers := range lists {
		for number, nodes := range numbers {
			var first event
			for node, e := range nodes {
				if first == (event{}) {
					first = e
				} else if e != first {
					c.violate("projections", "%s event %d is %s of %s version %d on %s, and on another node %s of %s version %d",
						subscription, number, e.interaction, e.resource, e.version, node, first.interaction, first.resource, first.version)
				}
			}
			m := c.match(subscription, number)
			if m.resource != "" && (m.resource != first.resource || m.version != 0 && m.version != first.version) {
				c.violate("numbers", "%s event %d arrived as %s version %d and is listed as %s version %d",
					subscription, number, m.resource, m.version, first.resource, first.version)
			}
			m.place = first.place // of a delete, the arrival does not tell the version
			if first.interaction == "delete" && !c.deleted(first.place) {
				c.violate("unwanted", "%s event %d is a delete of %s at version %d, which nobody asked for", subscription, number, first.resource, first.version)
			}
		}
	}
}

// deleted reports whether a version may be a delete: one that was acknowledged as such, or one
// of whose outcome nobody knows.
func (c *checker) deleted(p place) bool {
	if o := c.made[p]; o != nil {
		return o.Interaction == "delete"
	}
	return slices.ContainsFunc(c.order, func(o *op) bool {
		return o.Resource == p.resource && o.Interaction == "delete" && (o.outcome == Unknown || o.outcome == Asked)
	})
}

// lost: each acknowledged write arrived and was accepted at each Subscription that it matches,
// or is a dead letter there.
func (c *checker) lost() {
	met := map[string]map[place]*match{}
	for subscription, numbers := range c.matches {
		met[subscription] = map[place]*match{}
		for _, m := range numbers {
			met[subscription][m.place] = m
		}
	}
	for _, o := range c.order {
		if o.outcome != Acknowledged || o.version == 0 {
			continue
		}
		for _, s := range c.subs {
			if !c.owed(o, &s) {
				continue
			}
			c.report.Counts.Owed++
			m := met[s.ID][place{o.Resource, o.version}]
			switch {
			case m == nil || m.arrivals == 0 && !m.dead:
				c.violate("lost", "%s of %s #%d was acknowledged as version %d at %s and never reached %s",
					o.Interaction, o.Resource, o.Seq, o.version, o.heardAt.Round(time.Millisecond), s.ID)
			case m.acceptedAt == 0 && !m.dead:
				c.violate("lost", "%s of %s #%d version %d reached %s, was not accepted, and was given up without a dead letter",
					o.Interaction, o.Resource, o.Seq, o.version, s.ID)
			}
		}
	}
}

// owed reports whether a Subscription has to be told of a write: whatever criteria it may have
// had while the write was under way, all of them want it. All Subscriptions are in force before
// the first write, and stay so.
func (c *checker) owed(o *op, s *Subscription) bool {
	if o.Interaction == "delete" {
		return s.Deletes && s.Wants(resource{"resourceType": strings.SplitN(o.Resource, "/", 2)[0]})
	}
	for _, v := range c.inForce(o, s) {
		if !s.variant(v).Wants(o.resource) {
			return false
		}
	}
	return true
}

// mayWant reports whether a criteria that the Subscription may have had wants the write.
func (c *checker) mayWant(o *op, s *Subscription) bool {
	return slices.ContainsFunc(c.inForce(o, s), func(v int) bool { return s.variant(v).Wants(o.resource) })
}

// change is one of the criteria that a Subscription was given.
type change struct {
	variant int
	asked   time.Duration
	done    time.Duration // when it was acknowledged; never if it was not
}

const never = time.Duration(1<<63 - 1)

// changes are those of each Subscription, the one that it began with first.
func (c *checker) changing() {
	c.changes = map[string][]change{}
	for _, s := range c.subs {
		c.changes[s.ID] = []change{{asked: -1, done: -1}}
	}
	for _, r := range c.records {
		switch r.Kind {
		case Changing:
			c.changes[r.Subscription] = append(c.changes[r.Subscription], change{r.Variant, r.At, never})
		case Changed:
			if list := c.changes[r.Subscription]; len(list) > 0 {
				list[len(list)-1].done = r.At
			}
		}
	}
}

// inForce are the criteria that a Subscription may have had when a write took its place in the
// log: those asked for before the answer to the write, and not replaced before it was asked.
func (c *checker) inForce(o *op, s *Subscription) (variants []int) {
	until := never // of a write whose outcome is not known, nobody knows when
	if o.outcome == Acknowledged {
		until = o.heardAt
	}
	list := c.changes[s.ID]
	for i, ch := range list {
		replaced := slices.ContainsFunc(list[i+1:], func(later change) bool { return later.done < o.askedAt })
		if ch.asked <= until && !replaced {
			variants = append(variants, ch.variant)
		}
	}
	return variants
}

// numbers: those of a Subscription are 1 to n without a gap (gaps), and no version has two (double).
func (c *checker) numbers() {
	for _, subscription := range slices.Sorted(maps.Keys(c.matches)) {
		byNumber := c.matches[subscription]
		by := map[place]uint64{}
		numbers := slices.Sorted(maps.Keys(byNumber))
		for i, number := range numbers {
			if want := uint64(i + 1); number != want {
				c.violate("gaps", "%s has no event %d, but event %d", subscription, want, number)
				break
			}
		}
		for _, number := range numbers {
			m := byNumber[number]
			if m.version == 0 {
				continue
			}
			if other, twice := by[m.place]; twice {
				c.violate("double", "%s has %s version %d as event %d and as event %d", subscription, m.resource, m.version, other, number)
			}
			by[m.place] = number
		}
	}
}

// resourceOrder: of one resource, the versions come to a Subscription in their order, and the
// next one only when the one before is accepted or given up.
func (c *checker) resourceOrder() {
	for _, subscription := range slices.Sorted(maps.Keys(c.matches)) {
		of := map[string][]*match{}
		for _, m := range c.matches[subscription] {
			if m.arrivals > 0 && m.version > 0 {
				of[m.resource] = append(of[m.resource], m)
			}
		}
		for res, ms := range of {
			slices.SortFunc(ms, func(a, b *match) int { return cmp.Compare(a.version, b.version) })
			for i := 1; i < len(ms); i++ {
				before, after := ms[i-1], ms[i]
				if after.firstAt < before.firstAt {
					c.violate("order", "%s got %s version %d before version %d", subscription, res, after.version, before.version)
				} else if !before.dead && before.acceptedAt > after.firstAt {
					c.report.Counts.Overlaps++
				}
			}
		}
	}
}

// readBack: acknowledged versions can be read afterwards, from every node, as they were
// written; the newest one that a node knows is no older than the last one acknowledged.
func (c *checker) readBack() {
	newest := map[string]uint64{}
	for p := range c.made {
		newest[p.resource] = max(newest[p.resource], p.version)
	}
	for _, r := range c.records {
		if r.Kind != Read {
			continue
		}
		c.report.Counts.ReadBack++
		if r.Text == "newest" {
			if r.Version < newest[r.Resource] {
				c.violate("readable", "%s has %s at version %d (status %d); %d was acknowledged", r.Node, r.Resource, r.Version, r.Status, newest[r.Resource])
			}
			continue
		}
		o := c.made[place{r.Resource, r.Version}]
		switch {
		case o == nil:
		case r.Status != 200:
			c.violate("readable", "%s answers %d for %s version %d, which was acknowledged", r.Node, r.Status, r.Resource, r.Version)
		case r.Sum != o.Sum:
			c.violate("readable", "%s has another content for %s version %d than was written", r.Node, r.Resource, r.Version)
		}
	}
}

// duplicates: a notification comes again after a success only where a node had no time to
// write the success down. Each node that a fault touches may leave `senders` of each
// Subscription so.
func (c *checker) duplicates() {
	for _, numbers := range c.matches {
		for _, m := range numbers {
			c.report.Counts.Duplicates += m.repeats
		}
	}
	touched := 0
	for _, r := range c.records {
		if r.Kind == Begun {
			touched += r.Faults
		}
	}
	c.report.Counts.DuplicatesAllowed = touched * senders * len(c.subs)
	if n := c.report.Counts; n.Duplicates > n.DuplicatesAllowed {
		c.violate("duplicates", "%d notifications came again after a success; the faults explain %d", n.Duplicates, n.DuplicatesAllowed)
	}
	if n := c.report.Counts; n.Overlaps > n.DuplicatesAllowed {
		c.violate("order", "%d versions came before the one before was accepted; the faults explain %d", n.Overlaps, n.DuplicatesAllowed)
	}
}

// faults measures what each fault cost.
func (c *checker) faults() {
	var acks, sends []time.Duration
	for _, r := range c.records {
		switch r.Kind {
		case Acknowledged:
			acks = append(acks, r.At)
		case Arrived:
			sends = append(sends, r.At)
		}
	}
	var current *FaultReport
	var begun, ended time.Duration
	for _, r := range c.records {
		switch r.Kind {
		case Impossible:
			var why string
			_ = json.Unmarshal(r.Body, &why)
			c.report.Impossible[r.Text] = why
		case Begun:
			if current = c.report.Faults[r.Text]; current == nil {
				current = &FaultReport{}
				c.report.Faults[r.Text] = current
			}
			current.Made++
			begun = r.At
		case Ended:
			ended = r.At
		case Note:
			if current != nil && strings.HasPrefix(r.Text, "ready after ") {
				current.Ready = append(current.Ready, r.At-ended)
				current.AckGaps = append(current.AckGaps, gap(acks, begun, r.At))
				current.SendGaps = append(current.SendGaps, gap(sends, begun, r.At))
				current = nil
			}
		}
	}
}

// gap is the longest time without an event that touches a span, the last one before it and the
// first one after it included.
func gap(at []time.Duration, from, to time.Duration) time.Duration {
	i, _ := slices.BinarySearch(at, from)
	longest := time.Duration(0)
	for i = max(1, i); i < len(at); i++ {
		longest = max(longest, at[i]-at[i-1])
		if at[i] > to {
			break
		}
	}
	return longest
}
