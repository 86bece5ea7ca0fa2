package node

import (
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/node/api"
)

func TestWhoDidWhatCannotBeChangedOrDeleted(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	r.do(201, "PUT", "/fhir/Subscription/s", subscriptionTo("s", "Patient?", endpoint(t, 200)), nil)
	all, b := r.audits("?entity=Subscription/s")
	if len(all) != 1 || !api.IsOrder(fhir.Key{Type: "AuditEvent", ID: fhir.ID(all[0].ID)}) {
		t.Fatalf("told as %+v", all)
	}
	at := "/fhir/AuditEvent/" + all[0].ID
	forged := `{"resourceType":"AuditEvent","id":"` + all[0].ID + `","action":"R"}`
	r.do(403, "PUT", at, forged, nil)
	r.do(403, "DELETE", at, "", nil)
	r.do(403, "DELETE", "/fhir/AuditEvent?_id="+all[0].ID, "", nil)
	r.do(403, "POST", "/fhir/$feed", forged, nil)
	r.do(403, "POST", "/fhir", `{"resourceType":"Bundle","type":"transaction","entry":[{"request":{"method":"DELETE","url":"AuditEvent/`+all[0].ID+`"}}]}`, nil)
	if status, body := r.send("PATCH", at, `[{"op":"remove","path":"/agent"}]`, "Content-Type: application/json-patch+json"); status != 403 {
		t.Errorf("a patch is answered %d: %s", status, body)
	}
	r.do(200, "PUT", at, string(b.Entry[0].Resource), nil) // changes nothing
	var now auditOf
	r.do(200, "GET", at, "", &now)
	if now.Action != "C" || len(now.Agent) != 1 {
		t.Errorf("it is now %+v", now)
	}

	// Another Carillon's, and what is no record of an order.
	r.do(201, "PUT", "/fhir/AuditEvent/rest-aaaaaaaaaaaaaaaaaaaaaaaaaa", `{"resourceType":"AuditEvent","id":"rest-aaaaaaaaaaaaaaaaaaaaaaaaaa"}`, nil)
	r.do(201, "PUT", "/fhir/AuditEvent/rest-1", `{"resourceType":"AuditEvent","id":"rest-1"}`, nil)
	r.do(200, "PUT", "/fhir/AuditEvent/rest-1", `{"resourceType":"AuditEvent","id":"rest-1","action":"R"}`, nil)
	r.do(204, "DELETE", "/fhir/AuditEvent/rest-1", "", nil)
}
