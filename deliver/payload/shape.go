package payload

import (
	"errors"
	"fmt"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/model"
)

// Resource is a resource on its way to a receiver.
type Resource struct {
	Key  fhir.Key // as the receiver knows it, once it is shaped
	Body []byte
}

// Shape is how a Subscription wants resources to be written. The zero Shape leaves them as they are.
type Shape struct {
	version      fhir.Version
	replication  *fhir.Replication
	stripVersion bool
}

// Of reads the shape that a Subscription asks for; one that is nil asks for none. The version is that of the resources.
func Of(s *fhir.Subscription, v fhir.Version) Shape {
	if s == nil {
		return Shape{}
	}
	return Shape{v, s.Replication, s.StripVersion}
}

// Plain reports whether resources stay as they are.
func (s Shape) Plain() bool { return s.replication == nil && !s.stripVersion }

// Key is what the receiver calls a resource. It fails where that would not be an id any more.
func (s Shape) Key(k fhir.Key) (fhir.Key, error) {
	r := s.replication
	if r == nil {
		return k, nil
	}
	to := fhir.Key{Type: k.Type, ID: fhir.ID(strings.TrimPrefix(string(k.ID), r.StripIDPrefix))}
	if r.Prefixes(to) {
		to.ID = fhir.ID(r.IDPrefix) + to.ID
	}
	if !to.ID.Valid() {
		return k, fmt.Errorf("the id of %s would have %d characters in replication mode, and an id has 1 to 64", k, len(to.ID))
	}
	return to, nil
}

// Resource writes a resource in the shape: first for replication, then without its version.
func (s Shape) Resource(r Resource) (Resource, error) {
	if s.Plain() {
		return r, nil
	}
	key, err := s.Key(r.Key)
	if err != nil {
		return r, err
	}
	t := json.Borrow()
	defer t.Release()
	if err := t.Parse(r.Body, json.Limits{Bytes: max(1, len(r.Body))}); err != nil {
		return r, fmt.Errorf("shape %s: %w", r.Key, err)
	}
	c := t.Change()
	if s.replication != nil {
		m := model.For(s.version)
		if m == nil {
			return r, errors.New("replication mode: resources of FHIR " + string(s.version) + " are not known")
		}
		w := writer{Shape: s, model: m, t: t, changes: c}
		w.resource(t.Root(), true)
		if w.err != nil {
			return r, w.err
		}
	}
	if s.stripVersion {
		stripVersion(t, c)
	}
	return Resource{key, c.Bytes()}, nil
}

// stripVersion takes meta.versionId out, and a meta that would be empty: FHIR has no empty objects.
func stripVersion(t *json.Tree, c *json.Changes) {
	meta := t.Get(t.Root(), "meta")
	v := t.Get(meta, "versionId")
	switch {
	case v == 0:
	case t.Len(meta) == 1:
		c.Remove(t.Root(), meta)
	default:
		c.Remove(meta, v)
	}
}

// versionOf is the version that a body says it is of; empty where it says none.
func versionOf(body []byte) (string, error) {
	t := json.Borrow()
	defer t.Release()
	if err := t.Parse(body, json.Limits{Bytes: max(1, len(body))}); err != nil {
		return "", err
	}
	return t.Str(t.Get(t.Get(t.Root(), "meta"), "versionId")), nil
}
