package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// AnySystem, as the system of an IdentifierLookup, finds identifiers of any system and of
// none. It is no system that a resource could have.
const AnySystem = "\x00"

// subscriptionType is the resource type whose versions are kept with their bodies.
const subscriptionType = "Subscription"

// eventsPerCommit bounds how many events are folded in one step, and with it how long readers
// wait for a commit.
const eventsPerCommit = 256

// ApplyEvents folds records of EVENTS, in rising order of sequence, and moves the position to
// last: the sequence up to which the log was read, control records included. It returns one
// Change for each event, in order; an event at or before the position was folded already and
// gives none.
//
// What an event did follows from the records of its resource before it and from itself. A
// Change says Unchanged where it did nothing; Previous is then the current version (0 where
// there is none) and Birth the current birth.
//
// An error says that the projection cannot go on (ErrDamaged, ErrClosed, a file that cannot be
// written) or that ctx ended while the writer was behind. The changes returned with it are
// folded; call again with the rest, or with all.
func (s *Store) ApplyEvents(ctx context.Context, events []record.Event, last record.Sequence) ([]record.Change, error) {
	s.feeds[Events].Lock()
	defer s.feeds[Events].Unlock()
	at := s.Position().Events
	for len(events) > 0 && events[0].Sequence <= at {
		events = events[1:]
	}
	changes := make([]record.Change, 0, len(events))
	for len(events) > 0 {
		n := min(len(events), eventsPerCommit)
		step := events[:n]
		events = events[n:]
		through := step[n-1].Sequence
		if len(events) == 0 {
			through = max(through, last)
		}
		done := len(changes)
		if err := s.foldEvents(ctx, step, through, changes[done:done+n]); err != nil {
			return changes, err
		}
		changes = changes[:done+n]
		at = through
	}
	if last > at {
		return changes, s.fold(ctx, Events, last, 1, func(*folding) {})
	}
	return changes, nil
}

// foldEvents is one step of ApplyEvents, with room for the change of each event.
func (s *Store) foldEvents(ctx context.Context, events []record.Event, through record.Sequence, changes []record.Change) error {
	contents := make([]content, len(events)) // read before anything is locked
	for i := range events {
		contents[i] = s.read(&events[i])
	}
	return s.fold(ctx, Events, through, len(events), func(f *folding) {
		for i := range events {
			changes[i] = f.event(&events[i], &contents[i])
		}
		newest := &events[len(events)-1]
		f.last, f.sum = newest.Sequence, SumEvent(newest)
	})
}

// content is what the fold wants to know of a body.
type content struct {
	Content
	err error
}

// read looks into an event's body. A reader that panics must not stop the projection.
func (s *Store) read(e *record.Event) (c content) {
	if e.Asked == fhir.Delete {
		return content{}
	}
	defer func() {
		if p := recover(); p != nil {
			c = content{err: fmt.Errorf("reading the body of event %d failed", e.Sequence)}
		}
	}()
	c.Content, c.err = s.hash(e.Body)
	return c
}

// resourceRow is a row of the resource bucket.
type resourceRow struct {
	Resource
	identifiers []string // ends of its keys in the identifier bucket, sorted
}

// exists reports whether there is a current version.
func (r *resourceRow) exists() bool { return r.Version != 0 && !r.Deleted }

func (r *resourceRow) encode() []byte {
	e := sized(4*numSize + len(r.Hash) + timeSize + identifierLen*len(r.identifiers))
	e.uint(uint64(r.Version))
	e.uint(uint64(r.Last))
	e.uint(uint64(r.Birth))
	e.bool(r.Deleted)
	e.raw(r.Hash[:])
	e.time(r.Time)
	e.uint(uint64(len(r.identifiers)))
	for _, id := range r.identifiers {
		e = append(e, id...)
	}
	return e
}

func decodeResource(key fhir.Key, v []byte) (resourceRow, error) {
	d := decoder{b: v}
	r := resourceRow{Resource: Resource{
		Key:     key,
		Version: record.Sequence(d.uint()),
		Last:    record.Sequence(d.uint()),
		Birth:   record.Sequence(d.uint()),
		Deleted: d.bool(),
	}}
	copy(r.Hash[:], d.take(uint64(len(r.Hash))))
	r.Time = d.time()
	for n := d.uint(); n > 0 && d.err == nil; n-- {
		r.identifiers = append(r.identifiers, string(d.take(identifierLen)))
	}
	return r, d.end()
}

func (r *reader) resource(key fhir.Key) resourceRow { return r.resourceAt(key, resourceKey(key)) }

