package chaos

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// canary stands in every resource, and must stand in no log.
const canary = "CanaryFamily"

// Workload writes until it is stopped. Each writer has resources of its own and writes one
// after the other, so that the order of a resource's writes is known.
type Workload struct {
	cluster *Cluster
	history *History
	seed    uint64
	pace    time.Duration // mean wait between two writes of a writer

	acknowledged atomic.Int64
	stop         context.CancelFunc
	writers      sync.WaitGroup
}

// resourcesEach is how many resources a writer has; they are written again and again.
const resourcesEach = 12

// StartWorkload starts so many HTTP writers, one NATS producer beside them, and one who changes
// the Subscriptions that have two criteria.
func StartWorkload(ctx context.Context, c *Cluster, h *History, subs []Subscription, endpoint string, seed uint64, writers int, pace time.Duration) *Workload {
	ctx, stop := context.WithCancel(ctx)
	w := &Workload{cluster: c, history: h, seed: seed, pace: pace, stop: stop}
	for i := range writers {
		w.writers.Go(func() { w.run(ctx, i, w.http) })
	}
	for _, s := range subs {
		if s.Other != "" {
			w.writers.Go(func() { w.change(ctx, s, endpoint) })
		}
	}
	w.writers.Go(func() {
		p := &producer{cluster: c, conns: map[*Node]*nats.Conn{}}
		defer p.close()
		w.run(ctx, writers, p.write)
	})
	return w
}

// Stop ends the writers after the write that each is at.
func (w *Workload) Stop() {
	w.stop()
	w.writers.Wait()
}

// Acknowledged is the number of writes so far that were.
func (w *Workload) Acknowledged() int { return int(w.acknowledged.Load()) }

// change gives a Subscription its other criteria, again and again. It asks until the change is
// acknowledged, so that at most one change at a time is in doubt.
func (w *Workload) change(ctx context.Context, s Subscription, endpoint string) {
	rnd := rand.New(rand.NewPCG(w.seed, 3000))
	for variant := 1; ; variant = 1 - variant {
		sleep(ctx, time.Duration(500+rnd.IntN(3000))*time.Millisecond)
		if ctx.Err() != nil {
			return
		}
		w.history.Add(Record{Kind: Changing, Subscription: s.ID, Variant: variant})
		for {
			n := w.cluster.Nodes[rnd.IntN(len(w.cluster.Nodes))]
			a, err := n.Do(context.WithoutCancel(ctx), "PUT", "/fhir/Subscription/"+s.ID, []byte(s.variant(variant).json(endpoint)))
			if err == nil && a.Status == http.StatusOK {
				w.history.Add(Record{Kind: Changed, Subscription: s.ID, Variant: variant, Node: n.Name})
				break
			}
			if sleep(ctx, 200*time.Millisecond); ctx.Err() != nil {
				return // in doubt to the end
			}
		}
	}
}

// write is one change that is asked for.
type write struct {
	resource string // Type/id
	seq      int
	delete   bool
	body     []byte
	key      string // of idempotency
}

// result is what one attempt at a write came to.
type result struct {
	kind    Kind
	version uint64
	status  int
	text    string
}

