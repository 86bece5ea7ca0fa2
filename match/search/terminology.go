package search

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/ucum"
)

// Terminology is a collection of ValueSet and CodeSystem resources, by which :in, :not-in,
// :above and :below are decided. It never changes and is shared by goroutines; With and Without
// give changed copies. A nil Terminology has no resources. The zero value must not be used.
//
// A resource is found by its canonical URL, with or without |version, or by its id as
// ValueSet/id. Without a version the newest one counts. Versions are compared piece by piece,
// divided at '.', '-' and '+': pieces of digits by their value, others by their letters, a
// number before a word; 1.0.0-beta comes before 1.0.0, and no version before any. Of several
// resources with one URL and version the one with the greatest id counts. Neither status nor
// date is looked at.
type Terminology struct {
	byID  layered[*termResource] // by Type/id
	byURL layered[termList]      // by Type and URL, the oldest version first

	mu    sync.Mutex
	cache map[string]*expanded // results of expansions, by what was asked for
}

// termResource is one stored ValueSet or CodeSystem.
type termResource struct {
	typ      string
	id       fhir.ID
	url      string
	version  string
	valueSet string // of a CodeSystem: the canonical URL of the value set of all its codes
	body     []byte

	// The content is read when the first criteria needs it.
	readValueSet   func() (*valueSet, error)
	readCodeSystem func() (*codeSystem, error)
}

// NewTerminology collects ValueSet and CodeSystem resources, given as JSON. The bodies are kept
// and must not be changed. An error is a *fhir.Error that names the resource; later ones with
// the same type and id replace earlier ones.
func NewTerminology(bodies ...[]byte) (*Terminology, error) {
	t := &Terminology{}
	for _, body := range bodies {
		next, err := t.With("", body)
		if err != nil {
			return nil, err
		}
		t = next
	}
	return t, nil
}

// With gives a copy that has one more ValueSet or CodeSystem, or another version of one that is
// there. id is the resource's logical id where the body may lack it; empty: the body's own. The
// body is kept and must not be changed. An error is a *fhir.Error. What a resource says is
// judged when a criteria needs it, so a ValueSet that cannot be expanded here can be stored.
func (t *Terminology) With(id fhir.ID, body []byte) (*Terminology, error) {
	r, err := readHeader(id, body)
	if err != nil {
		return nil, err
	}
	c := t.without(r.key())
	c.byID = c.byID.with(r.key(), r)
	for _, url := range r.urls() {
		list := append(slices.Clone(c.byURL.get(url)), r) // the old list belongs to other collections too
		slices.SortFunc(list, func(a, b *termResource) int {
			return cmp.Or(compareVersions(a.version, b.version), cmp.Compare(a.id, b.id))
		})
		c.byURL = c.byURL.with(url, list)
	}
	c.forget(r.names())
	return c, nil
}

// Without gives a copy that lacks a resource, such as ValueSet 123.
func (t *Terminology) Without(typ string, id fhir.ID) *Terminology {
	return t.without(typ + "/" + string(id))
}

// without copies the collection but for one resource and what was remembered of it.
func (t *Terminology) without(key string) *Terminology {
	c := &Terminology{}
	if t == nil {
		return c
	}
	c.byID, c.byURL = t.byID, t.byURL
	t.mu.Lock()
	c.cache = maps.Clone(t.cache)
	t.mu.Unlock()
	r := t.byID.get(key)
	if r == nil {
		return c
	}
	c.byID = c.byID.with(key, nil)
	for _, url := range r.urls() {
		c.byURL = c.byURL.with(url, slices.DeleteFunc(slices.Clone(c.byURL.get(url)), func(o *termResource) bool { return o == r }))
	}
	c.forget(r.names())
	return c
}

// forget drops the results that depend on one of these names. All others stay, so that
// criteria which are compiled before and after a change share their sets.
func (t *Terminology) forget(names []string) {
	maps.DeleteFunc(t.cache, func(_ string, x *expanded) bool {
		return slices.ContainsFunc(x.uses, func(u string) bool { return slices.Contains(names, u) })
	})
}

// Names lists under which names a criteria may use a stored resource: Type/id, and its URL
// without a version; for a CodeSystem also the value set of all its codes. They are those that
// Criteria.Uses tells: when a resource is written or deleted, the criteria whose Uses have one
// of its Names, before or after, may mean something else now. Nil if there is no such resource.
func (t *Terminology) Names(typ string, id fhir.ID) []string {
	if t == nil {
		return nil
	}
	r := t.byID.get(typ + "/" + string(id))
	if r == nil {
		return nil
	}
	return r.names()
}

func (r *termResource) key() string { return r.typ + "/" + string(r.id) }

func (r *termResource) names() []string {
	out := []string{r.key()}
	for _, url := range []string{r.url, r.valueSet} {
		if url != "" && !slices.Contains(out, url) {
			out = append(out, url)
		}
	}
	return out
}