// resourceAt is resource, with the row's key at hand.
func (r *reader) resourceAt(key fhir.Key, at string) resourceRow {
	v, ok := r.get(bResource, at)
	if !ok {
		return resourceRow{Resource: Resource{Key: key}}
	}
	row, err := decodeResource(key, v)
	if err != nil {
		r.malformed(bResource, err)
	}
	return row
}

// decide says what an event did to a resource. readable is false where the record could not
// be understood; it then did nothing.
//
// A writer that says create or update is believed, as is a change feed that deletes what is
// not known here: its own server decided so. Only what alters nothing is no event.
func decide(old *resourceRow, e *record.Event, c *content) (did fhir.Interaction, readable bool) {
	switch e.Asked {
	case fhir.Delete:
		if old.exists() || (e.Feed && old.Version == 0) { // one that is known to be deleted is deleted once
			return fhir.Delete, true
		}
		return fhir.Unchanged, true
	case fhir.Create, fhir.Update, "":
	default:
		return fhir.Unchanged, false
	}
	switch {
	case c.err != nil:
		return fhir.Unchanged, false
	case old.exists() && old.Hash == c.Sum:
		return fhir.Unchanged, true
	case e.Asked != "":
		return e.Asked, true
	case old.exists():
		return fhir.Update, true
	}
	return fhir.Create, true
}

// event folds one event.
func (f *folding) event(e *record.Event, c *content) record.Change {
	if !keyable(e.Key.Type) || !keyable(string(e.Key.ID)) {
		f.SetAside++
		return record.Change{Event: *e, Interaction: fhir.Unchanged}
	}
	key := resourceKey(e.Key)
	old := f.resourceAt(e.Key, key)
	did, readable := decide(&old, e, c)
	if !readable {
		f.SetAside++
	}
	now := old
	now.Last = e.Sequence
	change := record.Change{Event: *e, Interaction: did, Birth: old.Birth}
	if did == fhir.Unchanged {
		if old.exists() {
			change.Previous = old.Version
		}
	} else {
		now = f.effect(&old, e, c, did)
		change.Birth = now.Birth
		if old.exists() && did != fhir.Create {
			change.Previous = old.Version
		}
		f.keep(&old, &change)
	}
	f.put(bResource, key, now.encode())
	return change
}

// effect is a resource after an effective change.
func (f *folding) effect(old *resourceRow, e *record.Event, c *content, did fhir.Interaction) resourceRow {
	now := resourceRow{Resource: Resource{
		Key: e.Key, Version: e.Sequence, Last: e.Sequence, Birth: old.Birth,
		Deleted: did == fhir.Delete, Time: e.Time,
	}}
	if !now.Deleted {
		now.Hash = c.Sum
		now.identifiers = identifierKeys(c.Identifiers)
		if !old.exists() {
			now.Birth = e.Sequence
		}
	}
	f.refer(e.Key, c.References, old.Version == 0)
	for _, id := range old.identifiers {
		if _, kept := slices.BinarySearch(now.identifiers, id); !kept {
			f.delete(bIdentifier, identifierKey(e.Key, id))
		}
	}
	for _, id := range now.identifiers {
		if _, had := slices.BinarySearch(old.identifiers, id); !had {
			f.put(bIdentifier, identifierKey(e.Key, id), nil)
		}
	}
	return now
}

// keep stores an effective change in the resource's history, and the body of a Subscription or of
// a definition.
func (f *folding) keep(old *resourceRow, c *record.Change) {
	v := Version{
		Sequence: c.Sequence, Key: c.Key, Interaction: c.Interaction,
		Previous: c.Previous, Chain: old.Version, Birth: c.Birth, Time: c.Time,
	}
	f.put(bVersion, num(v.Sequence), v.encode())
	if key, ok := keptKey(c.Key, c.Sequence); ok {
		s := SubscriptionVersion{
			ID: c.Key.ID, Sequence: c.Sequence, Interaction: c.Interaction, Birth: c.Birth,
			Time: c.Time, Owner: c.Owner,
		}
		if c.Interaction != fhir.Delete {
			s.Body = c.Body
		}
		f.put(bSubscription, key, s.encode())
	}
}

func (v *Version) encode() []byte {
	e := sized(len(v.Key.Type) + len(v.Key.ID) + len(v.Interaction) + 4*numSize + timeSize)
	e.string(v.Key.Type)
	e.string(string(v.Key.ID))
	e.string(string(v.Interaction))
	e.uint(uint64(v.Previous))
	e.uint(uint64(v.Chain))
	e.uint(uint64(v.Birth))
	e.time(v.Time)
	return e
}