// run is one writer. What it writes depends on the seed alone, when and where on the run too.
func (w *Workload) run(ctx context.Context, number int, do func(context.Context, *Node, write) result) {
	what := rand.New(rand.NewPCG(w.seed, uint64(1000+number)))
	when := rand.New(rand.NewPCG(w.seed, uint64(2000+number)))
	seqs := make([]int, resourcesEach)
	exists := make([]bool, resourcesEach)
	for ctx.Err() == nil {
		i := what.IntN(resourcesEach)
		seqs[i]++
		wr := newWrite(what, number, i, seqs[i], exists[i])
		// Every second writer keeps to one node, so that a node that cannot be written to does not
		// hold up all of them, and what is measured is the cluster.
		first := when.IntN(len(w.cluster.Nodes))
		if number%2 == 0 {
			first = number / 2 % len(w.cluster.Nodes)
		}
		r := w.attempt(ctx, first, wr, do)
		// After an unknown write the next is no delete: of what, would not be known.
		exists[i] = r.kind == Acknowledged && !wr.delete
		wait := time.Duration(when.Int64N(int64(2*w.pace) + 1))
		if r.kind != Acknowledged {
			wait += 50 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// newWrite makes the next write of a resource.
func newWrite(rnd *rand.Rand, writer, i, seq int, exists bool) write {
	wr := write{seq: seq, key: fmt.Sprintf("w%d-%d-%d", writer, i, seq)}
	id := fmt.Sprintf("w%d-%d", writer, i)
	tag := fmt.Sprintf(`"identifier":[{"system":"urn:chaos:seq","value":"%d"}]`, seq)
	chance := rnd.IntN(100)
	switch {
	case i < 6:
		wr.resource = "Patient/" + id
		wr.body = fmt.Appendf(nil, `{"resourceType":"Patient","id":%q,%s,"active":%t,"name":[{"family":%q}]}`,
			id, tag, chance%2 == 0, canary+strconv.Itoa(seq))
	case i < 11:
		wr.resource = "Observation/" + id
		wr.body = fmt.Appendf(nil, `{"resourceType":"Observation","id":%q,%s,"status":%q,`+
			`"code":{"coding":[{"system":"http://loinc.org","code":%q}],"text":%q},"valueQuantity":{"value":%d.%d,"unit":"mmol/L"}}`,
			id, tag, pick(rnd, "final", "preliminary", "amended"), pick(rnd, glucose, sodium), canary, rnd.IntN(12), 1+rnd.IntN(9))
	default:
		wr.resource = "Encounter/" + id
		wr.body = fmt.Appendf(nil, `{"resourceType":"Encounter","id":%q,%s,"status":%q,`+
			`"class":{"system":"http://terminology.hl7.org/CodeSystem/v3-ActCode","code":"AMB","display":%q}}`,
			id, tag, pick(rnd, "in-progress", "finished"), canary)
	}
	if exists && rnd.IntN(100) < 8 {
		wr.delete, wr.body = true, nil
	}
	return wr
}

func pick(rnd *rand.Rand, of ...string) string { return of[rnd.IntN(len(of))] }

// attempt asks a node, and where that fails once more another one, with the same key.
func (w *Workload) attempt(ctx context.Context, first int, wr write, do func(context.Context, *Node, write) result) result {
	asked := Record{Kind: Asked, Resource: wr.resource, Seq: wr.seq, Interaction: "write", Body: wr.body}
	if wr.delete {
		asked.Interaction = "delete"
	} else if c, err := readContent(wr.body); err == nil {
		asked.Sum = c.sum
	}
	w.history.Add(asked)
	nodes := w.cluster.Nodes
	var r result
	unknown := false
	var node *Node
	for k := range 2 {
		node = nodes[(first+k)%len(nodes)]
		// A writer that is stopped still finishes the write that it is at: to break it off would
		// make it unknown for nothing.
		r = do(context.WithoutCancel(ctx), node, wr)
		unknown = unknown || r.kind == Unknown
		if r.kind == Acknowledged || r.kind == Refused && r.status != http.StatusServiceUnavailable && r.status != http.StatusInsufficientStorage {
			break
		}
	}
	if r.kind == Refused && unknown {
		r.kind = Unknown // the first attempt may have been made all the same
	}
	if r.kind == Acknowledged {
		w.acknowledged.Add(1)
	}
	w.history.Add(Record{
		Kind: r.kind, Node: node.Name, Resource: wr.resource, Seq: wr.seq, Interaction: asked.Interaction,
		Version: r.version, Status: r.status, Text: r.text,
	})
	return r
}

// http writes over the FHIR API.
func (w *Workload) http(ctx context.Context, n *Node, wr write) result {
	method := http.MethodPut
	if wr.delete {
		method = http.MethodDelete
	}
	a, err := n.Do(ctx, method, "/fhir/"+wr.resource, wr.body, "Idempotency-Key", wr.key)
	switch {
	case errors.Is(err, errUnsent):
		return result{kind: Refused, status: http.StatusServiceUnavailable, text: "no connection"}
	case err != nil:
		return result{kind: Unknown, text: clip(err.Error(), 120)}
	case a.Status/100 == 2:
		return result{kind: Acknowledged, status: a.Status, version: etag(a.Header.Get("ETag"))}
	}
	return classify(a.Status, string(a.Body))
}

// classify says of a refusal whether the write was certainly not made. 503 and 500 do not say
// so: the answer of the log may only have been late. Nor does 409, of a write whose key was used.
func classify(status int, text string) result {
	r := result{kind: Unknown, status: status, text: clip(text, 200)}
	switch status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound,
		http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge, http.StatusInsufficientStorage:
		r.kind = Refused
	}
	return r
}

func etag(s string) uint64 {
	v, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(s, `W/"`), `"`), 10, 64)
	return v
}

