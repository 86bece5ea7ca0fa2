package fhirpath

import (
	"fmt"
	"maps"
	"slices"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// function is one that expressions may call.
type function struct {
	least, most int // arguments
	compile     func(c *compiler, n *Node, in code) (code, error)
}

// functions by name. It is made by init, because arguments call the compiler, which reads it.
var functions map[string]function

func init() {
	functions = map[string]function{}
	for _, group := range []map[string]function{
		existence, filters, subsets, conversions, textFunctions, mathFunctions, momentFunctions, fhirFunctions,
	} {
		maps.Copy(functions, group)
	}
}

// refused are functions that need more than the resource.
var refused = map[string]string{
	"memberOf":          "it needs a terminology server: name the codes, or use a search criteria with :in",
	"subsumes":          "it needs a terminology server: name the codes",
	"subsumedBy":        "it needs a terminology server: name the codes",
	"validateVS":        "it needs a terminology server",
	"conformsTo":        "profiles are not known here: test the elements that matter, or meta.profile",
	"elementDefinition": "profiles are not known here",
	"slice":             "profiles are not known here",
	"checkModifiers":    "profiles are not known here",
	"htmlChecks":        "narrative is not examined here",
	"hasTemplateIdOf":   "it belongs to CDA",
	"getReferenceKey":   "it belongs to SQL on FHIR",
	"getResourceKey":    "it belongs to SQL on FHIR",
	"expand":            "it needs a terminology server",
	"lookup":            "it needs a terminology server",
	"translate":         "it needs a terminology server",
	"validateCS":        "it needs a terminology server",
	"toLong":            "Long belongs to a draft: Integer has 64 bits here",
	"convertsToLong":    "Long belongs to a draft: Integer has 64 bits here",
}

func (c *compiler) call(n *Node) (code, error) {
	f, known := functions[n.Name]
	if !known {
		if why := refused[n.Name]; why != "" {
			return code{}, refusal(fhir.IssueNotSupported, n, "%s() is not supported: %s", n.Name, why)
		}
		return code{}, refusal(fhir.IssueValue, n, "there is no function %s", shown(n.Name))
	}
	if len(n.Args) < f.least || len(n.Args) > f.most {
		return code{}, refusal(fhir.IssueValue, n, "%s() takes %s, and there are %d", n.Name, counted(f.least, f.most), len(n.Args))
	}
	in := c.self()
	if n.Input != nil {
		var err error
		if in, err = c.node(n.Input); err != nil {
			return code{}, err
		}
	}
	return f.compile(c, n, in)
}

func counted(least, most int) string {
	switch {
	case most == 0:
		return "no argument"
	case least == most && most == 1:
		return "one argument"
	case least == most:
		return fmt.Sprintf("%d arguments", most)
	}
	return fmt.Sprintf("%d to %d arguments", least, most)
}

// args compiles arguments that are evaluated once, where the whole path began.
func (c *compiler) args(n *Node) ([]code, error) {
	r := make([]code, len(n.Args))
	for i, a := range n.Args {
		var err error
		if r[i], err = c.scoped(a); err != nil {
			return nil, err
		}
	}
	return r, nil
}

var existence = map[string]function{
	"empty":      {0, 0, (*compiler).emptyFunction},
	"exists":     {0, 1, (*compiler).existsFunction},
	"all":        {1, 1, (*compiler).allFunction},
	"allTrue":    {0, 0, booleansOf(no, no, yes)},
	"anyTrue":    {0, 0, booleansOf(yes, yes, no)},
	"allFalse":   {0, 0, booleansOf(yes, no, yes)},
	"anyFalse":   {0, 0, booleansOf(no, yes, no)},
	"subsetOf":   {1, 1, (*compiler).subsetOf},
	"supersetOf": {1, 1, (*compiler).supersetOf},
	"count":      {0, 0, (*compiler).count},
	"distinct":   {0, 0, (*compiler).distinct},
	"isDistinct": {0, 0, (*compiler).isDistinct},
	"not":        {0, 0, (*compiler).not},
}

func (c *compiler) emptyFunction(_ *Node, in code) (code, error) {
	return asking(in, func(_ *Evaluator, in span) truth { return truthOf(in.empty()) }), nil
}

func (c *compiler) existsFunction(n *Node, in code) (code, error) {
	if len(n.Args) == 0 {
		return asking(in, func(_ *Evaluator, in span) truth { return truthOf(!in.empty()) }), nil
	}
	return c.loop(n, in, func(t truth) (truth, bool) { return yes, t == yes }, no)
}

func (c *compiler) allFunction(n *Node, in code) (code, error) {
	return c.loop(n, in, func(t truth) (truth, bool) { return no, t != yes }, yes)
}

// loop asks a criteria for each item until one decides.
func (c *compiler) loop(n *Node, in code, decide func(t truth) (truth, bool), otherwise truth) (code, error) {
	test, err := c.criteria(n.Args[0], in.shape)
	if err != nil {
		return code{}, err
	}
	return asking(in, func(m *Evaluator, in span) truth {
		this, index := m.this, m.index
		r := otherwise
		for i := in.from; i < in.to && m.spend(1); i++ {
			m.this, m.index = span{i, i + 1}, int(i-in.from)
			if t, decided := decide(test(m)); decided {
				r = t
				break
			}
		}
		m.this, m.index = this, index
		return r
	}), nil
}

// criteria compiles an argument that is a condition for every item.
func (c *compiler) criteria(n *Node, item shape) (test, error) {
	r, err := c.each(n, item.one())
	if err != nil {
		return nil, err
	}
	if err := c.needs(n, r.shape, "a criteria", kindBoolean); err != nil {
		return nil, err
	}
	return r.condition(), nil
}

// booleansOf looks for a boolean that decides, and answers found if there is one. An item that
// is no boolean is an error.
func booleansOf(decisive, found, otherwise truth) func(c *compiler, n *Node, in code) (code, error) {
	return func(c *compiler, n *Node, in code) (code, error) {
		if err := c.needs(n, in.shape, "the input of "+n.Name+"()", kindBoolean); err != nil {
			return code{}, err
		}
		at := n.Position
		return asking(in, func(m *Evaluator, in span) truth {
			r := otherwise
			for i := in.from; i < in.to && m.spend(1); i++ {
				v, ok := m.value(&m.items[i])
				if !ok || v.kind != kindBoolean {
					m.fail(at, "every item must be a Boolean here")
					return unknown
				}
				if truthOf(v.num != 0) == decisive {
					r = found
				}
			}
			return r
		}), nil
	}
}

func (c *compiler) subsetOf(n *Node, in code) (code, error) {
	args, err := c.args(n)
	if err != nil {
		return code{}, err
	}
	other := args[0].run
	return asking(in, func(m *Evaluator, in span) truth { return m.within(in, other(m)) }), nil
}

func (c *compiler) supersetOf(n *Node, in code) (code, error) {
	args, err := c.args(n)
	if err != nil {
		return code{}, err
	}
	other := args[0].run
	return asking(in, func(m *Evaluator, in span) truth { return m.within(other(m), in) }), nil
}

func (m *Evaluator) within(a, b span) truth {
	for i := a.from; i < a.to; i++ {
		if !m.has(b, &m.items[i]) {
			return no
		}
	}
	return yes
}

func (c *compiler) count(_ *Node, in code) (code, error) {
	return on(in, systemShape(kindInteger), func(m *Evaluator, in span) span {
		return m.result(integer(int64(in.len())))
	}), nil
}

func (c *compiler) distinct(_ *Node, in code) (code, error) {
	return unique(in), nil
}

func (c *compiler) isDistinct(_ *Node, in code) (code, error) {
	return asking(in, func(m *Evaluator, in span) truth {
		return truthOf(m.once(in).len() == in.len())
	}), nil
}

func (c *compiler) not(n *Node, in code) (code, error) {
	if in.defines {
		at := n.Position
		return asking(in, func(m *Evaluator, in span) truth { return m.condition(in, at).not() }), nil
	}
	t := in.condition()
	return deciding(func(m *Evaluator) truth {
		m.steps--
		return t(m).not()
	}), nil
}

var filters = map[string]function{
	"where":          {1, 1, (*compiler).where},
	"select":         {1, 1, (*compiler).selectFunction},
	"repeat":         {1, 1, repeating(true)},
	"repeatAll":      {1, 1, repeating(false)},
	"ofType":         {1, 1, (*compiler).typeFunction},
	"is":             {1, 1, (*compiler).typeFunction},
	"as":             {1, 1, (*compiler).typeFunction},
	"aggregate":      {1, 2, (*compiler).aggregate},
	"sort":           {0, 16, (*compiler).sort},
	"iif":            {2, 3, (*compiler).iif},
	"trace":          {1, 2, (*compiler).trace},
	"defineVariable": {1, 2, (*compiler).defineVariable},
	"coalesce":       {1, 16, (*compiler).coalesce},
	"children":       {0, 0, (*compiler).childrenFunction},
	"descendants":    {0, 0, (*compiler).descendants},
	"type":           {0, 0, (*compiler).typeOf},
}

func (c *compiler) where(n *Node, in code) (code, error) {
	test, err := c.criteria(n.Args[0], in.shape)
	if err != nil {
		return code{}, err
	}
	return on(in, in.shape, func(m *Evaluator, in span) span {
		this, index := m.this, m.index
		at := m.top()
		for i := in.from; i < in.to && m.spend(1); i++ {
			m.this, m.index = span{i, i + 1}, int(i-in.from)
			if test(m) == yes {
				m.push(m.items[i])
			}
		}
		m.this, m.index = this, index
		return span{at, m.top()}
	}), nil
}

func (c *compiler) selectFunction(n *Node, in code) (code, error) {
	body, err := c.each(n.Args[0], in.shape.one())
	if err != nil {
		return code{}, err
	}
	s := body.shape
	s.many = s.many || in.shape.many
	s.unordered = s.unordered || in.shape.unordered
	return on(in, s, func(m *Evaluator, in span) span { return m.project(in, body.run) }), nil
}

// project evaluates body for each item and puts the results next to one another.
func (m *Evaluator) project(in span, body op) span {
	this, index := m.this, m.index
	at := m.top()
	for i := in.from; i < in.to && m.spend(1); i++ {
		m.this, m.index = span{i, i + 1}, int(i-in.from)
		mark := m.top()
		m.place(mark, body(m))
	}
	m.this, m.index = this, index
	return span{at, m.top()}
}

// repeating is repeat(), which takes every item once, and repeatAll(), which ends where nothing
// is found any more.
func repeating(unique bool) func(c *compiler, n *Node, in code) (code, error) {
	return func(c *compiler, n *Node, in code) (code, error) {
		// What is found is looked into again, so its type is whatever comes out in the end.
		body, err := c.each(n.Args[0], shape{any: true})
		if err != nil {
			return code{}, err
		}
		return on(in, anything, func(m *Evaluator, in span) span { return m.repeat(in, body.run, unique) }), nil
	}
}

func (m *Evaluator) repeat(in span, body op, unique bool) span {
	this, index := m.this, m.index
	u := m.beginUniques()
	at := m.top()
	from, to := in.from, in.to
	for next := at; m.err == nil; {
		for i := from; i < to && m.spend(1); i++ {
			m.this, m.index = span{i, i + 1}, int(i-from)
			mark := m.top()
			m.place(mark, body(m))
			if unique {
				m.dropKnown(u, mark)
			}
		}
		if from, to, next = next, m.top(), m.top(); from == to {
			break
		}
	}
	m.endUniques()
	m.this, m.index = this, index
	return span{at, m.top()}
}

func (c *compiler) typeFunction(n *Node, in code) (code, error) {
	name, ok := n.Args[0].TypeName()
	if !ok {
		return code{}, refusal(fhir.IssueValue, n.Args[0], "the argument of %s() must be the name of a type", n.Name)
	}
	return c.typeTest(n, in, n.Name, name)
}

// aggregate (N1 7.1): $total is the result so far.
func (c *compiler) aggregate(n *Node, in code) (code, error) {
	start := code{run: (*Evaluator).none}
	if len(n.Args) == 2 {
		var err error
		if start, err = c.scoped(n.Args[1]); err != nil {
			return code{}, err
		}
	}
	total, known := c.total, c.inTotal
	c.total, c.inTotal = shape{any: true, many: true}, true
	body, err := c.each(n.Args[0], in.shape.one())
	c.total, c.inTotal = total, known
	if err != nil {
		return code{}, err
	}
	return on(in, anything, func(m *Evaluator, in span) span {
		this, index, total := m.this, m.index, m.total
		at := m.top()
		m.place(at, start.run(m))
		m.total = span{at, m.top()}
		for i := in.from; i < in.to && m.spend(1); i++ {
			m.this, m.index = span{i, i + 1}, int(i-in.from)
			mark := m.top()
			r := body.run(m)
			if r.from < mark { // an older collection: $total itself, perhaps
				m.place(mark, r)
				r = span{mark, m.top()}
			}
			m.total = m.keep(at, r)
		}
		r := m.total
		m.this, m.index, m.total = this, index, total
		return r
	}), nil
}

// sortKey is one criterion of sort(): a minus before it turns the order round.
type sortKey struct {
	run        op
	descending bool
	at         int
}

func (c *compiler) sort(n *Node, in code) (code, error) {
	keys := make([]sortKey, 0, max(1, len(n.Args)))
	for _, a := range n.Args {
		descending := a.Kind == KindUnary && a.Name == "-"
		if descending {
			a = a.Args[0]
		}
		k, err := c.each(a, in.shape.one())
		if err != nil {
			return code{}, err
		}
		keys = append(keys, sortKey{k.run, descending, a.Position})
	}
	if len(keys) == 0 {
		keys = append(keys, sortKey{run: func(m *Evaluator) span { return m.this }, at: n.Position})
	}
	s := in.shape
	s.unordered = false
	return on(in, s, func(m *Evaluator, in span) span { return m.sort(in, keys) }), nil
}

func (m *Evaluator) sort(in span, keys []sortKey) span {
	if in.len() < 2 {
		return in
	}
	values := make([]Value, 0, in.len()*len(keys))
	this := m.this
	for i := in.from; i < in.to && m.spend(1); i++ {
		m.this = span{i, i + 1}
		for _, k := range keys {
			mark := m.top()
			v, _ := m.system(k.run(m), k.at)
			values = append(values, v)
			m.items = m.items[:mark]
		}
	}
	m.this = this
	if m.err != nil {
		return m.none()
	}
	order := make([]int32, in.len())
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		for k := range keys {
			if c := m.sortOrder(&values[int(a)*len(keys)+k], &values[int(b)*len(keys)+k], &keys[k]); c != 0 {
				return c
			}
		}
		return 0
	})
	at := m.top()
	for _, i := range order {
		m.push(m.items[in.from+i])
	}
	return span{at, m.top()}
}