func (r *reader) version(seq record.Sequence) (Version, bool) {
	raw, ok := r.get(bVersion, num(seq))
	if !ok {
		return Version{}, false
	}
	d := decoder{b: raw}
	v := Version{
		Sequence:    seq,
		Key:         fhir.Key{Type: d.string(), ID: fhir.ID(d.string())},
		Interaction: d.interaction(),
		Previous:    record.Sequence(d.uint()),
		Chain:       record.Sequence(d.uint()),
		Birth:       record.Sequence(d.uint()),
		Time:        d.time(),
	}
	if err := d.end(); err != nil {
		r.malformed(bVersion, err)
		return Version{}, false
	}
	return v, true
}

func (s *SubscriptionVersion) encode() []byte {
	e := sized(len(s.Interaction) + 4*numSize + timeSize + len(s.Owner) + len(s.Body))
	e.string(string(s.Interaction))
	e.uint(uint64(s.Birth))
	e.time(s.Time)
	e.string(s.Owner)
	e.bytes(s.Body)
	return e
}

func decodeSubscription(key string, v []byte) (SubscriptionVersion, error) {
	rest, seq, ok := cutNum(key)
	id, end := strings.CutSuffix(rest, "\x00")
	if !ok || !end {
		return SubscriptionVersion{}, errMalformed
	}
	d := decoder{b: v}
	s := SubscriptionVersion{
		ID: fhir.ID(id), Sequence: record.Sequence(seq),
		Interaction: d.interaction(),
		Birth:       record.Sequence(d.uint()),
		Time:        d.time(),
		Owner:       d.string(),
		Body:        d.bytes(),
	}
	return s, d.end()
}

// identifierLen is the length of what the identifier index knows of an identifier: half a
// SHA-256 of its value and half of one of its system. Values may be as long as a resource and
// are often names of people; neither belongs into a key.
const identifierLen = 32

