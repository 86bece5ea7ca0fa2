package match

import (
	"context"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
)

// maxBlock bounds a block in bytes of JSON. What is more is cut.
const maxBlock = 1 << 20

const (
	markEvents = 1000        // events without a match after which a block marks the place
	markEvery  = time.Second // time after which one does, if the place has moved
)

// Sizes of a block's JSON, from above: numbers have at most 20 digits, and ids need no
// escapes.
const (
	frameSize = 256 // everything but the matches: partition, place and cut
	matchSize = 100 // a match without its id and interaction
)

// collector fills a partition's next block while the one before it is on its way. The matcher
// adds, the publisher takes; a full block makes the matcher wait.
type collector struct {
	limit int // bytes of a block

	mu     sync.Mutex
	block  record.Block
	size   int
	events int             // events in the block
	taken  record.Sequence // place of the last block taken
	ended  bool            // the matcher adds no more

	ready chan struct{} // of one place: the publisher should look
	room  chan struct{} // of one place: a block was taken
}

func newCollector(partition string, from record.Sequence, limit int) *collector {
	return &collector{
		limit: limit,
		block: record.Block{Partition: partition, Through: from},
		size:  frameSize,
		taken: from,
		ready: make(chan struct{}, 1),
		room:  make(chan struct{}, 1),
	}
}

// add enters an event with what it met, in order of the ids. What does not fit goes into the
// next block, and the full one then says how far into the event it reaches. An error is that
// of an ended context.
func (c *collector) add(ctx context.Context, change *record.Change, hits []index.Hit) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, h := range hits {
		n := matchSize + len(h.ID) + len(change.Interaction)
		for c.size+n > c.limit {
			c.block.Through = change.Sequence - 1
			if i > 0 {
				c.block.Cut = &record.Cut{Event: change.Sequence, After: hits[i-1].ID}
			}
			if err := c.wait(ctx); err != nil {
				return err
			}
		}
		c.size += n
		c.block.Matches = append(c.block.Matches, record.Match{
			Event: change.Sequence, Subscription: h.ID, Birth: h.Birth, Version: h.Version, Interaction: change.Interaction,
		})
	}
	c.block.Through = change.Sequence
	c.events++
	if len(c.block.Matches) > 0 || c.events >= markEvents {
		signal(c.ready)
	}
	return nil
}

// wait gives the full block to the publisher and returns when it has been taken. It is called
// with mu held, which it lets go meanwhile: the block is whole.
func (c *collector) wait(ctx context.Context) error {
	signal(c.ready)
	c.mu.Unlock()
	defer c.mu.Lock()
	select {
	case <-c.room:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pass says that the log was looked through up to a place, all events there added.
func (c *collector) pass(through record.Sequence) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.block.Through = max(c.block.Through, through)
}

// end says that nothing more will be added.
func (c *collector) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	signal(c.ready)
}

// take hands out the block if it should be published: at once where there are matches, and
// otherwise where many events were passed, or where the place has moved and tick is set or
// this is the end. ended tells that no more blocks will come after one that is not ok.
func (c *collector) take(tick bool) (b record.Block, ok, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	moved := c.block.Through > c.taken
	if len(c.block.Matches) == 0 && c.events < markEvents && (!moved || !tick && !c.ended) {
		return b, false, c.ended
	}
	b = c.block
	c.block = record.Block{Partition: b.Partition, Through: b.Through}
	c.size, c.events, c.taken = frameSize, 0, b.Through
	signal(c.room)
	return b, true, c.ended
}

// signal wakes the other side, or leaves word for when it looks.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
