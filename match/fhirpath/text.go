package fhirpath

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	stdjson "encoding/json"
	"fmt"
	"html"
	"regexp"
	regexsyntax "regexp/syntax"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/carillon-fhir/carillon/match/fhir"
)

var textFunctions = map[string]function{
	"indexOf":        {1, 1, searching(bytes.Index)},
	"lastIndexOf":    {1, 1, searching(bytes.LastIndex)},
	"substring":      {1, 2, (*compiler).substring},
	"startsWith":     {1, 1, asksText(bytes.HasPrefix)},
	"endsWith":       {1, 1, asksText(bytes.HasSuffix)},
	"contains":       {1, 1, asksText(bytes.Contains)},
	"upper":          {0, 0, mapping(unicode.ToUpper)},
	"lower":          {0, 0, mapping(unicode.ToLower)},
	"replace":        {2, 2, (*compiler).replace},
	"matches":        {1, 2, (*compiler).matches},
	"matchesFull":    {1, 2, (*compiler).matches},
	"replaceMatches": {2, 3, (*compiler).replaceMatches},
	"length":         {0, 0, (*compiler).length},
	"toChars":        {0, 0, (*compiler).toChars},
	"split":          {1, 1, (*compiler).split},
	"join":           {0, 1, (*compiler).join},
	"trim":           {0, 0, (*compiler).trim},
	"encode":         {1, 1, (*compiler).coding},
	"decode":         {1, 1, (*compiler).coding},
	"escape":         {1, 1, (*compiler).coding},
	"unescape":       {1, 1, (*compiler).coding},
}

// texts compiles the arguments of a function over text, and checks that it may be one.
func (c *compiler) texts(n *Node, in code, kinds ...kind) ([]code, error) {
	if err := c.needs(n, in.shape, "the input of "+n.Name+"()", kindString); err != nil {
		return nil, err
	}
	args, err := c.args(n)
	if err != nil {
		return nil, err
	}
	for i, a := range args {
		k := kindString
		if i < len(kinds) {
			k = kinds[i]
		}
		if err := c.needs(n.Args[i], a.shape, "the argument of "+n.Name+"()", k); err != nil {
			return nil, err
		}
	}
	return args, nil
}

// onText makes code over the text of the input and of the arguments. Where one is empty, so is
// the result (N1 5.6).
func onText(n *Node, in code, args []code, s shape, f func(m *Evaluator, in []byte, args [2][]byte) span) code {
	at := n.Position
	return on(in, s, func(m *Evaluator, in span) span {
		t, ok := m.textOf(in, at)
		var given [2][]byte
		for i := range min(len(args), len(given)) {
			mark := m.top()
			var has bool
			given[i], has = m.textOf(args[i].run(m), args[i].at)
			m.items = m.items[:mark]
			ok = ok && has
		}
		if !ok || m.err != nil {
			return m.none()
		}
		return f(m, t, given)
	})
}

// asksText is a function that asks something of two texts.
func asksText(f func(s, part []byte) bool) func(c *compiler, n *Node, in code) (code, error) {
	return func(c *compiler, n *Node, in code) (code, error) {
		args, err := c.texts(n, in)
		if err != nil {
			return code{}, err
		}
		return onText(n, in, args, systemShape(kindBoolean), func(m *Evaluator, s []byte, args [2][]byte) span {
			m.spend(len(s) / stride)
			return m.truth(truthOf(f(s, args[0])))
		}), nil
	}
}

// searching gives a place, counted in characters.
func searching(f func(s, part []byte) int) func(c *compiler, n *Node, in code) (code, error) {
	return func(c *compiler, n *Node, in code) (code, error) {
		args, err := c.texts(n, in)
		if err != nil {
			return code{}, err
		}
		return onText(n, in, args, systemShape(kindInteger), func(m *Evaluator, s []byte, args [2][]byte) span {
			at := f(s, args[0])
			if at > 0 {
				at = utf8.RuneCount(s[:at])
			}
			return m.result(integer(int64(at)))
		}), nil
	}
}

