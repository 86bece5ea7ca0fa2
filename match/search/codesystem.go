package search

import (
	"github.com/carillon-fhir/carillon/match/fhir/json"
)

// Bounds of the terminology. They keep what one criteria may cost to compile and to hold small.
const (
	maxCodes    = 100_000    // of one expansion
	maxConcepts = 1_000_000  // of one CodeSystem
	maxHandled  = 10_000_000 // codes and concepts looked at for one criteria
)

// codeSystem is the content of a CodeSystem.
type codeSystem struct {
	name       string // for messages
	url        string
	complete   bool // it lists all of its codes
	exact      bool // case counts
	hierarchy  string
	concepts   []concept
	places     map[string]int32  // of concepts, by code as exact says
	properties map[string]bool   // that it declares or uses
	linked     map[[2]int32]bool // pairs of parent and child, while it is read
}

// concept is one code with what filters look at.
type concept struct {
	code       string
	display    string
	definition string
	properties []property
	parents    []int32
	children   []int32
}

type property struct{ code, value string }

// parseCodeSystem reads a CodeSystem. Concepts may be nested, or name their parents and
// children by properties.
func parseCodeSystem(name string, body []byte) (*codeSystem, error) {
	t, err := json.Parse(body, json.Limits{Bytes: max(1, len(body))})
	if err != nil {
		return nil, unsupported("%s cannot be read: %s", name, err)
	}
	root := t.Root()
	s := &codeSystem{name: name, url: t.Str(t.Get(root, "url")), places: map[string]int32{}, properties: map[string]bool{},
		linked: map[[2]int32]bool{}}
	s.complete = t.Is(t.Get(root, "content"), "complete")
	s.exact = t.Bool(t.Get(root, "caseSensitive"))
	s.hierarchy = t.Str(t.Get(root, "hierarchyMeaning"))
	for p := range t.Children(t.Get(root, "property")) {
		s.properties[t.Str(t.Get(p, "code"))] = true
	}
	if err := s.read(t, t.Get(root, "concept"), -1); err != nil {
		return nil, err
	}
	s.link()
	s.linked = nil
	return s, nil
}

// read takes a list of concepts that stand below another, or below none (-1).
func (s *codeSystem) read(t *json.Tree, list json.Node, parent int32) error {
	for n := range t.Children(list) {
		code := t.Str(t.Get(n, "code"))
		if code == "" {
			continue
		}
		if len(s.concepts) == maxConcepts {
			return unsupported("%s has more than %d concepts", s.name, maxConcepts)
		}
		at, twice := s.places[s.key(code)]
		if !twice {
			at = int32(len(s.concepts))
			s.places[s.key(code)] = at
			s.concepts = append(s.concepts, concept{code: code, display: t.Str(t.Get(n, "display")),
				definition: t.Str(t.Get(n, "definition")), properties: s.readProperties(t, n)})
		}
		s.place(parent, at)
		if err := s.read(t, t.Get(n, "concept"), at); err != nil {
			return err
		}
	}
	return nil
}

func (s *codeSystem) readProperties(t *json.Tree, n json.Node) []property {
	var out []property
	for p := range t.Children(t.Get(n, "property")) {
		x := property{code: t.Str(t.Get(p, "code"))}
		for m := range t.Children(p) {
			switch t.Key(m) {
			case "valueCoding":
				x.value = t.Str(t.Get(m, "code"))
			case "valueCode", "valueString", "valueDateTime":
				x.value = t.Str(m)
			case "valueBoolean", "valueInteger", "valueDecimal":
				x.value = string(t.Raw(m))
			}
		}
		s.properties[x.code] = true
		out = append(out, x)
	}
	return out
}

// place puts one concept below another.
func (s *codeSystem) place(parent, child int32) {
	if parent < 0 || parent == child || s.linked[[2]int32{parent, child}] {
		return
	}
	s.linked[[2]int32{parent, child}] = true
	s.concepts[child].parents = append(s.concepts[child].parents, parent)
	s.concepts[parent].children = append(s.concepts[parent].children, child)
}

// link reads the properties parent and child (http://hl7.org/fhir/concept-properties), by which
// a system can say that a concept has several parents.
func (s *codeSystem) link() {
	for i := range s.concepts {
		for _, p := range s.concepts[i].properties {
			other, ok := s.places[s.key(p.value)]
			switch {
			case !ok:
			case p.code == "parent":
				s.place(other, int32(i))
			case p.code == "child":
				s.place(int32(i), other)
			}
		}
	}
}

// key is a code as it is looked up.
func (s *codeSystem) key(code string) string {
	if s.exact {
		return code
	}
	return string(foldKey(nil, []byte(code)))
}

// closure lists a concept and all above or below it. Hierarchies may have cycles.
func (s *codeSystem) closure(at int32, above bool) []int32 {
	seen := map[int32]bool{at: true}
	out := []int32{at}
	for i := 0; i < len(out); i++ {
		next := s.concepts[out[i]].children
		if above {
			next = s.concepts[out[i]].parents
		}
		for _, n := range next {
			if !seen[n] {
				seen[n] = true
				out = append(out, n)
			}
		}
	}
	return out
}

// values gives what a concept has for a property; ok is false if the system knows no such
// property. "inactive" and "notSelectable" are false where nothing is said.
func (s *codeSystem) values(c *concept, name string) (out []string, ok bool) {
	switch name {
	case "code", "concept":
		return []string{c.code}, true
	case "display":
		return nonempty(c.display), true
	case "definition":
		return nonempty(c.definition), true
	case "parent":
		return s.codesOf(c.parents), true
	case "child":
		return s.codesOf(c.children), true
	}
	for _, p := range c.properties {
		if p.code == name {
			out = append(out, p.value)
		}
	}
	if len(out) == 0 && (name == "inactive" || name == "notSelectable") {
		return []string{"false"}, true
	}
	return out, s.properties[name]
}

func nonempty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func (s *codeSystem) codesOf(places []int32) []string {
	var out []string
	for _, p := range places {
		out = append(out, s.concepts[p].code)
	}
	return out
}

// inactive reports whether a concept is no longer in use, as its property inactive or status
// says (http://hl7.org/fhir/concept-properties).
func (c *concept) inactive() bool {
	for _, p := range c.properties {
		if p.code == "inactive" && p.value == "true" ||
			p.code == "status" && (p.value == "retired" || p.value == "deprecated" || p.value == "inactive") {
			return true
		}
	}
	return false
}
