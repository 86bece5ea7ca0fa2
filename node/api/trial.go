package api

import (
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// TestResult is how a test notification was answered.
type TestResult struct {
	Subscription fhir.ID     `json:"subscription"`
	Status       string      `json:"status"`               // of the Subscription
	Resource     string      `json:"resource"`             // Type/id that was sent
	Example      bool        `json:"example,omitempty"`    // it is a made-up one: none matches
	Matches      *bool       `json:"matches,omitempty"`    // the Subscription would hear of it; absent where that is not known
	WebhookID    string      `json:"webhookId"`            // of the notification
	Outcome      record.Code `json:"outcome"`              // accepted, or why not
	HTTPStatus   int         `json:"httpStatus,omitempty"` // of the answer
	TookMS       float64     `json:"tookMs"`
	Response     string      `json:"response,omitempty"` // first bytes of the answer, cleaned
	Error        string      `json:"error,omitempty"`
}

// adminTest is POST /admin/api/v1/subscriptions/{id}/test.
func (s *server) adminTest(c *call) error {
	id, err := c.idOf()
	if err != nil {
		return err
	}
	var body struct {
		Resource string `json:"resource"` // Type/id; empty for the newest that matches
	}
	if c.r.ContentLength != 0 {
		if err := s.readObject(c, &body); err != nil {
			return err
		}
	}
	var key fhir.Key
	if body.Resource != "" {
		if key, err = fhir.ParseKey(body.Resource); err != nil {
			return badRequest("resource is of the form Type/id")
		}
		if err := s.hasType(key.Type); err != nil {
			return err
		}
		c.about(key.String())
	}
	item, err := s.admin.Test(c.r.Context(), id, key, c.token.ID)
	return one(c, item, err)
}
