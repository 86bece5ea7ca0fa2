package search

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
)

// Access is one way by which an index finds a criteria without asking it: something that every
// resource which meets the criteria has. A resource that has it need not meet the criteria;
// Match decides. One of Hashes and Ranges is filled.
//
// Hashes are seeded: they hold within one process and for one Definitions and those derived
// from it.
type Access struct {
	Feature Feature
	// Hashes: the resource has one of them among Resource.Hashes(Feature), or LinkedHashes of a
	// linked feature. Sorted, none twice.
	Hashes []uint64
	// Ranges: Resource.Range(Feature) overlaps one of them. Sorted, none twice.
	Ranges []Range
}

// Feature names what an index reads of a resource: the values of one parameter in one form. Two
// Features are equal (==) if the same is read.
type Feature struct {
	typ    string
	param  *param
	form   form
	length uint8  // of formStart: bytes
	part   uint8  // of formPart: which part of the composite
	unit   string // of formOrder: ucum.Unit.Key of the quantities that count, in base units; empty: all, as written

	// Of a linked feature: param is of the type to, and its values are those of the resources of
	// that type which link, a parameter of typ, refers to.
	link *param
	to   string
}

// Linked reports whether the feature is of other resources: it is read by LinkedHashes.
func (f Feature) Linked() bool { return f.link != nil }

// Type is the resource type that the feature belongs to. Resources of others do not have it.
func (f Feature) Type() string { return f.typ }

// Ordered reports whether the feature is a Range; otherwise it is Hashes.
func (f Feature) Ordered() bool { return f.form == formOrder }

// String tells features of one type apart, in tests and messages.
func (f Feature) String() string {
	if f.link != nil {
		return f.link.code + ":" + f.to + "." + f.there().String()
	}
	switch f.form {
	case formIdentifier:
		return f.param.code + ":identifier"
	case formExact:
		return f.param.code + ":exact"
	case formStart:
		return fmt.Sprintf("%s:start%d", f.param.code, f.length)
	case formOrder:
		if f.unit != "" {
			return f.param.code + ":order:" + f.unit
		}
		return f.param.code + ":order"
	case formPart:
		return f.param.code + "$" + f.param.parts[f.part].code
	}
	return f.param.code
}

// form is the form in which values are read.
type form uint8

const (
	formKey        form = iota // codes, ids, urls: the whole value, or its part that all spellings share
	formIdentifier             // Reference.identifier
	formExact                  // texts as they are
	formStart                  // beginnings of folded texts, all of one length
	formOrder                  // dates, numbers and quantities
	formPart                   // codes in one part of a composite
)

// Range is a range of ordered values, its ends included. They are rounded outwards: two ranges
// that do not overlap have nothing in common, and two that do may have nothing either.
type Range struct{ Low, High float64 }

// Overlaps reports whether the ranges have a value in common.
func (a Range) Overlaps(b Range) bool { return a.Low <= b.High && b.Low <= a.High }

func (a Range) compare(b Range) int {
	return cmp.Or(cmp.Compare(a.Low, b.Low), cmp.Compare(a.High, b.High))
}

// Accesses lists the ways by which the criteria can be found, the one first that fewest
// resources are likely to have. Without one the criteria has to be asked about every resource
// of its types. The list is made anew, and always the same in one process.
//
// What is found through other resources comes last, and only where nothing tells much at hand:
// those are then read for each of the type's resources.
func (c *Criteria) Accesses() []Access {
	var all, linked []weighed
	for i := range c.conditions {
		x := c.conditions[i]
		a, weight := x.best(c)
		a.Feature.typ = c.types[0].name // a criteria with conditions has one type
		switch {
		case weight == 0:
		case a.Feature.Linked():
			linked = append(linked, weighed{a, weight})
		default:
			all = append(all, weighed{a, weight})
		}
	}
	mostFirst(all)
	if len(all) == 0 || all[0].weight <= tellsLittle {
		mostFirst(linked)
		all = append(all, linked...)
	}
	out := make([]Access, len(all))
	for i := range all {
		out[i] = all[i].Access
	}
	return out
}

// weighed is an access and how much it is taken to tell.
type weighed struct {
	Access
	weight int
}

// tellsLittle is the weight of codes such as a status.
const tellsLittle = 50

func mostFirst(list []weighed) {
	slices.SortStableFunc(list, func(a, b weighed) int { return b.weight - a.weight })
}

// Open reports whether the criteria has no conditions: every resource of its types meets it.
func (c *Criteria) Open() bool { return len(c.conditions) == 0 }