// layered is a map that is never changed, and cheap to copy with one change: recent changes
// lie over a base that is made anew only once they have become many. Thousands of resources
// come one by one when a server starts.
type layered[V interface{ none() bool }] struct{ base, recent map[string]V }

func (r *termResource) none() bool { return r == nil }

// termList are the resources of one URL, the oldest version first.
type termList []*termResource

func (l termList) none() bool { return len(l) == 0 }

func (m layered[V]) get(key string) V {
	if v, ok := m.recent[key]; ok {
		return v
	}
	return m.base[key]
}

func (m layered[V]) with(key string, v V) layered[V] {
	recent := maps.Clone(m.recent)
	if recent == nil {
		recent = map[string]V{}
	}
	recent[key] = v
	if n := len(recent); n < 64 || n*n < 4*len(m.base) {
		return layered[V]{m.base, recent}
	}
	base := maps.Clone(m.base)
	if base == nil {
		base = map[string]V{}
	}
	maps.Copy(base, recent)
	maps.DeleteFunc(base, func(_ string, v V) bool { return v.none() })
	return layered[V]{base, nil}
}

// urls are the keys of byURL under which a resource stands.
func (r *termResource) urls() []string {
	var out []string
	if r.url != "" {
		out = append(out, r.typ+" "+r.url)
	}
	if r.valueSet != "" {
		out = append(out, "implicit "+r.valueSet)
	}
	return out
}

// readHeader reads what a resource is found by.
func readHeader(id fhir.ID, body []byte) (*termResource, error) {
	tree, err := json.Parse(body, json.Limits{Bytes: max(1, len(body))})
	if err != nil {
		return nil, fhir.Refuse(fhir.IssueStructure, "", "the resource is no JSON: "+err.Error())
	}
	root := tree.Root()
	text := func(key string) string { return tree.Str(tree.Get(root, key)) }
	r := &termResource{typ: text("resourceType"), id: id, url: text("url"), version: text("version"), body: body}
	if id == "" {
		r.id = fhir.ID(text("id"))
	}
	switch {
	case r.typ == "ValueSet":
		r.readValueSet = sync.OnceValues(func() (*valueSet, error) { return parseValueSet(r.body) })
	case r.typ == "CodeSystem":
		r.valueSet = text("valueSet")
		r.readCodeSystem = sync.OnceValues(func() (*codeSystem, error) { return parseCodeSystem(r.name(), r.body) })
	default:
		return nil, fhir.Refuse(fhir.IssueValue, "resourceType", fmt.Sprintf("%s is neither a ValueSet nor a CodeSystem", shown(r.typ)))
	}
	if !r.id.Valid() {
		return nil, fhir.Refuse(fhir.IssueRequired, r.typ+".id", "the resource has no valid id")
	}
	return r, nil
}

// name is how messages call a resource.
func (r *termResource) name() string {
	if r.url == "" {
		return r.typ + "/" + string(r.id)
	}
	if r.version == "" {
		return r.typ + " " + shown(r.url)
	}
	return r.typ + " " + shown(r.url+"|"+r.version)
}

// find gives the resource that a canonical names; nil if there is none.
func (t *Terminology) find(typ, url, version string) *termResource {
	if t == nil {
		return nil
	}
	list := t.byURL.get(typ + " " + url)
	for i := len(list) - 1; i >= 0; i-- {
		if version == "" || list[i].version == version {
			return list[i]
		}
	}
	return nil
}

// system gives the content of a stored CodeSystem that lists all of its codes; nil if there is
// none. A supplement, a fragment and an example say too little to decide by.
func (t *Terminology) system(url, version string) (*codeSystem, error) {
	r := t.find("CodeSystem", url, version)
	if r == nil {
		return nil, nil
	}
	s, err := r.readCodeSystem()
	if err != nil || !s.complete {
		return nil, err
	}
	return s, nil
}

// exactCase reports whether case is known to count for the codes of a system. It is a fact of
// the system whatever version is asked for, so that sets of one system can be combined.
func (t *Terminology) exactCase(url string) bool {
	if url == ucum.System {
		return true
	}
	r := t.find("CodeSystem", url, "")
	if r == nil {
		return false
	}
	s, err := r.readCodeSystem()
	return err == nil && s.exact
}

// compareVersions orders two business versions; see Terminology.
func compareVersions(a, b string) int {
	if a == "" || b == "" {
		return cmp.Compare(len(a), len(b))
	}
	a, b = strings.TrimPrefix(a, "v"), strings.TrimPrefix(b, "v")
	for a != "" && b != "" {
		var x, y string
		var sepA, sepB byte
		x, a, sepA = versionPiece(a)
		y, b, sepB = versionPiece(b)
		if c := comparePieces(x, y); c != 0 {
			return c
		}
		// Of 1.0-beta and 1.0.1 the first is what comes before 1.0.
		if (sepA == '-') != (sepB == '-') {
			if sepA == '-' {
				return -1
			}
			return 1
		}
	}
	return cmp.Compare(len(a), len(b))
}

