package store

import (
	"encoding/binary"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// bucket names one part of the projection. The order is that of writing and of hashing.
type bucket uint8

// Every bucket, its key, and the log that feeds it. Numbers in keys are big-endian, eight
// bytes, so that the order of keys is the order of numbers.
const (
	bMeta         bucket = iota // name → positions and counters (each log writes its own row)
	bResource                   // type 0 id → Resource and its identifiers (EVENTS)
	bVersion                    // event → Version (EVENTS); DESIGN calls it before
	bIdentifier                 // type 0 hash(value) hash(system) id → nothing (EVENTS)
	bReference                  // hash(target) type 0 id → nothing; rows are never removed (EVENTS)
	bSubscription               // id 0 event, or type / id 0 event for a definition → SubscriptionVersion (EVENTS)
	bCounter                    // birth → last event number given (MATCHES)
	bMatch                      // birth number → match (MATCHES)
	bMatchID                    // birth event → number (MATCHES)
	bReplay                     // birth number MATCHES-sequence → job (MATCHES)
	bPurge                      // birth event → MATCHES-sequence; expiredKey → DEAD-sequence (MATCHES)
	bState                      // birth number → rounds, attempts, last outcome (OUTCOMES)
	bOutcome                    // OUTCOMES-sequence index → outcome (OUTCOMES)
	bOutcomeBy                  // subscription 0 OUTCOMES-sequence index → nothing (OUTCOMES)
	bOutcomeOf                  // event OUTCOMES-sequence index → nothing (OUTCOMES)
	bPending                    // birth number → nothing (follows from match, replay and state)
	bDead                       // DEAD-sequence → letter without body (DEAD; expiry in MATCHES)
	bDeadID                     // subscription 0 number birth → DEAD-sequences (follows from dead)
	bDeadBy                     // subscription 0 DEAD-sequence → nothing (follows from deadid)
	bJob                        // id → job that is done in steps (MATCHES)
	bOrder                      // id of a job → its order as JSON (MATCHES)
	bucketCount
)

var bucketNames = [bucketCount]string{
	bMeta: "meta", bResource: "resource", bVersion: "version", bIdentifier: "identifier",
	bReference:    "reference",
	bSubscription: "subscription", bCounter: "counter", bMatch: "match", bMatchID: "matchid",
	bReplay: "replay", bPurge: "purge", bState: "state", bOutcome: "outcome",
	bOutcomeBy: "outcomeby", bOutcomeOf: "outcomeof", bPending: "pending", bDead: "dead", bDeadID: "deadid",
	bDeadBy: "deadby", bJob: "job", bOrder: "order",
}

// appended says of a bucket that its keys arrive in rising order, so that its pages may be
// filled to the brim.
var appended = [bucketCount]bool{bVersion: true, bOutcome: true, bDead: true}

func (b bucket) String() string { return bucketNames[b] }

// number is anything that is ordered as an eight-byte key.
type number interface {
	~uint64
}

func num[N number](n N) string {
	var k [8]byte
	binary.BigEndian.PutUint64(k[:], uint64(n))
	return string(k[:])
}

func pair[A, B number](a A, b B) string {
	var k [16]byte
	binary.BigEndian.PutUint64(k[:8], uint64(a))
	binary.BigEndian.PutUint64(k[8:], uint64(b))
	return string(k[:])
}

// cutNum reads the number at the end of a key.
func cutNum(key string) (rest string, n uint64, ok bool) {
	if len(key) < 8 {
		return "", 0, false
	}
	at := len(key) - 8
	return key[:at], binary.BigEndian.Uint64([]byte(key[at:])), true
}

// cutPair reads a key made by pair.
func cutPair(key string) (birth record.Sequence, n uint64, ok bool) {
	if len(key) != 16 {
		return 0, 0, false
	}
	b := []byte(key)
	return record.Sequence(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint64(b[8:]), true
}

// keyable reports whether a name may be part of a key: it has a length that FHIR allows, and
// not the byte that ends names. Names in the logs were checked when they came in; one that was
// not must not stop the projection with a key that the file refuses.
func keyable(name string) bool {
	return name != "" && len(name) <= 64 && !strings.Contains(name, "\x00")
}

func resourceKey(k fhir.Key) string { return k.Type + "\x00" + string(k.ID) }

func placeKey(p Place) string {
	var k [12]byte
	binary.BigEndian.PutUint64(k[:8], uint64(p.Sequence))
	binary.BigEndian.PutUint32(k[8:], uint32(p.Index))
	return string(k[:])
}

func parsePlace(key string) (Place, bool) {
	if len(key) != 12 {
		return Place{}, false
	}
	return Place{
		Sequence: record.Sequence(binary.BigEndian.Uint64([]byte(key[:8]))),
		Index:    int(binary.BigEndian.Uint32([]byte(key[8:]))),
	}, true
}

// prefixEnd is the first key after all those that begin with prefix; empty when there is none.
func prefixEnd(prefix string) string {
	for i := len(prefix) - 1; i >= 0; i-- {
		if c := prefix[i]; c < 0xff {
			return prefix[:i] + string([]byte{c + 1})
		}
	}
	return ""
}