// Glance looks at the memory that Match will look at, and does nothing with it: who has several
// criteria to ask has it fetched for all of them at once. The first look is at the criteria
// itself, the second at what it leads to, so that nothing is waited for between the two. The
// number means nothing; it keeps the compiler from leaving the look out.
func (c *Criteria) Glance() int {
	own := &c.own
	return len(c.types) + len(c.conditions) + len(own.modifier) + int(own.token[0].scope) + int(own.reference[0].end)
}

// GlanceFurther is the second look; see Glance.
func (c *Criteria) GlanceFurther() (n int) {
	if s := c.own.token[0].code; s != "" {
		n += int(s[0])
	}
	if s := c.own.reference[0].whole; s != "" {
		n += int(s[0])
	}
	if len(c.conditions) > 1 {
		n += len(c.conditions[1].modifier) + int(c.conditions[1].token[0].scope)
	}
	return n
}

// best gives what a resource that meets the condition has in any case, and guesses how few
// resources have it: 0 if there is no such thing. Of a filter it is that of one of the
// comparisons that must all hold.
func (c *condition) best(in *Criteria) (Access, int) {
	if c.filter != nil {
		return c.filter.best(in)
	}
	if x, ok := c.linked.(*chain); ok {
		return x.access(in.definitions)
	}
	if !c.direct() {
		return Access{}, 0
	}
	a, weight := c.access(in.definitions)
	if r, w := in.order(c); w > weight {
		a, weight = r, w
	}
	return a, weight
}

// direct reports whether the condition compares the values that a Resource keeps for its
// parameter, so that these are a way to find it. Not so where an element must be absent, where
// other resources are asked, and where the parameter has no place of its own or cannot always be
// read: who fails has no values.
func (c *condition) direct() bool {
	switch {
	case c.param == nil, c.negate, c.missing, c.linked != nil, c.filter != nil:
		return false
	case c.param.index < 0, c.param.mayFail():
		return false
	}
	return c.view == viewElement || c.view == viewOfType
}

// access is best for equalities and beginnings. Only modifiers whose meaning is one of them are
// known here; what is new is always asked until it is entered.
func (c *condition) access(d *Definitions) (Access, int) {
	a, weight := Access{Feature: Feature{param: c.param}}, 0
	switch k, m := c.param.kind, c.modifier; {
	case k == kindReference && m == "identifier":
		a.Feature.form, a.Hashes, weight = formIdentifier, d.tokenHashes(c.tokens), 850
	case k == kindToken && m == "":
		a.Hashes, weight = d.tokenHashes(c.tokens), tokenSelectivity(c.param)
	case k == kindToken && c.extra != nil: // small sets of codes, and identifiers with a type
		a.Hashes, weight = d.codeHashes(c.extra.accessCodes()), tokenSelectivity(c.param)
	case k == kindReference && (m == "" || d.HasType(m)):
		a.Hashes, weight = d.referenceHashes(c.references), 800
	case k == kindComposite && m == "":
		if place, ok := c.anchor(); ok {
			a.Feature.form, a.Feature.part = formPart, uint8(place)
			a.Hashes, weight = c.partHashes(d, place), tokenSelectivity(c.param.parts[place])
		}
	case k == kindURI && m == "":
		a.Hashes, weight = d.uriHashes(c.uris), 700
		if c.param.code == "_profile" || c.param.code == "_source" {
			weight = 150
		}
	case k == kindString && m == "exact":
		a.Feature.form, a.Hashes, weight = formExact, d.textHashes(c.texts), 650
	case k == kindString && m == "":
		a.Feature.form = formStart
		a.Feature.length, a.Hashes = d.startHashes(c.texts)
		weight = 300 + 40*int(min(a.Feature.length, 8))
	}
	if len(a.Hashes) == 0 {
		return Access{}, 0
	}
	slices.Sort(a.Hashes)
	a.Hashes = slices.Compact(a.Hashes)
	return a, max(weight-len(a.Hashes), min(weight, 1)) // many alternatives make it worse
}

func tokenSelectivity(p *param) int {
	switch {
	case p.code == "_id":
		return 2000
	case p.code == "_tag" || p.code == "_security":
		return 100
	case p.reads(leafIdentifier):
		return 900
	case p.reads(leafContactPoint):
		return 850
	case p.code == "category" || p.code == "class":
		return 200
	case p.reads(leafCodeableConcept, leafCoding):
		return 500
	case p.reads(leafString, leafURI, leafID):
		return 400
	case p.reads(leafCode):
		return tellsLittle
	}
	return 10
}

// tokenHashes are of the codes alone, without case, so that one value has one hash however it
// is written. A system alone has none, and so nothing has that allows one.
func (d *Definitions) tokenHashes(wants []wantToken) []uint64 {
	out := make([]uint64, 0, len(wants))
	for i := range wants {
		if wants[i].scope == systemOnly {
			return nil
		}
		out = append(out, d.hash(foldKey(nil, []byte(wants[i].code))))
	}
	return out
}

