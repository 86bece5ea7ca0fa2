package json

import "bytes"

// Changes gathers changes of single values of a document. What they do not touch stays byte for
// byte. A value is changed once, and not within one that is removed.
type Changes struct{ e edits }

// Change begins changes of the document, which must not be parsed anew before Bytes.
func (t *Tree) Change() *Changes {
	c := new(Changes)
	c.e.begin(t)
	return c
}

// Len counts the changes.
func (c *Changes) Len() int { return len(c.e.list) }

// SetString puts a string in the place of the value n.
func (c *Changes) SetString(n Node, value string) { c.e.replace(n, c.e.quote(value)) }

// Remove takes the member n out of its object, with the comma that goes with it.
func (c *Changes) Remove(object, n Node) {
	t := c.e.t
	var before Node
	for m := t.First(object); m != 0 && m != n; m = t.Next(m) {
		before = m
	}
	from, to := t.at(object).start+1, t.at(n).end
	if before != 0 {
		from = t.at(before).end
	} else if t.Next(n) != 0 {
		to += uint32(bytes.IndexByte(t.text[to:], ',')) + 1
	}
	c.e.list = append(c.e.list, edit{from, to, nil})
}

// Bytes gives the changed document, which shares no memory with the old one.
func (c *Changes) Bytes() []byte { return c.e.apply() }
