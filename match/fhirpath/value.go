package fhirpath

import (
	"bytes"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/cockroachdb/apd/v3"

	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/model"
)

// kind is what a Value is: a node of a resource, or one of the types of FHIRPath's System
// namespace.
type kind uint8

const (
	kindNone kind = iota
	kindNode
	kindReferred // a resource of which only the type is known
	kindBoolean
	kindInteger
	kindDecimal
	kindString
	kindDate
	kindDateTime
	kindTime
	kindQuantity
	kindTypeInfo
)

var kindNames = [...]string{
	kindBoolean: "Boolean", kindInteger: "Integer", kindDecimal: "Decimal", kindString: "String", kindDate: "Date",
	kindDateTime: "DateTime", kindTime: "Time", kindQuantity: "Quantity", kindTypeInfo: "TypeInfo",
}

func (k kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return "element"
}

// systemKind finds a type of the System namespace.
func systemKind(name string) kind {
	for k, n := range kindNames {
		if n == name && n != "" {
			return kind(k)
		}
	}
	return kindNone
}

// Value is an item of a collection: a node of a resource, or a value of FHIRPath's own types.
// The zero Value is no item.
//
// One struct holds every kind, so that collections lie in one slice and cost no memory of their
// own. Which fields count follows from kind.
type Value struct {
	kind kind
	prim kind // of a node: the System type that its primitive type converts to; kindNone if it is complex

	prec     precision // of a moment
	digits   uint8     // of a moment
	calendar calendar  // of a quantity; none if unit is a code of UCUM
	foreign  bool      // of a quantity: unit is neither a calendar duration nor of UCUM
	zone     int16     // of a moment
	scale    int32     // of a number; of a moment its nanoseconds

	node, ext json.Node // of a node: its value and its sibling with the extensions; one of them may be 0
	root      json.Node // of a node: the resource that holds it, or that holds the contained one
	num       int64     // boolean, integer, coefficient, seconds; the kind of a type
	typ       *model.Type
	tree      *json.Tree
	big       *apd.Decimal
	text      []byte // of a string; unit of a quantity
}

func boolean(b bool) Value {
	v := Value{kind: kindBoolean}
	if b {
		v.num = 1
	}
	return v
}

func integer(n int64) Value { return Value{kind: kindInteger, num: n} }

func text(b []byte) Value { return Value{kind: kindString, text: b} }

func number(d decimal) Value {
	return Value{kind: kindDecimal, num: d.coef, scale: d.scale, big: d.big}
}

func momentValue(k kind, m moment) Value {
	return Value{kind: k, num: m.seconds, scale: m.nanos, zone: m.zone, prec: m.prec, digits: m.digits}
}

func (v *Value) decimal() decimal {
	return decimal{coef: v.num, scale: v.scale, big: v.big}
}

func (v *Value) moment() moment {
	return moment{seconds: v.num, nanos: v.scale, zone: v.zone, prec: v.prec, digits: v.digits}
}

func (v *Value) isMoment() bool {
	return v.kind == kindDate || v.kind == kindDateTime || v.kind == kindTime
}

func (v *Value) isNumber() bool { return v.kind == kindInteger || v.kind == kindDecimal }

// primitiveKind says which System type a primitive type of FHIR converts to (FHIR, section
// "Using FHIR types in expressions" of fhirpath.html).
func primitiveKind(t *model.Type) kind {
	if t == nil || t.Kind != model.Primitive {
		return kindNone
	}
	switch t.Name {
	case "boolean":
		return kindBoolean
	case "integer", "positiveInt", "unsignedInt", "integer64":
		return kindInteger
	case "decimal":
		return kindDecimal
	case "date":
		return kindDate
	case "dateTime", "instant":
		return kindDateTime
	case "time":
		return kindTime
	}
	return kindString
}

// system converts a primitive of FHIR to the value it has. There is none for a complex element,
// for a primitive that has only extensions, and for one whose JSON is not what its type needs.
func (v *Value) system() (Value, bool) {
	if v.kind != kindNode {
		return *v, v.kind > kindReferred
	}
	if v.prim == kindNone || v.node == 0 {
		return Value{}, false
	}
	return readPrimitive(v.tree, v.node, v.prim)
}

