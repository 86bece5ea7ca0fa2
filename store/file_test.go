package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// full makes a store with rows in every bucket, trees with branches among them, and closes it.
// The file as it was before the last transactions is left as older.
func full(t testing.TB, dir string) *world {
	t.Helper()
	w := fullWorld(fullEvents)
	s := openStill(t, dir)
	// In several transactions, so that there are free pages.
	for s.Position() != w.end() {
		for st := range streamCount {
			for range 100 {
				if w.can(st, s.Position()) {
					w.apply(t, s, st, 1)
				}
			}
		}
		s.flush()
		if s.Position().Events == fullEvents-100 {
			now, err := os.ReadFile(s.layers.file.path)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, "older"), now, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	s.kill()
	return w
}

func fullWorld(n int) *world {
	w := new(world)
	for i := range n {
		typ := "Patient"
		if i%10 == 0 {
			typ = "Subscription"
		}
		w.events = append(w.events, record.Event{
			Sequence: record.Sequence(i + 1), Time: t0, Owner: "o",
			Key:  fhir.Key{Type: typ, ID: fhir.ID(fmt.Sprint("id-", i%(fullEvents/2)))},
			Body: fmt.Appendf(nil, "body %d id:sys|%d", i, i),
		})
		m := record.Match{Event: record.Sequence(i + 1), Birth: 1, Subscription: "id-0", Version: 1, Interaction: fhir.Update}
		w.matches = append(w.matches, mrec{block: &record.Block{Partition: "p", Matches: []record.Match{m}}})
		id := record.MatchID{Event: m.Event, Birth: 1}
		w.outcomes = append(w.outcomes, &record.OutcomeBlock{Lane: "l", After: record.Sequence(i + 1), Outcomes: []record.Outcome{
			{MatchID: id, Subscription: "id-0", Attempt: 1, Code: record.Timeout, At: t0, Final: i%3 == 0, Dead: true},
		}})
		if i%3 == 0 {
			w.dead = append(w.dead, &record.DeadLetter{MatchID: id, Subscription: "id-0", Number: fhir.EventNumber(i + 1), Reason: record.Timeout})
		}
	}
	w.matches = append(w.matches, mrec{job: &record.Job{ID: "j",
		Replay: []record.MatchID{{Event: 1, Birth: 1}}, Purge: []record.MatchID{{Event: 4, Birth: 1}}}})
	return w
}

// fullEvents is how many events full writes, two on each of half as many resources.
const fullEvents = 400

// readAll reads everything there is through the ways that callers have. It fails the test if a
// value is none that was ever written, and returns the first error. (Values that were right
// once are for Verify to find.)
func readAll(t testing.TB, s *Store, w *world) error {
	t.Helper()
	for i := range fullEvents / 2 {
		var typ = "Patient"
		if i%10 == 0 {
			typ = "Subscription"
		}
		res, ok, err := s.Resource(fhir.Key{Type: typ, ID: fhir.ID(fmt.Sprint("id-", i))})
		if err != nil {
			return err
		}
		if first, second := record.Sequence(i+1), record.Sequence(i+fullEvents/2+1); ok && (res.Version != first && res.Version != second || res.Birth != record.Sequence(i+1)) {
			t.Fatalf("resource %d came back as %+v", i, res)
		}
	}
	from := fhir.EventNumber(0)
	for {
		page, err := s.PendingFrom(1, from, 100)
		if err != nil {
			return err
		}
		for _, p := range page {
			if p.Event != record.Sequence(p.Number) || p.Key != w.events[p.Event-1].Key {
				t.Fatalf("pending came back as %+v", p)
			}
			from = p.Number
		}
		if len(page) < 100 {
			break
		}
	}
	attempts, err := s.Attempts(ctx, AttemptFilter{Limit: 10000})
	if err != nil {
		return err
	}
	for _, a := range attempts {
		if a.Code != record.Timeout || a.Event != record.Sequence(a.Number) {
			t.Fatalf("attempt came back as %+v", a)
		}
	}
	if _, err := s.Dead(ctx, DeadFilter{Limit: 10000}); err != nil {
		return err
	}
	return s.SubscriptionVersions(func(v SubscriptionVersion) error {
		if !bytes.Equal(v.Body, w.events[v.Sequence-1].Body) {
			t.Fatalf("body of version %d came back as %q", v.Sequence, v.Body)
		}
		return nil
	})
}

// Whatever is done to a file, the projection says that it is damaged (when it is opened or
// read through, or when the row is read), or nothing that it says is different.
func TestDamageIsNeverAWrongValue(t *testing.T) {
	dir := t.TempDir()
	w := full(t, dir)
	s := openStill(t, dir)
	want := contents(t, s)
	s.kill()
	good, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	m, err := newestMeta(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	page := int(m.pageSize)
	good = good[:int(m.pages)*page] // bbolt makes the file longer ahead of need
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	type damage struct {
		name string
		do   func(b []byte) []byte
	}
	var cases []damage
	older, err := os.ReadFile(filepath.Join(dir, "older"))
	if err != nil {
		t.Fatal(err)
	}
	var always []damage
	for at := 0; at < len(good); at += page {
		name := fmt.Sprintf("page %d ", at/page)
		if was := older[at : at+page]; !bytes.Equal(was, good[at:at+page]) && at >= 2*page {
			always = append(always, damage{name + "is an older one", func(b []byte) []byte { copy(b[at:], was); return b }})
		}
		if order.Uint16(good[at+8:]) == leafPage && order.Uint16(good[at+10:]) > 0 {
			always = append(always, damage{name + "lost its last row", func(b []byte) []byte { b[at+10]--; return b }})
		}
	}
	flip := func(at int, by byte) {
		cases = append(cases, damage{fmt.Sprintf("byte %d xor %x", at, by), func(b []byte) []byte { b[at] ^= by; return b }})
	}
	for at := 0; at < len(good); at += 512 {
		flip(at, 0xff)
		flip(at+rnd.IntN(512), 1<<rnd.IntN(8))
	}
	for at := 0; at < len(good); at += page {
		for field := range 48 { // headers and first elements, where the skeleton is
			if rnd.IntN(6) == 0 {
				flip(at+field, 1<<rnd.IntN(8))
			}
		}
		cases = append(cases,
			damage{fmt.Sprintf("cut at page %d", at/page), func(b []byte) []byte { return b[:at] }},
			damage{fmt.Sprintf("cut inside page %d", at/page), func(b []byte) []byte { return b[:at+page/2] }},
			damage{fmt.Sprintf("page %d zero", at/page), func(b []byte) []byte { clear(b[at : at+page]); return b }})
		other := rnd.IntN(len(good)/page) * page
		cases = append(cases, damage{fmt.Sprintf("page %d holds page %d", at/page, other/page),
			func(b []byte) []byte { copy(b[at:at+page], good[other:other+page]); return b }})
	}
	// There are thousands. Each run takes some others; the seed tells which.
	rnd.Shuffle(len(cases), func(i, j int) { cases[i], cases[j] = cases[j], cases[i] })
	cases = cases[:min(len(cases), 100)]
	if testing.Short() {
		cases = cases[:20]
	}
	cases = append(cases, always...)
	found, tried := 0, 0
	for _, thorough := range []bool{true, false} { // false: as if the file were too large to be read at start
		for i, c := range cases {
			if !thorough && i%3 != 0 {
				continue
			}
			dir := filepath.Join(dir, "case")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, fileName), c.do(bytes.Clone(good)), 0o600); err != nil {
				t.Fatal(err)
			}
			o := testOptions
			if !thorough {
				o.VerifyUpTo = -1
			}
			err := func() error {
				s, err := open(dir, o)
				if err != nil {
					return err
				}
				defer s.kill()
				if err := readAll(t, s, w); err != nil {
					return err
				}
				if err := s.Verify(ctx); err != nil {
					return err
				}
				if got := contents(t, s); different(want, got) != nil && got.Vector == want.Vector {
					t.Fatalf("%s: content differs in %v and nothing was said", c.name, different(want, got))
				}
				return nil
			}()
			tried++
			switch {
			case errors.Is(err, ErrDamaged):
				found++
				if !strings.Contains(err.Error(), fileName) || !strings.Contains(err.Error(), "carillon serve --rebuild") {
					t.Fatalf("%s: the error does not name file and way out: %v", c.name, err)
				}
			case err != nil:
				t.Fatalf("%s: %v", c.name, err)
			}
		}
	}
	t.Logf("file of %d pages, %d cases, %d found", len(good)/page, tried, found)
	if found < tried/2 {
		t.Errorf("of %d damages only %d were found: are the checks on?", tried, found)
	}
}

