package store

import (
	"fmt"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// referenceKey is a row of the reference index: that a resource once referred to a target. The
// target stands there by half of its SHA-256, so that the rows of one target lie together and
// all have the same length in front; two targets of one hash share their referrers, which
// whoever reads them verifies anyway.
func referenceKey(target string, k fhir.Key) string {
	return halfSum(target) + k.Type + "\x00" + string(k.ID)
}

// refer notes what a version of a resource refers to. Nothing is taken back by a later version
// or by a delete: whoever asks what was so at an earlier place finds it, and an update, which
// as a rule refers to what its resource referred to before, changes no row. fresh says that the
// resource had no version before; then no row of it can be there, and none is looked for.
func (f *folding) refer(k fhir.Key, targets []string, fresh bool) {
	for _, target := range targets {
		if at := referenceKey(target, k); fresh || !f.has(bReference, at) {
			f.put(bReference, at, nil)
		}
	}
}

// Referrers finds the resources of a type of which any version ever referred to target, in order
// of id, those after an id, at most limit (0 means 100).
//
// It is a superset of those that refer to it at one place of the log: later versions may have
// taken the reference back, the resource may be deleted, and the reference may be to a resource
// of this type and id on another server. Whoever needs to know reads the version in question.
// What is found at a position of EVENTS covers every earlier one.
func (s *Store) Referrers(target fhir.Key, typ string, after fhir.ID, limit int) (ids []fhir.ID, err error) {
	prefix := referenceKey(target.String(), fhir.Key{Type: typ})
	from := prefix
	if after != "" {
		from += string(after) + "\x00"
	}
	err = s.view(func(r *reader) error {
		r.scan(bReference, from, prefixEnd(prefix), func(key string, _ []byte) bool {
			ids = append(ids, fhir.ID(key[len(prefix):]))
			return len(ids) < limitOr(limit, 100)
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up what refers to %s: %w", target, err)
	}
	return ids, nil
}