// sortOrder puts what is empty first, in either direction.
func (m *Evaluator) sortOrder(a, b *Value, key *sortKey) int {
	m.spend(1)
	if a.kind == kindNone || b.kind == kindNone {
		return int(min(a.kind, 1)) - int(min(b.kind, 1))
	}
	c, _, ok := m.compare(a, b)
	if !ok {
		m.fail(key.at, "a "+a.kind.String()+" and a "+b.kind.String()+" are not in an order with one another")
	}
	if key.descending {
		return -c
	}
	return c
}

// iif evaluates only the branch that is taken. Its arguments see the input as $this.
func (c *compiler) iif(n *Node, in code) (code, error) {
	outer := c.this
	if n.Input != nil {
		c.this = in.shape.one()
	}
	args, err := c.args(n)
	c.this = outer
	if err != nil {
		return code{}, err
	}
	if err := c.needs(n.Args[0], args[0].shape, "the criteria of iif()", kindBoolean); err != nil {
		return code{}, err
	}
	test, then := args[0].condition(), args[1].run
	s, otherwise := args[1].shape, op((*Evaluator).none)
	if len(args) == 3 {
		otherwise = args[2].run
		many := s.many || args[2].shape.many
		s = s.with(args[2].shape)
		s.many = many
	}
	if n.Input == nil {
		return code{shape: s, run: func(m *Evaluator) span {
			if test(m) == yes {
				return then(m)
			}
			return otherwise(m)
		}}, nil
	}
	at := n.Position
	return on(in, s, func(m *Evaluator, in span) span {
		if in.len() > 1 {
			m.single(in, at)
			return m.none()
		}
		this := m.this
		m.this = in
		branch := otherwise
		if test(m) == yes {
			branch = then
		}
		r := branch(m)
		m.this = this
		return r
	}), nil
}

