package match

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a runner until the test is done with it.
func start(r *Runner) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			panic(err)
		}
	}
}

func update() record.Change { return record.Change{Interaction: fhir.Update} }

func TestALoneEventIsPublishedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLog()
		r := newRunner(l, subscriptions(2))
		var told []string
		r.Observer.Matched = func(n int, _ time.Duration) { told = append(told, fmt.Sprint("matched ", n)) }
		r.Observer.Published = func(through record.Sequence, n int, _ time.Duration) {
			told = append(told, fmt.Sprint("published ", through, " ", n))
		}
		defer start(r)()
		time.Sleep(10500 * time.Millisecond) // between two ticks
		began := time.Now()
		l.write(update())
		l.await(l.complete)
		if waited := time.Since(began); waited != 0 {
			t.Errorf("the block waited %s", waited)
		}
		if blocks := l.chain(); len(blocks) != 1 || len(blocks[0].Matches) != 2 {
			t.Errorf("published %+v", blocks)
		}
		synctest.Wait()
		if want := []string{"matched 2", "published 1 2"}; !slices.Equal(told, want) {
			t.Errorf("the observer was told %v", told)
		}
	})
}

func TestWhileABlockIsOnItsWayTheNextCollects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLog()
		l.hold = make(chan struct{})
		defer start(newRunner(l, subscriptions(1)))()
		for range 5 {
			l.write(update())
			synctest.Wait() // the first one is on its way, the others are collected
		}
		l.hold <- struct{}{}
		l.hold <- struct{}{}
		synctest.Wait()
		blocks := l.chain()
		if len(blocks) != 2 || len(blocks[0].Matches) != 1 || len(blocks[1].Matches) != 4 {
			t.Errorf("published %+v", blocks)
		}
	})
}

func TestIdleMarks(t *testing.T) {
	none := subscriptions(0)
	t.Run("every second while the log moves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newFakeLog()
			defer start(newRunner(l, none))()
			for i := range 4 {
				l.foreign(10)
				l.write(update())
				if n := len(l.chain()); n > i {
					t.Fatalf("%d marks before second %d", n, i+1)
				}
				time.Sleep(time.Second + time.Millisecond)
				synctest.Wait()
			}
			if got := l.chain(); len(got) != 4 || got[3].Through != 44 || len(got[3].Matches) != 0 {
				t.Errorf("published %+v", got)
			}
		})
	})
	t.Run("none while it stands still", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newFakeLog()
			l.foreign(1)
			defer start(newRunner(l, none))()
			time.Sleep(time.Minute)
			if got := l.chain(); len(got) != 1 {
				t.Errorf("published %+v", got)
			}
		})
	})
	t.Run("every thousand events", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newFakeLog()
			l.hold = make(chan struct{}, 10)
			for range 2 * markEvents {
				l.write(update())
			}
			defer start(newRunner(l, none))()
			synctest.Wait() // no second has passed
			for range 10 {
				l.hold <- struct{}{}
			}
			synctest.Wait()
			if got := l.chain(); len(got) == 0 || got[0].Through < markEvents {
				t.Errorf("published %+v", got)
			}
		})
	})
}

func TestUnchangedMatchesNothingAndIsPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLog()
		l.write(record.Change{Interaction: fhir.Unchanged})
		defer start(newRunner(l, subscriptions(3)))()
		l.await(l.complete)
		if got := l.chain(); len(got) != 1 || len(got[0].Matches) != 0 {
			t.Errorf("published %+v", got)
		}
	})
}

func TestAPartitionBeginsAfterItsTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLog()
		for range 5 {
			l.write(update())
		}
		r := newRunner(l, subscriptions(1))
		r.Base = 3
		defer start(r)()
		l.await(l.complete)
		for _, b := range l.chain() {
			for _, m := range b.Matches {
				if m.Event <= 3 {
					t.Errorf("matched event %d", m.Event)
				}
			}
		}
	})
}

// resources notes the ids of the bodies that were asked about.
func resources(asked *[]string) fakeIndex {
	return func(at record.Sequence, r *search.Resource, _ index.Verify) []index.Hit {
		*asked = append(*asked, fmt.Sprintf("%d:%s/%s", at, r.Type(), r.ID()))
		return []index.Hit{{ID: "s", Birth: 1, Version: 1}}
	}
}

func TestADeleteIsAskedOnTheStateBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		l := newFakeLog()
		key := fhir.Key{Type: "Patient", ID: "a"}
		v1 := l.write(record.Change{Event: record.Event{Key: key}, Interaction: fhir.Create})
		l.write(record.Change{Event: record.Event{Key: key}, Interaction: fhir.Delete, Previous: v1})
		l.write(record.Change{Event: record.Event{Key: fhir.Key{Type: "Group", ID: "never-seen"}, Feed: true}, Interaction: fhir.Delete})
		l.fail[readFails] = true // passing: the runner comes back to it
		defer start(newRunner(l, resources(&asked)))()
		l.await(l.complete)
		want := []string{"1:Patient/a", "2:Patient/a", "3:Group/never-seen"}
		if asked = slices.Compact(asked); !slices.Equal(asked, want) {
			t.Errorf("asked about %v, want %v", asked, want)
		}
		if len(l.aside) != 0 {
			t.Errorf("set aside %v", l.aside)
		}
	})
}

func TestWhatCannotBeEvaluatedIsSetAsideAndPassed(t *testing.T) {
	broken := func(l *fakeLog) {
		l.write(record.Change{Interaction: fhir.Update, Event: record.Event{Body: []byte(`{"secret":`)}})
	}
	for _, test := range []struct {
		name   string
		write  func(*fakeLog)
		reason string
	}{
		{"a body that is no JSON", broken, "cannot be read"},
		{"a state before a delete that is gone", func(l *fakeLog) {
			v1 := l.write(record.Change{Interaction: fhir.Unchanged})
			l.gone[v1] = true
			l.write(record.Change{Interaction: fhir.Delete, Previous: v1})
		}, "gone"},
		{"a log of dead events that fails at first", func(l *fakeLog) {
			l.asideFail = 3
			broken(l)
		}, "cannot be read"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newFakeLog()
				l.write(update())
				test.write(l)
				bad := l.last
				l.write(update())
				r := newRunner(l, subscriptions(1))
				told := 0
				r.Observer.SetAside = func() { told++ }
				defer start(r)()
				l.await(l.complete)
				if len(l.aside) != 1 || l.aside[0].event != bad || !strings.Contains(l.aside[0].reason, test.reason) || told != 1 {
					t.Errorf("set aside %v, told %d times", l.aside, told)
				}
				if strings.Contains(l.aside[0].reason, "secret") {
					t.Error("the reason repeats the body")
				}
				var events []record.Sequence
				for _, b := range l.chain() {
					for _, m := range b.Matches {
						events = append(events, m.Event)
					}
				}
				if !slices.Equal(events, []record.Sequence{1, bad + 1}) {
					t.Errorf("matched %v", events)
				}
			})
		})
	}
}

func TestABlockIsPublishedThoughTheNextEventCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newFakeLog()
		l.write(update())
		l.write(record.Change{Interaction: fhir.Update, Event: record.Event{Body: []byte(`{`)}})
		l.asideFail = 1 << 30 // so this event is never passed
		stop := start(newRunner(l, subscriptions(1)))
		l.await(func() bool { return len(l.blocks) == 1 })
		time.Sleep(time.Minute)
		stop()
		if got := l.chain(); len(got) != 1 || got[0].Through != 1 || len(got[0].Matches) != 1 {
			t.Errorf("published %+v", got)
		}
	})
}

func compile(t *testing.T, criteria string) *search.Criteria {
	t.Helper()
	c, err := search.R4().Compile(criteria)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestACriteriaThatPanicsTakesTheEventFromNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := compile(t, "Patient?_id=r1,r2,r3")
		var bad *search.Criteria // asking it panics
		x := fakeIndex(func(at record.Sequence, r *search.Resource, verify index.Verify) (hits []index.Hit) {
			if at == 2 && verify(bad, r) {
				hits = append(hits, index.Hit{ID: "bad", Birth: 1, Version: 1})
			}
			if verify(good, r) {
				hits = append(hits, index.Hit{ID: "good", Birth: 2, Version: 2})
			}
			return hits
		})
		l := newFakeLog()
		for range 3 {
			l.write(update())
		}
		defer start(newRunner(l, x))()
		l.await(l.complete)
		if len(l.aside) != 1 || l.aside[0].event != 2 || !strings.Contains(l.aside[0].reason, "not asked: Subscription bad") {
			t.Errorf("set aside %v", l.aside)
		}
		var got []string
		for _, b := range l.chain() {
			for _, m := range b.Matches {
				got = append(got, fmt.Sprint(m.Event, m.Subscription))
			}
		}
		if want := []string{"1good", "2good", "3good"}; !slices.Equal(got, want) {
			t.Errorf("matched %v, want %v", got, want)
		}
	})
}

