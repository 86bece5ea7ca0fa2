package xml

import (
	"bytes"
	stdxml "encoding/xml"
	"slices"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// edit replaces a part of a narrative.
type edit struct {
	at   span
	with string
}

// narrative reads a div of XHTML, whose start tag was scanned and whose namespaces are bound, up to
// its end. JSON has it as one string, so it must mean the same by itself: what it takes from the
// elements around it is put into it. As a rule that is nothing, and the text is the input's own.
// outer is how many namespaces were declared before the div.
func (t *tree) narrative(div token, outer int) ([]byte, error) {
	n := narrative{tree: t, div: div, outer: outer}
	if err := n.start(div, outer); err != nil {
		return nil, err
	}
	for len(n.open) > 0 {
		before := len(t.bindings)
		tok, err := t.next()
		if err != nil {
			return nil, err
		}
		switch tok.kind {
		case startTag:
			if err = t.bind(); err == nil {
				err = n.start(tok, before)
			}
		case endTag:
			err = n.end(tok)
		case textToken:
			n.entities(tok.at)
		case endOfInput:
			err = t.badXML(t.pos, "unexpected end of the document")
		}
		if err != nil {
			return nil, err
		}
	}
	return n.text(), nil
}

// narrative is a div on its way.
type narrative struct {
	*tree
	div   token
	outer int
	open  []openTag
	edits []edit

	// What the text lacks: the div takes the default namespace from outside.
	needsDefault bool
}

type openTag struct {
	name     span
	stripped bool // of its prefix
	bindings int
}

func (n *narrative) start(tok token, before int) error {
	if len(n.tree.open)+len(n.open) >= maxDepth {
		return n.badXML(tok.at.from, "nested too deeply")
	}
	stripped, err := n.element(tok)
	if err != nil {
		return err
	}
	for _, a := range n.attributes {
		if a.prefix.from < a.prefix.to && !n.isDeclaration(a) {
			_, i, err := n.lookup(a.prefix)
			if err != nil {
				return err
			}
			if i >= 0 && i < n.outer {
				return n.refuse(a.name.from, fhir.IssueStructure, "", "an attribute in a narrative has its namespace from outside of it")
			}
		}
		n.entities(a.value)
	}
	if tok.empty {
		n.bindings = n.bindings[:before]
		return nil
	}
	n.open = append(n.open, openTag{tok.name, stripped, before})
	return nil
}

// element sees to it that an element's namespace does not come from outside of the div.
func (n *narrative) element(tok token) (stripped bool, err error) {
	ns, i, err := n.lookup(tok.prefix)
	switch {
	case err != nil:
		return false, err
	case i >= n.outer:
		return false, nil
	case ns != xhtmlNamespace:
		return false, n.refuse(tok.at.from, fhir.IssueStructure, "", "an element in a narrative that is not XHTML")
	}
	n.needsDefault = true
	if tok.prefix.from == tok.prefix.to {
		return false, nil
	}
	// Without its prefix it is in the default namespace, which must not be another one.
	if ns, i, _ := n.lookup(span{}); i >= n.outer && ns != xhtmlNamespace {
		return false, n.refuse(tok.at.from, fhir.IssueStructure, "", "a narrative that mixes namespaces")
	}
	n.strip(tok)
	return true, nil
}

func (n *narrative) strip(tok token) {
	n.edits = append(n.edits, edit{at: span{tok.prefix.from, tok.local.from}})
}

func (n *narrative) end(tok token) error {
	o := n.open[len(n.open)-1]
	if !n.same(o.name, tok.name) {
		return n.badXML(tok.at.from, "an end tag of another element than the one that is open")
	}
	if o.stripped {
		n.strip(tok)
	}
	n.open = n.open[:len(n.open)-1]
	n.bindings = n.bindings[:o.bindings]
	return nil
}

// entities replaces HTML's entities, which XML does not have, by what they stand for.
func (n *narrative) entities(at span) {
	if !n.html {
		return
	}
	for i := at.from; i < at.to; i++ {
		if n.src[i] != '&' {
			continue
		}
		name, length := reference(n.src[i:at.to])
		if _, ok := resolve(name); ok {
			continue
		}
		with, _ := htmlEntity(name) // the scanner has seen that there is one
		n.edits = append(n.edits, edit{span{i, i + length}, with})
	}
}

func htmlEntity(name []byte) (string, bool) {
	text, ok := stdxml.HTMLEntity[string(name)]
	return text, ok
}

// text is the div from its start tag to its end tag, with the edits made.
func (n *narrative) text() []byte {
	from, to := n.div.at.from, n.pos
	if n.needsDefault && !n.declaresDefault() {
		n.edits = append(n.edits, edit{span{n.div.name.to, n.div.name.to}, ` xmlns="` + namespaceXHTML + `"`})
	}
	if len(n.edits) == 0 {
		return n.src[from:to:to]
	}
	slices.SortStableFunc(n.edits, func(a, b edit) int { return a.at.from - b.at.from })
	var out bytes.Buffer
	for _, e := range n.edits {
		out.Write(n.src[from:e.at.from])
		out.WriteString(e.with)
		from = e.at.to
	}
	out.Write(n.src[from:to])
	return out.Bytes()
}

// declaresDefault reports whether the div itself says what its default namespace is. It has been
// seen to be XHTML where anything in it depends on that.
func (n *narrative) declaresDefault() bool {
	s := scanner{src: n.src, pos: n.div.name.to, html: n.html}
	if s.readAttributes() != nil {
		return false
	}
	return slices.ContainsFunc(s.attributes, func(a attribute) bool { return string(n.src[a.name.from:a.name.to]) == "xmlns" })
}

// readNarrative checks the div that is a string of JSON, and makes it one that may stand in a
// document. Without a namespace it is XHTML.
func readNarrative(text []byte) ([]byte, error) {
	t := &tree{scanner: scanner{src: text, html: true}}
	t.bindings = append(t.bindings, binding{ns: xhtmlNamespace})
	err := t.characters()
	if err == nil {
		err = t.prolog()
	}
	var div []byte
	for err == nil {
		before := len(t.bindings)
		var tok token
		if tok, err = t.next(); err != nil {
			break
		}
		switch tok.kind {
		case textToken, cdataToken:
			err = t.betweenElements(tok)
		case startTag:
			if div != nil {
				return nil, t.badXML(tok.at.from, "more than one element")
			}
			if err = t.bind(); err == nil {
				div, err = t.onlyDiv(tok, before)
			}
		case endTag:
			err = t.badXML(tok.at.from, "an end tag without its element")
		case endOfInput:
			if div == nil {
				return nil, t.badXML(t.pos, "there is no element")
			}
			return div, nil
		}
	}
	return nil, err
}

func (t *tree) onlyDiv(tok token, outer int) ([]byte, error) {
	ns, _, err := t.lookup(tok.prefix)
	if err == nil && (ns != xhtmlNamespace || string(t.src[tok.local.from:tok.local.to]) != "div") {
		err = t.refuse(tok.at.from, fhir.IssueStructure, "", "a narrative is a div of XHTML")
	}
	if err != nil {
		return nil, err
	}
	return t.narrative(tok, outer)
}
