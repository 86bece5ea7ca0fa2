package store

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// definitionTypes are the resource types, besides Subscription, whose versions are kept with
// their bodies: what they say decides how the criteria of Subscriptions are understood, and
// who compiles those again after a start needs them as they stood at each place of the log.
var definitionTypes = []string{"CodeSystem", "SearchParameter", "ValueSet"}

// KeptVersion is a version of a Subscription, or of a resource that its criteria may use, with
// its body. For a delete the body is empty.
type KeptVersion struct {
	Key         fhir.Key
	Sequence    record.Sequence
	Interaction fhir.Interaction
	Birth       record.Sequence
	Time        time.Time
	Owner       string // token that wrote it; may be empty
	Body        []byte // as it came; the caller's own copy
}

// keptKey is the key of a kept version. That of a Subscription begins with its id alone; no id
// holds a slash.
func keptKey(key fhir.Key, seq record.Sequence) (string, bool) {
	switch {
	case key.Type == subscriptionType:
		return string(key.ID) + "\x00" + num(seq), true
	case slices.Contains(definitionTypes, key.Type):
		return key.String() + "\x00" + num(seq), true
	}
	return "", false
}

// ofSubscription reports whether a key of a kept version is that of a Subscription.
func ofSubscription(key string) bool {
	id, _, _ := strings.Cut(key, "\x00")
	return !strings.Contains(id, "/")
}

// KeptVersions shows every kept version of every Subscription, SearchParameter, ValueSet and
// CodeSystem, in the order of the log, until fn fails; its error is returned. What is written
// meanwhile may or may not be shown.
func (s *Store) KeptVersions(fn func(KeptVersion) error) error {
	keys, err := s.keptKeys()
	for len(keys) > 0 && err == nil {
		chunk := keys[:min(len(keys), scanChunk)]
		keys = keys[len(chunk):]
		var versions []KeptVersion
		if versions, err = s.keptChunk(chunk); err != nil {
			break
		}
		for _, v := range versions {
			if err := fn(v); err != nil {
				return err
			}
		}
	}
	if err != nil {
		return fmt.Errorf("read subscriptions and definitions: %w", err)
	}
	return nil
}

// keptKeys lists the keys of all kept versions in the order of the log.
func (s *Store) keptKeys() (keys []string, err error) {
	from := ""
	for more := true; more && err == nil; {
		more = false
		n := 0
		err = s.view(func(r *reader) error {
			r.scan(bSubscription, from, "", func(key string, _ []byte) bool {
				if n++; n > scanChunk {
					more, from = true, key
					return false
				}
				keys = append(keys, strings.Clone(key))
				return true
			})
			return nil
		})
	}
	slices.SortFunc(keys, func(a, b string) int {
		_, m, _ := cutNum(a)
		_, n, _ := cutNum(b)
		return cmp.Compare(m, n)
	})
	return keys, err
}

func (s *Store) keptChunk(keys []string) (versions []KeptVersion, err error) {
	err = s.view(func(r *reader) error {
		for _, key := range keys {
			raw, ok := r.get(bSubscription, key)
			if !ok {
				continue // pruned meanwhile
			}
			v, err := decodeSubscription(key, raw)
			if err != nil {
				r.malformed(bSubscription, err)
				return nil
			}
			typ, id, other := strings.Cut(string(v.ID), "/")
			if !other {
				typ, id = subscriptionType, typ
			}
			versions = append(versions, KeptVersion{
				Key: fhir.Key{Type: typ, ID: fhir.ID(id)}, Sequence: v.Sequence, Interaction: v.Interaction,
				Birth: v.Birth, Time: v.Time, Owner: v.Owner, Body: v.Body,
			})
		}
		return nil
	})
	return versions, err
}
