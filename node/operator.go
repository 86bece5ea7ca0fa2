package node

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/node/config"
)

// operatorEvent is a change in delivery that an operator is told of. It names Subscriptions and
// hosts, never a resource.
type operatorEvent struct {
	ID           string      `json:"id"`
	Kind         string      `json:"event"`
	Time         time.Time   `json:"time"`
	Cluster      string      `json:"cluster"`
	Node         string      `json:"node"`
	Subscription fhir.ID     `json:"subscription,omitempty"`
	Endpoint     string      `json:"endpoint,omitempty"` // scheme, host and port
	Outcome      record.Code `json:"outcome,omitempty"`
	Percent      int         `json:"percent,omitempty"` // of the time after which it is stopped
	By           string      `json:"by,omitempty"`
	Reason       string      `json:"reason,omitempty"`
}

// The kinds of operatorEvent.
const (
	eventFailing       = "delivery.failing"   // attempts of a Subscription begin to fail
	eventRecovered     = "delivery.recovered" // and are accepted again
	eventBreakerOpen   = "breaker.open"
	eventBreakerClosed = "breaker.closed"
	eventExhausted     = "delivery.exhausted"    // a notification became a dead letter
	eventWarning       = "subscription.warning"  // without success for 50, 70, 90 % of disable_after
	eventDisabled      = "subscription.disabled" // it was stopped: disable_after, 410, or its receiver's wish
	eventStopped       = "delivery.stopped"      // all sending, by hand
	eventStarted       = "delivery.started"
)

// notifier carries events to an operator. One way to be told is one notifier.
type notifier interface {
	notify(ctx context.Context, e operatorEvent) error
}

// operatorEvents tells operators of transitions. Nothing waits for it: what does not fit into its
// queue is logged, and so is what could not be sent after some tries. A transition is seen by the
// node that makes it, so each is told once.
type operatorEvents struct {
	log           *slog.Logger
	cluster, node string
	suppress      time.Duration
	notifiers     []notifier // none: nobody wants to know
	now           func() time.Time
	queue         chan operatorEvent
	dropped       atomic.Int64

	mu   sync.Mutex
	told map[string]*telling // by what it is about
}

// telling is what operators were told last of something that has two sides, such as failing and
// recovered, or that happens again and again.
type telling struct {
	kind string
	at   time.Time
	held *operatorEvent // what came within the time of suppression, the last of it
}

// Tries to tell an operator, and the waits between them.
var operatorWaits = []time.Duration{time.Second, 5 * time.Second, 30 * time.Second}

const operatorTimeout = 10 * time.Second

// newOperatorEvents makes it, with the notifiers that the configuration names.
func newOperatorEvents(log *slog.Logger, cfg config.OperatorEvents, cluster, node string) *operatorEvents {
	o := &operatorEvents{
		log: log, cluster: cluster, node: node, suppress: cfg.Suppress, now: time.Now,
		queue: make(chan operatorEvent, 1024), told: map[string]*telling{},
	}
	if cfg.Webhook.URL != "" {
		o.notifiers = append(o.notifiers, newOperatorWebhook(cfg.Webhook))
	}
	return o
}

// tell queues an event, unless the same was told within the time of suppression. It never waits.
func (o *operatorEvents) tell(e operatorEvent) {
	if o == nil || len(o.notifiers) == 0 {
		return
	}
	e.Time = o.now().UTC()
	if o.suppressed(e) {
		return
	}
	e.Cluster, e.Node, e.ID = o.cluster, o.node, randomID()
	select {
	case o.queue <- e:
	default:
		o.drop(e)
	}
}

func (o *operatorEvents) drop(e operatorEvent) {
	if o.dropped.Add(1) == 1 {
		o.log.Warn("operators are told less than happens: too many events wait", "event", e.Kind)
	}
}

// sides gives one name to the kinds that end one another.
var sides = map[string]string{
	eventRecovered: eventFailing, eventBreakerClosed: eventBreakerOpen,
}

// maxTold bounds what is remembered of events; beyond it the oldest knowledge is dropped.
const maxTold = 10_000

