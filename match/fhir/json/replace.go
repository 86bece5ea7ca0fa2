package json

// Replacement is a string that takes the place of another.
type Replacement struct {
	Node Node // of the document, a string
	Text string
}

// Replace gives the document with strings of it replaced. Every other byte stays as it is, and
// the result never shares memory with it.
func (t *Tree) Replace(rs []Replacement) []byte {
	e := new(edits)
	e.begin(t)
	for _, r := range rs {
		e.replace(r.Node, e.quote(r.Text))
	}
	return e.apply()
}

// ParseStored parses a body that is in the log, whatever the limits were by which it came.
func (t *Tree) ParseStored(body []byte) error { return t.parseStored(body) }