func readPrimitive(t *json.Tree, n json.Node, k kind) (Value, bool) {
	j := t.Kind(n)
	switch k {
	case kindBoolean:
		return boolean(j == json.True), j == json.True || j == json.False
	case kindInteger, kindDecimal:
		if j != json.Number && j != json.String { // integer64 is written as a string
			return Value{}, false
		}
		raw := t.Raw(n)
		if j == json.String {
			raw = t.Text(n)
		}
		return readNumber(raw, k)
	}
	if j != json.String {
		return Value{}, false
	}
	s := t.Text(n)
	switch k {
	case kindDate, kindDateTime:
		m, ok := parseDate(s, k == kindDateTime)
		return momentValue(k, m), ok
	case kindTime:
		m, ok := parseTime(s)
		return momentValue(k, m), ok
	}
	return text(s), true
}

func readNumber(raw []byte, k kind) (Value, bool) {
	d, ok := parseDecimal(raw)
	if !ok {
		return Value{}, false
	}
	if k == kindDecimal {
		return number(d), true
	}
	n, ok := d.integer()
	return integer(n), ok
}

// isQuantity reports whether v is an element of the type Quantity or one of its kind.
func (v *Value) isQuantity() bool {
	return v.kind == kindNode && v.prim == kindNone && v.typ != nil && v.typ.Is("Quantity")
}

var (
	nameValue      = json.NewName("value")
	nameUnit       = json.NewName("unit")
	nameCode       = json.NewName("code")
	nameSystem     = json.NewName("system")
	nameComparator = json.NewName("comparator")
)

const (
	ucumSystem  = "http://unitsofmeasure.org"
	loincSystem = "http://loinc.org"
	sctSystem   = "http://snomed.info/sct"
)

// quantity converts an element Quantity to a System.Quantity. UCUM's a and mo are calendar
// durations then (FHIR, table of time-valued quantities in fhirpath.html). A unit of another
// system, or none but a text, stays what it is: it is equal to the same unit only. A Quantity
// with a comparator is no single value and has none.
func (v *Value) quantity() (Value, bool) {
	t := v.tree
	n := t.Find(v.node, nameValue)
	if t.Kind(n) != json.Number || t.Find(v.node, nameComparator) != 0 {
		return Value{}, false
	}
	d, ok := parseDecimal(t.Raw(n))
	if !ok {
		return Value{}, false
	}
	q := number(d)
	q.kind = kindQuantity
	system, code := t.Find(v.node, nameSystem), t.Find(v.node, nameCode)
	switch {
	case system != 0 && code != 0:
		q.text = t.Text(code)
		if !t.Is(system, ucumSystem) {
			q.foreign = true
			q.text = slices.Concat(t.Text(system), []byte("|"), q.text)
		} else if c := ucumCalendar(q.text); c == calendarYear || c == calendarMonth {
			q.calendar = c
		}
	case code != 0 || t.Find(v.node, nameUnit) != 0:
		q.foreign = true
		if q.text = t.Text(code); code == 0 {
			q.text = t.Text(t.Find(v.node, nameUnit))
		}
	default:
		q.text = unitOne
	}
	return q, true
}

var unitOne = []byte("1")

// TypeName is the name of the type: System.Integer and the like for FHIRPath's own types, else
// the name that FHIR gives it, such as HumanName, code, Patient or Observation.component. It is
// empty for a node whose type FHIR does not know.
func (v Value) TypeName() string {
	switch {
	case v.kind == kindNone:
		return ""
	case v.kind > kindReferred:
		return "System." + v.kind.String()
	case v.typ == nil:
		return ""
	}
	return v.typ.Name
}

// Node gives the place of an item that is part of a resource. The node is 0 if only an
// extension stands in for the value.
func (v Value) Node() (*json.Tree, json.Node, bool) {
	return v.tree, v.node, v.kind == kindNode
}

