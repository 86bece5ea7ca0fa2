package search

import (
	"unicode/utf8"

	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/ucum"
)

// token is a value that a token parameter compares: a code and where it comes from.
type token struct {
	system []byte // nil if it has none
	code   []byte // nil if there is a system alone
	form   tokenForm
	exact  bool // the case of the code counts
}

type tokenForm uint8

const (
	tokenSystem  tokenForm = iota // Coding, Identifier: the system counts
	tokenImplied                  // code: its system is the specification's own, and not compared
	tokenPlain                    // boolean, id, string, uri, ContactPoint: there is no system
)

// reference is a value that a reference parameter compares.
type reference struct {
	link
	canonical  bool
	identifier token     // Reference.identifier; without code and system if there is none
	node       json.Node // the element
	inline     bool      // the element is itself a resource
}

// text is a value that a string parameter compares.
type text struct {
	raw    []byte
	folded []byte
	words  bool // each word is a start
}

// uri is a value that a uri parameter compares.
type uri struct {
	raw       []byte
	url       []byte // raw without a version
	version   []byte
	canonical bool
}

// slot holds what was read for one parameter: its part of the arena of its kind.
type slot struct {
	epoch    uint32 // the Resource's when it was filled
	from, to int32
	present  bool // there is an element with content, even if nothing in it can be compared
	fault    bool // the parameter's expression could not be evaluated
}

// values reads a parameter's elements, once for each resource.
func (r *Resource) values(p *param) *slot {
	if p.index < 0 {
		return r.valuesAs(p, p.view)
	}
	if p.index >= len(r.slots) {
		// A parameter that was defined after the others. No slot is being filled: they are not
		// read within one another.
		r.slots = append(r.slots, make([]slot, max(64, 2*p.index)-len(r.slots))...)
	}
	s := &r.slots[p.index]
	if s.epoch == r.epoch {
		return s
	}
	*s = slot{epoch: r.epoch}
	folded := len(r.folded)
	r.rootRead, r.nodes, r.nodeSteps = false, 0, 0
	r.fill(p, r.tree.Root(), s)
	r.work += uint64(len(r.tree.Source())/stride + (len(r.folded)-folded)/8)
	return s
}

// fill reads a parameter's elements from the node where its paths begin.
func (r *Resource) fill(p *param, n json.Node, s *slot) {
	r.reading, r.param, r.view = s, p, p.view
	s.from = r.viewLen(p, p.view)
	if !r.fromEnvelope(p) {
		r.elements(p, n)
	}
	if p.reads(leafTruth) {
		r.addTruth(s)
	}
	s.to = r.viewLen(p, p.view)
}

// elements goes all ways to a parameter's elements from the node where they begin.
func (r *Resource) elements(p *param, n json.Node) {
	r.done = false
	for i := range p.paths {
		r.follow(n, &p.paths[i])
	}
	if p.expression != nil {
		r.evaluate(p, n)
	}
}

func (r *Resource) arenaLen(k kind) int32 {
	switch k {
	case kindToken:
		return int32(len(r.tokens))
	case kindString:
		return int32(len(r.texts))
	case kindReference:
		return int32(len(r.references))
	case kindDate:
		return int32(len(r.spans))
	case kindNumber, kindQuantity:
		return int32(len(r.amounts))
	case kindComposite:
		return int32(len(r.parts))
	}
	return int32(len(r.uris))
}

// fromEnvelope takes the values that the server knows better than the body does.
func (r *Resource) fromEnvelope(p *param) bool {
	switch {
	case p.code == "_id" && r.envelope.ID != "":
		r.tokens = append(r.tokens, token{code: []byte(r.envelope.ID), form: tokenPlain, exact: true})
	case p.code == "_lastUpdated" && !r.envelope.LastUpdated.IsZero():
		t := r.envelope.LastUpdated.UTC()
		at := moment{t.Unix(), int32(t.Nanosecond())}
		r.spans = append(r.spans, span{at, at.plus(1), []byte(t.Format("2006-01-02T15:04:05.000Z"))})
	default:
		return false
	}
	r.reading.present = true
	return true
}

// addTruth replaces what was read by one boolean: true if anything but false was there. The
// walk has left one token for each element that was.
func (r *Resource) addTruth(s *slot) {
	truth := "false"
	if int32(len(r.tokens)) > s.from {
		truth = "true"
	}
	r.tokens = append(r.tokens[:s.from], token{code: []byte(truth), form: tokenPlain, exact: true})
	s.present = true
}

// follow goes a path.
func (r *Resource) follow(n json.Node, x *path) {
	if x.root {
		n = r.tree.Root()
	}
	if len(x.steps) == 0 {
		r.read(n, x.leaf)
		return
	}
	r.walk(n, x, 0)
}

