package node

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/stream"
)

// fakeLog is one subject of EVENTS with its expectation.
type fakeLog struct {
	mu   sync.Mutex
	last stream.Message
	race func() // called once before the next append, as another node that is faster
}

func (f *fakeLog) newest(context.Context, string) (stream.Message, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last.Sequence == 0 {
		return stream.Message{}, stream.ErrNotFound
	}
	return f.last, nil
}

func (f *fakeLog) append(_ context.Context, _ string, data []byte, expect record.Sequence) (record.Sequence, error) {
	if race := f.race; race != nil {
		f.race = nil
		race()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if expect != f.last.Sequence {
		return 0, stream.ErrConflict
	}
	f.last = stream.Message{Sequence: expect + 3, Data: data}
	return f.last.Sequence, nil
}

func newTokens(log *fakeLog) *tokens {
	return &tokens{control: control[[]storedToken]{name: "tokens"}, log: log}
}

func TestATokenOpensUntilItIsRevokedAndItsSecretIsNotInTheLog(t *testing.T) {
	log := &fakeLog{}
	ts := newTokens(log)
	tok, secret, err := ts.create(t.Context(), "ops", []string{"admin"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := ts.lookup(secret); !ok || got.ID != tok.ID {
		t.Error("the secret does not open")
	}
	_, part, _ := strings.Cut(strings.TrimPrefix(secret, tokenPrefix), "_")
	if strings.Contains(string(log.last.Data), part) {
		t.Error("the secret is in the log")
	}
	for _, wrong := range []string{"", "x", secret + "x", secret[:len(secret)-1], tokenPrefix + tok.ID + "_", strings.Replace(secret, tok.ID, "other", 1)} {
		if _, ok := ts.lookup(wrong); ok {
			t.Errorf("%q opens", wrong)
		}
	}
	if err := ts.revoke(t.Context(), "ops"); err != nil {
		t.Fatal(err)
	}
	if _, ok := ts.lookup(secret); ok {
		t.Error("a revoked token opens")
	}
}

func TestTheTokensAlwaysIncludeAnAdminWhileThereAreAny(t *testing.T) {
	ts := newTokens(&fakeLog{})
	refused := func(err error, what string) {
		t.Helper()
		if fhir.AsError(err) == nil {
			t.Errorf("%s: %v, want a refusal", what, err)
		}
	}
	make := func(name, role string) error {
		_, _, err := ts.create(t.Context(), name, []string{role}, time.Now())
		return err
	}
	refused(make("first", "reader"), "a first token that is no admin")
	for _, c := range [][2]string{{"boss", "admin"}, {"scraper", "reader"}} {
		if err := make(c[0], c[1]); err != nil {
			t.Fatal(err)
		}
	}
	refused(make("boss", "admin"), "a second token of one name")
	refused(ts.revoke(t.Context(), "boss"), "the last admin while a reader is left")
	refused(ts.revoke(t.Context(), "nobody"), "an unknown token")
	for _, name := range []string{"scraper", "boss"} {
		if err := ts.revoke(t.Context(), name); err != nil {
			t.Errorf("revoke %s: %v", name, err)
		}
	}
}

func TestAChangeOfAControlValueIsNotLostToAnotherNode(t *testing.T) {
	log := &fakeLog{}
	ours, theirs := newTokens(log), newTokens(log)
	log.race = func() {
		if _, _, err := theirs.create(t.Context(), "theirs", []string{"admin"}, time.Now()); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := ours.create(t.Context(), "ours", []string{"admin"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	var stored []storedToken
	if err := json.Unmarshal(log.last.Data, &stored); err != nil || len(stored) != 2 {
		t.Errorf("the log has %d tokens, want both; %v", len(stored), err)
	}
	if all, _ := ours.get(); len(all) != 2 {
		t.Errorf("this node knows %d", len(all))
	}
	if err := ours.apply(1, []byte("[]")); err != nil {
		t.Fatal(err)
	}
	if all, _ := ours.get(); len(all) != 2 {
		t.Error("an older record replaced a newer one")
	}
}