func mapping(f func(rune) rune) func(c *compiler, n *Node, in code) (code, error) {
	return func(c *compiler, n *Node, in code) (code, error) {
		if _, err := c.texts(n, in); err != nil {
			return code{}, err
		}
		return onText(n, in, nil, systemShape(kindString), func(m *Evaluator, s []byte, _ [2][]byte) span {
			if !m.produce(2 * len(s)) {
				return m.none()
			}
			from := len(m.bytes)
			for _, r := range string(s) {
				m.bytes = utf8.AppendRune(m.bytes, f(r))
			}
			return m.result(text(m.made(from)))
		}), nil
	}
}

// substring counts characters; outside of the text it is empty, and a length that is too great
// ends with the text (N1 5.6.2).
func (c *compiler) substring(n *Node, in code) (code, error) {
	args, err := c.texts(n, in, kindInteger, kindInteger)
	if err != nil {
		return code{}, err
	}
	at := n.Position
	return on(in, systemShape(kindString), func(m *Evaluator, in span) span {
		s, ok := m.textOf(in, at)
		start, ok2 := m.integerOf(args[0].run(m), args[0].at)
		if !ok || !ok2 || start < 0 {
			return m.none()
		}
		s, ok = skipRunes(s, start)
		if !ok || len(s) == 0 {
			return m.none()
		}
		if len(args) == 2 {
			length, ok := m.integerOf(args[1].run(m), args[1].at)
			if m.err != nil {
				return m.none()
			}
			if ok {
				rest, _ := skipRunes(s, max(length, 0))
				s = s[:len(s)-len(rest)]
			}
		}
		return m.result(text(s))
	}), nil
}

// skipRunes gives what follows the first n characters; ok is false if there are fewer.
func skipRunes(s []byte, n int64) (rest []byte, ok bool) {
	for ; n > 0; n-- {
		if len(s) == 0 {
			return nil, false
		}
		_, w := utf8.DecodeRune(s)
		s = s[w:]
	}
	return s, true
}

func (c *compiler) replace(n *Node, in code) (code, error) {
	args, err := c.texts(n, in)
	if err != nil {
		return code{}, err
	}
	return onText(n, in, args, systemShape(kindString), func(m *Evaluator, s []byte, args [2][]byte) span {
		count := bytes.Count(s, args[0]) // without a pattern: between all characters
		if !m.produce(len(s) + count*len(args[1])) {
			return m.none()
		}
		from := len(m.bytes)
		m.bytes = append(m.bytes, bytes.ReplaceAll(s, args[0], args[1])...)
		return m.result(text(m.made(from)))
	}), nil
}

func (c *compiler) length(n *Node, in code) (code, error) {
	if _, err := c.texts(n, in); err != nil {
		return code{}, err
	}
	return onText(n, in, nil, systemShape(kindInteger), func(m *Evaluator, s []byte, _ [2][]byte) span {
		return m.result(integer(int64(utf8.RuneCount(s))))
	}), nil
}

func (c *compiler) toChars(n *Node, in code) (code, error) {
	if _, err := c.texts(n, in); err != nil {
		return code{}, err
	}
	chars := systemShape(kindString)
	chars.many = true
	return onText(n, in, nil, chars, func(m *Evaluator, s []byte, _ [2][]byte) span {
		at := m.top()
		for len(s) > 0 && m.err == nil {
			_, w := utf8.DecodeRune(s)
			m.push(text(s[:w:w]))
			s = s[w:]
		}
		return span{at, m.top()}
	}), nil
}

func (c *compiler) split(n *Node, in code) (code, error) {
	args, err := c.texts(n, in)
	if err != nil {
		return code{}, err
	}
	parts := systemShape(kindString)
	parts.many = true
	return onText(n, in, args, parts, func(m *Evaluator, s []byte, args [2][]byte) span {
		at := m.top()
		for m.err == nil {
			part, rest, found := bytes.Cut(s, args[0])
			if len(args[0]) == 0 {
				_, w := utf8.DecodeRune(s)
				part, rest, found = s[:w], s[w:], w < len(s)
			}
			m.push(text(part))
			if !found {
				break
			}
			s = rest
		}
		return span{at, m.top()}
	}), nil
}

