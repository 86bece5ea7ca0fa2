package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openLayers opens layers without a writer: the test decides when something is written.
func openLayers(t interface {
	Helper()
	Fatalf(string, ...any)
	Cleanup(func())
}, dir string) *layers {
	t.Helper()
	f, err := openFile(dir, time.Second, 0, true)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { f.close() })
	return newLayers(f, slog.New(slog.DiscardHandler))
}

// commit applies rows as one commit; an empty value deletes.
func (l *layers) commitForTest(rows map[string]string) error {
	return l.update(context.Background(), 1, func(b *batch) {
		for k, v := range rows {
			if v == "" {
				b.delete(bMatch, k)
			} else {
				b.put(bMatch, k, []byte(v))
			}
		}
	}, func(*overlay) {})
}

// The layers must be one ordered map, wherever its rows happen to lie. A map with sorted keys
// is the model; the moves of the writer (turn, write, let go) may come at any time.
func TestLayersAreOneOrderedMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		l := openLayers(rt, dir)
		model := map[string]string{}
		key := rapid.StringMatching(`[a-c]{1,3}`)
		val := rapid.StringMatching(`[x-z]{0,2}`)
		rt.Repeat(map[string]func(*rapid.T){
			"commit": func(t *rapid.T) {
				rows := rapid.MapOfN(key, val, 1, 8).Draw(t, "rows")
				if err := l.commitForTest(rows); err != nil {
					t.Fatal(err)
				}
				for k, v := range rows {
					if v == "" {
						delete(model, k)
					} else {
						model[k] = v
					}
				}
			},
			"turn": func(t *rapid.T) {
				if l.flushing == nil {
					l.turnActive()
				}
			},
			"write": func(t *rapid.T) {
				if l.flushing != nil {
					if err := l.file.write(l.flushing); err != nil {
						t.Fatal(err)
					}
				}
			},
			"let go": func(t *rapid.T) {
				if l.flushing != nil {
					if err := l.file.write(l.flushing); err != nil {
						t.Fatal(err)
					}
					l.flushing = nil
				}
			},
			"get": func(t *rapid.T) {
				k := key.Draw(t, "key")
				if got := getForTest(t, l, k); got != model[k] {
					t.Fatalf("get %q: got %q, want %q", k, got, model[k])
				}
			},
			"scan": func(t *rapid.T) {
				from, to := key.Draw(t, "from"), rapid.OneOf(key, rapid.Just("")).Draw(t, "to")
				back := rapid.Bool().Draw(t, "back")
				got := scanForTest(t, l, from, to, back)
				if want := scanModel(model, from, to, back); !slices.Equal(got, want) {
					t.Fatalf("scan [%q, %q) back=%v:\n got %v\nwant %v", from, to, back, got, want)
				}
			},
			"batch sees its own writes": func(t *rapid.T) {
				k, from := key.Draw(t, "key"), key.Draw(t, "from")
				_, err := l.collect(func(b *batch) {
					mine := map[string]string{}
					for m, v := range model {
						mine[m] = v
					}
					b.put(bMatch, k, []byte("mine"))
					mine[k] = "mine"
					gone := from
					b.delete(bMatch, gone)
					delete(mine, gone)
					var got []string
					b.scan(bMatch, from, "", func(k string, v []byte) bool {
						got = append(got, k+"="+string(v))
						return true
					})
					if want := scanModel(mine, from, "", false); !slices.Equal(got, want) {
						t.Fatalf("got %v, want %v", got, want)
					}
				})
				if err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				if got, want := scanForTest(t, l, "", "", false), scanModel(model, "", "", false); !slices.Equal(got, want) {
					t.Fatalf("whole:\n got %v\nwant %v", got, want)
				}
			},
		})
	})
}