// A damaged row that nobody looked at yet may be met by a fold: it fails and changes nothing.
func TestAFoldThatMeetsDamageStops(t *testing.T) {
	dir := t.TempDir()
	full(t, dir)
	path := filepath.Join(dir, fileName)
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	key := resourceKey(fhir.Key{Type: "Patient", ID: "id-1"})
	if err := db.Update(func(tx *bolt.Tx) error {
		bk := tx.Bucket([]byte("resource"))
		row := bytes.Clone(bk.Get([]byte(key)))
		row[len(row)-1] ^= 1
		return bk.Put([]byte(key), row)
	}); err != nil {
		t.Fatal(err)
	}
	db.Close()
	o := testOptions
	o.VerifyUpTo = -1
	s, err := open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.kill()
	before := s.Position()
	changes, err := s.ApplyEvents(ctx, []record.Event{{Sequence: fullEvents + 1, Key: fhir.Key{Type: "Patient", ID: "id-1"}, Body: []byte("x")}}, fullEvents+1)
	if !errors.Is(err, ErrDamaged) || len(changes) != 0 || s.Position() != before {
		t.Fatalf("got %v, %v, position %+v", changes, err, s.Position())
	}
	if _, err := Open(dir, testOptions); !errors.Is(err, ErrLocked) {
		t.Fatalf("while it is open: %v", err)
	}
}