// Boolean gives the value of a System.Boolean or a boolean element; ok is false for everything
// else.
func (v Value) Boolean() (value, ok bool) {
	s, ok := v.system()
	return s.num != 0, ok && s.kind == kindBoolean
}

// Equal is the operator = of FHIRPath between two items; false where it gives no answer.
func (v Value) Equal(o Value) bool {
	var e Evaluator
	e.steps = maxSteps
	return e.equal(&v, &o) == yes
}

// AppendJSON appends the item as JSON. A node is written as it stands in its resource; one that
// has only extensions, as the object that holds them. Booleans, Integers and Decimals are JSON's,
// with their digits; Strings are strings, and so are Dates, DateTimes and Times, in the form of
// FHIR. A Quantity is an object with value, unit and, if the unit is of UCUM, system and code; a
// TypeInfo has namespace and name; a resource that resolve() could not look into has its type.
func (v Value) AppendJSON(b []byte) []byte {
	switch v.kind {
	case kindNode:
		if v.node == 0 {
			return append(b, v.tree.Raw(v.ext)...)
		}
		return append(b, v.tree.Raw(v.node)...)
	case kindReferred:
		return append(appendQuoted(append(b, `{"type":`...), []byte(v.typ.Name)), '}')
	case kindString:
		return appendQuoted(b, v.text)
	case kindQuantity:
		return v.appendQuantity(b)
	case kindTypeInfo:
		namespace, name := v.typeInfo()
		b = appendQuoted(append(b, `{"namespace":`...), []byte(namespace))
		return append(appendQuoted(append(b, `,"name":`...), []byte(name)), '}')
	case kindDate, kindDateTime, kindTime:
		return append(v.append(append(b, '"')), '"')
	case kindNone:
		return append(b, "null"...)
	}
	return v.append(b)
}

func (v *Value) appendQuantity(b []byte) []byte {
	b = v.decimal().append(append(b, `{"value":`...))
	b = appendQuoted(append(b, `,"unit":`...), v.text)
	if v.calendar == calendarNone && !v.foreign {
		b = append(b, `,"system":"`+ucumSystem+`","code":`...)
		b = appendQuoted(b, v.text)
	}
	return append(b, '}')
}

func (v *Value) typeInfo() (namespace, name string) {
	if v.typ != nil {
		return "FHIR", v.typ.Name
	}
	return "System", kind(v.num).String()
}

// append writes a value of a System type as toString() has it.
func (v *Value) append(b []byte) []byte {
	switch v.kind {
	case kindBoolean:
		return strconv.AppendBool(b, v.num != 0)
	case kindInteger:
		return strconv.AppendInt(b, v.num, 10)
	case kindDecimal:
		return v.decimal().append(b)
	case kindString:
		return append(b, v.text...)
	case kindDate, kindDateTime, kindTime:
		return v.moment().append(b, v.kind)
	case kindQuantity:
		b = append(v.decimal().append(b), ' ')
		if v.calendar.written(v.text) {
			return append(b, v.text...)
		}
		return append(append(append(b, '\''), v.text...), '\'')
	case kindTypeInfo:
		namespace, name := v.typeInfo()
		return append(append(append(b, namespace...), '.'), name...)
	}
	return b
}

const hexDigits = "0123456789abcdef"

// appendQuoted writes a JSON string.
func appendQuoted(b, s []byte) []byte {
	b = append(b, '"')
	return append(appendEscaped(b, s), '"')
}

func appendEscaped(b, s []byte) []byte {
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '\t':
			b = append(b, '\\', 't')
		case c < 0x20:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			b = append(b, c)
		}
	}
	return b
}

