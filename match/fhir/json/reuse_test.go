package json

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// Memory that is used again must not be seen: not by the document after, and not by what was
// made of the one before.
func TestDocumentsSideBySideKeepApart(t *testing.T) {
	const workers, rounds = 8, 200
	doc := func(w, r int) []byte {
		return fmt.Appendf(nil, `{"resourceType":"Patient","id":"old","meta":{"versionId":"1","tag":[{"c\u006fde":"%d"}]},"n":[%s%d]}`,
			w, strings.Repeat("1,", r%50), w*rounds+r)
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for r := range rounds {
				in := doc(w, r)
				tree, err := Parse(in, Limits{}) // of its own, which no other parses into
				if err != nil {
					t.Error(err)
					return
				}
				id := fmt.Sprintf("w%d-%d", w, r)
				out, err := Splice(in, SpliceOptions{ID: id, VersionID: "7"})
				want := strings.Replace(strings.Replace(string(in), `"old"`, `"`+id+`"`, 1), `"versionId":"1"`, `"versionId":"7"`, 1)
				if err != nil || string(out) != want {
					t.Errorf("spliced to %s (%v), want %s", out, err, want)
				}
				lent := Borrow()
				if err := lent.Parse(in, Limits{}); err != nil || ContentHash(lent) != ContentHash(tree) {
					t.Errorf("the hash of %s is that of another document (%v)", in, err)
				}
				lent.Release()
				if !bytes.Equal(in, doc(w, r)) || string(out) != want {
					t.Error("a document was changed, or what was made of it")
				}
			}
		})
	}
	wg.Wait()
}

func TestABorrowedTreeIsEmpty(t *testing.T) {
	for range 100 {
		tree := Borrow()
		if tree.Root() != 0 || tree.Source() != nil || tree.Get(1, "a") != 0 {
			t.Fatal("the document before is still there")
		}
		if err := tree.Parse([]byte(`{"a":"b"}`), Limits{}); err != nil {
			t.Fatal(err)
		}
		tree.Release()
	}
}

// What is set reads as encoding/json writes it, whichever way it was written.
func TestTextIsQuotedAsEncodingJSONDoes(t *testing.T) {
	for _, s := range []string{"", "plain-1.A", "a b", `"`, `\`, "<&>", "\n\x00\x1f", "\x7f", "ä\u2028", "\xff", strings.Repeat("x", 1000), strings.Repeat("<", 1000)} {
		want, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		got, err := SetString([]byte(`{"a":"b"}`), "a", s)
		if err != nil || string(got) != `{"a":`+string(want)+`}` {
			t.Errorf("%q is written %s (%v), want %s", s, got, err, want)
		}
	}
}
