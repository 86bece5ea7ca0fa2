package seal

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func newKey(t testing.TB) *Key {
	id, material := NewMaterial()
	k, err := NewKey(id, material)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestASealedValueOpensUnderItsKeyAndNameAlone(t *testing.T) {
	k, other := newKey(t), newKey(t)
	rapid.Check(t, func(t *rapid.T) {
		value, name := rapid.String().Draw(t, "value"), rapid.String().Draw(t, "name")
		text := k.Seal(value, name)
		if text != k.Seal(value, name) {
			t.Fatal("sealed twice it is another text")
		}
		if !IsSealed(text) || KeyOf(text) != k.ID() {
			t.Fatalf("%q does not name its key", text)
		}
		if len(value) > 3 && strings.Contains(text, value) {
			t.Fatal("the value stands in the text")
		}
		if got, err := k.Open(text, name); err != nil || got != value {
			t.Fatalf("opened %q, %v", got, err)
		}
		if _, err := k.Open(text, name+"x"); !errors.Is(err, ErrForged) {
			t.Fatalf("under another name: %v", err)
		}
		if _, err := other.Open(strings.Replace(text, k.ID(), other.ID(), 1), name); !errors.Is(err, ErrForged) {
			t.Fatalf("by another key: %v", err)
		}
		at := rapid.IntRange(0, len(text)-1).Draw(t, "at")
		changed := text[:at] + string(text[at]^1) + text[at+1:]
		if _, err := k.Open(changed, name); !errors.Is(err, ErrForged) {
			t.Fatalf("with a byte changed at %d: %v", at, err)
		}
		if k.Seal(value+"x", name) == text || k.Seal(value, name+"x") == text {
			t.Fatal("two values have one text")
		}
	})
}

func TestTheFirstMasterKeyWrapsAndEachUnwraps(t *testing.T) {
	a, b := []byte(strings.Repeat("a", Size)), []byte(strings.Repeat("b", Size))
	ring := func(keys ...[]byte) *Ring {
		r, err := NewRing(keys)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	old, both, late := ring(a), ring(b, a), ring(b)
	w, err := old.Wrap([]byte("data key"), "name")
	if err != nil || w.Master != old.First() {
		t.Fatal(w, err)
	}
	if key, err := both.Unwrap(w, "name"); err != nil || string(key) != "data key" {
		t.Errorf("an older key does not unwrap: %v", err)
	}
	again, err := both.Wrap([]byte("data key"), "name")
	if err != nil || again.Master != late.First() {
		t.Errorf("the first key does not wrap: %+v, %v", again, err)
	}
	var missing *MissingKeyError
	if _, err := late.Unwrap(w, "name"); !errors.As(err, &missing) || missing.Master != old.First() {
		t.Errorf("a master key that is gone: %v", err)
	}
	if _, err := (*Ring)(nil).Unwrap(w, "name"); !errors.As(err, &missing) {
		t.Errorf("without any key: %v", err)
	}
	if _, err := old.Unwrap(w, "other"); !errors.Is(err, ErrForged) {
		t.Errorf("under another name: %v", err)
	}
	w.Box[len(w.Box)-1] ^= 1
	if _, err := old.Unwrap(w, "name"); !errors.Is(err, ErrForged) {
		t.Errorf("with a byte changed: %v", err)
	}
	if _, err := NewRing([][]byte{a[:31]}); err == nil {
		t.Error("a short master key is taken")
	}
}