// sameJSON reports whether two nodes hold the same, whatever the order of members, the escapes
// of strings and the zeros of numbers. It spends a step for every node it looks at.
func (m *Evaluator) sameJSON(a *json.Tree, x json.Node, b *json.Tree, y json.Node, equivalent bool) bool {
	if !m.spend(1) || a.Kind(x) != b.Kind(y) {
		return false
	}
	switch a.Kind(x) {
	case json.String:
		if equivalent {
			return equivalentText(m.text(a, x), m.text(b, y))
		}
		return m.sameText(m.text(a, x), m.text(b, y))
	case json.Number:
		m.spend((len(a.Raw(x)) + len(b.Raw(y))) / stride)
		return sameNumber(a.Raw(x), b.Raw(y), equivalent)
	case json.Array:
		if equivalent {
			return m.sameItems(a, x, b, y)
		}
		n, o := a.First(x), b.First(y)
		for n != 0 && o != 0 {
			if !m.sameJSON(a, n, b, o, false) {
				return false
			}
			n, o = a.Next(n), b.Next(o)
		}
		return n == 0 && o == 0
	case json.Object:
		return m.sameMembers(a, x, b, y, equivalent)
	}
	return true
}

func (m *Evaluator) sameText(a, b []byte) bool {
	return m.spend(1+min(len(a), len(b))/stride) && bytes.Equal(a, b)
}

func sameNumber(a, b []byte, equivalent bool) bool {
	if bytes.Equal(a, b) {
		return true
	}
	d, ok := parseDecimal(a)
	o, ok2 := parseDecimal(b)
	if !ok || !ok2 {
		return false
	}
	if equivalent {
		return equivalentNumbers(d, o)
	}
	return d.compare(o) == 0
}

// sameMembers compares objects. The id of a data type is part of it, as are extensions.
func (m *Evaluator) sameMembers(a *json.Tree, x json.Node, b *json.Tree, y json.Node, equivalent bool) bool {
	count := 0
	for n := a.First(x); n != 0; n = a.Next(n) {
		count++
		if !m.spend(1) {
			return false
		}
		o := m.member(b, y, a.KeyText(n))
		if o == 0 || !m.sameJSON(a, n, b, o, equivalent) {
			return false
		}
	}
	return count == b.Len(y)
}

// member finds a member by the bytes of its name. Objects of a record have few.
func (m *Evaluator) member(t *json.Tree, n json.Node, key []byte) json.Node {
	for c := t.First(n); c != 0; c = t.Next(c) {
		if !m.spend(1) {
			return 0
		}
		if bytes.Equal(t.KeyText(c), key) {
			return c
		}
	}
	return 0
}

// sameItems compares arrays without their order.
func (m *Evaluator) sameItems(a *json.Tree, x json.Node, b *json.Tree, y json.Node) bool {
	used := make([]bool, b.Len(y))
	if a.Len(x) != len(used) || !m.spend(len(used)) {
		return false
	}
	for n := a.First(x); n != 0; n = a.Next(n) {
		found := false
		for o, i := b.First(y), 0; o != 0 && !found; o, i = b.Next(o), i+1 {
			if !m.spend(1) {
				return false
			}
			if !used[i] && m.sameJSON(a, n, b, o, true) {
				used[i], found = true, true
			}
		}
		if !found {
			return false
		}
	}
	return true
}

// equivalentText compares without case, and white space of any length is one space (N1 6.1.2).
func equivalentText(a, b []byte) bool {
	i, j := 0, 0
	for {
		x, n := nextFolded(a[i:])
		y, o := nextFolded(b[j:])
		if x != y {
			return false
		}
		if n == 0 || o == 0 {
			return n == o
		}
		i, j = i+n, j+o
	}
}

// nextFolded gives the next character in lower case, a run of white space as one space.
func nextFolded(s []byte) (rune, int) {
	if len(s) == 0 {
		return 0, 0
	}
	r, n := utf8.DecodeRune(s)
	if !isSpace(r) {
		return foldRune(r), n
	}
	for n < len(s) {
		r, w := utf8.DecodeRune(s[n:])
		if !isSpace(r) {
			break
		}
		n += w
	}
	return ' ', n
}

// equivalentNumbers compares at the precision of the less precise (N1 6.1.2).
func equivalentNumbers(a, b decimal) bool {
	scale := min(a.decimals(), b.decimals())
	x, ok := a.rounded(scale, apd.RoundHalfUp)
	y, ok2 := b.rounded(scale, apd.RoundHalfUp)
	return ok && ok2 && x.compare(y) == 0
}