// walk goes from the object n down the rest of a path, through every item of what repeats.
func (r *Resource) walk(n json.Node, x *path, i int) {
	st := &x.steps[i]
	m := r.tree.Find(n, st.name)
	if m == 0 {
		return
	}
	if r.tree.Kind(m) != json.Array {
		r.pass(m, x, i)
		return
	}
	for c := r.tree.First(m); c != 0; c = r.tree.Next(c) {
		r.pass(c, x, i)
		if st.filter == filterFirst {
			return
		}
	}
}

// pass goes on from an element that step i has reached, if it passes the step's filter.
func (r *Resource) pass(n json.Node, x *path, i int) {
	st := &x.steps[i]
	ok := true
	switch st.filter {
	case filterEquals:
		ok = r.tree.Is(r.tree.Find(n, st.key), st.value)
	case filterExtension:
		ok = r.hasExtension(n, st.value)
	case filterIs:
		ok = r.refersTo(n, st.value)
	}
	switch {
	case !ok, r.done:
	case i+1 < len(x.steps):
		r.walk(n, x, i+1)
	default:
		r.done = r.param.first
		r.read(n, x.leaf)
	}
}

func (r *Resource) hasExtension(n json.Node, url string) bool {
	for e := r.tree.First(r.tree.Find(n, nameExtension)); e != 0; e = r.tree.Next(e) {
		if r.tree.Is(r.tree.Find(e, nameURL), url) {
			return true
		}
	}
	return false
}

// Names of the members that are read inside data types.
var (
	nameCode       = json.NewName("code")
	nameCoding     = json.NewName("coding")
	nameComparator = json.NewName("comparator")
	nameContained  = json.NewName("contained")
	nameCurrency   = json.NewName("currency")
	nameData       = json.NewName("data")
	nameDiv        = json.NewName("div")
	nameDisplay    = json.NewName("display")
	nameEnd        = json.NewName("end")
	nameEvent      = json.NewName("event")
	nameExtension  = json.NewName("extension")
	nameFactor     = json.NewName("factor")
	nameFamily     = json.NewName("family")
	nameHigh       = json.NewName("high")
	nameID         = json.NewName("id")
	nameIdentifier = json.NewName("identifier")
	nameLow        = json.NewName("low")
	nameLower      = json.NewName("lowerLimit")
	nameOrigin     = json.NewName("origin")
	nameReference  = json.NewName("reference")
	nameRepeat     = json.NewName("repeat")
	nameBounds     = json.NewName("boundsPeriod")
	nameStart      = json.NewName("start")
	nameSystem     = json.NewName("system")
	nameText       = json.NewName("text")
	nameType       = json.NewName("type")
	nameTypeName   = json.NewName("resourceType")
	nameUnit       = json.NewName("unit")
	nameUpper      = json.NewName("upperLimit")
	nameURL        = json.NewName("url")
	nameValue      = json.NewName("value")

	humanNameParts = names("given", "prefix", "suffix", "text")
	addressParts   = names("line", "city", "district", "state", "postalCode", "country", "text")
)

func names(s ...string) []json.Name {
	var out []json.Name
	for _, n := range s {
		out = append(out, json.NewName(n))
	}
	return out
}

// str gives the text of a string member, nil if there is none or it is empty.
func (r *Resource) str(n json.Node, name json.Name) []byte {
	if s := r.tree.Text(r.tree.Find(n, name)); len(s) > 0 {
		return s
	}
	return nil
}

// read takes an element's value. An element of another JSON type than its own has none.
func (r *Resource) read(n json.Node, l leaf) {
	if l == leafTruth {
		if r.content(n) && r.tree.Kind(n) != json.False {
			r.tokens = append(r.tokens, token{})
		}
		return
	}
	if l == leafNode {
		r.readTuple(n)
		return
	}
	if !r.content(n) || l == leafResource && !r.isTarget(n) {
		return
	}
	r.reading.present = true
	if r.view != viewElement {
		r.readAs(n, l)
		return
	}
	switch r.param.kind {
	case kindToken:
		r.readToken(n, l)
	case kindString:
		r.readText(n, l)
	case kindReference:
		from := len(r.references)
		r.readReference(n, l)
		r.placeReferences(from, n, l)
	case kindDate:
		r.readSpan(n, l)
	case kindNumber, kindQuantity:
		r.readAmount(n, l)
	case kindURI:
		if s := r.tree.Text(n); len(s) > 0 {
			r.uris = append(r.uris, newURI(s, l == leafCanonical))
		}
	}
}