func TestOpenRefusesWhatItCannotUse(t *testing.T) {
	write := func(b []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, fileName), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	edit := func(fn func(tx *bolt.Tx) error) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			openStill(t, dir).kill()
			db, err := bolt.Open(filepath.Join(dir, fileName), 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if err := db.Update(fn); err != nil {
				t.Fatal(err)
			}
		}
	}
	formatIs := func(n uint64) func(tx *bolt.Tx) error {
		return func(tx *bolt.Tx) error {
			var e encoder
			e.uint(n)
			return tx.Bucket([]byte("meta")).Put([]byte(formatKey), sealed(bMeta, formatKey, e))
		}
	}
	for _, c := range []struct {
		name string
		make func(*testing.T, string)
		want error
	}{
		{"an empty file", write(nil), ErrDamaged},
		{"a short file", write([]byte("projection")), ErrDamaged},
		{"another kind of file", write(bytes.Repeat([]byte("not bbolt "), 4096)), ErrDamaged},
		{"a newer format", edit(formatIs(format + 1)), ErrNewer},
		{"format zero", edit(formatIs(0)), ErrDamaged},
		{"no format", edit(func(tx *bolt.Tx) error { return tx.Bucket([]byte("meta")).Delete([]byte(formatKey)) }), ErrDamaged},
		{"a missing bucket", edit(func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("match")) }), ErrDamaged},
		{"a row that nobody wrote", edit(func(tx *bolt.Tx) error {
			return tx.Bucket([]byte("pending")).Put([]byte(pair(uint64(1), uint64(1))), sealed(bPending, pair(uint64(1), uint64(1)), nil))
		}), ErrDamaged},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.make(t, dir)
			s, err := Open(dir, testOptions)
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), filepath.Join(dir, fileName)) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			kept, err := Rebuild(dir)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(kept); err != nil {
				t.Errorf("the old file is gone: %v", err)
			}
			openStill(t, dir).kill()
		})
	}
}

