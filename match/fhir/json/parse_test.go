package json

import (
	stdjson "encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestParseRefusesWhatIsNotStrictJSON(t *testing.T) {
	deep := strings.Repeat("[", DefaultDepth+1) + strings.Repeat("]", DefaultDepth+1)
	for _, c := range []struct {
		name, doc    string
		line, column int
		msg          string
	}{
		{"nothing", "", 1, 1, "unexpected end"},
		{"white space alone", " \n ", 2, 2, "unexpected end"},
		{"byte order mark", "\xEF\xBB\xBF{}", 1, 1, "byte order mark"},
		{"text after the end", "{} x", 1, 4, "after the end"},
		{"two documents", "{}{}", 1, 3, "after the end"},
		{"single quotes", "{'a':1}", 1, 2, "key in quotes"},
		{"trailing comma in an object", `{"a":1,}`, 1, 8, "key in quotes"},
		{"trailing comma in an array", `[1,]`, 1, 4, "a value"},
		{"missing comma", "{\"a\":1\n \"b\":2}", 2, 2, "',' or '}'"},
		{"missing colon", `{"a" 1}`, 1, 6, "':'"},
		{"open object", `{"a":1`, 1, 7, "unexpected end"},
		{"open array", `[1`, 1, 3, "unexpected end"},
		{"open string", `"abc`, 1, 5, "unexpected end"},
		{"string ends in a backslash", `"abc\`, 1, 6, "unexpected end"},
		{"NaN", `NaN`, 1, 1, "a value"},
		{"nan", `nan`, 1, 1, "a value"},
		{"Infinity", `-Infinity`, 1, 2, "digit"},
		{"leading zero", `01`, 1, 2, "leading zero"},
		{"leading plus", `+1`, 1, 1, "a value"},
		{"point without digits", `1.`, 1, 3, "digit"},
		{"leading point", `.5`, 1, 1, "a value"},
		{"exponent without digits", `1e`, 1, 3, "digit"},
		{"exponent with a sign alone", `1e+`, 1, 4, "digit"},
		{"minus alone", `-`, 1, 2, "digit"},
		{"hexadecimal", `0x10`, 1, 2, "after the end"},
		{"unknown escape", `"a\x41"`, 1, 3, "escape"},
		{"short escape", `"\u12"`, 1, 2, "hexadecimal"},
		{"lone high surrogate", `"\ud800"`, 1, 2, "surrogate"},
		{"lone low surrogate", `"\udc00"`, 1, 2, "surrogate"},
		{"two high surrogates", `"\ud800\ud800"`, 1, 2, "surrogate"},
		{"raw newline in a string", "\"a\nb\"", 1, 3, "control"},
		{"raw tab in a string", "\"a\tb\"", 1, 3, "control"},
		{"raw NUL in a long string", "\"abcdefghijk\x00\"", 1, 13, "control"},
		{"broken UTF-8", "\"a\xff\"", 1, 3, "UTF-8"},
		{"surrogate in UTF-8", "\"\xed\xa0\x80\"", 1, 2, "UTF-8"},
		{"overlong UTF-8", "\"\xc0\xaf\"", 1, 2, "UTF-8"},
		{"broken UTF-8 outside a string", "{\xff}", 1, 2, "key in quotes"},
		{"duplicate key", "{\n\"a\":1,\n  \"a\":2}", 3, 3, "duplicate"},
		{"duplicate key by an escape", `{"a":1,"\u0061":2}`, 1, 17, "duplicate"},
		{"duplicate key in depth", `{"x":[{"b":1,"c":2,"b":3}]}`, 1, 20, "duplicate"},
		{"columns are characters", `{"é":"é","é":1}`, 1, 10, "duplicate"},
		{"too deep", deep, 1, DefaultDepth + 1, "deeply"},
		{"comment", "{} // x", 1, 4, "after the end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.doc), Limits{})
			var e *SyntaxError
			if !errors.As(err, &e) {
				t.Fatalf("accepted, or no *SyntaxError: %v", err)
			}
			if e.Line != c.line || e.Column != c.column || !strings.Contains(e.Msg, c.msg) {
				t.Errorf("got %q, want %q at line %d column %d", err, c.msg, c.line, c.column)
			}
		})
	}
}

func TestParseBoundsDepthAndSize(t *testing.T) {
	nested := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	if _, err := Parse(nested(64), Limits{}); err != nil {
		t.Errorf("64 levels: %v", err)
	}
	if _, err := Parse(nested(3), Limits{Depth: 2}); err == nil {
		t.Error("3 levels accepted with a limit of 2")
	}
	// Depth is how deep, not how many.
	if _, err := Parse([]byte(strings.Repeat("[", 1)+strings.TrimSuffix(strings.Repeat("[[]],", 500), ",")+"]"), Limits{Depth: 3}); err != nil {
		t.Errorf("many siblings: %v", err)
	}
	_, err := Parse([]byte(`"secret"`), Limits{Bytes: 4})
	var e *SyntaxError
	if !errors.As(err, &e) || !e.TooLong {
		t.Errorf("too long a document: %v", err)
	}
}

func TestErrorsHoldNothingOfTheDocument(t *testing.T) {
	for _, doc := range []string{
		`{"secret":1,"secret":2}`, `{"secret":secret}`, `{"a":"secret`, "{\"a\":\"secret\x01\"}", `secret`,
		`{"a":"secret\q"}`, `[1,2 "secret"]`, `{"secret" "secret"}`,
	} {
		_, err := Parse([]byte(doc), Limits{})
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", doc, err)
		}
	}
}

func TestManyKeysStayNearLinearAndAreChecked(t *testing.T) {
	doc := func(n int, extra string) []byte {
		var b strings.Builder
		b.WriteString("{")
		for i := range n {
			fmt.Fprintf(&b, `"k%d":%d,`, i, i)
		}
		b.WriteString(extra + "}")
		return []byte(b.String())
	}
	for _, n := range []int{1, fewMembers - 1, fewMembers, fewMembers + 1, fewMembers + 2, 1000, 300_000} {
		if _, err := Parse(doc(n, `"last":0`), Limits{}); err != nil {
			t.Errorf("%d keys: %v", n, err)
		}
		for _, again := range []string{`"k0":0`, `"\u006b0":0`, fmt.Sprintf(`"k%d":0`, n-1)} {
			if _, err := Parse(doc(n, again), Limits{}); err == nil || !strings.Contains(err.Error(), "duplicate") {
				t.Errorf("%d keys and %s again: %v", n, again, err)
			}
		}
	}
}

func TestTreeGivesWhatTheDocumentSays(t *testing.T) {
	tree, err := Parse([]byte(` { "resourceType" : "Patient", "birthDate": "1970", "_birthDate": {"id":"x"},
	 "n": [1.00, -2e+3], "t": true, "f": false, "z": null, "e\u0073c": "a\n\"\\\/\b\f\r\té\u00e9\ud83d\ude00", "o": {}, "a": [] } `), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	root := tree.Root()
	if got := tree.Str(tree.Get(root, "resourceType")); got != "Patient" {
		t.Errorf("resourceType = %q", got)
	}
	if !tree.Is(tree.Find(root, NewName("resourceType")), "Patient") {
		t.Error("Find or Is does not agree")
	}
	if got := tree.Str(tree.Get(tree.Extension(root, "birthDate"), "id")); got != "x" {
		t.Errorf("_birthDate.id = %q", got)
	}
	if got := tree.Str(tree.Get(root, "esc")); got != "a\n\"\\/\b\f\r\téé😀" {
		t.Errorf("esc = %q", got)
	}
	if !tree.Is(tree.Get(root, "esc"), "a\n\"\\/\b\f\r\téé😀") {
		t.Error("Is does not unescape")
	}
	n := tree.Get(root, "n")
	if tree.Kind(n) != Array || tree.Len(n) != 2 || string(tree.Raw(tree.First(n))) != "1.00" {
		t.Errorf("n: kind %d, %d items, first %q", tree.Kind(n), tree.Len(n), tree.Raw(tree.First(n)))
	}
	var raw, keys []string
	for c := range tree.Children(n) {
		raw = append(raw, string(tree.Raw(c)))
	}
	for c := range tree.Children(root) {
		keys = append(keys, tree.Key(c))
	}
	if got := strings.Join(raw, " "); got != "1.00 -2e+3" {
		t.Errorf("items %s", got)
	}
	if got := strings.Join(keys, " "); got != "resourceType birthDate _birthDate n t f z esc o a" {
		t.Errorf("keys %s", got)
	}
	for key, kind := range map[string]Kind{"t": True, "f": False, "z": Null, "o": Object, "a": Array, "esc": String} {
		if got := tree.Kind(tree.Get(root, key)); got != kind {
			t.Errorf("%s is of kind %d", key, got)
		}
	}
	if !tree.Bool(tree.Get(root, "t")) || tree.Bool(tree.Get(root, "f")) || tree.Bool(tree.Get(root, "z")) {
		t.Error("Bool is wrong")
	}
}

func TestNoNodeGivesNothing(t *testing.T) {
	for _, tree := range []*Tree{new(Tree), mustParse(t, `{"a":1}`)} {
		n := tree.Get(tree.Get(tree.Root(), "missing"), "below")
		if n != 0 || tree.Kind(n) != Invalid || tree.Str(n) != "" || len(tree.Raw(n)) != 0 || tree.Len(n) != 0 ||
			tree.First(n) != 0 || tree.Next(n) != 0 || tree.Key(n) != "" || tree.Bool(n) || tree.Is(n, "") || tree.Kind(-1) != Invalid || tree.Kind(1<<20) != Invalid {
			t.Error("no node gives something")
		}
	}
}

func TestATreeIsUsedAgain(t *testing.T) {
	var tree Tree
	long := []byte(`{"a":{"b":[1,2,3,{"c":"x"}]},"\u0064":1}`)
	for range 3 {
		if err := tree.Parse(long, Limits{}); err != nil {
			t.Fatal(err)
		}
		if err := tree.Parse([]byte(`{"x`), Limits{}); err == nil || tree.Root() != 0 {
			t.Fatal("a failed parse leaves a tree")
		}
		if err := tree.Parse([]byte(`{"d":2}`), Limits{}); err != nil {
			t.Fatal(err)
		}
		if got := string(tree.Raw(tree.Get(tree.Root(), "d"))); got != "2" || tree.Get(tree.Root(), "a") != 0 {
			t.Fatalf("d = %q, or the document before shows", got)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _ = tree.Parse(long, Limits{}) }); n != 0 {
		t.Errorf("%v allocations for a document in a used tree", n)
	}
}

func mustParse(t testing.TB, doc string) *Tree {
	t.Helper()
	tree, err := Parse([]byte(doc), Limits{})
	if err != nil {
		t.Fatalf("%s: %v", doc, err)
	}
	return tree
}

// sameAs compares a node with what encoding/json read.
func sameAs(t *Tree, n Node, v any) error {
	switch v := v.(type) {
	case nil:
		if t.Kind(n) != Null {
			return fmt.Errorf("kind %d for null", t.Kind(n))
		}
	case bool:
		if k := t.Kind(n); k != True && k != False || t.Bool(n) != v {
			return fmt.Errorf("kind %d for %v", k, v)
		}
	case string:
		if t.Kind(n) != String || t.Str(n) != v {
			return fmt.Errorf("%q for %q", t.Str(n), v)
		}
	case stdjson.Number:
		if t.Kind(n) != Number || string(t.Raw(n)) != v.String() {
			return fmt.Errorf("%q for %q", t.Raw(n), v)
		}
		if len(v) < 20 {
			if _, err := strconv.ParseFloat(v.String(), 64); err != nil && !errors.Is(err, strconv.ErrRange) {
				return fmt.Errorf("%q is no number", v)
			}
		}
	case []any:
		if t.Kind(n) != Array || t.Len(n) != len(v) {
			return fmt.Errorf("array of %d for %d", t.Len(n), len(v))
		}
		c := t.First(n)
		for _, item := range v {
			if err := sameAs(t, c, item); err != nil {
				return err
			}
			c = t.Next(c)
		}
	case map[string]any:
		if t.Kind(n) != Object || t.Len(n) != len(v) {
			return fmt.Errorf("object of %d for %d", t.Len(n), len(v))
		}
		for key, item := range v {
			if err := sameAs(t, t.Get(n, key), item); err != nil {
				return err
			}
		}
	}
	return nil
}

func FuzzParseAcceptsWhatEncodingJSONReadsAlike(f *testing.F) {
	for _, s := range []string{`{}`, `[1,2.50,-0,1e9]`, `{"a":{"b":"\u00e9\ud83d\ude00"},"c":[null,true,false]}`,
		`{"a":1,"\u0061":2}`, `"\ud800"`, "\"\xff\"", `01`, ` [ ] `, `{"a":"long enough for eight bytes at once"}`,
		`["\\\"",""]`, "\xEF\xBB\xBF{}", `{"":0}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tree, err := Parse(data, Limits{})
		if err != nil {
			var e *SyntaxError
			if !errors.As(err, &e) || e.Offset > len(data) || e.Line < 1 || e.Column < 1 {
				t.Fatalf("error without a place: %v", err)
			}
			return
		}
		dec := stdjson.NewDecoder(strings.NewReader(string(data)))
		dec.UseNumber()
		var v any
		if !stdjson.Valid(data) {
			t.Fatalf("accepted, and encoding/json does not: %q", data)
		}
		if err := dec.Decode(&v); err != nil {
			t.Fatalf("accepted, and encoding/json says %v: %q", err, data)
		}
		if err := sameAs(tree, tree.Root(), v); err != nil {
			t.Fatalf("%v in %q", err, data)
		}
		if tree.Kind(tree.Root()) != Object {
			return
		}
		again, err := Splice(data, SpliceOptions{ID: "x"})
		if err != nil {
			t.Fatal(err)
		}
		spliced, err := Parse(again, Limits{Depth: storedDepth})
		if err != nil || spliced.Str(spliced.Get(spliced.Root(), "id")) != "x" {
			t.Fatalf("splice of %q gives %q: %v", data, again, err)
		}
	})
}

func sample(b *testing.B) []byte {
	b.Helper()
	data, err := os.ReadFile("testdata/observation.json")
	if err != nil {
		b.Fatal(err)
	}
	return data
}

func BenchmarkParse(b *testing.B) {
	data := sample(b)
	var tree Tree
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := tree.Parse(data, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkContentHash(b *testing.B) {
	data := sample(b)
	var tree Tree
	if err := tree.Parse(data, Limits{}); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		ContentHash(&tree)
	}
}

func BenchmarkSplice(b *testing.B) {
	data := sample(b)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Splice(data, SpliceOptions{ID: "x", VersionID: "7"}); err != nil {
			b.Fatal(err)
		}
	}
}