// join leaves out what has no value, such as a name that has only extensions.
func (c *compiler) join(n *Node, in code) (code, error) {
	args, err := c.texts(n, in)
	if err != nil {
		return code{}, err
	}
	at := n.Position
	return on(in, systemShape(kindString), func(m *Evaluator, in span) span {
		var separator []byte
		if len(args) == 1 {
			separator, _ = m.textOf(args[0].run(m), args[0].at)
		}
		from, joined := len(m.bytes), false
		for i := in.from; i < in.to && m.err == nil; i++ {
			part, ok := m.textOf(span{i, i + 1}, at)
			if !ok || !m.produce(len(part)+len(separator)) {
				continue
			}
			if joined {
				m.bytes = append(m.bytes, separator...)
			}
			m.bytes, joined = append(m.bytes, part...), true
		}
		if !joined {
			return m.none()
		}
		return m.result(text(m.made(from)))
	}), nil
}

func (c *compiler) trim(n *Node, in code) (code, error) {
	if _, err := c.texts(n, in); err != nil {
		return code{}, err
	}
	return onText(n, in, nil, systemShape(kindString), func(m *Evaluator, s []byte, _ [2][]byte) span {
		return m.result(text(bytes.TrimFunc(s, unicode.IsSpace)))
	}), nil
}

// codings are the formats of encode(), decode(), escape() and unescape(). A text that is not in
// the format decodes to nothing.
var codings = map[string]func(s string) (string, bool){
	"encode base64":    func(s string) (string, bool) { return base64.StdEncoding.EncodeToString([]byte(s)), true },
	"encode urlbase64": func(s string) (string, bool) { return base64.URLEncoding.EncodeToString([]byte(s)), true },
	"encode hex":       func(s string) (string, bool) { return hex.EncodeToString([]byte(s)), true },
	"decode base64":    func(s string) (string, bool) { b, err := base64.StdEncoding.DecodeString(s); return valid(b, err) },
	"decode urlbase64": func(s string) (string, bool) { b, err := base64.URLEncoding.DecodeString(s); return valid(b, err) },
	"decode hex":       func(s string) (string, bool) { b, err := hex.DecodeString(s); return valid(b, err) },
	"escape html":      func(s string) (string, bool) { return htmlEscaper.Replace(s), true },
	"unescape html":    func(s string) (string, bool) { return html.UnescapeString(s), true },
	"escape json":      func(s string) (string, bool) { return string(appendEscaped(nil, []byte(s))), true },
	"unescape json":    unescapeJSON,
}

var htmlEscaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#39;")

// valid gives decoded bytes if they are a text.
func valid(b []byte, err error) (string, bool) {
	return string(b), err == nil && utf8.Valid(b)
}

func unescapeJSON(s string) (string, bool) {
	// A quotation mark that is not escaped stands for itself: expressions write one easily.
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			b.WriteString(s[i : i+2])
			i++
		case s[i] == '"':
			b.WriteString(`\"`)
		default:
			b.WriteByte(s[i])
		}
	}
	b.WriteByte('"')
	var r string
	err := stdjson.Unmarshal([]byte(b.String()), &r)
	return r, err == nil
}

func (c *compiler) coding(n *Node, in code) (code, error) {
	if _, err := c.texts(n, in); err != nil {
		return code{}, err
	}
	l := n.Args[0].Literal
	if l == nil || l.Kind != LiteralString || codings[n.Name+" "+l.Text] == nil {
		formats := "'base64', 'urlbase64' and 'hex'"
		if strings.HasSuffix(n.Name, "escape") {
			formats = "'html' and 'json'"
		}
		return code{}, refusal(fhir.IssueNotSupported, n.Args[0], "%s() knows the formats %s", n.Name, formats)
	}
	f := codings[n.Name+" "+l.Text]
	const growth = 6 // bytes that one becomes at most
	return onText(n, in, nil, systemShape(kindString), func(m *Evaluator, s []byte, _ [2][]byte) span {
		if !m.produce(growth * len(s)) {
			return m.none()
		}
		r, ok := f(string(s))
		if !ok {
			return m.none()
		}
		from := len(m.bytes)
		m.bytes = append(m.bytes, r...)
		return m.result(text(m.made(from)))
	}), nil
}

