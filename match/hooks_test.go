package match

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
)

func TestHooksHaveASayInWhatIsMatched(t *testing.T) {
	type matched struct {
		event record.Sequence
		sub   fhir.ID
	}
	bad := errors.New("no ward\nX-Injected: 1")
	for _, tc := range []struct {
		name  string
		hooks Hooks
		want  []matched
		aside string // reason for event 2; empty: none
	}{
		{name: "none", want: []matched{{1, "s00000"}, {1, "s00001"}, {2, "s00000"}, {2, "s00001"}, {3, "s00000"}, {3, "s00001"}}},
		{
			name: "a veto before meets nothing, and what follows goes on",
			hooks: Hooks{Before: func(_ context.Context, c *record.Change, body []byte) ([]byte, bool, error) {
				return body, c.Sequence != 2, nil
			}},
			want: []matched{{1, "s00000"}, {1, "s00001"}, {3, "s00000"}, {3, "s00001"}},
		}, {
			name: "an error before sets the event aside",
			hooks: Hooks{Before: func(_ context.Context, c *record.Change, body []byte) ([]byte, bool, error) {
				if c.Sequence == 2 {
					return nil, true, bad
				}
				return body, true, nil
			}},
			want:  []matched{{1, "s00000"}, {1, "s00001"}, {3, "s00000"}, {3, "s00001"}},
			aside: "no ward X-Injected: 1",
		}, {
			name: "a state of another type is not believed",
			hooks: Hooks{Before: func(_ context.Context, c *record.Change, body []byte) ([]byte, bool, error) {
				if c.Sequence == 2 {
					return []byte(`{"resourceType":"Group"}`), true, nil
				}
				return body, true, nil
			}},
			want:  []matched{{1, "s00000"}, {1, "s00001"}, {3, "s00000"}, {3, "s00001"}},
			aside: "another type",
		}, {
			name: "a veto after takes the event from one Subscription",
			hooks: Hooks{Keep: func(_ context.Context, c *record.Change, _ []byte, h index.Hit) (bool, error) {
				return c.Sequence != 2 || h.ID != "s00000", nil
			}},
			want: []matched{{1, "s00000"}, {1, "s00001"}, {2, "s00001"}, {3, "s00000"}, {3, "s00001"}},
		}, {
			name: "an error after takes it from one, and is told",
			hooks: Hooks{Keep: func(_ context.Context, c *record.Change, _ []byte, h index.Hit) (bool, error) {
				if c.Sequence == 2 && h.ID == "s00001" {
					return true, bad
				}
				return true, nil
			}},
			want:  []matched{{1, "s00000"}, {1, "s00001"}, {2, "s00000"}, {3, "s00000"}, {3, "s00001"}},
			aside: "no ward X-Injected: 1; not asked: Subscription s00001",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newFakeLog()
				for range 3 {
					l.write(update())
				}
				r := newRunner(l, subscriptions(2))
				r.Hooks = tc.hooks
				defer start(r)()
				l.await(l.complete)
				var got []matched
				for _, b := range l.chain() {
					for _, m := range b.Matches {
						got = append(got, matched{m.Event, m.Subscription})
					}
				}
				if !slices.Equal(got, tc.want) {
					t.Errorf("matched %v, want %v", got, tc.want)
				}
				switch {
				case tc.aside == "" && len(l.aside) == 0:
				case len(l.aside) != 1 || l.aside[0].event != 2 || tc.aside == "" || !strings.Contains(l.aside[0].reason, tc.aside):
					t.Errorf("set aside %+v, want %q", l.aside, tc.aside)
				}
			})
		})
	}
}

// Criteria see the state that a hook gives; what was written stays as it was.
func TestCriteriaAreAskedAboutTheStateThatAHookGives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLog()
		written := []byte(`{"resourceType":"Patient","id":"a","gender":"male"}`)
		was := bytes.Clone(written)
		key := fhir.Key{Type: "Patient", ID: "a"}
		l.write(record.Change{Event: record.Event{Key: key, Body: written}, Interaction: fhir.Create})
		var genders []string
		x := fakeIndex(func(_ record.Sequence, r *search.Resource, _ index.Verify) []index.Hit {
			tree := r.Tree()
			genders = append(genders, tree.Str(tree.Get(tree.Root(), "gender")))
			return nil
		})
		r := newRunner(l, x)
		r.Hooks.Before = func(_ context.Context, _ *record.Change, body []byte) ([]byte, bool, error) {
			return bytes.Replace(body, []byte("male"), []byte("other"), 1), true, nil
		}
		defer start(r)()
		l.await(l.complete)
		if !slices.Equal(genders, []string{"other"}) || !bytes.Equal(written, was) {
			t.Errorf("criteria saw %v of %s", genders, written)
		}
	})
}

func TestARunnerThatIsStoppedInAHookLeavesTheEventToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLog()
		l.write(update())
		r := newRunner(l, subscriptions(1))
		asked := make(chan struct{})
		r.Hooks.Before = func(ctx context.Context, _ *record.Change, _ []byte) ([]byte, bool, error) {
			close(asked)
			<-ctx.Done()
			return nil, true, ctx.Err()
		}
		stop := start(r)
		<-asked
		stop()
		if len(l.aside) != 0 || len(l.chain()) != 0 {
			t.Errorf("set aside %v, blocks %v", l.aside, l.chain())
		}
		r = newRunner(l, subscriptions(1))
		defer start(r)()
		l.await(l.complete)
		if blocks := l.chain(); len(blocks) != 1 || len(blocks[0].Matches) != 1 {
			t.Errorf("blocks %+v", blocks)
		}
	})
}