// content reports whether an element has more than an id and extensions: what counts for
// :missing (R4 3.1.1.4.4).
func (r *Resource) content(n json.Node) bool {
	switch r.tree.Kind(n) {
	case json.Invalid, json.Null, json.Array:
		return false
	case json.Object:
	default:
		return true
	}
	for m := r.tree.First(n); m != 0; m = r.tree.Next(m) {
		switch key := r.tree.KeyText(m); {
		case string(key) == "id", string(key) == "extension", len(key) > 0 && key[0] == '_':
		default:
			return true
		}
	}
	return false
}

func (r *Resource) readToken(n json.Node, l leaf) {
	switch l {
	case leafCodeableConcept:
		for c := r.tree.First(r.tree.Find(n, nameCoding)); c != 0; c = r.tree.Next(c) {
			r.addToken(r.str(c, nameSystem), r.str(c, nameCode))
		}
	case leafCoding:
		r.addToken(r.str(n, nameSystem), r.str(n, nameCode))
	case leafIdentifier:
		r.addToken(r.str(n, nameSystem), r.str(n, nameValue))
	case leafContactPoint:
		r.addPlain(r.str(n, nameValue), tokenPlain, false)
	case leafString:
		r.addPlain(r.tree.Text(n), tokenPlain, false)
	case leafCode:
		// Tags of languages are the one kind of code that has no case (BCP 47, section 2.1.1).
		r.addPlain(r.tree.Text(n), tokenImplied, r.param.code != "_language")
	case leafID, leafURI:
		r.addPlain(r.tree.Text(n), tokenPlain, true)
	case leafBoolean:
		if k := r.tree.Kind(n); k == json.True || k == json.False {
			r.addPlain(r.tree.Raw(n), tokenPlain, true)
		}
	}
}

// addToken keeps a code. UCUM is the one code system in wide use that the specification names as
// case sensitive.
func (r *Resource) addToken(system, code []byte) {
	if system != nil || code != nil {
		r.tokens = append(r.tokens, token{system: system, code: code, exact: string(system) == ucum.System})
	}
}

func (r *Resource) addPlain(code []byte, form tokenForm, exact bool) {
	if len(code) > 0 {
		r.tokens = append(r.tokens, token{code: code, form: form, exact: exact})
	}
}

// readText takes each part of a name or an address on its own (R4 3.1.1.4.8).
func (r *Resource) readText(n json.Node, l leaf) {
	switch l {
	case leafString:
		r.addText(r.tree.Text(n), false)
	case leafIdentifier: // of extensions whose value may be one
		r.addText(r.str(n, nameValue), false)
	case leafFamily:
		r.addFamily(r.tree.Text(n))
	case leafHumanName:
		r.addFamily(r.str(n, nameFamily))
		r.addParts(n, humanNameParts)
	case leafAddress:
		r.addParts(n, addressParts)
	case leafCodeableConcept:
		r.addText(r.str(n, nameText), false)
		for c := r.tree.First(r.tree.Find(n, nameCoding)); c != 0; c = r.tree.Next(c) {
			r.addText(r.str(c, nameDisplay), false)
		}
	}
}

func (r *Resource) addParts(n json.Node, parts []json.Name) {
	for _, name := range parts {
		m := r.tree.Find(n, name)
		if r.tree.Kind(m) != json.Array {
			r.addText(r.tree.Text(m), false)
			continue
		}
		for c := r.tree.First(m); c != 0; c = r.tree.Next(c) {
			r.addText(r.tree.Text(c), false)
		}
	}
}

// addFamily lets each part of a family name be found (R4 3.1.1.4.8: "Carreno Quinones" by
// either). A hyphen divides parts like a space, besides being ignored like all punctuation.
// The words of a part are found in the whole; so of a part only its beginning is kept.
func (r *Resource) addFamily(raw []byte) {
	r.addText(raw, true)
	parts := 0
	for i, c := range raw {
		if c == '-' && i+1 < len(raw) {
			if parts++; parts > maxFamilyParts {
				return
			}
			r.addText(beginning(raw[i+1:]), false)
			r.texts[len(r.texts)-1].raw = nil // a part of a value is no value: not for :exact
		}
	}
}

// Bounds of the copies that one text can make of itself: their number, and the bytes of each,
// which are twice as many as a criteria has.
const (
	maxFamilyParts = 8
	maxPart        = 2 * maxLength
)

func beginning(s []byte) []byte {
	if len(s) <= maxPart {
		return s
	}
	n := maxPart
	for n > maxPart-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func (r *Resource) addText(raw []byte, words bool) {
	if len(raw) == 0 {
		return
	}
	from := len(r.folded)
	r.folded = fold(r.folded, raw)
	r.texts = append(r.texts, text{raw, r.folded[from:len(r.folded):len(r.folded)], words})
}
