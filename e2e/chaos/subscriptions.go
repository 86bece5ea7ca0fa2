package chaos

import "fmt"

// Subscription is one subscriber of a run. Wants is its criteria as this package reads it; the
// checker relies on it, so it shares no code with the matcher.
type Subscription struct {
	ID        string
	Criteria  string
	Extension string // of the channel, as JSON; may be empty
	Behaviour Behaviour
	Deletes   bool // wants deletes, too; its criteria then names a type and no more
	Mortal    bool // gives up after three attempts, so it may have dead letters
	Wants     func(resource) bool

	// Other is a second criteria, where the Subscription is changed to and fro during the run,
	// and WantsOther how this package reads it.
	Other      string
	WantsOther func(resource) bool
}

// variant is the Subscription with its first criteria (0) or with the other one (1).
func (s Subscription) variant(v int) Subscription {
	if v == 1 {
		s.Criteria, s.Wants = s.Other, s.WantsOther
	}
	return s
}

// resource is the content of a resource as plain JSON.
type resource map[string]any

func (r resource) is(typ string) bool { return r["resourceType"] == typ }

const (
	glucose = "15074-8"
	sodium  = "2951-2"
)

// subscriptions are those of every run. Their Subscriptions differ in what their criteria asks
// and in how their endpoints answer.
func subscriptions() []Subscription {
	const hapi = "http://hapifhir.io/fhir/StructureDefinition/"
	return []Subscription{
		{
			ID: "every-patient", Criteria: "Patient?", Behaviour: Quick,
			Wants: func(r resource) bool { return r.is("Patient") },
		},
		{
			ID: "active-patient", Criteria: "Patient?active=true", Behaviour: Flaky,
			Wants: func(r resource) bool { return r.is("Patient") && r["active"] == true },
		},
		{
			ID: "final-glucose", Criteria: "Observation?status=final&code=http://loinc.org|" + glucose, Behaviour: Quick,
			Wants: func(r resource) bool { return r.is("Observation") && r["status"] == "final" && code(r) == glucose },
		},
		{
			ID: "high-value", Criteria: "Observation?value-quantity=gt7", Behaviour: Quick,
			Wants: func(r resource) bool { return r.is("Observation") && quantity(r) > 7 },
		},
		{
			ID: "every-encounter", Criteria: "Encounter?", Behaviour: Slow, Deletes: true,
			Extension: fmt.Sprintf(`{"url":%q,"valueBoolean":true}`, hapi+"subscription-send-delete-messages"),
			Wants:     func(r resource) bool { return r.is("Encounter") },
		},
		{
			ID: "finished-encounter", Criteria: "Encounter?status=finished", Behaviour: Quick, Mortal: true,
			Extension: fmt.Sprintf(`{"url":%q,"valueInteger":3}`, hapi+"subscription-delivery-retry-count"),
			Wants:     func(r resource) bool { return r.is("Encounter") && r["status"] == "finished" },
		},
		{
			ID: "changing", Criteria: "Patient?active=true", Other: "Patient?active=false", Behaviour: Quick,
			Wants:      func(r resource) bool { return r.is("Patient") && r["active"] == true },
			WantsOther: func(r resource) bool { return r.is("Patient") && r["active"] == false },
		},
	}
}

func code(r resource) any {
	c, _ := r["code"].(map[string]any)
	codings, _ := c["coding"].([]any)
	if len(codings) == 0 {
		return nil
	}
	coding, _ := codings[0].(map[string]any)
	return coding["code"]
}

func quantity(r resource) float64 {
	q, _ := r["valueQuantity"].(map[string]any)
	v, _ := q["value"].(float64)
	return v
}

// json is the Subscription as a HAPI user writes it.
func (s Subscription) json(endpoint string) string {
	extension := ""
	if s.Extension != "" {
		extension = `"extension":[` + s.Extension + `],`
	}
	return fmt.Sprintf(`{"resourceType":"Subscription","id":%q,"status":"requested","reason":"chaos","criteria":%q,`+
		`"channel":{%s"type":"rest-hook","endpoint":%q,"payload":"application/fhir+json"}}`,
		s.ID, s.Criteria, extension, endpoint+"/"+s.ID)
}

// senders is how many notifications of one Subscription a node may have out at once, by
// default; a node that ends may leave so many of each that arrive again.
const senders = 8
