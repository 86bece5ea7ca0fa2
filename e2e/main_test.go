package e2e

import (
	"os"
	"testing"

	"github.com/carillon-fhir/carillon/e2e/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.Clean()
	os.Exit(code)
}

// subscription is a rest-hook Subscription in the form that HAPI's users have.
func subscription(id, criteria, endpoint string) string {
	return `{"resourceType":"Subscription","id":"` + id + `","status":"requested","reason":"test",` +
		`"criteria":"` + criteria + `","channel":{"type":"rest-hook","endpoint":"` + endpoint +
		`","payload":"application/fhir+json"}}`
}

// patient is a small resource that changes with its family name.
func patient(id, family string) string {
	return `{"resourceType":"Patient","id":"` + id + `","active":true,"name":[{"family":"` + family + `"}]}`
}
