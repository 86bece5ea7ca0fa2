package api

import (
	"net/http"
)

// route is an address with a method, and what it does. Every one needs a line in policy.
type route struct {
	pattern string // of http.ServeMux
	face    face
	serve   func(*server, *call) error
}

// routes lists everything that is answered. A pattern with GET answers HEAD as well.
func (s *server) routes() []route {
	rs := []route{
		{"GET /livez", facePlain, (*server).livez},
		{"GET /readyz", facePlain, (*server).readyz},
		{"GET /.well-known/jwks.json", facePlain, (*server).jwks},

		{"GET /fhir/metadata", faceFHIR, (*server).metadata},
		{"POST /fhir", faceFHIR, (*server).bundle},
		{"POST /fhir/$feed", faceFHIR, (*server).feedEvent},
		{"POST /fhir/$ingest", faceFHIR, (*server).ingest},
		{"GET /fhir/{Type}", faceFHIR, (*server).search},
		{"POST /fhir/{Type}/_search", faceFHIR, (*server).searchForm},
		{"POST /fhir/{Type}", faceFHIR, (*server).create},
		{"PUT /fhir/{Type}", faceFHIR, (*server).conditionalUpdate},
		{"PATCH /fhir/{Type}", faceFHIR, (*server).conditionalPatch},
		{"DELETE /fhir/{Type}", faceFHIR, (*server).conditionalDelete},
		{"GET /fhir/{Type}/{id}", faceFHIR, (*server).read},
		{"PUT /fhir/{Type}/{id}", faceFHIR, (*server).update},
		{"PATCH /fhir/{Type}/{id}", faceFHIR, (*server).patch},
		{"DELETE /fhir/{Type}/{id}", faceFHIR, (*server).delete},
		{"GET /fhir/{Type}/{id}/_history", faceFHIR, (*server).history},
		{"GET /fhir/{Type}/{id}/_history/{vid}", faceFHIR, (*server).vread},
		{"POST /fhir/{Type}/{id}/$resend", faceFHIR, (*server).resend},
		{"POST /fhir/Subscription/$trigger-subscription", faceFHIR, (*server).trigger},
		{"POST /fhir/Subscription/{id}/$trigger-subscription", faceFHIR, (*server).trigger},
		{"GET /fhir/Subscription/{id}/$explain", faceFHIR, (*server).explain},
		{"POST /fhir/Subscription/{id}/$explain", faceFHIR, (*server).explain},
		{"POST /fhir/Subscription/$explain", faceFHIR, (*server).explainUnsaved},
		{"POST /fhir/Subscription/$validate", faceFHIR, (*server).validate},

		{"GET /admin/api/v1/subscriptions", faceJSON, (*server).adminSubscriptions},
		{"GET /admin/api/v1/subscriptions/{id}", faceJSON, (*server).adminSubscription},
		{"POST /admin/api/v1/subscriptions/{id}/pause", faceJSON, (*server).adminPause},
		{"POST /admin/api/v1/subscriptions/{id}/resume", faceJSON, (*server).adminResume},
		{"POST /admin/api/v1/subscriptions/{id}/secret", faceJSON, (*server).adminRotateSecret},
		{"POST /admin/api/v1/keys/rotate", faceJSON, (*server).adminRotateKeys},
		{"POST /admin/api/v1/subscriptions/{id}/test", faceJSON, (*server).adminTest},
		{"GET /admin/api/v1/subscriptions/{id}/events", faceJSON, (*server).adminEvents},
		{"GET /admin/api/v1/dlq", faceJSON, (*server).adminDeadLetters},
		{"GET /admin/api/v1/dlq/{id}", faceJSON, (*server).adminDeadLetter},
		{"POST /admin/api/v1/dlq/replay", faceJSON, (*server).adminReplay},
		{"POST /admin/api/v1/dlq/purge", faceJSON, (*server).adminPurge},
		{"GET /admin/api/v1/jobs", faceJSON, (*server).adminJobs},
		{"GET /admin/api/v1/jobs/{id}", faceJSON, (*server).adminJob},
		{"POST /admin/api/v1/jobs/{id}/cancel", faceJSON, (*server).adminCancelJob},
		{"POST /admin/api/v1/trigger", faceJSON, (*server).adminTrigger},
		{"GET /admin/api/v1/attempts", faceJSON, (*server).adminAttempts},
		{"GET /admin/api/v1/tokens", faceJSON, (*server).adminTokens},
		{"POST /admin/api/v1/tokens", faceJSON, (*server).adminCreateToken},
		{"DELETE /admin/api/v1/tokens/{id}", faceJSON, (*server).adminRevokeToken},
		{"GET /admin/api/v1/consumers", faceJSON, (*server).adminConsumers},
		{"POST /admin/api/v1/consumers", faceJSON, (*server).adminCreateConsumer},
		{"DELETE /admin/api/v1/consumers/{stream}/{name}", faceJSON, (*server).adminDeleteConsumer},
		{"GET /admin/api/v1/status", faceJSON, (*server).adminStatus},
		{"GET /admin/api/v1/config", faceJSON, (*server).adminConfig},
		{"POST /admin/api/v1/config/reload", faceJSON, (*server).adminReload},
		{"GET /admin/api/v1/cluster", faceJSON, (*server).adminCluster},
		{"POST /admin/api/v1/cluster/drain", faceJSON, (*server).adminDrain},
		{"POST /admin/api/v1/cluster/verify", faceJSON, (*server).adminVerify},
		{"POST /admin/api/v1/explain", faceJSON, (*server).adminExplain},
		{"POST /admin/api/v1/resend", faceJSON, (*server).adminResend},
	}
	if s.sockets != nil {
		rs = append(rs, route{"GET /websocket", facePlain, (*server).websocket})
	}
	rs = append(rs, deliveryRoutes...)
	if s.metrics != nil {
		rs = append(rs, route{"GET /metrics", facePlain, (*server).showMetrics})
	}
	return rs
}

// livez says that the process answers; a supervisor restarts it when it does not.
func (s *server) livez(c *call) error {
	return c.sendJSON(http.StatusOK, map[string]string{"status": "alive"})
}

// readiness is the answer of /readyz.
type readiness struct {
	Ready    bool     `json:"ready"`
	Reason   string   `json:"reason,omitempty"`
	Warnings []string `json:"warnings"`
}

// readyz says whether the node can do its work; a load balancer sends requests elsewhere while
// it cannot.
func (s *server) readyz(c *call) error {
	warnings, err := s.ready(c.r.Context())
	r := readiness{Ready: err == nil, Warnings: append([]string{}, warnings...)}
	status := http.StatusOK
	if err != nil {
		r.Reason, status = err.Error(), http.StatusServiceUnavailable
	}
	return c.sendJSON(status, r)
}

func (s *server) showMetrics(c *call) error {
	s.metrics.ServeHTTP(&c.w, c.r)
	return nil
}