// trace passes its input. It writes no log: what goes through is health data.
func (c *compiler) trace(n *Node, in code) (code, error) {
	if n.Args[0].Kind != KindLiteral || n.Args[0].Literal.Kind != LiteralString {
		return code{}, refusal(fhir.IssueValue, n.Args[0], "the first argument of trace() must be a text")
	}
	if len(n.Args) == 2 { // compiled for its errors alone
		if _, err := c.each(n.Args[1], in.shape.one()); err != nil {
			return code{}, err
		}
	}
	return in, nil
}

// systemVariables are names that defineVariable() must not take.
var systemVariables = []string{"context", "resource", "rootResource", "ucum", "sct", "loinc", "previous", "current", "terminologies", "factory", "server"}

// defineVariable gives a name to the input, or to what an expression makes of it, for the rest
// of the path. The slot is fixed when the expression is compiled.
func (c *compiler) defineVariable(n *Node, in code) (code, error) {
	l := n.Args[0].Literal
	if l == nil || l.Kind != LiteralString || l.Text == "" {
		return code{}, refusal(fhir.IssueNotSupported, n.Args[0], "the name of a variable must be written as a text, such as 'name'")
	}
	if slices.Contains(systemVariables, l.Text) || c.defined(l.Text) {
		return code{}, refusal(fhir.IssueValue, n, "there is a variable %s already", shown("%"+l.Text))
	}
	value := code{shape: in.shape, run: func(m *Evaluator) span { return m.this }}
	if len(n.Args) == 2 {
		this, loop := c.this, c.inLoop
		c.this = in.shape
		var err error
		value, err = c.scoped(n.Args[1])
		c.this, c.inLoop = this, loop
		if err != nil {
			return code{}, err
		}
	}
	slot := c.slots
	c.slots++
	c.scope = append(c.scope, variable{l.Text, slot, value.shape})
	in.defines = true // so that the input, and the value above it, stay
	return on(in, in.shape, func(m *Evaluator, in span) span {
		this := m.this
		m.this = in
		m.variables[slot] = value.run(m)
		m.this = this
		return in
	}), nil
}