func identifierKeys(pairs [][2]string) []string {
	if len(pairs) == 0 {
		return nil
	}
	keys := make([]string, len(pairs))
	for i, p := range pairs {
		keys[i] = halfSum(p[1]) + halfSum(p[0])
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func halfSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return string(sum[:16])
}

func identifierKey(k fhir.Key, id string) string {
	return k.Type + "\x00" + id + string(k.ID)
}

// Resource says what EVENTS holds of a resource. ok is false where it never had a version;
// Last is set also then. A deleted resource is found, with Deleted.
func (s *Store) Resource(key fhir.Key) (res Resource, ok bool, err error) {
	err = s.view(func(r *reader) error {
		res = r.resource(key).Resource
		return nil
	})
	return res, err == nil && res.Version != 0, err
}

// Before finds the version that an event made and what was before it; ok is false where the
// event had no effect or is not known.
func (s *Store) Before(event record.Sequence) (v Version, ok bool, err error) {
	err = s.view(func(r *reader) error {
		v, ok = r.version(event)
		return nil
	})
	return v, ok && err == nil, err
}

// History walks the versions of a resource, newest first, across deletes. It ends with the
// first error.
func (s *Store) History(key fhir.Key) iter.Seq2[Version, error] {
	return func(yield func(Version, error) bool) {
		res, _, err := s.Resource(key)
		for seq := res.Version; err == nil && seq != 0; {
			v, ok, verr := s.Before(seq)
			if !ok || verr != nil {
				err = verr
				break
			}
			if v.Chain >= seq { // a chain leads back
				err = s.layers.file.damaged(errors.New("history of a resource does not lead back"))
				break
			}
			if !yield(v, nil) {
				return
			}
			seq = v.Chain
		}
		if err != nil {
			yield(Version{}, fmt.Errorf("history of %s: %w", key, err))
		}
	}
}

// List gives the resources of a type that are not deleted, in order of id, those after an id,
// at most limit (0 means 100).
func (s *Store) List(typ string, after fhir.ID, limit int) (out []Resource, err error) {
	prefix := typ + "\x00"
	from := prefix
	if after != "" {
		from += string(after) + "\x00"
	}
	err = s.view(func(r *reader) error {
		r.scan(bResource, from, prefixEnd(prefix), func(key string, v []byte) bool {
			row, err := decodeResource(fhir.Key{Type: typ, ID: fhir.ID(key[len(prefix):])}, v)
			if err != nil {
				r.malformed(bResource, err)
				return false
			}
			if row.exists() {
				out = append(out, row.Resource)
			}
			return len(out) < limitOr(limit, 100)
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", typ, err)
	}
	return out, nil
}

func limitOr(n, otherwise int) int {
	if n <= 0 {
		return otherwise
	}
	return n
}

// IdentifierLookup finds the resources of a type that are not deleted and have an identifier
// of this value, in this system (AnySystem: in any or none; empty: in none), at most limit
// (0 means 100), each once.
func (s *Store) IdentifierLookup(typ, system, value string, limit int) (ids []fhir.ID, err error) {
	prefix := typ + "\x00" + halfSum(value)
	if system != AnySystem {
		prefix += halfSum(system)
	}
	skip := len(typ) + 1 + identifierLen
	seen := map[fhir.ID]bool{}
	err = s.view(func(r *reader) error {
		r.prefix(bIdentifier, prefix, func(key string, _ []byte) bool {
			if len(key) < skip {
				r.malformed(bIdentifier, errMalformed)
				return false
			}
			if id := fhir.ID(key[skip:]); !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
			return len(ids) < limitOr(limit, 100)
		})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up identifier of %s: %w", typ, err)
	}
	return ids, nil
}

// scanChunk is how many rows a long scan reads in one view.
const scanChunk = 256

// SubscriptionVersions shows every kept version of every Subscription, by id and then by
// sequence, until fn fails; its error is returned. Versions that are written meanwhile may or
// may not be shown.
func (s *Store) SubscriptionVersions(fn func(SubscriptionVersion) error) error {
	for from := ""; ; {
		chunk, err := s.subscriptionChunk(from)
		if err != nil {
			return fmt.Errorf("read subscriptions: %w", err)
		}
		for _, v := range chunk {
			if err := fn(v); err != nil {
				return err
			}
		}
		if len(chunk) < scanChunk {
			return nil
		}
		last := &chunk[len(chunk)-1]
		from = string(last.ID) + "\x00" + num(last.Sequence+1)
	}
}

// SubscriptionVersion reads one version of a Subscription; ok is false where it is not kept.
func (s *Store) SubscriptionVersion(id fhir.ID, seq record.Sequence) (v SubscriptionVersion, ok bool, err error) {
	err = s.view(func(r *reader) error {
		key := string(id) + "\x00" + num(seq)
		raw, found := r.get(bSubscription, key)
		if !found {
			return nil
		}
		var err error
		if v, err = decodeSubscription(key, raw); err != nil {
			r.malformed(bSubscription, err)
		}
		ok = true
		return nil
	})
	return v, ok && err == nil, err
}

func (s *Store) subscriptionChunk(from string) (chunk []SubscriptionVersion, err error) {
	err = s.view(func(r *reader) error {
		r.scan(bSubscription, from, "", func(key string, v []byte) bool {
			if !ofSubscription(key) {
				return true
			}
			sub, err := decodeSubscription(key, v)
			if err != nil {
				r.malformed(bSubscription, err)
				return false
			}
			chunk = append(chunk, sub)
			return len(chunk) < scanChunk
		})
		return nil
	})
	return chunk, err
}

// PruneSubscriptions removes the Subscription versions that no event after below can need:
// those with a successor at or before below, and deletes that are themselves at or before it.
// It returns how many.
//
// The projection stays a function of the logs only if every node prunes at the same place of
// EVENTS: call it from the goroutine that applies EVENTS, when a record there says so. A criteria
// that cannot be compiled any more goes on as an earlier version had it, which must then not be
// pruned: whoever calls this has to see to that first.
func (s *Store) PruneSubscriptions(ctx context.Context, below record.Sequence) (int, error) {
	s.feeds[Events].Lock()
	defer s.feeds[Events].Unlock()
	pruned := 0
	err := s.fold(ctx, Events, s.Position().Events, 1, func(f *folding) {
		var drop []string
		var id, older string // the last id seen and the key of its newest version so far
		f.scan(bSubscription, "", "", func(key string, v []byte) bool {
			if !ofSubscription(key) {
				return true // what an old version of a Subscription was compiled with may still count
			}
			sub, err := decodeSubscription(key, v)
			if err != nil {
				f.malformed(bSubscription, err)
				return false
			}
			if sub.Sequence > below {
				return true
			}
			if older != "" && id == string(sub.ID) {
				drop = append(drop, older)
			}
			id, older = string(sub.ID), key
			if sub.Interaction == fhir.Delete {
				drop = append(drop, key)
				older = ""
			}
			return true
		})
		for _, key := range drop {
			f.delete(bSubscription, key)
		}
		pruned = len(drop)
	})
	if err != nil {
		return 0, fmt.Errorf("prune subscriptions: %w", err)
	}
	return pruned, nil
}
