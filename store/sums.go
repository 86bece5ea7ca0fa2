package store

import (
	"encoding/binary"
	"hash/crc32"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// checksum adds up the fields of a record without encoding it.
type checksum uint32

func (c *checksum) string(s string) {
	c.num(uint64(len(s)))
	*c = checksum(crc32.Update(uint32(*c), castagnoli, []byte(s)))
}

func (c *checksum) bytes(b []byte) { *c = checksum(crc32.Update(uint32(*c), castagnoli, b)) }

func (c *checksum) num(n uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	c.bytes(b[:])
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
	var c checksum
	c.num(uint64(e.Sequence))
	c.time(e.Time)
	c.string(e.Key.String())
	c.string(string(e.Asked))
	c.bytes(e.Body)
	return uint32(c)
}

// SumMatches is the checksum of a record of MATCHES: a block or a job, or neither for one
// that could not be read.
func SumMatches(b *record.Block, j *record.Job) uint32 {
	var c checksum
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
	}
	return uint32(c)
}

// SumOutcomes is the checksum of a record of OUTCOMES, nil for one that could not be read.
func SumOutcomes(b *record.OutcomeBlock) uint32 {
	var c checksum
	if b == nil {
		return uint32(c)
	}
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
	return uint32(c)
}

// SumDead is the checksum of a record of DEAD, nil for one that could not be read.
func SumDead(d *record.DeadLetter) uint32 {
	var c checksum
	if d == nil {
		return uint32(c)
	}
	c.id(d.MatchID)
	c.string(string(d.Subscription))
	c.num(uint64(d.Number))
	c.num(uint64(d.Round))
	c.string(string(d.Reason))
	c.bytes(d.Body)
	return uint32(c)
}
