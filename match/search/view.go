package search

import (
	"bytes"
	"slices"
	"unicode/utf8"

	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// view is what of a parameter's elements is read. Most conditions read what the parameter's
// kind compares; some modifiers ask for what stands beside it, and a few parameters are a
// reading of their own.
type view uint8

const (
	viewElement      view = iota // what the parameter's kind says
	viewDisplay                  // texts beside a code or a reference: :text of token and reference
	viewCode                     // codes, as strings: :code-text
	viewOfType                   // identifiers together with their types: :of-type
	viewDisplayWords             // the texts of viewDisplay, word by word: :text-advanced
	viewTextWords                // strings, word by word: :text of string
	viewNarrative                // the narrative, word by word: _text
	viewContent                  // every string of the resource, word by word: _content
	viewPosition                 // a place on Earth: near
	viewArea                     // a part of the Earth: contains
)

// byWord reports whether a view is held against full-text queries.
func (v view) byWord() bool {
	return v == viewDisplayWords || v == viewTextWords || v == viewNarrative || v == viewContent
}

// extra is what only few conditions have.
type extra struct {
	typed   []wantTyped // :of-type
	queries []query     // full text
	near    []wantNear
	points  []position // places that an area must enclose
	sets    []*codeSet // :in, :not-in, :above, :below of a token
	uses    []string   // what of the terminology the sets were made of; see Criteria.Uses
}

// Parameters that every type has whatever its definitions say, because they need no expression,
// and one that only Location has. Their index tells that they have no slot among a type's own.
var (
	paramLanguage = &param{code: "_language", kind: kindToken, index: -1,
		paths: []path{{steps: []step{{name: json.NewName("language")}}, leaf: leafCode}}}
	paramText = &param{code: "_text", kind: kindString, index: -1, view: viewNarrative,
		paths: []path{{steps: []step{{name: nameText}, {name: json.NewName("div")}}, leaf: leafString}}}
	paramContent = &param{code: "_content", kind: kindString, index: -1, view: viewContent}
	paramNear    = &param{code: "near", kind: kindSpecial, index: -1, view: viewPosition,
		paths: []path{{steps: []step{{name: json.NewName("position")}}, leaf: leafString}}}
)

// ownParameter gives a parameter that is evaluated without an expression; nil if code is none.
// _language is R5's, and answered in all versions: the element is as old as they are.
func ownParameter(t *typeDef, code string) *param {
	switch {
	case code == "_language":
		return paramLanguage
	case code == "_text":
		return paramText
	case code == "_content":
		return paramContent
	case code == "near" && t.name == "Location":
		return paramNear
	}
	return nil
}

// readAs takes the view that a modifier asks for, and refuses one that the parameter's elements
// could never answer.
func (c *compiler) readAs(modifier string) error {
	p := c.param
	coded := p.reads(leafCodeableConcept, leafCoding)
	switch {
	case modifier == "missing" || modifier == "not":
	case p.kind == kindString && modifier == "text":
		c.view = viewTextWords
	case p.kind == kindReference && !p.reads(leafReference):
		if modifier == "identifier" {
			return unsupported("the element is a canonical URL and has no identifier")
		}
		return unsupported("the element is a canonical URL and has no text beside it")
	case p.kind == kindReference && modifier == "identifier":
	case modifier == "text" || modifier == "text-advanced":
		if p.kind == kindToken && !coded && !p.reads(leafIdentifier) {
			return unsupported("the element has no text beside its value, so :%s would match nothing", modifier)
		}
		c.view = viewDisplay
		if modifier == "text-advanced" {
			c.view = viewDisplayWords
		}
	case modifier == "code-text":
		if !coded && !p.reads(leafCode) {
			return unsupported("the element is no code, so :code-text would match nothing")
		}
		c.view = viewCode
	case modifier == "of-type":
		if !p.reads(leafIdentifier) {
			return unsupported("the element is no Identifier, and only an Identifier has a type")
		}
		c.view = viewOfType
	case c.codeSets() && !coded && !p.reads(leafCode):
		return unsupported("the element is no code, so :%s would match nothing", modifier)
	}
	return nil
}

// refuseHierarchy explains why references are not followed up or down a hierarchy.
func (c *compiler) refuseHierarchy(modifier string) error {
	if c.param.reads(leafCanonical) {
		return unsupported(":%s compares the versions of canonical resources, which is only allowed where their version scheme is known; "+
			"name the versions that are wanted, as in url|1.0,url|1.1, or write the url alone for any version", modifier)
	}
	return unsupported(":%s follows a hierarchy of other resources and is not supported; name the resources that are wanted, "+
		"or ask for the parent by a chain", modifier)
}

// codeSets reports whether the values of the parameter at hand are sets of codes.
func (c *compiler) codeSets() bool {
	switch c.modifier {
	case "in", "not-in", "above", "below":
		return c.param.kind == kindToken
	}
	return false
}

// extraValue reads a value of a condition that has a view or sets of codes, and gives its
// canonical text.
func (c *compiler) extraValue(out *condition, raw string) (string, error) {
	if c.view == viewDisplay || c.view == viewCode {
		w, err := c.text(raw)
		out.texts = append(out.texts, w)
		return string(w.folded), err
	}
	if out.extra == nil {
		out.extra = &extra{}
	}
	x := out.extra
	switch {
	case c.codeSets():
		return c.codeSet(x, raw)
	case c.view == viewOfType:
		w, err := c.ofType(raw)
		x.typed = append(x.typed, w)
		return w.text(), err
	case c.view == viewPosition:
		w, err := c.near(raw)
		x.near = append(x.near, w)
		return w.text(), err
	case c.view == viewArea:
		p, err := c.point(raw)
		x.points = append(x.points, p)
		return p.text(), err
	}
	q, err := c.query(raw)
	x.queries = append(x.queries, q)
	return escape(q.text()), err
}

// aside holds what was read for a view.
type aside struct {
	param *param
	view  view
	slot  slot
}

// valuesAs reads a parameter's elements in a view, once for each resource.
func (r *Resource) valuesAs(p *param, v view) *slot {
	if v == viewElement && p.index >= 0 {
		return r.values(p)
	}
	// Few conditions have a view, so a short list serves as well as slots.
	for i := range r.asides {
		if a := &r.asides[i]; a.param == p && a.view == v {
			return &a.slot
		}
	}
	r.asides = append(r.asides, aside{param: p, view: v})
	s := &r.asides[len(r.asides)-1].slot
	before := len(r.folded) + len(r.words)
	s.from = r.viewLen(p, v)
	r.reading, r.param, r.view = s, p, v
	if v == viewContent {
		s.present = r.content(r.tree.Root())
		r.addStrings(r.tree.Root())
	}
	r.elements(p, r.tree.Root())
	s.to = r.viewLen(p, v)
	r.work += uint64(len(r.tree.Source())/stride + (len(r.folded)+len(r.words)-before)/8)
	return s
}

// viewLen is the length of the arena that a view fills.
func (r *Resource) viewLen(p *param, v view) int32 {
	switch {
	case v == viewElement:
		return r.arenaLen(p.kind)
	case v == viewDisplay || v == viewCode:
		return int32(len(r.texts))
	case v == viewOfType:
		return int32(len(r.identifiers))
	case v == viewPosition:
		return int32(len(r.positions))
	case v == viewArea:
		return int32(len(r.corners))
	}
	return int32(len(r.words))
}

// readAs takes from an element what the view at hand asks for.
func (r *Resource) readAs(n json.Node, l leaf) {
	switch r.view {
	case viewDisplay, viewDisplayWords:
		r.readDisplay(n, l)
	case viewCode:
		r.readCode(n, l)
	case viewOfType:
		if l == leafIdentifier {
			r.readTyped(n)
		}
	case viewTextWords:
		r.readTextWords(n, l)
	case viewNarrative:
		if l == leafNarrative {
			n = r.tree.Find(n, nameDiv)
		}
		r.addNarrative(r.tree.Text(n))
	case viewPosition:
		r.readPosition(n)
	case viewArea:
		r.readArea(n)
	}
}

// readDisplay takes the texts that stand beside a code, an identifier's type or a reference
// (R4 3.1.1.4.10, R5 modifier text).
func (r *Resource) readDisplay(n json.Node, l leaf) {
	switch l {
	case leafCodeableConcept:
		r.addView(r.str(n, nameText))
		for c := r.tree.First(r.tree.Find(n, nameCoding)); c != 0; c = r.tree.Next(c) {
			r.addView(r.str(c, nameDisplay))
		}
	case leafCoding, leafReference:
		r.addView(r.str(n, nameDisplay))
	case leafIdentifier:
		r.addView(r.str(r.tree.Find(n, nameType), nameText))
	}
}

// readCode takes codes as strings (R5 modifier code-text).
func (r *Resource) readCode(n json.Node, l leaf) {
	switch l {
	case leafCodeableConcept:
		for c := r.tree.First(r.tree.Find(n, nameCoding)); c != 0; c = r.tree.Next(c) {
			r.addView(r.str(c, nameCode))
		}
	case leafCoding:
		r.addView(r.str(n, nameCode))
	case leafCode:
		r.addView(r.tree.Text(n))
	}
}

func (r *Resource) addView(raw []byte) {
	if r.view.byWord() {
		r.addWords(raw)
		return
	}
	r.addText(raw, false)
}

// readTextWords takes the strings that the parameter compares, each as a text of its own.
func (r *Resource) readTextWords(n json.Node, l leaf) {
	from, folded := len(r.texts), len(r.folded)
	r.readText(n, l)
	for i := from; i < len(r.texts); i++ {
		r.addWords(r.texts[i].raw)
	}
	r.texts, r.folded = r.texts[:from], r.folded[:folded]
}

// hitExtra decides a condition that has a view or sets of codes.
func (c *condition) hitExtra(r *Resource, s *slot) bool {
	switch {
	case c.extra != nil && c.extra.sets != nil:
		return c.inSets(r, r.tokens[s.from:s.to])
	case c.view == viewDisplay || c.view == viewCode:
		return c.startsText(r, r.texts[s.from:s.to])
	case c.view == viewOfType:
		return some(r, c.lookup, c.extra.typed, r.identifiers[s.from:s.to], (*Resource).typedKey, (*wantTyped).match)
	case c.view == viewPosition:
		return c.isNear(r, r.positions[s.from:s.to])
	case c.view == viewArea:
		return c.encloses(r, r.corners[s.from:s.to])
	}
	return c.findsWords(r, r.words[s.from:s.to])
}

// prepareExtra makes ready what extra values are found by; see prepare.
func (c *condition) prepareExtra() {
	for i, w := range c.extra.identifiers() {
		c.lookup.add(foldKey(nil, []byte(w.value)), i)
	}
}

func (x *extra) identifiers() []wantTyped {
	if x == nil {
		return nil
	}
	return x.typed
}

// accessCodes lists the codes that a resource must have one of: the values of :of-type, and the
// members of sets that are small enough to be posted.
func (x *extra) accessCodes() []string {
	if x == nil {
		return nil
	}
	var out []string
	for i := range x.typed {
		out = append(out, x.typed[i].value)
	}
	for _, s := range x.sets {
		if out = s.appendCodes(out); out == nil {
			return nil
		}
	}
	return out
}

// maxPosted is how many codes of value sets a criteria is posted under at most; with more it
// is asked about every resource of its type.
const maxPosted = 256

// foundAs lists what a view has read in a readable form.
func (c *condition) foundAs(r *Resource, s *slot) []string {
	if c.view.byWord() {
		if text := readable(r.words[s.from:s.to]); text != "" {
			return []string{text}
		}
		return nil
	}
	if c.view == viewArea {
		return foundAreas(r.corners[s.from:s.to])
	}
	var out []string
	for i := s.from; i < s.to && len(out) < foundLimit; i++ {
		switch c.view {
		case viewOfType:
			out = append(out, r.identifiers[i].text())
		case viewPosition:
			out = append(out, r.positions[i].text())
		default:
			out = append(out, string(r.texts[i].raw))
		}
	}
	return slices.Compact(out)
}

// readable shows the beginning of a stream of words.
func readable(words []byte) string {
	const shown = 200
	cut := len(words) > shown
	if cut {
		n := shown
		for !utf8.RuneStart(words[n]) {
			n--
		}
		words = words[:n]
	}
	s := string(bytes.Join(bytes.Fields(words), []byte{' '}))
	if cut {
		s += " ..."
	}
	return s
}
