package index_test

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/index"
	"github.com/carillon-fhir/carillon/match/search"
)

// town is where the events of a benchmark happen: how many there are of what Subscriptions ask
// for. The fewer, the more of them an event meets.
type town struct {
	name                                 string
	patients, codes, doctors, encounters int
}

var (
	sparse = town{"sparse", 60_000, 20_000, 20_000, 200_000}
	dense  = town{"dense", 1_000, 1_000, 500, 5_000}
)

// criteria is an invented mix: half follow one patient, some with a code, a status or a limit;
// a third are lists of codes with status and limits; the rest are one doctor's tasks, and
// categories of one encounter.
func (w town) criteria(r *rand.Rand) string {
	code := func() string { return fmt.Sprintf("http://loinc.org|c%d", r.IntN(w.codes)) }
	switch k := r.IntN(100); {
	case k < 50:
		s := fmt.Sprintf("Observation?subject=Patient/p%d", r.IntN(w.patients))
		if k%2 == 0 {
			s += "&code=" + code()
		}
		if k%3 == 0 {
			s += "&status=final"
		}
		if k%3 == 1 {
			s += fmt.Sprintf("&value-quantity=gt%d", r.IntN(200))
		}
		return s
	case k < 80:
		s := "Observation?code=" + code()
		for range r.IntN(3) {
			s += "," + code()
		}
		if k%2 == 0 {
			s += "&status=final"
		}
		if k%3 == 0 {
			s += fmt.Sprintf("&value-quantity=gt%d", r.IntN(200))
		}
		return s
	case k < 95:
		return fmt.Sprintf("Task?owner=Practitioner/d%d&status=%s&priority=%s", r.IntN(w.doctors),
			[]string{"requested", "completed", "cancelled"}[k%3], []string{"routine", "urgent"}[k%2])
	}
	return fmt.Sprintf("Observation?encounter=Encounter/e%d&category=%s", r.IntN(w.encounters), []string{"laboratory", "vital-signs"}[r.IntN(2)])
}

var (
	aPatient   = regexp.MustCompile(`"Patient/[^"]*"`)
	anOwner    = regexp.MustCompile(`"owner":\{"reference":"[^"]*"`)
	anEncntr   = regexp.MustCompile(`"Encounter/[^"]*"`)
	loinc      = regexp.MustCompile(`"system":"http://loinc.org","code":"[^"]*"`)
	benchTypes = []string{"Observation", "Task", "Encounter", "Condition"}
)

// events are resources of the sample, each about someone in town.
func (w town) events(b testing.TB, r *rand.Rand) [][]byte {
	f, err := os.Open("../search/testdata/sample-r4.ndjson.gz")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		b.Fatal(err)
	}
	var sample []string
	s := bufio.NewScanner(z)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if slices.ContainsFunc(benchTypes, func(t string) bool { return strings.HasPrefix(s.Text(), `{"resourceType":"`+t+`"`) }) {
			sample = append(sample, s.Text())
		}
	}
	var out [][]byte
	for i := range 512 {
		e := sample[i%len(sample)]
		e = aPatient.ReplaceAllString(e, fmt.Sprintf(`"Patient/p%d"`, r.IntN(w.patients)))
		e = anEncntr.ReplaceAllString(e, fmt.Sprintf(`"Encounter/e%d"`, r.IntN(w.encounters)))
		e = anOwner.ReplaceAllString(e, fmt.Sprintf(`"owner":{"reference":"Practitioner/d%d"`, r.IntN(w.doctors)))
		e = loinc.ReplaceAllString(e, fmt.Sprintf(`"system":"http://loinc.org","code":"c%d"`, r.IntN(w.codes)))
		out = append(out, []byte(e))
	}
	return out
}

// matcher is what the benchmarks compare: it counts the criteria that a resource meets.
type matcher func(*search.Resource) int

// linear asks every criteria of the resource's type.
func linear(criteria []*search.Criteria) matcher {
	byType := map[string][]*search.Criteria{}
	for _, c := range criteria {
		byType[c.Types()[0]] = append(byType[c.Types()[0]], c)
	}
	return func(r *search.Resource) (n int) {
		for _, c := range byType[r.Type()] {
			if c.Match(r) {
				n++
			}
		}
		return n
	}
}

