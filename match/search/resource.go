package search

import (
	"math"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhirpath"
)

// Envelope is what the server knows of a resource beside its body: bodies are kept as they
// came, and one that was created without an id does not hold it.
type Envelope struct {
	ID          string    // logical id; empty: the body's own
	LastUpdated time.Time // time of the version; zero: the body's own meta.lastUpdated
}

// Resource is a parsed resource together with the values that criteria have asked for so far.
// Each parameter is read at most once for a resource, by the first criteria that needs it.
// A Resource is used by one goroutine at a time; Criteria are shared.
type Resource struct {
	definitions *Definitions
	tree        *json.Tree
	envelope    Envelope
	typ         *typeDef // nil: a type that the version does not have
	name        string

	epoch uint32 // tells slots of this resource from those of earlier ones
	slots []slot

	// Arenas of the values, one for each kind.
	tokens     []token
	texts      []text
	folded     []byte
	references []reference
	spans      []span
	amounts    []amount
	uris       []uri
	parts      []part // of composites; see tuples in composite.go
	hashes     []uint64
	linked     []uint64 // as hashes, of other resources
	scratch    []byte
	measures   map[string]*measure // units by code, kept from resource to resource

	others    *others   // resources beside this one; nil: none were ever asked for
	container *Resource // of a contained resource; nil for any other
	bundle    *Resource // Bundle that it stands in, at entry; nil: none
	entry     json.Node // the resource there
	missed    error     // why the condition at hand could not be decided; see undecided

	// What only some modifiers and parameters read; see view.
	asides      []aside
	identifiers []typedIdentifier
	positions   []position
	corners     []corner
	words       []byte

	entries, entriesByURL []bundled // of a Bundle; see inBundle
	entriesRead           bool

	contained     []containedID // see containedIs
	containedRead bool

	made      []byte // texts that expressions have made; values point into it
	evaluator *fhirpath.Evaluator

	spent, limit int    // steps of the condition at hand
	work         uint64 // steps of everything; see Work

	reading *slot  // the slot being filled
	param   *param // and its parameter
	view    view   // and how its elements are read
	done    bool   // the one element that it wants is read; see param.first
	tuple   slot   // of the part of a composite at hand

	rootPart  part // of the composite at hand, what its part that begins at the resource has
	rootRead  bool
	nodes     int // of the composite at hand, so far
	nodeSteps int // and what its expressions took
}

// keptHashes bounds the memory that stays after a resource with very many values.
const keptHashes = 1 << 16

// NewResource prepares a tree for matching. The tree must stay as it is until Reset. Without
// one (nil) r is empty until Reset and meets no criteria.
func NewResource(d *Definitions, t *json.Tree) *Resource {
	if t == nil {
		t = &json.Tree{}
	}
	r := &Resource{definitions: d}
	r.Reset(t, Envelope{})
	return r
}

// Reset gives r another tree and what is known beside it; its memory is used again. What
// Hashes returned before is void.
func (r *Resource) Reset(t *json.Tree, e Envelope) {
	r.tree, r.envelope = t, e
	r.tokens, r.texts, r.folded = r.tokens[:0], r.texts[:0], r.folded[:0]
	r.references, r.spans, r.amounts = r.references[:0], r.spans[:0], r.amounts[:0]
	r.uris, r.parts, r.hashes = r.uris[:0], r.parts[:0], r.hashes[:0]
	if cap(r.hashes) > keptHashes {
		r.hashes = nil
	}
	if cap(r.linked) > keptHashes {
		r.linked = nil
	}
	r.contained, r.containedRead = r.contained[:0], false
	r.entries, r.entriesByURL, r.entriesRead = r.entries[:0], r.entriesByURL[:0], false
	r.others.forget(r)
	r.asides, r.identifiers = r.asides[:0], r.identifiers[:0]
	r.made = r.made[:0]
	r.positions, r.corners, r.words = r.positions[:0], r.corners[:0], r.words[:0]
	if r.epoch == math.MaxUint32 {
		clear(r.slots)
		r.epoch = 0
	}
	r.epoch++
	name := t.Text(t.Find(t.Root(), nameTypeName))
	if r.typ = r.definitions.types[string(name)]; r.typ == nil {
		r.name = string(name)
		return
	}
	r.name = r.typ.name
}

// Type is the resource's type, as its body says.
func (r *Resource) Type() string { return r.name }

// ID is the resource's logical id: the envelope's, else the body's; empty if neither has one.
func (r *Resource) ID() string {
	if r.envelope.ID != "" {
		return r.envelope.ID
	}
	return r.tree.Str(r.tree.Find(r.tree.Root(), nameID))
}

// Tree is the resource's body.
func (r *Resource) Tree() *json.Tree { return r.tree }