func TestAPanicOutsideAnyCriteriaSetsTheEventAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := fakeIndex(func(at record.Sequence, _ *search.Resource, _ index.Verify) []index.Hit {
			if at == 1 {
				panic("a value out of the resource")
			}
			return []index.Hit{{ID: "s", Birth: 1, Version: 1}}
		})
		l := newFakeLog()
		l.write(update())
		l.write(update())
		defer start(newRunner(l, x))()
		l.await(l.complete)
		if len(l.aside) != 1 || l.aside[0].event != 1 || strings.Contains(l.aside[0].reason, "value out") {
			t.Errorf("set aside %v", l.aside)
		}
	})
}

func TestAnEventMayNotTakeForever(t *testing.T) {
	for _, test := range []struct {
		name  string
		slow  int // evaluations of event 1 that are slow
		aside int
	}{
		{"a pause of the machine is forgiven", 1, 0},
		{"an event that is slow again is set aside", 2, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := compile(t, "Patient?_id=r1,r2")
				x := fakeIndex(func(at record.Sequence, r *search.Resource, verify index.Verify) []index.Hit {
					met := false
					slow := at == 1 && test.slow > 0
					if slow {
						test.slow--
					}
					for range 100 {
						if slow {
							time.Sleep(time.Second)
						}
						met = verify(c, r)
					}
					if !met {
						return nil
					}
					return []index.Hit{{ID: "s", Birth: 1, Version: 1}}
				})
				l := newFakeLog()
				l.write(update())
				l.write(update())
				defer start(newRunner(l, x))()
				l.await(l.complete)
				if len(l.aside) != test.aside {
					t.Errorf("set aside %v", l.aside)
				}
				n := 0
				for _, b := range l.chain() {
					n += len(b.Matches)
				}
				if n != 2-test.aside {
					t.Errorf("%d matches", n)
				}
			})
		})
	}
}

// One long name and a few criteria of many values once stalled a partition for minutes, and took
// the event from every Subscription.
func TestACriteriaThatIsTooCostlyLosesTheEventForItselfAlone(t *testing.T) {
	x := index.New()
	put := func(id fhir.ID, criteria string) {
		x.Put(index.Entry{ID: id, Birth: 1, Version: 1, Interactions: []fhir.Interaction{fhir.Update}, Criteria: compile(t, criteria)})
	}
	for i := range 3 {
		var words []string
		for n := range 915 {
			words = append(words, fmt.Sprintf("%c%c%c", 'b'+i+n/600, 'b'+n/25%24, 'b'+n%25))
		}
		put(fhir.ID(fmt.Sprintf("costly%d", i)), "Patient?family:contains="+strings.Join(words, ","))
	}
	put("type", "Patient?")
	put("word", "Patient?family=zz")
	l := newFakeLog()
	l.foreign(1)
	l.write(record.Change{Interaction: fhir.Update, Event: record.Event{
		Body: []byte(`{"resourceType":"Patient","name":[{"family":"` + strings.Repeat("a ", 4<<20) + `zz"}]}`)}})
	l.write(update())
	synctest.Test(t, func(t *testing.T) {
		l.moved = make(chan struct{})
		defer start(newRunner(l, x))()
		l.await(l.complete)
	})
	var got []string
	for _, b := range l.chain() {
		for _, m := range b.Matches {
			got = append(got, fmt.Sprint(m.Event, m.Subscription))
		}
	}
	if want := []string{"2type", "2word", "3type"}; !slices.Equal(got, want) {
		t.Errorf("matched %v, want %v", got, want)
	}
	if len(l.aside) != 1 || !strings.HasSuffix(l.aside[0].reason, "not asked: Subscription costly0, costly1, costly2") {
		t.Errorf("set aside %v", l.aside)
	}
}

