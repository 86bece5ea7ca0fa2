package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// partitionEvents shows runners their partition's share of EVENTS (match.Events): from the
// ring in steady state, and from the log for a runner that is further behind.
type partitionEvents struct {
	ring   *ring
	server *stream.Server
	store  *store.Store
	table  *match.Table
}

func (p partitionEvents) Next(ctx context.Context, partition string, after record.Sequence, dst []record.Change) ([]record.Change, record.Sequence, error) {
	all, through, err := p.ring.after(ctx, after, dst[:0])
	if errors.Is(err, errBehind) {
		return p.fromLog(ctx, partition, after, dst[:0])
	}
	if err != nil {
		return nil, 0, err
	}
	mine := all[:0]
	for _, c := range all {
		if p.table.Of(c.Key.Type, c.Shard) == partition {
			mine = append(mine, c)
		}
	}
	return mine, through, nil
}

// errEnough ends a reading of the log that has what it wants.
var errEnough = errors.New("enough")

// fromLog reads changes that are folded and no longer in the ring. What the fold made of each
// is asked of the store.
func (p partitionEvents) fromLog(ctx context.Context, partition string, after record.Sequence, dst []record.Change) ([]record.Change, record.Sequence, error) {
	folded, through := p.ring.position(), after
	err := p.server.Follow(ctx, stream.Events, after+1, nil, func(ms []stream.Message) error {
		for _, m := range ms {
			if m.Sequence > folded || len(dst) == cap(dst) {
				return errEnough
			}
			if e, ok, err := parseEvent(m); err == nil && ok && p.table.Of(e.Key.Type, e.Shard) == partition {
				c, err := refold(p.store, e)
				if err != nil {
					return err
				}
				dst = append(dst, c)
			}
			through = m.Sequence
		}
		if through == folded {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	} else if err == nil {
		err = ctx.Err()
	}
	return dst, through, err
}

// refold is what the fold made of an event some time ago.
func refold(s *store.Store, e record.Event) (record.Change, error) {
	c := record.Change{Event: e, Interaction: fhir.Unchanged}
	v, effective, err := s.Before(e.Sequence)
	if err != nil {
		return c, fmt.Errorf("what event %d did: %w", e.Sequence, err)
	}
	if effective {
		c.Interaction, c.Previous, c.Birth = v.Interaction, v.Previous, v.Birth
	}
	return c, nil
}

// matchBodies gives runners the state before an event (match.Bodies).
type matchBodies struct{ versions *versions }

func (b matchBodies) Body(ctx context.Context, seq record.Sequence) ([]byte, error) {
	body, err := b.versions.Body(ctx, seq)
	if errors.Is(err, stream.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", match.ErrGone, err)
	}
	return body, err
}

// blocks is the partitions' chains in MATCHES (match.Blocks).
type blocks struct{ server *stream.Server }

func (b blocks) Newest(ctx context.Context, partition string) (block record.Block, at record.Sequence, found bool, err error) {
	m, err := b.server.LastFor(ctx, stream.Matches, stream.MatchSubject(partition))
	if errors.Is(err, stream.ErrNotFound) {
		return block, 0, false, nil
	}
	if err != nil {
		return block, 0, false, err
	}
	if err := readable(m); err != nil {
		return block, 0, false, err
	}
	if err := json.Unmarshal(m.Data, &block); err != nil {
		return block, 0, false, fmt.Errorf("block at %d: %w", m.Sequence, err)
	}
	return block, m.Sequence, true, nil
}

func (b blocks) Publish(ctx context.Context, partition string, block record.Block, expect record.Sequence) (record.Sequence, error) {
	at, err := b.server.Append(ctx, stream.Matches, stream.MatchSubject(partition), record.Encode(block), expect)
	if errors.Is(err, stream.ErrConflict) || errors.Is(err, stream.ErrBusy) {
		err = fmt.Errorf("%w: %w", match.ErrOvertaken, err)
	}
	return at, err
}

// deadIngest keeps events that cannot be evaluated (match.DeadIngest). The letter holds the
// resource, so that an operator can mend what made it fail and send it again.
type deadIngest struct{ server *stream.Server }

func (d deadIngest) SetAside(ctx context.Context, e record.Event, reason string) error {
	m := deadMessage(record.DeadLetter{
		MatchID:      record.MatchID{Event: e.Sequence},
		Subscription: ingestID,
		Key:          e.Key,
		Reason:       record.Code(reason),
		LastFailure:  e.Time,
		FirstFailure: e.Time,
		ContentType:  "application/fhir+json",
		Body:         e.Body,
	})
	_, err := d.server.Publish(ctx, stream.Dead, m)
	return err
}

// loadTable reads the partition table of the cluster, or proposes the default one to a new
// cluster of so many nodes.
func loadTable(ctx context.Context, log controlLog, nodes int) (*match.Table, error) {
	m, err := settled(ctx, log, "partitions", record.Encode(match.DefaultPartitions(nodes)))
	if err != nil {
		return nil, err
	}
	var p record.Partitions
	if err := json.Unmarshal(m.Data, &p); err != nil {
		return nil, fmt.Errorf("partition table at %d: %w", m.Sequence, err)
	}
	return match.NewTable(m.Sequence, p)
}

// marks follows how far each partition is matched, whoever matches it, by the blocks folded.
type marks struct {
	mu sync.Mutex
	at map[string]record.Sequence
}

func newMarks(t *match.Table) *marks {
	m := &marks{at: map[string]record.Sequence{}}
	for _, p := range t.Names() {
		m.at[p] = t.Base()
	}
	return m
}

func (m *marks) set(partition string, through record.Sequence) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at[partition] = max(m.at[partition], through)
}

// of is how far a partition is matched.
func (m *marks) of(partition string) record.Sequence {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at[partition]
}

// lowest is the place that every partition has passed.
func (m *marks) lowest() record.Sequence {
	m.mu.Lock()
	defer m.mu.Unlock()
	lowest := record.Sequence(math.MaxUint64)
	for _, at := range m.at {
		lowest = min(lowest, at)
	}
	return lowest
}

// pruneIndex forgets versions of Subscriptions that no event can meet any more, and keeps the
// lanes' places in step with the Subscriptions, now and then, until ctx ends.
func (n *Node) pruneIndex(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			n.subs.index.Prune(n.marks.lowest())
			n.growLanes(ctx)
		}
	}
}
