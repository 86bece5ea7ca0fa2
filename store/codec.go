package store

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// Values are written field by field: varints, strings with their length, times as
// nanoseconds. There are no maps and no reflection in them, so one value has one form, and
// two nodes that hold the same facts hold the same bytes.

// encoder appends fields to a value.
type encoder []byte

// sized is an encoder with room for n bytes, so that a value of known size is allocated once.
func sized(n int) encoder { return make(encoder, 0, n) }

// Sizes of fields, from above, for sized. Numbers are sequences, which seldom need more.
const (
	numSize  = 6
	timeSize = 12
)

func (e *encoder) uint(n uint64) { *e = binary.AppendUvarint(*e, n) }
func (e *encoder) int(n int64)   { *e = binary.AppendVarint(*e, n) }

func (e *encoder) bool(b bool) {
	if b {
		*e = append(*e, 1)
	} else {
		*e = append(*e, 0)
	}
}

func (e *encoder) string(s string) {
	e.uint(uint64(len(s)))
	*e = append(*e, s...)
}

func (e *encoder) bytes(b []byte) {
	e.uint(uint64(len(b)))
	*e = append(*e, b...)
}

func (e *encoder) raw(b []byte) { *e = append(*e, b...) }

// time keeps the instant and lets the zone go. The zero time is kept as such.
func (e *encoder) time(t time.Time) {
	if t.IsZero() {
		e.bool(false)
		return
	}
	e.bool(true)
	e.int(t.Unix())
	e.uint(uint64(t.Nanosecond()))
}

var errMalformed = errors.New("value has another form than expected")

// decoder reads fields in the order in which they were appended. The first field that does
// not fit sets err, and all after it are zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = errMalformed
	}
	d.b = nil
}

func (d *decoder) uint() uint64 {
	n, k := binary.Uvarint(d.b)
	if k <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[k:]
	return n
}

func (d *decoder) int() int64 {
	n, k := binary.Varint(d.b)
	if k <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[k:]
	return n
}

func (d *decoder) bool() bool {
	if len(d.b) == 0 || d.b[0] > 1 {
		d.fail()
		return false
	}
	v := d.b[0] == 1
	d.b = d.b[1:]
	return v
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) string() string { return string(d.take(d.uint())) }

// interaction is a string of which there are three; they need no memory of their own.
func (d *decoder) interaction() fhir.Interaction {
	b := d.take(d.uint())
	for _, i := range [...]fhir.Interaction{fhir.Create, fhir.Update, fhir.Delete} {
		if string(b) == string(i) {
			return i
		}
	}
	return fhir.Interaction(b)
}

// bytes is a copy: what a caller is handed never shares the store's memory.
func (d *decoder) bytes() []byte { return append([]byte(nil), d.take(d.uint())...) }

func (d *decoder) time() time.Time {
	if !d.bool() {
		return time.Time{}
	}
	sec, nsec := d.int(), d.uint()
	if d.err != nil || nsec >= 1e9 {
		d.fail()
		return time.Time{}
	}
	return time.Unix(sec, int64(nsec)).UTC()
}

// end checks that nothing is left over.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) != 0 {
		d.fail()
	}
	return d.err
}