func (c *compiler) coalesce(n *Node, in code) (code, error) {
	args, err := c.args(n)
	if err != nil {
		return code{}, err
	}
	s := args[0].shape
	for _, a := range args[1:] {
		s = s.with(a.shape)
	}
	return on(in, s, func(m *Evaluator, _ span) span {
		for _, a := range args {
			if r := a.run(m); !r.empty() {
				return r
			}
		}
		return m.none()
	}), nil
}

func (c *compiler) childrenFunction(_ *Node, in code) (code, error) {
	e := c.model
	return on(in, shape{any: true, many: true, unordered: true}, func(m *Evaluator, in span) span {
		at := m.top()
		for i := in.from; i < in.to && m.spend(1); i++ {
			m.allChildren(i, e)
		}
		return span{at, m.top()}
	}), nil
}

func (c *compiler) descendants(_ *Node, in code) (code, error) {
	e := c.model
	return on(in, shape{any: true, many: true, unordered: true}, func(m *Evaluator, in span) span {
		at := m.top()
		for i := in.from; i < in.to && m.spend(1); i++ {
			m.allChildren(i, e)
		}
		for i := at; i < m.top() && m.spend(1); i++ {
			m.allChildren(i, e)
		}
		return span{at, m.top()}
	}), nil
}

// typeOf is type() (N1 10.2): a namespace and a name.
func (c *compiler) typeOf(_ *Node, in code) (code, error) {
	s := systemShape(kindTypeInfo)
	s.many = in.shape.many
	return on(in, s, func(m *Evaluator, in span) span {
		at := m.top()
		for i := in.from; i < in.to && m.spend(1); i++ {
			v := &m.items[i]
			t := Value{kind: kindTypeInfo, num: int64(v.kind), typ: v.typ}
			if v.kind > kindReferred {
				t.typ = nil
			} else if v.typ == nil {
				continue
			}
			m.push(t)
		}
		return span{at, m.top()}
	}), nil
}

