package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/nats-io/nats.go/jetstream"
)

// ConsumerSpec says which durable consumer is to be made for clients outside.
type ConsumerSpec struct {
	Stream string // MESSAGES, DEAD or EVENTS, in capitals or not
	Name   string // of letters, digits, '-' and '_'
	// Filter is the subjects that it delivers, within fhir.message.>, fhir.dead.> or
	// fhir.event.>, or within one of Config.MessageSubjects. Empty is the whole tree of these three. Control records in EVENTS are never among them.
	Filter string
	// FromNew delivers what is stored from now on; else the whole stream is delivered.
	FromNew bool
}

// Consumer is a durable pull consumer that an administrator made for clients outside.
type Consumer struct {
	Stream     string
	Name       string
	Filter     string
	FromNew    bool
	Created    time.Time
	Pending    uint64 // messages that were not delivered yet
	AckPending int    // delivered, and not acknowledged yet
	Waiting    int    // pulls that are open
}

// Subjects are what a client publishes on to use the consumer.
func (c Consumer) Subjects() []string {
	return []string{consumerInfo(c.Stream, c.Name), consumerNext(c.Stream, c.Name), consumerAck(c.Stream, c.Name)}
}

// Reference names the consumer as Login.Consumers does.
func (c Consumer) Reference() string { return strings.ToLower(c.Stream) + "/" + c.Name }

const (
	consumerAckWait   = 30 * time.Second
	consumerMaxAcks   = 1000
	maxPull           = 5 * time.Minute // how long a pull may stay open
	reservedConsumers = "follow-"       // names of our own readers

	madeBy        = "carillon-made-by" // metadata of a consumer
	administrator = "administrator"
)

// parseConsumer reads messages/NAME, dead/NAME or events/NAME.
func parseConsumer(reference string) (stream, name string, err error) {
	stream, name, _ = strings.Cut(reference, "/")
	for _, s := range MessagesDeadEvents {
		if stream == strings.ToLower(s) && validName(name) {
			return s, name, nil
		}
	}
	return "", "", fmt.Errorf("consumer %q is not of the form messages/NAME, dead/NAME or events/NAME", reference)
}

// complete fills in the defaults and refuses what must not be made.
func (c ConsumerSpec) complete(messageSubjects ...string) (ConsumerSpec, error) {
	refuse := func(format string, args ...any) (ConsumerSpec, error) {
		return c, fhir.Refuse(fhir.IssueValue, "", fmt.Sprintf(format, args...))
	}
	c.Stream = strings.ToUpper(c.Stream)
	tree := map[string]string{Messages: FilterMessage, Dead: FilterDead, Events: FilterEvents}[c.Stream]
	switch {
	case tree == "":
		return refuse("stream %q is not messages, dead or events", strings.ToLower(c.Stream))
	case !validName(c.Name):
		return refuse("consumer name %q: use letters, digits, '-' and '_', at most 128", c.Name)
	case strings.HasPrefix(c.Name, reservedConsumers):
		return refuse("consumer name %q: names that begin with %s are our own", c.Name, reservedConsumers)
	case c.Filter == "":
		c.Filter = tree
	}
	root := strings.TrimRight(tree, "*>") + ">"
	of := func(subjects string) bool { return within(c.Filter, subjects) }
	if !of(root) && (c.Stream != Messages || !slices.ContainsFunc(messageSubjects, of)) {
		return refuse("filter %q is not within %s", c.Filter, root)
	}
	return c, nil
}

func (s *Server) consumerConfig(c ConsumerSpec) jetstream.ConsumerConfig {
	deliver := jetstream.DeliverAllPolicy
	if c.FromNew {
		deliver = jetstream.DeliverNewPolicy
	}
	return jetstream.ConsumerConfig{
		Durable: c.Name, FilterSubject: c.Filter, DeliverPolicy: deliver,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: consumerAckWait,
		MaxDeliver: -1, MaxAckPending: consumerMaxAcks, MaxRequestExpires: maxPull,
		Replicas: s.cfg.Replicas, Metadata: map[string]string{madeBy: administrator},
	}
}

// CreateConsumer makes a durable pull consumer with explicit acks for clients outside: a
// message that is not acknowledged within 30 s comes again, without end, and at most 1,000 are
// out at once. To make the same again changes nothing. What cannot be meant so, and a name that
// is taken, is a *fhir.Error.
func (s *Server) CreateConsumer(ctx context.Context, spec ConsumerSpec) (Consumer, error) {
	spec, err := spec.complete(s.cfg.MessageSubjects...)
	if err != nil {
		return Consumer{}, err
	}
	made, err := s.js.CreateConsumer(ctx, spec.Stream, s.consumerConfig(spec))
	switch {
	case errors.Is(err, jetstream.ErrConsumerExists):
		return Consumer{}, fhir.Refuse(fhir.IssueConflict, "", fmt.Sprintf(
			"%s has a consumer %s already, made otherwise; delete it first, or take another name", spec.Stream, spec.Name))
	case err != nil:
		return Consumer{}, fmt.Errorf("create consumer %s of %s: %w", spec.Name, spec.Stream, readError(err))
	}
	return consumer(made.CachedInfo()), nil
}

// Consumers lists what CreateConsumer made, by stream and name.
func (s *Server) Consumers(ctx context.Context) ([]Consumer, error) {
	var all []Consumer
	for _, name := range MessagesDeadEvents {
		st, err := s.js.Stream(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("list consumers of %s: %w", name, readError(err))
		}
		l := st.ListConsumers(ctx)
		for info := range l.Info() {
			if info.Config.Metadata[madeBy] == administrator {
				all = append(all, consumer(info))
			}
		}
		if err := l.Err(); err != nil {
			return nil, fmt.Errorf("list consumers of %s: %w", name, readError(err))
		}
	}
	slices.SortFunc(all, func(a, b Consumer) int { return strings.Compare(a.Reference(), b.Reference()) })
	return all, nil
}

// DeleteConsumer removes a consumer that CreateConsumer made, with its place in the stream. One
// that is not there, and one that is ours, is a *fhir.Error (IssueNotFound).
func (s *Server) DeleteConsumer(ctx context.Context, stream, name string) error {
	stream = strings.ToUpper(stream)
	unknown := fhir.Refuse(fhir.IssueNotFound, "", fmt.Sprintf(
		"%s has no consumer %q; carillon consumer list shows those that there are", strings.ToLower(stream), name))
	if !slices.Contains(MessagesDeadEvents, stream) || !validName(name) {
		return unknown
	}
	have, err := s.js.Consumer(ctx, stream, name)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		return unknown
	case errors.Is(err, jetstream.ErrNotPullConsumer):
		return unknown // one of our readers
	case err != nil:
		return fmt.Errorf("delete consumer %s of %s: %w", name, stream, readError(err))
	case have.CachedInfo().Config.Metadata[madeBy] != administrator:
		return unknown
	}
	if err := s.js.DeleteConsumer(ctx, stream, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("delete consumer %s of %s: %w", name, stream, readError(err))
	}
	return nil
}

func consumer(i *jetstream.ConsumerInfo) Consumer {
	return Consumer{
		Stream: i.Stream, Name: i.Name, Filter: i.Config.FilterSubject, FromNew: i.Config.DeliverPolicy == jetstream.DeliverNewPolicy,
		Created: i.Created, Pending: i.NumPending, AckPending: i.NumAckPending, Waiting: i.NumWaiting,
	}
}
