package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// searchset is what a client reads of a page.
type searchset struct {
	Total *int
	Link  []struct{ Relation, URL string }
	Entry []struct {
		Search   struct{ Mode string }
		Resource struct{ ResourceType, ID string }
	}
}

func (s *searchset) next(t *testing.T) string {
	t.Helper()
	for _, l := range s.Link {
		if l.Relation == "next" {
			u, err := url.Parse(l.URL)
			if err != nil {
				t.Fatal(err)
			}
			return u.RequestURI()
		}
	}
	return ""
}

func observation(id, patient string) string {
	return `{"resourceType":"Observation","id":"` + id + `","status":"final","code":{"text":"x"},"subject":{"reference":"Patient/` + patient + `"}}`
}

// A client may ask each node of a cluster for the next page: the link holds where the walk stands
// in the log, so each resource is shown once, with what it refers to, whatever is written meanwhile.
func TestAWalkThroughPagesGoesOnAtEveryNode(t *testing.T) {
	c := harness.NewCluster(t, 3).Start(t)
	for i := range 4 {
		id := fmt.Sprintf("p%d", i)
		c.Nodes[i%3].MustDo(201, "PUT", "/fhir/Patient/"+id, patient(id, "N"))
	}
	for i := range 20 {
		id := fmt.Sprintf("o%02d", i)
		c.Nodes[i%3].MustDo(201, "PUT", "/fhir/Observation/"+id, observation(id, fmt.Sprintf("p%d", i%4)))
	}
	// What the other nodes were told is here once a write of this one is.
	c.Nodes[0].MustDo(201, "PUT", "/fhir/Observation/zz", observation("zz", "p0"))
	path, pages := "/fhir/Observation?status=final&_count=6&_sort=-_lastUpdated&_include=Observation:subject", 0
	var matches []string
	for ; path != ""; pages++ {
		var s searchset
		if err := json.Unmarshal(c.Nodes[pages%3].MustDo(200, "GET", path, "").Body, &s); err != nil {
			t.Fatal(err)
		}
		included := 0
		for _, e := range s.Entry {
			switch e.Search.Mode {
			case "match":
				matches = append(matches, e.Resource.ID)
			case "include":
				included++
			}
		}
		if included == 0 || included > 4 || s.Total == nil || *s.Total != 21 {
			t.Errorf("page %d: %d included, total %v", pages, included, s.Total)
		}
		path = s.next(t)
		c.Nodes[(pages+1)%3].MustDo(200, "PUT", "/fhir/Observation/o00", strings.Replace(observation("o00", "p1"), "final", "amended", pages%2))
	}
	want := []string{"zz"}
	for i := range 20 {
		want = append(want, fmt.Sprintf("o%02d", 19-i))
	}
	if pages != 4 || !slices.Equal(matches, want) {
		t.Errorf("%d pages show %v, want 4 with %v", pages, matches, want)
	}
}

// Of many conditional writes of one condition, at all nodes of a cluster at a time, one creates.
func TestConditionalWritesAtAllNodesMakeOneResource(t *testing.T) {
	c := harness.NewCluster(t, 3).Start(t)
	body := []byte(`{"resourceType":"Patient","name":[{"family":"Nova"}],"birthDate":"1980-01-01"}`)
	var mu sync.Mutex
	statuses := map[string]int{}
	var all sync.WaitGroup
	for i := range 18 {
		all.Go(func() {
			n, method, path, header := c.Nodes[i%3], "PUT", "/fhir/Patient?family=nova&birthdate=1980-01-01", []string(nil)
			if i%2 == 0 {
				method, path, header = "POST", "/fhir/Patient", []string{"If-None-Exist", "birthdate=1980-01-01&family=Nova"}
			}
			a, err := n.Do(t.Context(), method, path, body, header...)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || a.Status != 200 && a.Status != 201 {
				t.Errorf("%s: %d %v %s", method, a.Status, err, a.Body)
			}
			statuses[fmt.Sprint(a.Status)]++
		})
	}
	all.Wait()
	if statuses["201"] != 1 {
		t.Errorf("answers %v, want one 201", statuses)
	}
	for _, n := range c.Nodes {
		a := n.MustDo(200, "PUT", "/fhir/Patient?family=nova", `{"resourceType":"Patient","name":[{"family":"Nova"}],"birthDate":"1980-01-01"}`)
		if !strings.Contains(string(a.Body), "Nova") {
			t.Errorf("%s", a.Body)
		}
	}
}
