package node

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// order is that of a search's matches: by id, or by the time of their versions.
type order struct {
	byTime bool
	down   bool
}

// parseOrder reads _sort (R4 search.html#sort). Both keys are different for every resource, so what
// follows the first has no say; it must be known all the same.
func parseOrder(value string) (o order, err error) {
	for i, key := range strings.Split(value, ",") {
		name, down := strings.CutPrefix(key, "-")
		switch name {
		case "_id", "_lastUpdated":
		default:
			return o, fhir.Refuse(fhir.IssueNotSupported, "", fmt.Sprintf("_sort by %q is not supported: it takes _id and _lastUpdated, with - before them for descending", shortened(name)))
		}
		if i == 0 {
			o = order{byTime: name == "_lastUpdated", down: down}
		}
	}
	return o, nil
}

// rising reports whether the order is that of the store.
func (o order) rising() bool { return !o.byTime && !o.down }

// spot is where a match stands in an order. The log gives every version a place of its own, in
// the order of their times.
type spot struct {
	version record.Sequence
	id      fhir.ID
}

// compare is negative where a comes before b.
func (o order) compare(a, b spot) int {
	var c int
	if o.byTime {
		c = cmp.Compare(a.version, b.version)
	} else {
		c = cmp.Compare(a.id, b.id)
	}
	if o.down {
		return -c
	}
	return c
}

// cursor is where a page begins: behind a place, in the state at a position of EVENTS.
type cursor struct {
	at    record.Sequence
	total int // of all pages; -1: not known
	after spot
}

// String is the cursor as a link carries it: opaque to clients, valid on every node, and for as
// long as EVENTS has the versions of its position.
func (c *cursor) String() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "1 %d %d %d %s", c.at, c.total, c.after.version, c.after.id))
}

func parseCursor(value string) (*cursor, error) {
	refused := fhir.Refuse(fhir.IssueValue, "", "_cursor is not one that this server gave: take it from the next link of a page")
	text, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil {
		return nil, refused
	}
	field := strings.Split(string(text), " ")
	if len(field) != 5 || field[0] != "1" {
		return nil, refused
	}
	at, err1 := strconv.ParseUint(field[1], 10, 63)
	total, err2 := strconv.Atoi(field[2])
	version, err3 := strconv.ParseUint(field[3], 10, 63)
	id := fhir.ID(field[4])
	if err1 != nil || err2 != nil || err3 != nil || total < -1 || !id.Valid() {
		return nil, refused
	}
	return &cursor{at: record.Sequence(at), total: total, after: spot{record.Sequence(version), id}}, nil
}
