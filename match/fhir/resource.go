package fhir

import (
	"fmt"
	"strings"
)

// ID is the logical id of a resource: 1 to 64 letters, digits, '-' and '.'
// (FHIR R4 2.24.0.1, datatype id).
type ID string

// Valid reports whether the id keeps FHIR's grammar.
func (id ID) Valid() bool {
	if len(id) == 0 || len(id) > 64 {
		return false
	}
	for i := 0; i < len(id); i++ {
		c := id[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.':
		default:
			return false
		}
	}
	return true
}

// Key names one resource: its type and its logical id.
type Key struct {
	Type string
	ID   ID
}

// String is the relative reference, Type/id.
func (k Key) String() string { return k.Type + "/" + string(k.ID) }

// ParseKey reads a relative reference Type/id. A version (Type/id/_history/v) is refused;
// callers that allow one split it off first.
func ParseKey(s string) (Key, error) {
	typ, id, ok := strings.Cut(s, "/")
	if !ok || typ == "" || !ID(id).Valid() {
		return Key{}, fmt.Errorf("%q is not of the form Type/id", s)
	}
	return Key{Type: typ, ID: ID(id)}, nil
}

// Interaction says what happened to a resource.
type Interaction string

// The interactions that a change can have. Unchanged is what the fold of the log calls a
// write that altered nothing: it makes no version and no event.
const (
	Create    Interaction = "create"
	Update    Interaction = "update"
	Delete    Interaction = "delete"
	Unchanged Interaction = "unchanged"
)

// EventNumber is the rank of a match among the matches of one Subscription since its birth.
// It starts at 1 and has no gaps (eventNumber, eventsSinceSubscriptionStart in FHIR R5).
type EventNumber uint64