var subsets = map[string]function{
	"single":    {0, 0, (*compiler).singleFunction},
	"first":     {0, 0, (*compiler).first},
	"last":      {0, 0, (*compiler).last},
	"tail":      {0, 0, (*compiler).tail},
	"skip":      {1, 1, (*compiler).skip},
	"take":      {1, 1, (*compiler).take},
	"intersect": {1, 1, (*compiler).intersect},
	"exclude":   {1, 1, (*compiler).exclude},
	"union":     {1, 1, (*compiler).unionFunction},
	"combine":   {1, 2, (*compiler).combine},
}

func (c *compiler) singleFunction(n *Node, in code) (code, error) {
	at := n.Position
	return on(in, in.shape.one(), func(m *Evaluator, in span) span {
		m.single(in, at)
		return in
	}), nil
}

func (c *compiler) first(n *Node, in code) (code, error) {
	if err := c.ordered(n, in.shape, "first()"); err != nil {
		return code{}, err
	}
	return on(in, in.shape.one(), func(_ *Evaluator, in span) span {
		return span{in.from, min(in.from+1, in.to)}
	}), nil
}

func (c *compiler) last(n *Node, in code) (code, error) {
	if err := c.ordered(n, in.shape, "last()"); err != nil {
		return code{}, err
	}
	return on(in, in.shape.one(), func(_ *Evaluator, in span) span {
		return span{max(in.to-1, in.from), in.to}
	}), nil
}