func (d *Definitions) codeHashes(codes []string) []uint64 {
	out := make([]uint64, 0, len(codes))
	for _, code := range codes {
		out = append(out, d.hash(foldKey(nil, []byte(code))))
	}
	return out
}

func (d *Definitions) referenceHashes(wants []wantReference) []uint64 {
	out := make([]uint64, 0, len(wants))
	for i := range wants {
		for _, key := range wants[i].keys() {
			out = append(out, d.hash(key))
		}
	}
	return out
}

func (d *Definitions) uriHashes(wants []wantURI) []uint64 {
	out := make([]uint64, 0, len(wants))
	for i := range wants {
		out = append(out, d.hash(wants[i].url))
		if len(wants[i].raw) > len(wants[i].url) { // a uri that is no canonical is compared and posted whole
			out = append(out, d.hash(wants[i].raw))
		}
	}
	return out
}

func (d *Definitions) textHashes(wants []wantText) []uint64 {
	out := make([]uint64, 0, len(wants))
	for i := range wants {
		out = append(out, d.hash([]byte(wants[i].raw)))
	}
	return out
}

// startLengths are the lengths of beginnings that are hashed. A resource pays for each that is
// in use, so a beginning is cut to the next of them; Match sees the rest of it.
var startLengths = [...]uint8{24, 16, 12, 8, 6, 5, 4, 3, 2, 1}

// startHashes cuts all beginnings to one length, and hashes them.
func (d *Definitions) startHashes(wants []wantText) (length uint8, hashes []uint64) {
	shortest := math.MaxInt
	for i := range wants {
		shortest = min(shortest, len(wants[i].folded))
	}
	if len(wants) == 0 || shortest == 0 {
		return 0, nil
	}
	for _, length = range startLengths {
		if int(length) <= shortest {
			break
		}
	}
	for i := range wants {
		hashes = append(hashes, d.hash(wants[i].folded[:length]))
	}
	return length, hashes
}

func (d *Definitions) hash(key []byte) uint64 {
	return maphash.Bytes(d.seed, key) &^ d.blunt
}

// order gives the range of condition x, narrowed by the other conditions on its parameter.
//
// Of a resource with several values the index sees the range from the least to the greatest.
// One value above a limit and another below a second lie, if the first limit is less than the
// second, in a range that overlaps what is between the two. So both limits may be used at once
// although different values may keep them.
func (c *Criteria) order(x *condition) (Access, int) {
	ranges, unit := x.ranges()
	if len(ranges) == 0 {
		return Access{}, 0
	}
	if len(ranges) == 1 {
		for k := range c.conditions {
			if o := c.conditions[k]; o != x && o.param == x.param && o.direct() {
				if more, u := o.ranges(); len(more) == 1 && u == unit && more[0].Overlaps(ranges[0]) {
					ranges[0] = Range{max(ranges[0].Low, more[0].Low), min(ranges[0].High, more[0].High)}
				}
			}
		}
	}
	weight := 300
	for _, r := range ranges {
		weight = min(weight, r.selectivity(x.param.kind))
	}
	if x.param.code == "_lastUpdated" {
		weight = 0 // what changes was changed now: a limit tells either everything or nothing apart
	}
	slices.SortFunc(ranges, Range.compare)
	return Access{Feature: Feature{param: x.param, form: formOrder, unit: unit}, Ranges: slices.Compact(ranges)}, weight
}

// selectivity guesses how few values a range has.
func (a Range) selectivity(k kind) int {
	const day = 24 * 60 * 60
	switch width := a.High - a.Low; {
	case math.IsInf(width, 0):
		return 20
	case k != kindDate:
		return 180
	case width <= 2*day:
		return 300
	case width <= 62*day:
		return 150
	}
	return 60
}

// ranges gives the ranges that a value which meets the condition overlaps; none if there is a
// value that needs to overlap nothing. With a unit they are of quantities in its base units.
func (c *condition) ranges() (out []Range, unit string) {
	if c.modifier != "" {
		return nil, ""
	}
	for i := range c.spans {
		w := &c.spans[i]
		r, ok := around(w.op, seconds(w.lo), seconds(w.hi))
		if !ok {
			return nil, ""
		}
		out = append(out, r)
	}
	for i := range c.amounts {
		w := &c.amounts[i]
		low, high, u, ok := w.ends()
		if !ok || i > 0 && u != unit {
			return nil, ""
		}
		unit = u
		r, ok := around(w.op, low, high)
		if !ok {
			return nil, ""
		}
		out = append(out, r)
	}
	return out, unit
}