// versionPiece takes the first piece off a version, and tells what divided it from the rest.
func versionPiece(s string) (piece, rest string, separator byte) {
	i := strings.IndexAny(s, ".-+")
	if i < 0 {
		return s, "", 0
	}
	return s[:i], s[i+1:], s[i]
}

func comparePieces(x, y string) int {
	nx, ny := isNumber(x), isNumber(y)
	switch {
	case nx && ny:
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		return cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y))
	case nx:
		return -1
	case ny:
		return 1
	}
	return strings.Compare(x, y)
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// WithTerminology gives the same definitions with other stored ValueSets and CodeSystems.
// Criteria that were compiled before keep the sets that they were compiled with.
func (d *Definitions) WithTerminology(t *Terminology) *Definitions {
	c := *d
	c.terminology = t
	return &c
}

// Uses lists the ValueSets and CodeSystems whose content, or absence, decides what the criteria
// means: canonical URLs without a version, or ValueSet/id where the criteria names one by its
// id. It is sorted, without repetition, and empty for most criteria. See Terminology.Names.
func (c *Criteria) Uses() []string {
	var out []string
	for _, x := range c.conditions {
		x.each(func(x *condition) {
			if x.extra != nil {
				out = append(out, x.extra.uses...)
			}
		})
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Identity is the text by which an evaluation may be shared: Canonical and, where the criteria
// depends on ValueSets, CodeSystems or SearchParameters that are stored, a digest of what these
// said when it was compiled.
func (c *Criteria) Identity() string {
	var digests []string
	for _, x := range c.conditions {
		x.each(func(x *condition) {
			if x.extra != nil && x.extra.sets != nil {
				of := x.text
				for _, s := range x.extra.sets {
					of += " " + s.digest
				}
				digests = append(digests, of)
			}
		})
		x.params(func(p *param) {
			if p.key != p.code {
				digests = append(digests, p.key)
			}
		})
	}
	if digests == nil {
		return c.Canonical()
	}
	slices.Sort(digests)
	return c.Canonical() + "\n" + strings.Join(slices.Compact(digests), "\n")
}

// codeSet reads one value of :in, :not-in, :above or :below.
func (c *compiler) codeSet(x *extra, raw string) (string, error) {
	if c.expander == nil {
		c.expander = &expander{terminology: c.definitions.terminology}
	}
	e := c.expander
	e.uses = map[string]bool{}
	var set *codeSet
	var text string
	var err error
	switch c.modifier {
	case "in", "not-in":
		set, text, err = c.valueSet(e, raw)
	default:
		set, text, err = c.hierarchy(e, raw)
	}
	if err != nil {
		return "", err
	}
	x.sets = append(x.sets, set)
	x.uses = slices.AppendSeq(x.uses, maps.Keys(e.uses))
	return text, nil
}

// valueSet expands the ValueSet that a value names: "a URI (relative or absolute) that
// identifies a value set" (R4 3.1.1.4.10).
func (c *compiler) valueSet(e *expander, raw string) (*codeSet, string, error) {
	s, err := unescapeURI(raw)
	if err != nil {
		return nil, "", err
	}
	for _, b := range c.definitions.bases {
		if rest, ok := strings.CutPrefix(s, b+"ValueSet/"); ok && fhir.ID(rest).Valid() && c.definitions.terminology.find("ValueSet", s, "") == nil {
			e.uses[s] = true // one that is stored with this URL would count instead
			s = "ValueSet/" + rest
		}
	}
	set, err := e.named(s)
	if err != nil {
		return nil, "", err
	}
	return set, escape(s), nil
}

// unescapeURI undoes the escapes of a canonical, in which a bare | is no separator.
func unescapeURI(raw string) (string, error) {
	s, err := unescape(raw)
	if err == nil && strings.Trim(s, "|") == "" {
		err = refusal("the value must be the canonical URL of a ValueSet, or ValueSet/id")
	}
	return s, err
}

// hierarchy finds the codes above or below one.
func (c *compiler) hierarchy(e *expander, raw string) (*codeSet, string, error) {
	w, err := c.token(raw)
	if err != nil {
		return nil, "", err
	}
	if w.scope != oneSystem {
		return nil, "", refusal("with :%s the value must be system|code: the hierarchy is that of a code system", c.modifier)
	}
	set, err := e.hierarchy(w.system, w.code, c.modifier == "above")
	return set, w.text(), err
}

// joinKey puts two pieces of a key together so that no other two give the same.
func joinKey(parts ...string) string {
	var b bytes.Buffer
	for _, p := range parts {
		fmt.Fprintf(&b, "%d:%s", len(p), p)
	}
	return b.String()
}