func (c *compiler) tail(n *Node, in code) (code, error) {
	if err := c.ordered(n, in.shape, "tail()"); err != nil {
		return code{}, err
	}
	return on(in, in.shape, func(_ *Evaluator, in span) span {
		return span{min(in.from+1, in.to), in.to}
	}), nil
}

func (c *compiler) skip(n *Node, in code) (code, error) {
	return c.slice(n, in, func(in span, k int32) span { return span{in.from + k, in.to} })
}

func (c *compiler) take(n *Node, in code) (code, error) {
	return c.slice(n, in, func(in span, k int32) span { return span{in.from, in.from + k} })
}

func (c *compiler) slice(n *Node, in code, cut func(in span, k int32) span) (code, error) {
	if err := c.ordered(n, in.shape, n.Name+"()"); err != nil {
		return code{}, err
	}
	args, err := c.args(n)
	if err != nil {
		return code{}, err
	}
	if err := c.needs(n.Args[0], args[0].shape, "the argument of "+n.Name+"()", kindInteger); err != nil {
		return code{}, err
	}
	number := args[0]
	return on(in, in.shape, func(m *Evaluator, in span) span {
		k, ok := m.integerOf(number.run(m), number.at)
		if !ok {
			return m.none()
		}
		return cut(in, int32(min(max(k, 0), int64(in.len()))))
	}), nil
}

// setFunction compiles a function of the input and another collection.
func (c *compiler) setFunction(n *Node, in code, f func(m *Evaluator, in, other span) span) (code, error) {
	args, err := c.args(n)
	if err != nil {
		return code{}, err
	}
	s := in.shape
	if n.Name == "union" || n.Name == "combine" {
		s = s.with(args[0].shape)
	}
	other := args[0].run
	return on(in, s, func(m *Evaluator, in span) span { return f(m, in, other(m)) }), nil
}

func (c *compiler) intersect(n *Node, in code) (code, error) {
	return c.setFunction(n, in, func(m *Evaluator, in, other span) span {
		at := m.top()
		for i := in.from; i < in.to && m.err == nil; i++ {
			if m.has(other, &m.items[i]) && !m.has(span{at, m.top()}, &m.items[i]) {
				m.push(m.items[i])
			}
		}
		return span{at, m.top()}
	})
}

func (c *compiler) exclude(n *Node, in code) (code, error) {
	return c.setFunction(n, in, func(m *Evaluator, in, other span) span {
		return m.filter(in, func(v *Value) bool { return !m.has(other, v) })
	})
}

func (c *compiler) unionFunction(n *Node, in code) (code, error) {
	return c.setFunction(n, in, func(m *Evaluator, in, other span) span { return m.once(in, other) })
}

// combine joins without looking for duplicates. The second argument of the draft, which keeps
// the order, changes nothing: it is kept.
func (c *compiler) combine(n *Node, in code) (code, error) {
	return c.setFunction(n, in, func(m *Evaluator, in, other span) span {
		at := m.top()
		for _, s := range [2]span{in, other} {
			for i := s.from; i < s.to && m.err == nil; i++ {
				m.push(m.items[i])
			}
		}
		return span{at, m.top()}
	})
}