// counting posts every equality of every criteria, and asks those all of whose equalities an
// event has met (Yan and Garcia-Molina's counting algorithm).
func counting(criteria []*search.Criteria) func() matcher {
	type condition struct {
		criteria int32
		bit      uint8
	}
	type posting map[uint64][]condition
	byType := map[string]map[search.Feature]posting{}
	full := make([]uint8, len(criteria))
	for i, c := range criteria {
		for k, a := range c.Accesses() {
			if a.Feature.Ordered() {
				continue // left to the criteria
			}
			t := c.Types()[0]
			if byType[t] == nil {
				byType[t] = map[search.Feature]posting{}
			}
			if byType[t][a.Feature] == nil {
				byType[t][a.Feature] = posting{}
			}
			full[i] |= 1 << k
			for _, h := range a.Hashes {
				byType[t][a.Feature][h] = append(byType[t][a.Feature][h], condition{int32(i), 1 << k})
			}
		}
	}
	return func() matcher {
		seen, epoch, now := make([]uint8, len(criteria)), make([]uint32, len(criteria)), uint32(0)
		return func(r *search.Resource) (n int) {
			now++
			for f, p := range byType[r.Type()] {
				for _, h := range r.Hashes(f) {
					for _, c := range p[h] {
						if epoch[c.criteria] != now {
							epoch[c.criteria], seen[c.criteria] = now, 0
						}
						if seen[c.criteria]&c.bit != 0 {
							continue
						}
						seen[c.criteria] |= c.bit
						if seen[c.criteria] == full[c.criteria] && criteria[c.criteria].Match(r) {
							n++
						}
					}
				}
			}
			return n
		}
	}
}

func indexed(criteria []*search.Criteria) (*index.Index, func() matcher) {
	x := index.New()
	for i, c := range criteria {
		x.Put(index.Entry{ID: fhir.ID(fmt.Sprintf("s%d", i)), Version: record.Sequence(i + 1), Interactions: all, Criteria: c})
	}
	return x, func() matcher {
		var hits []index.Hit
		return func(r *search.Resource) int {
			hits = x.Match(index.Newest, time.Time{}, fhir.Create, r, nil, hits[:0])
			return len(hits)
		}
	}
}

// scene is one size of one town, made once.
type scene struct {
	events   [][]byte
	criteria []*search.Criteria
	matchers map[string]func() matcher
}

var scenes = map[string]*scene{}

func setting(b testing.TB, w town, n int) *scene {
	key := fmt.Sprint(w.name, n)
	if s := scenes[key]; s != nil {
		return s
	}
	clear(scenes) // one at a time is enough memory
	r := rand.New(rand.NewPCG(1, 2))
	s := &scene{events: w.events(b, r)}
	for range n {
		s.criteria = append(s.criteria, compile(b, w.criteria(r)))
	}
	_, own := indexed(s.criteria)
	s.matchers = map[string]func() matcher{
		"index":    own,
		"counting": counting(s.criteria),
		"linear":   func() matcher { return linear(s.criteria) },
	}
	scenes[key] = s
	return s
}

var sizes = []int{1_000, 10_000, 100_000}

// measured reports what the process has computed for each of n events.
func measured(b *testing.B, began time.Duration, n int) {
	b.ReportMetric(float64((cpu()-began).Nanoseconds())/float64(n), "cpu-ns/op")
}

func each(b *testing.B, run func(b *testing.B, s *scene, m func() matcher)) {
	for _, w := range []town{sparse, dense} {
		for _, n := range sizes {
			for _, name := range []string{"index", "counting", "linear"} {
				b.Run(fmt.Sprintf("%s/%d/%s", w.name, n, name), func(b *testing.B) {
					s := setting(b, w, n)
					run(b, s, s.matchers[name])
				})
			}
		}
	}
}

// BenchmarkEvent measures whole events: parse, read values, select, ask.
func BenchmarkEvent(b *testing.B) {
	each(b, func(b *testing.B, s *scene, m func() matcher) {
		ask, met, n := m(), 0, 0
		var tree json.Tree
		r := search.NewResource(search.R4(), nil)
		event := func() {
			if err := tree.Parse(s.events[n%len(s.events)], json.Limits{}); err != nil {
				b.Fatal(err)
			}
			r.Reset(&tree, search.Envelope{})
			met += ask(r)
			n++
		}
		for range 64 { // memory grows to what it will be
			event()
		}
		met, n = 0, 0
		b.ReportAllocs()
		began := cpu()
		for b.Loop() {
			event()
		}
		measured(b, began, n)
		b.ReportMetric(float64(met)/float64(n), "matches/op")
	})
}

