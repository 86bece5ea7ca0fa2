package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

// A definition that one node has acknowledged is known to every node that is asked a moment later,
// and all nodes match by what stands in the log, after a restart as before.
func TestADefinitionThatOneNodeTookCountsAtEveryNode(t *testing.T) {
	c := harness.NewCluster(t, 3).Start(t)
	e := harness.NewEndpoint(t)
	parameter := func(i int) string {
		return fmt.Sprintf(`{"resourceType":"SearchParameter","id":"p%d","url":"http://example.org/p%d","name":"p%d","status":"active",`+
			`"description":"x","code":"x-%d","base":["Patient"],"type":"string","expression":"Patient.extension('http://example.org/x%d').value"}`, i, i, i, i, i)
	}
	composite := func(i int) string {
		part := fmt.Sprintf(`{"definition":"http://example.org/p%d","expression":"value"}`, i)
		return fmt.Sprintf(`{"resourceType":"SearchParameter","id":"c%d","url":"http://example.org/c%d","name":"c%d","status":"active","description":"x",`+
			`"code":"c-%d","base":["Patient"],"type":"composite","expression":"Patient.extension('http://example.org/x%d')","component":[%s,%s]}`, i, i, i, i, i, part, part)
	}
	marked := func(id string, i int) string {
		return fmt.Sprintf(`{"resourceType":"Patient","id":%q,"extension":[{"url":"http://example.org/x%d","valueString":"yes"}]}`, id, i)
	}
	const n = 12
	for i := range n {
		c.Nodes[i%3].MustDo(201, "PUT", "/fhir/SearchParameter/p"+strconv.Itoa(i), parameter(i))
		c.Nodes[(i+1)%3].MustDo(201, "PUT", "/fhir/SearchParameter/c"+strconv.Itoa(i), composite(i))
		id := fmt.Sprintf("s%d", i)
		c.Nodes[(i+1)%3].MustDo(201, "PUT", "/fhir/Subscription/"+id, subscription(id, fmt.Sprintf("Patient?x-%d=yes", i), e.URL+"/"+id))
		c.Nodes[(i+2)%3].MustDo(201, "PUT", "/fhir/Patient/a"+strconv.Itoa(i), marked("a"+strconv.Itoa(i), i))
	}
	once := func(prefix string) func([]harness.Arrival) bool {
		return func(as []harness.Arrival) bool {
			got := 0
			for _, a := range as {
				id, of, _ := strings.Cut(strings.TrimPrefix(a.Path, "/s"), "/Patient/"+prefix)
				if of == "" {
					continue
				}
				if id != of {
					t.Fatalf("%s arrived", a.Path)
				}
				got++
			}
			return got == n
		}
	}
	e.Await(t, 30*time.Second, "what each Subscription asked for", once("a"))

	c.Kill()
	c.Start(t)
	for i := range n {
		c.Nodes[i%3].MustDo(201, "PUT", "/fhir/Patient/b"+strconv.Itoa(i), marked("b"+strconv.Itoa(i), i))
	}
	e.Await(t, 60*time.Second, "the same after a restart", once("b"))
}