// Bounds of regular expressions. Go's RE2 takes time linear in the text, and in the size of the
// compiled pattern, which a few characters can make large.
const (
	maxPattern      = 1024 // bytes
	maxStates       = 4096 // of the compiled pattern, whose repetitions are written out
	regexStates     = 8    // of the compiled pattern that count as a step for every byte of text
	regexBuildSteps = 4096 // of compiling a pattern that only the resource gives
)

// regex is a compiled pattern and what it costs.
type regex struct {
	*regexp.Regexp
	states int
	cost   int // steps for each byte of text
}

// regexKey tells patterns apart: of the same text, with other flags.
type regexKey struct {
	pattern string
	full    bool
	flags   string
}

// compileRegex compiles a pattern. A dot matches line breaks (N1 5.6.9: single line mode).
func compileRegex(k regexKey) (*regex, error) {
	if len(k.pattern) > maxPattern {
		return nil, fmt.Errorf("the pattern is longer than %d bytes", maxPattern)
	}
	flags := "s"
	for _, f := range k.flags {
		if f != 'i' && f != 'm' {
			return nil, fmt.Errorf("a flag of a pattern must be i or m")
		}
		flags += string(f)
	}
	p := "(?" + flags + ")" + k.pattern
	if k.full {
		p = "(?" + flags + `)\A(?:` + k.pattern + `)\z`
	}
	// Parsed alone first, which costs little: only then is it known how large it gets.
	tree, err := regexsyntax.Parse(p, regexsyntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("the pattern is not one that RE2 knows, which has no look-around and no references back: %w", err)
	}
	states := programSize(tree)
	if states > maxStates {
		return nil, fmt.Errorf("the pattern with its repetitions written out is longer than %d", maxStates)
	}
	re, err := regexp.Compile(p)
	if err != nil {
		return nil, err
	}
	return &regex{re, states, 1 + states/regexStates}, nil
}

// programSize reckons the size of a compiled pattern from above, but for the few states that each
// has: repetitions multiply it. RE2 itself refuses more than a thousand, within one another too.
func programSize(re *regexsyntax.Regexp) int {
	size := 1
	switch re.Op {
	case regexsyntax.OpLiteral:
		size = len(re.Rune)
	case regexsyntax.OpCapture:
		size = 2
	}
	for _, sub := range re.Sub {
		size += programSize(sub)
	}
	if re.Op == regexsyntax.OpRepeat {
		size *= max(1, re.Min, re.Max)
	}
	return size
}

// regexCache keeps the last pattern that was not known when the expression was compiled.
type regexCache struct {
	key regexKey
	re  *regex
}

// pattern compiles the pattern of an argument: at once if it is written there.
func (c *compiler) pattern(n *Node, arg, flags *Node, full bool) (*regex, string, error) {
	f := ""
	if flags != nil {
		if flags.Kind != KindLiteral || flags.Literal.Kind != LiteralString {
			return nil, "", refusal(fhir.IssueNotSupported, flags, "the flags of %s() must be written as a text", n.Name)
		}
		f = flags.Literal.Text
	}
	if arg.Kind != KindLiteral || arg.Literal.Kind != LiteralString {
		return nil, f, nil
	}
	re, err := compileRegex(regexKey{arg.Literal.Text, full, f})
	if err != nil {
		return nil, f, refusal(fhir.IssueValue, arg, "%v", err)
	}
	return re, f, nil
}