// The budget ends the second round as well, but what was found until then is found.
func TestAnEventThatIsSlowTwiceIsLostOnlyForThoseThatWereNotAsked(t *testing.T) {
	var criteria []*search.Criteria
	for i := range 40 {
		criteria = append(criteria, compile(t, fmt.Sprintf("Patient?_id=r1,x%d", i)))
	}
	synctest.Test(t, func(t *testing.T) {
		x := fakeIndex(func(_ record.Sequence, r *search.Resource, verify index.Verify) (hits []index.Hit) {
			for i, c := range criteria {
				time.Sleep(time.Second)
				if verify(c, r) {
					hits = append(hits, index.Hit{ID: fhir.ID(fmt.Sprintf("s%02d", i)), Birth: 1, Version: 1})
				}
			}
			return hits
		})
		l := newFakeLog()
		l.write(update())
		defer start(newRunner(l, x))()
		l.await(l.complete)
		var got []string
		for _, b := range l.chain() {
			for _, m := range b.Matches {
				got = append(got, string(m.Subscription))
			}
		}
		if len(got) != 15 || got[0] != "s00" || got[14] != "s14" { // the clock is read at the sixteenth
			t.Errorf("matched %v", got)
		}
		if len(l.aside) != 1 || !strings.Contains(l.aside[0].reason, "not asked: Subscription s15, s16") {
			t.Errorf("set aside %v", l.aside)
		}
	})
}

func TestTheClockIsReadAtEachCriteriaOfALargeBody(t *testing.T) {
	first, second := compile(t, "Patient?family=a"), compile(t, "Patient?family=b")
	body := []byte(`{"resourceType":"Patient","name":[{"family":"` + strings.Repeat("c ", 1<<19) + `"}]}`)
	synctest.Test(t, func(t *testing.T) {
		x := fakeIndex(func(_ record.Sequence, r *search.Resource, verify index.Verify) (hits []index.Hit) {
			for _, c := range []*search.Criteria{first, second} {
				if verify(c, r) {
					hits = append(hits, index.Hit{ID: "s", Birth: 1, Version: 1})
				}
				time.Sleep(20 * time.Second)
			}
			return hits
		})
		l := newFakeLog()
		l.write(record.Change{Interaction: fhir.Update, Event: record.Event{Body: body}})
		defer start(newRunner(l, x))()
		l.await(l.complete)
		if len(l.aside) != 1 || !strings.Contains(l.aside[0].reason, "exceeded its time") {
			t.Errorf("set aside %v", l.aside)
		}
	})
}

func TestABlockHasAtMostAMebibyte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		many := make([]index.Hit, 20_000)
		for i := range many {
			many[i] = index.Hit{ID: fhir.ID(fmt.Sprintf("%064d", i)), Birth: 1<<63 - 1, Version: 1<<63 - 1}
		}
		x := fakeIndex(func(at record.Sequence, _ *search.Resource, _ index.Verify) []index.Hit {
			if at == 2 {
				return many
			}
			return many[:10]
		})
		// Stopped in the middle of the event, twice, with and without the block stored.
		l := newFakeLog(ack, ack, stopsAfter, ack, stopsBefore)
		for range 3 {
			l.write(update())
		}
		runThrough(l, x, 1, 0)
		cut := 0
		for i, b := range l.chain() {
			if n := len(record.Encode(b)); n > maxBlock {
				t.Errorf("block %d has %d bytes", i, n)
			}
			if b.Cut != nil {
				cut++
				if b.Cut.Event != 2 || b.Through != 1 {
					t.Errorf("block %d: through %d, cut %+v", i, b.Through, b.Cut)
				}
			}
		}
		if cut < 3 {
			t.Errorf("%d blocks were cut", cut)
		}
		if err := checkChain(l.chain(), naive(l, x), 0); err != nil {
			t.Error(err)
		}
	})
}

// runThrough keeps n runners on a log, each replaced when it is stopped, until the chain is
// complete.
func runThrough(l *fakeLog, x Index, n, smallBlocks int) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				one, stop := context.WithCancel(ctx)
				l.mu.Lock()
				l.stop = stop // with several runners, the last one to start is stopped
				l.mu.Unlock()
				r := newRunner(l, x)
				r.smallBlocks = smallBlocks
				_ = r.Run(one)
				stop()
			}
		})
	}
	l.await(l.complete)
	cancel()
	wg.Wait()
}

func TestInvariant03TwoRunnersWriteOneChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := subscriptions(3)
		l := newFakeLog()
		interrupted := 0
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for range 2 {
			r := newRunner(l, x)
			r.Observer.Interrupted = func(error) { l.mu.Lock(); interrupted++; l.mu.Unlock() }
			wg.Go(func() { _ = r.Run(ctx) })
		}
		for range 200 {
			l.write(update())
			if l.last%7 == 0 {
				synctest.Wait()
			}
		}
		l.await(l.complete)
		cancel()
		wg.Wait()
		if err := checkChain(l.chain(), naive(l, x), 0); err != nil {
			t.Error(err)
		}
		if interrupted == 0 {
			t.Error("neither runner was ever shut out: the test has shown nothing")
		}
	})
}

// faults is a log, its Subscriptions and a script, as drawn by rapid.
type faults struct {
	script  []answer
	hits    [][]index.Hit // by event
	kinds   []fhir.Interaction
	gaps    []int // foreign events before each event
	runners int
	small   int
}

func drawFaults(t *rapid.T) faults {
	f := faults{
		script:  rapid.SliceOfN(rapid.Custom(func(t *rapid.T) answer { return answer(rapid.IntRange(0, int(answersCount)-1).Draw(t, "answer")) }), 0, 30).Draw(t, "script"),
		runners: rapid.IntRange(1, 2).Draw(t, "runners"),
		small:   frameSize + rapid.IntRange(1, 8).Draw(t, "matches a block")*(matchSize+12),
	}
	for range rapid.IntRange(1, 40).Draw(t, "events") {
		ids := rapid.SliceOfNDistinct(rapid.IntRange(0, 99), 0, 12, rapid.ID).Draw(t, "hits")
		slices.Sort(ids)
		var hits []index.Hit
		for _, id := range ids {
			hits = append(hits, index.Hit{ID: fhir.ID(fmt.Sprintf("s%02d", id)), Birth: record.Sequence(1000 + id), Version: record.Sequence(1000 + id)})
		}
		f.hits = append(f.hits, hits)
		f.kinds = append(f.kinds, rapid.SampledFrom([]fhir.Interaction{fhir.Create, fhir.Update, fhir.Unchanged}).Draw(t, "interaction"))
		f.gaps = append(f.gaps, rapid.IntRange(0, 3).Draw(t, "foreign"))
	}
	return f
}

// play runs through a log with faults and says what is wrong with the chain.
func (f faults) play() error {
	l := newFakeLog(f.script...)
	at := map[record.Sequence][]index.Hit{}
	for i, hits := range f.hits {
		l.foreign(f.gaps[i])
		at[l.write(record.Change{Interaction: f.kinds[i]})] = hits
	}
	x := fakeIndex(func(seq record.Sequence, _ *search.Resource, _ index.Verify) []index.Hit { return at[seq] })
	runThrough(l, x, f.runners, f.small)
	return checkChain(l.chain(), naive(l, x), 0)
}

func TestInvariant02And03WhateverFailsTheChainHoldsExactlyTheMatches(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := drawFaults(rt)
		var err error
		synctest.Test(t, func(*testing.T) { err = f.play() })
		if err != nil {
			rt.Fatal(err)
		}
	})
}

func TestInvariant02AMarkPassesAnEventOnlyWithItsMatches(t *testing.T) {
	for a := ack; a < answersCount; a++ {
		for at := range 4 {
			t.Run(fmt.Sprintf("answer %d to publish %d", a, at+1), func(t *testing.T) {
				f := faults{runners: 1, small: frameSize + 3*(matchSize+12), script: append(make([]answer, at), a)}
				for i := range 5 {
					var hits []index.Hit
					for s := range 2 * i {
						hits = append(hits, index.Hit{ID: fhir.ID(fmt.Sprintf("s%02d", s)), Birth: record.Sequence(100 + s), Version: 1})
					}
					f.hits, f.kinds, f.gaps = append(f.hits, hits), append(f.kinds, fhir.Update), append(f.gaps, 1)
				}
				synctest.Test(t, func(t *testing.T) {
					if err := f.play(); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

func TestWaitsGrowWhileTheLogIsAwayAndEndWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		script := make([]answer, 30)
		for i := range script {
			script[i] = refused
		}
		l := newFakeLog(script...)
		l.write(update())
		began := time.Now()
		stop := start(newRunner(l, subscriptions(1)))
		defer stop()
		l.await(l.complete)
		if took := time.Since(began); took < 20*time.Second || took > time.Minute {
			t.Errorf("30 refusals took %s", took)
		}
	})
}
