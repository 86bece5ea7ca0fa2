package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir/record"
)

// DeliveryAdmin steers sending as a whole.
type DeliveryAdmin interface {
	// Delivery tells whether anything is sent, and how the endpoints are, of all nodes.
	Delivery(ctx context.Context) (Delivery, error)
	// StopDelivery halts all sending on all nodes until StartDelivery, restarts included. What is
	// on its way ends; changes are taken and matched, and their notifications wait. Doing either
	// a second time changes nothing.
	StopDelivery(ctx context.Context, reason, by string) (Delivery, error)
	StartDelivery(ctx context.Context, by string) (Delivery, error)
	// ResetBreaker closes the breaker of an endpoint, named as Delivery names it, on all nodes. One
	// that is not open is IssueNotFound.
	ResetBreaker(ctx context.Context, endpoint, by string) (Delivery, error)
}

// Sending says whether all sending is stopped.
type Sending struct {
	Stopped bool      `json:"stopped"`
	Since   time.Time `json:"since,omitzero"`   // when it was stopped or started last
	By      string    `json:"by,omitempty"`     // token id of who did it
	Reason  string    `json:"reason,omitempty"` // as it was given
}

// Delivery is how sending is, over all nodes.
type Delivery struct {
	Sending
	Pending      int             `json:"pending"`
	OpenBreakers int             `json:"openBreakers"`
	Endpoints    []EndpointState `json:"endpoints"`
	Errors       []string        `json:"errors"` // nodes that did not answer
}

// EndpointState is what the nodes together know of an endpoint that they send to.
type EndpointState struct {
	Endpoint    string      `json:"endpoint"` // scheme, host and port
	Breaker     string      `json:"breaker"`  // closed, open
	Since       time.Time   `json:"since,omitzero"`
	NextTry     time.Time   `json:"nextTry,omitzero"`
	Failures    int         `json:"failures"` // in a row
	LastOutcome record.Code `json:"lastOutcome,omitempty"`
	Out         int         `json:"out"`     // requests on their way
	Waiting     int         `json:"waiting"` // Subscriptions that wait for a limit or the breaker
	Concurrency int         `json:"concurrency,omitempty"`
	Rate        float64     `json:"rate,omitempty"`
}

// Complete has empty arrays where there would be null.
func (d Delivery) Complete() Delivery {
	d.Endpoints, d.Errors = full(d.Endpoints), full(d.Errors)
	return d
}

// maxReason bounds the text that a stop is given.
const maxReason = 200

func (s *server) adminDelivery(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	d, err := s.admin.Delivery(c.r.Context())
	return one(c, d.Complete(), err)
}

func (s *server) adminStopDelivery(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	var body struct {
		Reason string `json:"reason"`
	}
	if c.r.ContentLength != 0 {
		if err := s.readObject(c, &body); err != nil {
			return err
		}
	}
	if len(body.Reason) > maxReason || body.Reason != printable(body.Reason) {
		return badRequest("reason is one line of at most 200 bytes")
	}
	d, err := s.admin.StopDelivery(c.r.Context(), strings.TrimSpace(body.Reason), c.token.ID)
	return one(c, d.Complete(), err)
}

func (s *server) adminStartDelivery(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	d, err := s.admin.StartDelivery(c.r.Context(), c.token.ID)
	return one(c, d.Complete(), err)
}

func (s *server) adminResetBreaker(c *call) error {
	if err := c.params().err; err != nil {
		return err
	}
	var body struct {
		Endpoint string `json:"endpoint"`
	}
	if err := s.readObject(c, &body); err != nil {
		return err
	}
	if body.Endpoint == "" {
		return badRequest("endpoint is scheme, host and port, such as https://host.example.org:443")
	}
	d, err := s.admin.ResetBreaker(c.r.Context(), body.Endpoint, c.token.ID)
	return one(c, d.Complete(), err)
}

// deliveryRoutes are those of DeliveryAdmin.
var deliveryRoutes = []route{
	{http.MethodGet + " /admin/api/v1/delivery", faceJSON, (*server).adminDelivery},
	{http.MethodPost + " /admin/api/v1/delivery/stop", faceJSON, (*server).adminStopDelivery},
	{http.MethodPost + " /admin/api/v1/delivery/start", faceJSON, (*server).adminStartDelivery},
	{http.MethodPost + " /admin/api/v1/delivery/reset", faceJSON, (*server).adminResetBreaker},
}
