package search

import (
	"bytes"
	"math"
	"testing"
	"unicode"
	"unicode/utf8"
)

// What was folded folds to itself, and what differs by case alone folds to one: for every
// letter of Unicode, at the beginning of a word and within one.
func TestFoldingLevelsCaseForEveryLetter(t *testing.T) {
	for _, f := range []func(dst, s []byte) []byte{fold, appendWords} {
		for r := rune(0); r <= utf8.MaxRune; r++ {
			if r == 0x20000 { // ideographs, private use, and nothing else until the tags
				r = 0xE0000
			}
			if r == 0xE1000 {
				break
			}
			if !utf8.ValidRune(r) {
				continue
			}
			for _, s := range []string{string(r), "a" + string(r) + "b"} {
				once := f(nil, []byte(s))
				if twice := f(nil, once); !bytes.Equal(once, twice) {
					t.Errorf("%q folds to %q, and that to %q", s, once, twice)
				}
			}
			// Simple folding joins dotless i and its like to nothing, as full folding does.
			for o := unicode.SimpleFold(r); o != r; o = unicode.SimpleFold(o) {
				if a, b := f(nil, []byte(string(r))), f(nil, []byte(string(o))); !bytes.Equal(a, b) {
					t.Errorf("%q folds to %q and %q to %q", r, a, o, b)
				}
			}
		}
	}
}

func TestFoldingAllocatesNothingOnceItsMemoryHasGrown(t *testing.T) {
	texts := [][]byte{[]byte("Carreño Quiñones"), []byte("Straße ﬃﬃﬃﬃﬃﬃﬃﬃﬃﬃﬃ ΐΐΐΐΐΐΐΐΐΐ"), []byte("Smith"), []byte("\xff\xfeÜ\xc3")}
	var dst []byte
	least := math.Inf(1) // of many: the race detector makes a pool lose things now and then
	for range 200 {
		least = min(least, testing.AllocsPerRun(1, func() {
			for _, s := range texts {
				dst = fold(dst[:0], s)
				dst = appendWords(append(dst[:0], ' '), s)
			}
		}))
	}
	if least > 0 {
		t.Errorf("%v allocations", least)
	}
}

// A text whose folded form is longer than itself many times over is folded to its end.
func TestALongTextIsFoldedToItsEnd(t *testing.T) {
	s := bytes.Repeat([]byte("ΐ"), 100_000)
	if got := fold(nil, append(s, 'Z')); len(got) != 2*100_000+1 || got[len(got)-1] != 'z' {
		t.Errorf("%d bytes", len(got))
	}
}