// regex gives the compiled pattern, and spends what the text will cost.
func (m *Evaluator) regex(fixed *regex, k regexKey, length, at int) *regex {
	re := fixed
	if re == nil {
		// Counted whether it is remembered or not, so that what is decided does not depend on
		// what was before.
		if !m.spend(regexBuildSteps) {
			return nil
		}
		if m.regexes.re == nil || m.regexes.key != k {
			var err error
			if m.regexes.re, err = compileRegex(k); err != nil {
				m.regexes.re = nil
				m.fail(at, "the pattern is not one that RE2 knows, or it is too long")
				return nil
			}
			m.regexes.key = k
		}
		if re = m.regexes.re; !m.spend(re.states) {
			return nil
		}
	}
	if !m.spend(re.cost * (1 + length)) {
		return nil
	}
	return re
}

func (c *compiler) matches(n *Node, in code) (code, error) {
	args, err := c.texts(n, in)
	if err != nil {
		return code{}, err
	}
	var flagNode *Node
	if len(n.Args) == 2 {
		flagNode = n.Args[1]
	}
	full := n.Name == "matchesFull"
	fixed, flags, err := c.pattern(n, n.Args[0], flagNode, full)
	if err != nil {
		return code{}, err
	}
	at := n.Args[0].Position
	return onText(n, in, args[:1], systemShape(kindBoolean), func(m *Evaluator, s []byte, args [2][]byte) span {
		k := regexKey{full: full, flags: flags}
		if fixed == nil {
			k.pattern = string(args[0])
		}
		re := m.regex(fixed, k, len(s), at)
		if re == nil {
			return m.none()
		}
		return m.truth(truthOf(re.Match(s)))
	}), nil
}

func (c *compiler) replaceMatches(n *Node, in code) (code, error) {
	args, err := c.texts(n, in)
	if err != nil {
		return code{}, err
	}
	var flagNode *Node
	if len(n.Args) == 3 {
		flagNode = n.Args[2]
	}
	fixed, flags, err := c.pattern(n, n.Args[0], flagNode, false)
	if err != nil {
		return code{}, err
	}
	at := n.Args[0].Position
	return onText(n, in, args[:2], systemShape(kindString), func(m *Evaluator, s []byte, args [2][]byte) span {
		if len(args[0]) == 0 {
			return m.result(text(s))
		}
		k := regexKey{flags: flags}
		if fixed == nil {
			k.pattern = string(args[0])
		}
		re := m.regex(fixed, k, len(s), at)
		if re == nil {
			return m.none()
		}
		return m.replaceAll(re, s, template(args[1]))
	}), nil
}

// template writes $1 as ${1}, since Go would read a letter behind it as part of the name.
func template(t []byte) []byte {
	var b []byte
	for i := 0; i < len(t); i++ {
		b = append(b, t[i])
		if t[i] != '$' {
			continue
		}
		end := i + 1
		for end < len(t) && isDigit(t[end]) {
			end++
		}
		if end > i+1 {
			b = append(append(append(b, '{'), t[i+1:end]...), '}')
			i = end - 1
		}
	}
	return b
}

// replaceAll replaces one match after the other, so that the text it makes is counted before it is
// made: a template may name a long match many times.
func (m *Evaluator) replaceAll(re *regex, s, template []byte) span {
	// A search may look at all that is left of the text before it knows that a match was short, so
	// each match counts as much. Groups are copied for every state.
	cost := re.cost * (1 + re.NumSubexp()/regexStates) * (1 + len(s))
	most := min(m.steps/cost, maxItems)
	matches := re.FindAllSubmatchIndex(s, most+1)
	if len(matches) > most {
		m.spend(maxSteps + 1)
		return m.none()
	}
	m.spend(cost * len(matches))
	names := bytes.Count(template, []byte("$"))
	from, last := len(m.bytes), 0
	for _, loc := range matches {
		if !m.produce(loc[0] - last + len(template) + names*(loc[1]-loc[0])) {
			return m.none()
		}
		m.bytes = append(m.bytes, s[last:loc[0]]...)
		m.bytes = re.Expand(m.bytes, template, s, loc)
		last = loc[1]
	}
	if !m.produce(len(s) - last) {
		return m.none()
	}
	m.bytes = append(m.bytes, s[last:]...)
	return m.result(text(m.made(from)))
}
