package store

import (
	"encoding/binary"
	"hash/crc32"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// checksum adds up the fields of a record without encoding it.
type checksum struct {
	sum    uint32
	fields []byte // not yet in sum: a checksum of many short pieces costs more than one of the whole
}

// fieldsRoom is how many bytes of fields are added up at a time.
const fieldsRoom = 512

func newChecksum() *checksum { return &checksum{fields: make([]byte, 0, fieldsRoom)} }

func (c *checksum) string(s string) {
	c.num(uint64(len(s)))
	c.fields = append(c.fields, s...)
	if len(c.fields) > fieldsRoom-128 { // the numbers up to the next string still fit
		c.total()
	}
}

// bytes adds what may be long, and is not copied.
func (c *checksum) bytes(b []byte) { c.sum = crc32.Update(c.total(), castagnoli, b) }

func (c *checksum) num(n uint64) { c.fields = binary.LittleEndian.AppendUint64(c.fields, n) }

// total is the checksum of all that was added.
func (c *checksum) total() uint32 {
	c.sum = crc32.Update(c.sum, castagnoli, c.fields)
	c.fields = c.fields[:0]
	return c.sum
}

func (c *checksum) time(t time.Time) {
	if !t.IsZero() {
		c.num(uint64(t.UnixNano()))
	}
}

func (c *checksum) id(id record.MatchID) {
	c.num(uint64(id.Event))
	c.num(uint64(id.Birth))
}

func (c *checksum) matches(ms []record.Match) {
	c.num(uint64(len(ms)))
	for i := range ms {
		c.id(record.MatchID{Event: ms[i].Event, Birth: ms[i].Birth})
		c.num(uint64(ms[i].Version))
		c.string(string(ms[i].Subscription))
	}
}

// The Sum functions are the checksums that LastRecord remembers. They are of what the record
// says, so that a reader of the log computes the same from what it decodes.

// SumEvent is the checksum of a record of EVENTS.
func SumEvent(e *record.Event) uint32 {
	c := newChecksum()
	c.num(uint64(e.Sequence))
	c.time(e.Time)
	c.string(e.Key.String())
	c.string(string(e.Asked))
	c.bytes(e.Body)
	return c.total()
}

// SumMatches is the checksum of a record of MATCHES: a block or a job, or neither for one
// that could not be read.
func SumMatches(b *record.Block, j *record.Job) uint32 {
	c := newChecksum()
	if b != nil {
		c.string(b.Partition)
		c.num(uint64(b.Through))
		if b.Cut != nil {
			c.num(uint64(b.Cut.Event))
			c.string(string(b.Cut.After))
		}
		c.matches(b.Matches)
	}
	if j != nil {
		c.string(j.ID)
		c.time(j.Time)
		c.matches(j.Matches)
		for _, ids := range [][]record.MatchID{j.Replay, j.Purge} {
			c.num(uint64(len(ids)))
			for _, id := range ids {
				c.id(id)
			}
		}
		if j.Order != nil || j.Step != nil || j.Expire != 0 || j.Interaction != "" {
			c.num(uint64(j.Expire))
			c.string(string(j.Interaction))
			c.bytes(record.Encode(j.Order))
			c.bytes(record.Encode(j.Step))
		}
	}
	return c.total()
}

// SumOutcomes is the checksum of a record of OUTCOMES, nil for one that could not be read.
func SumOutcomes(b *record.OutcomeBlock) uint32 {
	if b == nil {
		return 0
	}
	c := newChecksum()
	c.string(b.Lane)
	c.string(b.Owner)
	c.num(uint64(b.After))
	for i := range b.Outcomes {
		o := &b.Outcomes[i]
		c.id(o.MatchID)
		c.num(uint64(o.Round))
		c.num(uint64(o.Attempt))
		c.num(uint64(o.Through))
		c.string(string(o.Code))
		c.time(o.At)
	}
	return c.total()
}

// SumDead is the checksum of a record of DEAD, nil for one that could not be read.
func SumDead(d *record.DeadLetter) uint32 {
	if d == nil {
		return 0
	}
	c := newChecksum()
	c.id(d.MatchID)
	c.string(string(d.Subscription))
	c.num(uint64(d.Number))
	c.num(uint64(d.Round))
	c.string(string(d.Reason))
	c.bytes(d.Body)
	return c.total()
}