func TestRemoveAndRebuildLeaveAFileInUseAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "projection")
	if kept, err := Rebuild(dir); kept != "" || err != nil {
		t.Fatalf("without a projection: %q, %v", kept, err)
	}
	s := openRunning(t, dir)
	if _, err := Rebuild(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("rebuild: %v", err)
	}
	if err := Remove(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("remove: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Rebuild(dir); err != nil {
		t.Fatal(err)
	}
	openStill(t, dir).kill()
	if err := Remove(dir); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// A crash while the file is made leaves a file with another name, which the next start clears.
func TestAnUnfinishedFileIsClearedAway(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, newPrefix+"1"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	openStill(t, dir).kill()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != fileName {
		t.Fatalf("left %v, %v", left, err)
	}
}

func TestEverythingFailsClearlyAfterClose(t *testing.T) {
	s := openRunning(t, t.TempDir())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := s.ApplyEvents(ctx, []record.Event{{Sequence: 1, Key: fhir.Key{Type: "A", ID: "b"}, Body: []byte("x")}}, 1)
	if !errors.Is(err, ErrClosed) {
		t.Errorf("apply: %v", err)
	}
	if _, _, err := s.Resource(fhir.Key{Type: "A", ID: "b"}); !errors.Is(err, ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if err := s.Verify(ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("verify: %v", err)
	}
	if err := s.Flush(ctx); err != nil && !errors.Is(err, ErrClosed) {
		t.Errorf("flush: %v", err)
	}
	s.Stats()
}

func TestCloseWritesWhatIsFolded(t *testing.T) {
	dir := t.TempDir()
	s := openRunning(t, dir)
	must(s.ApplyEvents(ctx, []record.Event{{Sequence: 1, Key: fhir.Key{Type: "Patient", ID: "p"}, Body: []byte("x")}}, 5))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openRunning(t, dir)
	if s.Saved().Events != 5 || s.Position().Events != 5 {
		t.Fatalf("saved %+v", s.Saved())
	}
	if seq, _ := s.LastRecord(Events); seq != 1 {
		t.Fatalf("last record %d", seq)
	}
}

// A full disk stops nothing but memory: folds and reads go on until much is waiting, and when
// there is space again everything is written.
func TestAFullDiskIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openStill(t, t.TempDir())
		failing := 3
		disk := s.layers.write
		s.layers.write = func(o *overlay) error {
			if failing > 0 {
				failing--
				return fmt.Errorf("write: %w", syscall.ENOSPC)
			}
			return disk(o)
		}
		go s.layers.run()
		must(s.ApplyEvents(t.Context(), []record.Event{{Sequence: 1, Key: fhir.Key{Type: "Patient", ID: "p"}, Body: []byte("x")}}, 1))
		if _, ok, err := s.Resource(fhir.Key{Type: "Patient", ID: "p"}); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := s.Stats(); st.FlushErrors != 3 || st.Saved.Events != 1 {
			t.Errorf("%+v", st)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// Closing does not wait for a disk that stays full. Nothing is lost: the logs have it.
func TestCloseDoesNotWaitForAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openStill(t, t.TempDir())
		s.layers.write = func(*overlay) error { return syscall.ENOSPC }
		go s.layers.run()
		must(s.ApplyEvents(t.Context(), nil, 7))
		if err := s.Close(); err == nil || !strings.Contains(err.Error(), "no space") {
			t.Fatalf("closed with %v", err)
		}
	})
}

func TestAFailedWriteIsReported(t *testing.T) {
	s := openStill(t, t.TempDir())
	s.layers.write = func(*overlay) error { return syscall.EIO }
	go s.layers.run()
	must(s.ApplyEvents(ctx, nil, 7))
	if err := s.Flush(ctx); !errors.Is(err, syscall.EIO) {
		t.Fatalf("flush: %v", err)
	}
	if err := s.Err(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("err: %v", err)
	}
	if _, err := s.ApplyEvents(ctx, nil, 8); !errors.Is(err, syscall.EIO) {
		t.Fatalf("apply: %v", err)
	}
	if err := s.Close(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("close: %v", err)
	}
}