// BenchmarkSelect measures selecting and asking alone, on values that were read before.
func BenchmarkSelect(b *testing.B) {
	each(b, func(b *testing.B, s *scene, m func() matcher) {
		ask, met, n := m(), 0, 0
		var resources []*search.Resource
		for _, e := range s.events[:256] {
			tree, err := json.Parse(e, json.Limits{})
			if err != nil {
				b.Fatal(err)
			}
			r := search.NewResource(search.R4(), tree)
			s.matchers["index"]()(r) // reads its values
			resources = append(resources, r)
		}
		b.ReportAllocs()
		began := cpu()
		for b.Loop() {
			met += ask(resources[n%len(resources)])
			n++
		}
		measured(b, began, n)
		b.ReportMetric(float64(met)/float64(n), "matches/op")
	})
}

// BenchmarkParallel measures whole events on all cores, each with a worker of its own.
func BenchmarkParallel(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("sparse/%d/index", n), func(b *testing.B) {
			s := setting(b, sparse, n)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				ask, n := s.matchers["index"](), 0
				var tree json.Tree
				r := search.NewResource(search.R4(), nil)
				for pb.Next() {
					if err := tree.Parse(s.events[n%len(s.events)], json.Limits{}); err != nil {
						b.Error(err)
						return
					}
					r.Reset(&tree, search.Envelope{})
					ask(r)
					n++
				}
			})
		})
	}
}

// BenchmarkRead measures parsing and reading alone: what every matcher pays.
func BenchmarkRead(b *testing.B) {
	s := setting(b, sparse, 1_000)
	var features []search.Feature
	for _, c := range s.criteria {
		for _, a := range c.Accesses() {
			if !slices.Contains(features, a.Feature) {
				features = append(features, a.Feature)
			}
		}
	}
	for _, read := range []bool{false, true} {
		b.Run(map[bool]string{false: "parse", true: "parse and read"}[read], func(b *testing.B) {
			var tree json.Tree
			r, n, bytes := search.NewResource(search.R4(), nil), 0, 0
			b.ReportAllocs()
			began := cpu()
			for b.Loop() {
				e := s.events[n%len(s.events)]
				if err := tree.Parse(e, json.Limits{}); err != nil {
					b.Fatal(err)
				}
				n++
				bytes += len(e)
				if !read {
					continue
				}
				r.Reset(&tree, search.Envelope{})
				for _, f := range features {
					if f.Ordered() {
						r.Range(f)
					} else {
						r.Hashes(f)
					}
				}
			}
			measured(b, began, n)
			b.ReportMetric(float64(bytes)/float64(n), "bytes/op")
		})
	}
}

func BenchmarkPut(b *testing.B) {
	s := setting(b, sparse, 10_000)
	for b.Loop() {
		indexed(s.criteria)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(s.criteria)), "ns/put")
}

var heapOnce sync.Once

func heap() int64 {
	heapOnce.Do(func() { search.R4() })
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestAHundredThousandSubscriptionsTakeLessThanAHundredMebibytes(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles 200,000 criteria; make test runs it")
	}
	const n = 100_000
	clear(scenes)
	for _, w := range []town{sparse, dense} {
		r := rand.New(rand.NewPCG(1, 2))
		before := heap()
		x := index.New()
		began := time.Now()
		for i := range n {
			// The text is part of what is kept: the criteria refers to it.
			x.Put(index.Entry{ID: fhir.ID(fmt.Sprintf("s%d", i)), Version: record.Sequence(i + 1), Interactions: all, Criteria: compile(t, w.criteria(r))})
		}
		took, size := time.Since(began), heap()-before
		_, groups := x.Size()
		t.Logf("%s: %.1f MiB, %d bytes a Subscription, %d distinct criteria, compiled and put in %v", w.name, float64(size)/(1<<20), size/n, groups, took.Round(time.Millisecond))
		if size > 100<<20 {
			t.Errorf("%s: %d bytes a Subscription", w.name, size/n)
		}
		runtime.KeepAlive(x)
	}
}
