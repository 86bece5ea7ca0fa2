package search

import (
	stdjson "encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/model"
	"github.com/carillon-fhir/carillon/match/search/internal/paths"
)

// WithParameters gives definitions that have these SearchParameter resources besides the
// official ones, and in place of those that d had from an earlier call. A parameter has the
// official meaning of its code on the types that it is not defined for, and its own where it is:
// of two with one code and type the later counts, as on HAPI servers. HL7's own parameters are
// built in, and a stored copy of one (by its URL and code) changes nothing: who wants another
// meaning defines the code under a URL of his own.
//
// There is an error for each parameter, in their order, nil for those that can be used; the
// others are left out. Each is a *fhir.Error whose issues name the element. Refused is whatever
// would make a criteria mean something else than the author of the parameter meant: elements
// that a type does not have, types that a kind of parameter cannot read, processing that is not
// done here. A parameter that is retired is not in force and defines nothing.
//
// Criteria and Resources of d and of the result may meet, see Definitions.
func (d *Definitions) WithParameters(params ...[]byte) (*Definitions, []error) {
	out := *d
	out.types = make(map[string]*typeDef, len(d.types))
	for name, t := range d.types {
		def := &typeDef{name: name, params: t.family.official, family: t.family}
		def.self[0] = def
		out.types[name] = def
	}
	b := &builder{definitions: &out, model: model.For(d.version), byURL: map[string]*searchParameter{}}
	all := make([]*searchParameter, len(params))
	errs := make([]error, len(params))
	for i, body := range params {
		if all[i], errs[i] = b.read(body); errs[i] == nil {
			b.byURL[all[i].URL] = all[i]
		}
	}
	for i, p := range all {
		if errs[i] == nil {
			errs[i] = b.add(p)
		}
	}
	return &out, errs
}

// Current reports whether the criteria would be compiled to the same by these definitions, as
// far as search parameters go: whoever keeps criteria while SearchParameters change compiles
// again what is not current.
func (c *Criteria) Current(d *Definitions) bool {
	current := true
	for _, t := range c.types {
		now := d.types[t.name]
		current = current && now != nil && now.family == t.family
	}
	for _, x := range c.conditions {
		x.params(func(p *param) { current = current && d.has(p) })
		x.each(func(x *condition) {
			if l, ok := x.linked.(*chain); ok {
				current = current && l.current(d)
			}
		})
	}
	return current
}

// has reports whether a parameter is what its code means by these definitions.
func (d *Definitions) has(p *param) bool {
	if p == paramNear { // whoever defines the code anew replaces it
		x := d.types["Location"].params[p.code]
		return x == nil || !x.evaluable()
	}
	return p.home == nil || d.types[p.home.name] == nil || d.types[p.home.name].params[p.code] == p
}

// current reports whether a chain leads to the same types by other definitions: one that has got
// the parameter counts now.
func (x *chain) current(d *Definitions) bool {
	return x.rest == "" || !slices.ContainsFunc(d.typesOf(x.param.leadsTo()), func(t *typeDef) bool {
		return x.end([]byte(t.name)) == nil && t.knows(x.rest)
	})
}

// params shows the parameters of a condition and of all that it is made of, each perhaps more
// than once. Parts of composites are not shown: they belong to theirs.
func (c *condition) params(visit func(*param)) {
	c.each(func(x *condition) {
		if x.param != nil {
			visit(x.param)
		}
		switch l := x.linked.(type) {
		case *chain:
			visit(l.param)
		case *reverse:
			visit(l.param)
		case *list:
			visit(l.item)
		}
	})
}

// family is the parameters of one resource type in all Definitions of a lineage. What a place in
// a Resource, or a name in an Access, means never changes within it: a parameter that is defined
// again with another meaning is another parameter, and one with the same meaning is the same.
//
// Meanings are never forgotten, since a criteria of any age may still use them. Each costs its
// few paths and a place of 16 bytes in every Resource, so a parameter would have to be changed
// millions of times before that is felt.
type family struct {
	name     string // of the type
	official map[string]*param
	count    int // of official params that can be evaluated: their index is below it

	mu       sync.Mutex
	meanings map[string]*param // of all custom params, by everything that they are
}

// place gives the one parameter of that meaning its place.
func (f *family) place(meaning string, p *param) *param {
	f.mu.Lock()
	defer f.mu.Unlock()
	if known := f.meanings[meaning]; known != nil {
		return known
	}
	p.home = f
	p.index = f.count + len(f.meanings)
	p.key = fmt.Sprintf("%s#%s#%d", p.code, f.name, p.index)
	if f.meanings == nil {
		f.meanings = map[string]*param{}
	}
	f.meanings[meaning] = p
	return p
}