func getForTest(t *rapid.T, l *layers, k string) (got string) {
	if err := l.view(func(r *reader) error {
		v, _ := r.get(bMatch, k)
		got = string(v)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

func scanForTest(t *rapid.T, l *layers, from, to string, back bool) (got []string) {
	err := l.view(func(r *reader) error {
		scan := r.scan
		if back {
			scan = r.scanBack
		}
		scan(bMatch, from, to, func(k string, v []byte) bool {
			got = append(got, k+"="+string(v))
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func scanModel(model map[string]string, from, to string, back bool) (want []string) {
	for k, v := range model {
		if k >= from && (to == "" || k < to) {
			want = append(want, k+"="+v)
		}
	}
	sort.Strings(want)
	if back {
		slices.Reverse(want)
	}
	return want
}

func TestSkiplistKeepsKeysInOrderAndOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s skiplist
		model := map[string]byte{}
		for _, k := range rapid.SliceOf(rapid.StringMatching(`[a-d]{0,4}`)).Draw(t, "keys") {
			v := byte(len(model))
			_, had := model[k]
			if fresh := s.set(k, []byte{v}, false); fresh == had {
				t.Fatalf("set %q: new=%v, was there=%v", k, fresh, had)
			}
			model[k] = v
		}
		last, n := "", 0
		for e := s.first(); e != nil; e = e.next[0] {
			if n > 0 && e.key <= last {
				t.Fatalf("%q after %q", e.key, last)
			}
			if e.val[0] != model[e.key] {
				t.Fatalf("%q has %d, want %d", e.key, e.val[0], model[e.key])
			}
			last, n = e.key, n+1
		}
		if n != len(model) {
			t.Fatalf("%d keys, want %d", n, len(model))
		}
	})
}

// A commit that would let memory grow past the bound waits for the writer, and stops waiting
// when its context ends or the store is closed.
func TestCommitWaitsWhenTheWriterIsBehind(t *testing.T) {
	l := openLayers(t, t.TempDir())
	l.maxRecords = 2
	for i := range 2 {
		if err := l.commitForTest(map[string]string{fmt.Sprint(i): "v"}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	waiting := make(chan error)
	go func() { waiting <- l.update(ctx, 1, func(*batch) {}, func(*overlay) {}) }()
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want the context's error", err)
	}
	go func() { waiting <- l.commitForTest(map[string]string{"2": "v"}) }()
	l.flush()
	if err := <-waiting; err != nil {
		t.Fatalf("after the writer caught up: %v", err)
	}
	if l.active.records != 1 {
		t.Fatalf("%d records in memory, want 1", l.active.records)
	}
}

// A full disk is waited for; with any other failure writing ends, reads go on, and what was
// folded is still seen.
func TestFailedWriteEndsCommitsAndNotReads(t *testing.T) {
	l := openLayers(t, t.TempDir())
	if err := l.commitForTest(map[string]string{"k": "v"}); err != nil {
		t.Fatal(err)
	}
	l.turnActive()
	l.fail(errors.New("input/output error"))
	if err := l.commitForTest(map[string]string{"k": "w"}); err == nil || !strings.Contains(err.Error(), "input/output error") {
		t.Fatalf("commit after a failed write: %v", err)
	}
	err := l.view(func(r *reader) error {
		if v, _ := r.get(bMatch, "k"); string(v) != "v" {
			t.Errorf("got %q, want what was folded", v)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The disk is full when the writer comes, more is folded meanwhile, and then the node stops.
// Whatever the file takes after that, it must not hold the newer rows and their position
// without the older: no start would read those records again.
func TestAFullDiskAndAStopLeaveNoHoleInTheFile(t *testing.T) {
	for _, c := range []struct {
		name string
		full int // writes that find the disk full
		want Vector
		fail bool // close says that rows are missing
	}{
		{name: "space comes back", full: 1, want: Vector{Events: 2}},
		{name: "stays full", full: 1000, fail: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			l := openLayers(t, dir)
			full, writes := make(chan struct{}), 0
			l.write = func(o *overlay) error {
				if writes++; writes == 1 {
					defer close(full)
				}
				if writes <= c.full {
					return syscall.ENOSPC
				}
				return l.file.write(o)
			}
			put := func(key string, at record.Sequence) {
				t.Helper()
				err := l.update(ctx, 1, func(b *batch) { b.put(bMatch, key, []byte("v")) }, func(o *overlay) { o.at.Events = at })
				if err != nil {
					t.Fatal(err)
				}
			}
			// The writer is run as it would find things: the older rows refused by the disk,
			// newer ones folded, the stop asked for.
			put("older", 1)
			go l.run()
			<-full
			put("newer", 2)
			if err := l.close(); (err != nil) != c.fail {
				t.Errorf("close: %v", err)
			}
			if l.saved != c.want {
				t.Errorf("saved up to %+v, want %+v", l.saved, c.want)
			}
			f, err := openFile(dir, time.Second, 0, true)
			if err != nil {
				t.Fatal(err)
			}
			defer f.close()
			tx := must(f.begin())
			defer f.end(tx)
			for key, at := range map[string]record.Sequence{"older": 1, "newer": 2} {
				_, ok, err := f.get(tx, bMatch, key)
				if err != nil || ok != (l.saved.Events >= at) {
					t.Errorf("%s row in the file: %v (%v), and the position says %d", key, ok, err, l.saved.Events)
				}
			}
		})
	}
}
