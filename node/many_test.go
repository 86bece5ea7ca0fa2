package node

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/deliver/delivertest"
)

// Medplum evaluates the first 1,000 active Subscriptions of a project, and says nothing of the rest; HAPI
// loads 10,000. Here every one hears.
func TestEverySubscriptionHearsHoweverManyThereAre(t *testing.T) {
	t.Parallel()
	quietClients(t)
	r := runNode(t, testConfig(t.TempDir()))
	e := delivertest.NewEndpoint(t)
	const many = 1100
	var entries []string
	for i := range many {
		id := fmt.Sprintf("many%d", i)
		entries = append(entries, fmt.Sprintf(`{"resource":%s,"request":{"method":"PUT","url":"Subscription/%s"}}`, subscriptionTo(id, "Patient?", e.URL), id))
	}
	r.do(200, "POST", "/fhir", `{"resourceType":"Bundle","type":"batch","entry":[`+strings.Join(entries, ",")+`]}`, nil)
	r.put(201, `{"resourceType":"Patient","id":"p"}`)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	told := map[string]bool{}
	for _, req := range e.Await(ctx, many) {
		told[req.Header.Get("X-Carillon-Subscription")] = true
	}
	if len(told) != many {
		t.Errorf("%d Subscriptions of %d were told", len(told), many)
	}
}