// searchParameter is the part of a SearchParameter that counts.
type searchParameter struct {
	ResourceType      string               `json:"resourceType"`
	URL               string               `json:"url"`
	Status            string               `json:"status"`
	Code              string               `json:"code"`
	Base              []string             `json:"base"`
	Type              string               `json:"type"`
	Expression        string               `json:"expression"`
	XPath             string               `json:"xpath"`
	XPathUsage        string               `json:"xpathUsage"`
	ProcessingMode    string               `json:"processingMode"`
	Constraint        string               `json:"constraint"`
	Target            []string             `json:"target"`
	MultipleOr        *bool                `json:"multipleOr"`
	MultipleAnd       *bool                `json:"multipleAnd"`
	Comparator        []string             `json:"comparator"`
	Modifier          []string             `json:"modifier"`
	Chain             []string             `json:"chain"`
	Component         []componentElement   `json:"component"`
	ModifierExtension []stdjson.RawMessage `json:"modifierExtension"`
}

type componentElement struct {
	Definition string `json:"definition"`
	Expression string `json:"expression"`
}

// officialURL is what the canonical URLs of HL7's own parameters begin with.
const officialURL = "http://hl7.org/fhir/SearchParameter/"

// refuseElement is a refusal of an element of a SearchParameter.
func refuseElement(t fhir.IssueType, element, format string, args ...any) error {
	return fhir.Refuse(t, "SearchParameter."+element, fmt.Sprintf(format, args...))
}

// builder makes parameters out of SearchParameters.
type builder struct {
	definitions *Definitions
	model       *model.Model
	byURL       map[string]*searchParameter
}

// Bounds of a SearchParameter.
const (
	maxExpression = 16 << 10 // bytes
	maxParts      = 8
)