func (o *operatorEvents) suppressed(e operatorEvent) bool {
	if e.Kind == eventStopped || e.Kind == eventStarted {
		return false // by hand, and each of them matters
	}
	key := fmt.Sprintf("%s %s %s %d", cmp.Or(sides[e.Kind], e.Kind), e.Subscription, e.Endpoint, e.Percent)
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.told[key]
	if t == nil {
		o.makeRoom(e.Time)
		o.told[key] = &telling{kind: e.Kind, at: e.Time}
		return false
	}
	if again := t.kind == e.Kind; again || sides[e.Kind] == "" {
		// The same once more, or the beginning of what has ended a moment ago: operators are told
		// when it lasts longer than the suppression.
		if e.Time.Sub(t.at) < o.suppress {
			t.held = nil
			if !again {
				t.held = &e
			}
			return true
		}
	} else if t.held != nil { // the end of what was held back
		t.held = nil
		return true
	}
	t.kind, t.at, t.held = e.Kind, e.Time, nil
	return false
}

// makeRoom forgets what is no longer suppressed, or all where that is too much. The caller holds mu.
func (o *operatorEvents) makeRoom(now time.Time) {
	if len(o.told) < maxTold {
		return
	}
	for key, t := range o.told {
		if t.held == nil && now.Sub(t.at) >= o.suppress {
			delete(o.told, key)
		}
	}
	if len(o.told) >= maxTold {
		clear(o.told)
	}
}

// due gives what was held back and is still so when the time of suppression is over.
func (o *operatorEvents) due() (events []operatorEvent) {
	now := o.now()
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, t := range o.told {
		if t.held != nil && now.Sub(t.at) >= o.suppress {
			events = append(events, *t.held)
		}
	}
	return events
}

// run tells operators until ctx ends. Each notifier has a queue of its own, so that one whose server
// is away does not keep the others from telling.
func (o *operatorEvents) run(ctx context.Context) error {
	var notifying sync.WaitGroup
	defer notifying.Wait()
	var queues []chan operatorEvent
	for _, n := range o.notifiers {
		queue := make(chan operatorEvent, cap(o.queue))
		queues = append(queues, queue)
		notifying.Go(func() { o.serve(ctx, n, queue) })
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			for _, e := range o.due() {
				o.tell(e)
			}
		case e := <-o.queue:
			for _, queue := range queues {
				select {
				case queue <- e:
				default:
					o.drop(e)
				}
			}
		}
	}
}

func (o *operatorEvents) serve(ctx context.Context, n notifier, queue <-chan operatorEvent) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-queue:
			o.send(ctx, n, e)
		}
	}
}

func (o *operatorEvents) send(ctx context.Context, n notifier, e operatorEvent) {
	for try := 0; ; try++ {
		one, cancel := context.WithTimeout(ctx, operatorTimeout)
		err := n.notify(one, e)
		cancel()
		if err == nil || ctx.Err() != nil {
			return
		}
		if try == len(operatorWaits) {
			o.log.Error("an operator could not be told", "event", e.Kind, "subscription", e.Subscription, "endpoint", e.Endpoint, "err", err)
			return
		}
		if pause(ctx, operatorWaits[try]) != nil {
			return
		}
	}
}

// operatorWebhook posts events as JSON, signed as Standard Webhooks has it where there is a secret.
type operatorWebhook struct {
	cfg    config.OperatorWebhook
	client *http.Client
}

func newOperatorWebhook(cfg config.OperatorWebhook) *operatorWebhook {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy, t.MaxIdleConns, t.DisableCompression = nil, 2, true
	return &operatorWebhook{cfg: cfg, client: &http.Client{
		Transport: t,
		// A redirect could lead the event anywhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (w *operatorWebhook) notify(ctx context.Context, e operatorEvent) error {
	body := record.Encode(e)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("the address of operator events cannot be used")
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("webhook-id", e.ID)
	at := strconv.FormatInt(time.Now().Unix(), 10)
	r.Header.Set("webhook-timestamp", at)
	if w.cfg.SecretFile != "" {
		secret, err := config.ReadSecret(w.cfg.SecretFile)
		if err != nil {
			return err
		}
		r.Header.Set("webhook-signature", signature(secret, e.ID, at, body))
	}
	resp, err := w.client.Do(r)
	if err != nil {
		return fmt.Errorf("no answer of the address of operator events") // the error of net/http holds the URL
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 16<<10))
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("the address of operator events answered %d", resp.StatusCode)
	}
	return nil
}

// signature is the v1 signature of Standard Webhooks 1.0.0: HMAC-SHA256 over id, time and body. A
// secret that begins with whsec_ is base64, any other its own bytes.
func signature(secret, id, at string, body []byte) string {
	key := []byte(secret)
	if text, is := strings.CutPrefix(secret, "whsec_"); is {
		if raw, err := base64.StdEncoding.DecodeString(text); err == nil {
			key = raw
		}
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.", id, at)
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func randomID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // it never fails
	return "evt_" + hex.EncodeToString(b[:])
}