// producer writes over NATS, to the node that it is told, with a connection to each.
type producer struct {
	cluster *Cluster
	conns   map[*Node]*nats.Conn
}

func (p *producer) close() {
	for _, nc := range p.conns {
		nc.Close()
	}
}

// write publishes as any client library does, and reads the PubAck.
func (p *producer) write(ctx context.Context, n *Node, wr write) result {
	if !n.Running() {
		return result{kind: Refused, status: http.StatusServiceUnavailable, text: "no connection"}
	}
	nc, err := p.connection(n)
	if err != nil {
		return result{kind: Refused, status: http.StatusServiceUnavailable, text: "no connection"}
	}
	m := nats.NewMsg("fhir.ingest." + strings.Replace(wr.resource, "/", ".", 1))
	m.Data = wr.body
	m.Header.Set(nats.MsgIdHdr, wr.key)
	if wr.delete {
		m.Header.Set("Fhir-Interaction", "delete")
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	res, err := nc.RequestMsgWithContext(ctx, m)
	if errors.Is(err, nats.ErrNoResponders) { // nobody heard it
		return result{kind: Refused, status: http.StatusServiceUnavailable, text: "no responders"}
	}
	if err != nil {
		return result{kind: Unknown, text: clip(err.Error(), 120)}
	}
	var ack struct {
		Seq   uint64 `json:"seq"`
		Error *struct {
			Code        int    `json:"code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(res.Data, &ack); err != nil {
		return result{kind: Unknown, text: "the answer cannot be read"}
	}
	if ack.Error != nil {
		return classify(ack.Error.Code, ack.Error.Description)
	}
	return result{kind: Acknowledged, status: http.StatusOK, version: ack.Seq}
}

func (p *producer) connection(n *Node) (*nats.Conn, error) {
	if nc := p.conns[n]; nc != nil && nc.IsConnected() {
		return nc, nil
	} else if nc != nil {
		nc.Close()
	}
	delete(p.conns, n)
	nc, err := nats.Connect("nats://"+n.NATS, nats.SetCustomDialer(dialer{n.Host}), nats.NoReconnect(), nats.Timeout(2*time.Second),
		nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2), nats.IgnoreDiscoveredServers())
	if err == nil {
		p.conns[n] = nc
	}
	return nc, err
}

// dialer lets the NATS client connect from inside a host.
type dialer struct{ h *Host }

// Dial connects.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return d.h.Dial(ctx, network, address)
}

// content is what the checker wants to know of a resource's body.
type content struct {
	resource string
	seq      int
	version  uint64
	sum      string // of the whole body but meta
}

func readContent(body []byte) (content, error) {
	var r struct {
		ResourceType, ID string
		Meta             struct{ VersionID string }
		Identifier       []struct{ System, Value string }
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return content{}, err
	}
	c := content{resource: r.ResourceType + "/" + r.ID}
	c.version, _ = strconv.ParseUint(r.Meta.VersionID, 10, 64)
	for _, i := range r.Identifier {
		if i.System == "urn:chaos:seq" {
			c.seq, _ = strconv.Atoi(i.Value)
		}
	}
	var plain map[string]any
	if err := json.Unmarshal(body, &plain); err != nil {
		return content{}, err
	}
	delete(plain, "meta")
	canonical, err := json.Marshal(plain) // members in order of their names
	if err != nil {
		return content{}, err
	}
	c.sum = fmt.Sprintf("%x", sha256.Sum256(canonical))[:16]
	return c, nil
}