// around opens a range by the direction of a comparison. What is not equal may lie anywhere.
func around(op comparator, low, high float64) (Range, bool) {
	switch op {
	case opGreater, opGreaterEqual, opStartsAfter:
		return Range{low, math.Inf(1)}, true
	case opLess, opLessEqual, opEndsBefore:
		return Range{math.Inf(-1), high}, true
	case opEqual, opApproximately:
		return Range{low, high}, true
	}
	return Range{}, false
}

// seconds is exact: the years of FHIR have fewer seconds than a float64 has integers.
func seconds(m moment) float64 {
	switch m {
	case earliest:
		return math.Inf(-1)
	case latest:
		return math.Inf(1)
	}
	return float64(m.sec)
}

// outwards gives a range that holds a number, whatever form it is written in: a float64 next
// to it, and more than enough room for the error of the way there.
func outwards(d decimal) Range {
	v := d.float()
	if math.IsInf(v, 0) { // another form of the same number may have stayed just within
		edge := math.Copysign(math.MaxFloat64*(1-1e-11), v)
		return Range{min(edge, v), max(edge, v)}
	}
	room := math.Abs(v)*1e-12 + 1e-290
	return Range{v - room, v + room}
}

// float is the number with a relative error of some 1e-15; infinite beyond the range of
// float64, and 0 below it.
func (d decimal) float() float64 {
	switch {
	case d.big != nil:
		v, _ := d.big.Float64() // the error says that it is out of range, and so does the value
		return v
	case d.coef == 0:
		return 0
	}
	return float64(d.coef) * math.Pow10(int(d.exp))
}

// Hashes gives what a resource has of a feature, some of it perhaps more than once. It is void
// after Reset, and after Hashes is called for another feature.
func (r *Resource) Hashes(f Feature) []uint64 {
	r.hashes = r.hashes[:0]
	if f.param == nil || f.form == formOrder || f.Linked() || f.typ != r.name {
		return nil
	}
	s := r.values(f.param)
	if f.form == formStart {
		r.hashStarts(r.texts[s.from:s.to], int(f.length))
		return r.hashes
	}
	if f.form == formPart {
		r.hashPart(f.param, int(f.part))
		return r.hashes
	}
	for i := s.from; i < s.to; i++ {
		if key := r.key(f, i); len(key) > 0 {
			r.hashes = append(r.hashes, r.definitions.hash(key))
		}
	}
	return r.hashes
}

// key is what value i of a feature is found by.
func (r *Resource) key(f Feature, i int32) []byte {
	switch f.param.kind {
	case kindToken:
		return r.folding(r.tokens[i].code)
	case kindReference:
		if f.form == formIdentifier {
			return r.folding(r.references[i].identifier.code)
		}
		return r.references[i].key()
	case kindURI:
		return r.uris[i].url
	}
	return r.texts[i].raw
}

// hashStarts hashes the beginnings that startsText looks for.
func (r *Resource) hashStarts(values []text, length int) {
	for i := range values {
		v := &values[i]
		for at := 0; len(v.folded)-at >= length; {
			h := r.definitions.hash(v.folded[at : at+length])
			if n := len(r.hashes); n == 0 || r.hashes[n-1] != h { // a long text may say the same all the time
				r.hashes = append(r.hashes, h)
			}
			next := bytes.IndexByte(v.folded[at:], ' ')
			if !v.words || next < 0 {
				break
			}
			at += next + 1
		}
	}
	r.work += uint64(len(r.hashes))
}

// Range gives the range of what a resource has of an ordered feature, from the least value to
// the greatest; ok is false if it has nothing.
func (r *Resource) Range(f Feature) (hull Range, ok bool) {
	if f.param == nil || f.form != formOrder || f.typ != r.name {
		return Range{}, false
	}
	s := r.values(f.param)
	hull = Range{math.Inf(1), math.Inf(-1)}
	if f.param.kind == kindDate {
		for i := s.from; i < s.to; i++ {
			v := &r.spans[i]
			hull = hull.with(seconds(v.lo), seconds(v.hi))
		}
		return hull, s.to > s.from
	}
	if f.unit != "" {
		return r.baseRange(f.unit, r.amounts[s.from:s.to])
	}
	for i := s.from; i < s.to; i++ {
		v := &r.amounts[i]
		low, high := math.Inf(-1), math.Inf(1)
		if !v.noLo {
			low = outwards(v.lo).Low
		}
		if !v.noHi {
			high = outwards(v.hi).High
		}
		hull = hull.with(low, high)
	}
	return hull, s.to > s.from
}

// with widens a range by a value that has two ends. They may be the wrong way round: what ends
// before it begins is still compared, by the one end or the other.
func (a Range) with(low, high float64) Range {
	return Range{min(a.Low, low, high), max(a.High, low, high)}
}

func (r *Resource) folding(code []byte) []byte {
	r.scratch = foldKey(r.scratch[:0], code)
	return r.scratch
}