// codePattern is how a parameter's code is written: it stands in a query before : . and =.
var codePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,63}$`)

// read reads a SearchParameter and checks what does not depend on its expression.
func (b *builder) read(body []byte) (*searchParameter, error) {
	p := new(searchParameter)
	if err := stdjson.Unmarshal(body, p); err != nil {
		return nil, fhir.Refuse(fhir.IssueStructure, "SearchParameter", "the SearchParameter cannot be read: an element is not of its JSON type")
	}
	switch {
	case p.ResourceType != "SearchParameter":
		return nil, fhir.Refuse(fhir.IssueStructure, "", "the resource is no SearchParameter")
	case !slices.Contains([]string{"draft", "active", "retired"}, p.Status):
		return nil, refuseElement(fhir.IssueValue, "status", "the status must be draft or active for a parameter that is in force, or retired")
	case p.Status == "retired":
		return p, nil // nothing else of it counts
	case !codePattern.MatchString(p.Code):
		return nil, refuseElement(fhir.IssueValue, "code", "the code must begin with a letter and have up to 64 letters, digits, - and _")
	case len(p.ModifierExtension) > 0:
		return nil, refuseElement(fhir.IssueNotSupported, "modifierExtension", "an extension that changes what the parameter means is not supported")
	case p.Constraint != "":
		return nil, refuseElement(fhir.IssueNotSupported, "constraint", "a constraint on the use of the parameter is not supported")
	case len(p.Base) == 0:
		return nil, refuseElement(fhir.IssueRequired, "base", "a parameter must name the resource types that it is for")
	case len(p.Expression) > maxExpression:
		return nil, refuseElement(fhir.IssueTooLong, "expression", "the expression is longer than %d bytes", maxExpression)
	}
	return p, b.check(p)
}

func (b *builder) check(p *searchParameter) error {
	if err := checkKind(p); err != nil {
		return err
	}
	for _, t := range p.Base {
		if x := b.model.Type(t); x == nil || x.Kind != model.Resource {
			return refuseElement(fhir.IssueValue, "base", "%s is not a resource type of FHIR %s%s", shown(t), b.definitions.version, nearest(t, b.definitions.names))
		}
	}
	for _, t := range p.Target {
		if x := b.model.Type(t); x == nil || x.Kind != model.Resource {
			return refuseElement(fhir.IssueValue, "target", "%s is not a resource type of FHIR %s%s", shown(t), b.definitions.version, nearest(t, b.definitions.names))
		}
	}
	for _, m := range p.Modifier {
		if _, ok := modifierCodes[m]; !ok {
			return refuseElement(fhir.IssueValue, "modifier", "%s is not a modifier", shown(m))
		}
	}
	for _, o := range p.Comparator {
		if !slices.Contains(comparators[:], o) {
			return refuseElement(fhir.IssueValue, "comparator", "%s is not a comparator", shown(o))
		}
	}
	return nil
}

func checkKind(p *searchParameter) error {
	k, known := kinds[p.Type]
	usage := p.ProcessingMode
	if usage == "" {
		usage = p.XPathUsage
	}
	switch {
	case p.Type == "":
		return refuseElement(fhir.IssueRequired, "type", "a parameter must have a type")
	case !known:
		return refuseElement(fhir.IssueValue, "type", "%s is not a type of search parameter that is known here", shown(p.Type))
	case k == kindSpecial:
		return refuseElement(fhir.IssueNotSupported, "type", "what a special parameter means cannot be told from its definition")
	case usage != "" && usage != "normal":
		return refuseElement(fhir.IssueNotSupported, "processingMode", "the processing %s is not supported; the values of an expression can only be compared as they are", shown(usage))
	case p.Expression == "" && p.XPath != "":
		return refuseElement(fhir.IssueRequired, "expression", "the parameter has only an XPath expression; it must have one in FHIRPath")
	case p.Expression == "":
		return refuseElement(fhir.IssueRequired, "expression", "a parameter must have an expression")
	case k == kindComposite && (len(p.Component) < 2 || len(p.Component) > maxParts):
		return refuseElement(fhir.IssueValue, "component", "a composite parameter must have 2 to %d components", maxParts)
	case k != kindComposite && len(p.Component) > 0:
		return refuseElement(fhir.IssueValue, "component", "only a composite parameter has components")
	}
	return nil
}

// add defines a parameter on all of its types, or on none.
func (b *builder) add(p *searchParameter) error {
	switch {
	case p.Status == "retired":
		return nil
	case p.Code[0] == '_' && strings.HasPrefix(p.URL, officialURL):
		return nil // built in
	case p.Code[0] == '_':
		return refuseElement(fhir.IssueValue, "code", "codes that begin with _ are the specification's own")
	}
	made := map[*typeDef]*param{}
	slices.Sort(p.Base)
	for _, base := range slices.Compact(p.Base) { // a repetition would be compiled again for every type
		abstract := b.definitions.types[base] == nil
		found := false
		for _, name := range b.definitions.names {
			t := b.model.Type(name)
			if !paths.Is(b.model, t, base) {
				continue
			}
			if b.builtIn(p, name) {
				found = true
				continue
			}
			x, meaning, err := b.param(p, t)
			if err != nil {
				return err
			}
			if x == nil && !abstract {
				return refuseElement(fhir.IssueValue, "expression", "the expression reads nothing of %s", name)
			}
			if x != nil {
				found = true
				def := b.definitions.types[name]
				made[def] = def.family.place(meaning, x)
			}
		}
		if !found {
			return refuseElement(fhir.IssueValue, "expression", "the expression reads nothing of %s", base)
		}
	}
	for t, x := range made {
		t.set(x)
	}
	return nil
}

// builtIn reports whether a SearchParameter is a copy of HL7's own.
func (b *builder) builtIn(p *searchParameter, typ string) bool {
	x := b.definitions.types[typ].family.official[p.Code]
	return x != nil && x.evaluable() && strings.HasPrefix(p.URL, officialURL)
}

// set defines a parameter. What is shared with other Definitions is copied first.
func (t *typeDef) set(p *param) {
	if !t.own {
		t.params, t.own = maps.Clone(t.params), true
	}
	t.params[p.code] = p
}

// param makes the parameter for one resource type, and a text that is the same for parameters
// of the same meaning. It is nil if the expression is about other types.
func (b *builder) param(p *searchParameter, t *model.Type) (*param, string, error) {
	var x *param
	var meaning string
	var err error
	if kinds[p.Type] == kindComposite {
		x, meaning, err = b.composite(p, t)
	} else {
		x, meaning, err = b.simple(p, t)
	}
	if x == nil || err != nil {
		return nil, "", err
	}
	x.code = p.Code
	if x.limits = newLimits(p); x.limits != nil {
		meaning += fmt.Sprintf(" %+v", *x.limits)
	}
	return x, p.Code + " " + meaning, nil
}

// simple makes a parameter that is no composite.
func (b *builder) simple(p *searchParameter, t *model.Type) (*param, string, error) {
	s := b.start(p, t, nil, p.Type)
	r, err := paths.Compile(s, p.Expression)
	switch {
	case paths.IsNotAPath(err):
		return b.evaluated(s, p.Expression, p.Target, "expression")
	case err != nil:
		return nil, "", elementError(err, "expression")
	case len(r.Paths) == 0:
		return nil, "", nil
	}
	return b.paths(r, p.Type, p.Target, "expression")
}

// start is where an expression begins.
func (b *builder) start(p *searchParameter, t, node *model.Type, kindName string) paths.Start {
	return paths.Start{Model: b.model, Resource: t, Node: node, Kind: kindName, Lenient: strings.HasPrefix(p.URL, officialURL)}
}

// paths makes a parameter of paths, and the text of its meaning.
func (b *builder) paths(r paths.Result, kindName string, targets []string, element string) (*param, string, error) {
	x := &param{kind: kinds[kindName], first: r.First}
	for _, text := range r.Paths {
		parsed, err := parsePath(text)
		if err != nil {
			return nil, "", refuseElement(fhir.IssueNotSupported, element, "the expression's path %s is not understood", shown(text))
		}
		x.paths = append(x.paths, parsed)
	}
	if len(targets) == 0 {
		targets = r.Targets
	}
	x.targets = b.targets(x.kind, targets)
	return x, fmt.Sprintf("%s %v %s >%s", kindName, r.First, strings.Join(r.Paths, "|"), strings.Join(x.targets, ",")), nil
}

// targets gives the concrete types that a reference may be to; none if that is no restriction.
func (b *builder) targets(k kind, names []string) []string {
	if k != kindReference {
		return nil
	}
	var out []string
	for _, n := range names {
		if b.definitions.types[n] == nil {
			return nil // an abstract type: any
		}
		out = append(out, n)
	}
	slices.Sort(out)
	if out = slices.Compact(out); len(out) >= len(b.definitions.names)/2 {
		return nil
	}
	return out
}

// composite makes a composite parameter.
func (b *builder) composite(p *searchParameter, t *model.Type) (*param, string, error) {
	base, err := paths.Compile(b.start(p, t, nil, "node"), p.Expression)
	switch {
	case paths.IsNotAPath(err):
		return nil, "", refuseElement(fhir.IssueNotSupported, "expression", "the nodes of a composite must be told by a path: %v", err)
	case err != nil:
		return nil, "", elementError(err, "expression")
	case len(base.Paths) == 0:
		return nil, "", nil
	}
	x, meaning, err := b.paths(base, p.Type, nil, "expression")
	if err != nil {
		return nil, "", err
	}
	rooted := 0
	for i, c := range p.Component {
		element := fmt.Sprintf("component[%d]", i)
		part, text, err := b.part(p, t, base.Nodes, c, element)
		if err != nil {
			return nil, "", err
		}
		if slices.ContainsFunc(part.paths, func(y path) bool { return y.root }) {
			if rooted++; rooted > 1 || slices.ContainsFunc(part.paths, func(y path) bool { return !y.root }) {
				return nil, "", refuseElement(fhir.IssueNotSupported, element, "one component of a composite may begin at %%resource, and must then do so in all of its expression")
			}
		}
		x.parts = append(x.parts, part)
		meaning += " $" + text
	}
	return x, meaning, nil
}

// part makes a part of a composite: its expression is followed from the type of every node, and
// its kind is that of the parameter that it is defined by.
func (b *builder) part(p *searchParameter, t *model.Type, nodes []*model.Type, c componentElement, element string) (*param, string, error) {
	code, kindName, targets, err := b.definition(t, c.Definition)
	if err != nil {
		return nil, "", refuseElement(fhir.IssueNotFound, element+".definition", "%v", err)
	}
	if c.Expression == "" {
		return nil, "", refuseElement(fhir.IssueRequired, element+".expression", "a component must have an expression")
	}
	var all paths.Result
	anyTarget := false
	for _, node := range nodes {
		r, err := paths.Compile(b.start(p, t, node, kindName), c.Expression)
		switch {
		case paths.IsNotAPath(err) && len(nodes) > 1:
			return nil, "", refuseElement(fhir.IssueNotSupported, element+".expression", "of a composite with nodes of several types, each component must be a path: %v", err)
		case paths.IsNotAPath(err):
			x, text, err := b.evaluated(b.start(p, t, node, kindName), c.Expression, targets, element+".expression")
			if err != nil {
				return nil, "", err
			}
			x.code, x.key = code, code
			return x, code + " " + text, nil
		case err != nil:
			return nil, "", elementError(err, element+".expression")
		}
		all.First = all.First || r.First
		all.Targets = append(all.Targets, r.Targets...)
		anyTarget = anyTarget || len(r.Paths) > 0 && len(r.Targets) == 0
		for _, text := range r.Paths {
			if !slices.Contains(all.Paths, text) {
				all.Paths = append(all.Paths, text)
			}
		}
	}
	if len(all.Paths) == 0 {
		return nil, "", refuseElement(fhir.IssueValue, element+".expression", "the expression reads nothing of the composite's nodes")
	}
	if anyTarget {
		all.Targets = nil
	}
	if err := paths.Distinct(all.Paths); err != nil {
		return nil, "", refuseElement(fhir.IssueNotSupported, element+".expression", "%v", err)
	}
	x, text, err := b.paths(all, kindName, targets, element+".expression")
	if err != nil {
		return nil, "", err
	}
	x.code, x.key = code, code
	return x, code + " " + text, nil
}

// definition finds the parameter that a part is defined by: one of those that are added, or an
// official one. The URLs of the latter end in a hyphen and the code.
func (b *builder) definition(t *model.Type, url string) (code, kindName string, targets []string, err error) {
	if p := b.byURL[url]; p != nil && p.Status != "retired" {
		if k := kinds[p.Type]; k == kindComposite || k == kindSpecial {
			return "", "", nil, fmt.Errorf("a %s parameter cannot be part of a composite", p.Type)
		}
		return p.Code, p.Type, p.Target, nil
	}
	if rest, ok := strings.CutPrefix(url, officialURL); ok {
		for {
			_, after, more := strings.Cut(rest, "-")
			if !more {
				break
			}
			rest = after
			if p := b.definitions.types[t.Name].family.official[rest]; p != nil && p.kind != kindComposite && p.kind != kindSpecial {
				return p.code, p.kind.String(), p.targets, nil
			}
		}
	}
	return "", "", nil, fmt.Errorf("the parameter %s is not known; it must be one of %s or a SearchParameter that is stored and usable", shown(url), t.Name)
}

// modifierCodes are the codes that SearchParameter.modifier may have, and what they stand for in
// a criteria.
var modifierCodes = map[string]string{"missing": "missing", "exact": "exact", "contains": "contains", "not": "not", "text": "text",
	"in": "in", "not-in": "not-in", "below": "below", "above": "above", "type": "", "identifier": "identifier",
	"ofType": "of-type", "of-type": "of-type", "code-text": "code-text", "text-advanced": "text-advanced", "iterate": "iterate"}

// limits are what a SearchParameter says about its own use. A criteria that goes beyond is
// refused.
type limits struct {
	modifiers   []string // as in a criteria; "" for the name of a type; nil: all
	comparators []string // nil: all
	chains      []string // nil: all
	oneValue    bool     // no comma
	once        bool     // no repetition
}

func newLimits(p *searchParameter) *limits {
	l := limits{comparators: p.Comparator, chains: p.Chain}
	for _, m := range p.Modifier {
		l.modifiers = append(l.modifiers, modifierCodes[m])
	}
	l.oneValue = p.MultipleOr != nil && !*p.MultipleOr
	l.once = p.MultipleAnd != nil && !*p.MultipleAnd
	if l.modifiers == nil && l.comparators == nil && l.chains == nil && !l.oneValue && !l.once {
		return nil
	}
	return &l
}

// restrict refuses what a parameter's own definition does not allow.
func (c *compiler) restrict(value string) error {
	l, modifier := c.param.limits, c.modifier
	if l == nil {
		return nil
	}
	if modifier != "" && l.modifiers != nil {
		m := modifier
		if c.definitions.HasType(m) {
			m = ""
		}
		if !slices.Contains(l.modifiers, m) {
			return unsupported("the parameter's definition does not allow the modifier %s", shown(modifier))
		}
	}
	if l.once {
		if slices.Contains(c.once, c.param) {
			return unsupported("the parameter's definition does not allow it to be repeated")
		}
		c.once = append(c.once, c.param)
	}
	values := splitEscaped(value, ',')
	if l.oneValue && len(values) > 1 {
		return unsupported(`the parameter's definition allows a single value; a comma within a value is written \,`)
	}
	if k := c.param.kind; l.comparators == nil || modifier == "missing" || k != kindDate && k != kindNumber && k != kindQuantity {
		return nil
	}
	for _, v := range values {
		if op, _, err := cutComparator(v); err == nil && op != opEqual && !slices.Contains(l.comparators, op.String()) {
			return unsupported("the parameter's definition does not allow the prefix %s", op)
		}
	}
	return nil
}

// allowsChain reports whether the parameter's definition allows a chain to that code.
func (p *param) allowsChain(code string) bool {
	return p.limits == nil || p.limits.chains == nil || slices.Contains(p.limits.chains, code)
}
