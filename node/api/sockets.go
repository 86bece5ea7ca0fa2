package api

import (
	"net/http"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// Sockets serves classic websockets.
type Sockets interface {
	// Serve takes the connection of a request over and returns when the websocket has ended. The
	// request was let in with the token of this id, empty where no login is asked. A refusal is
	// one from before there was a websocket.
	Serve(w http.ResponseWriter, r *http.Request, token string) error
}

// websocket is GET /websocket.
func (s *server) websocket(c *call) error {
	if err := s.checkOrigin(c.r); err != nil {
		return err
	}
	if !opensWebsocket(c.r) {
		return &refusal{status: http.StatusUpgradeRequired,
			err:    fhir.Refuse(fhir.IssueProcessing, "", "this address speaks websocket: connect with ws:// or wss:// and send bind ID"),
			header: http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}}}
	}
	return s.sockets.Serve(&c.w, c.r, c.token.ID)
}

func opensWebsocket(r *http.Request) bool {
	return hasToken(r.Header.Values("Connection"), "upgrade") && hasToken(r.Header.Values("Upgrade"), "websocket")
}

// hasToken reports whether a header that is a list of words has one of them.
func hasToken(header []string, word string) bool {
	for part := range strings.SplitSeq(strings.Join(header, ","), ",") {
		if strings.EqualFold(strings.TrimSpace(part), word) {
			return true
		}
	}
	return false
}

// bearerProtocol stands before an API token in Sec-WebSocket-Protocol.
const bearerProtocol = "bearer."

// socketSecret is the token that a websocket is opened with where a script could set no
// Authorization header: browsers let it name subprotocols and nothing else,
//
//	new WebSocket("wss://host/websocket", ["carillon", "bearer." + token])
//
// The address is no place for a token: it stands in the logs of every proxy on the way.
func socketSecret(r *http.Request) (secret string, err error) {
	if r.URL.Query().Has("access_token") {
		return "", badRequest("a token in the address would be in the logs of all on the way: send it as header Authorization: Bearer TOKEN, or from a browser as subprotocol: new WebSocket(url, [\"carillon\", \"bearer.\" + TOKEN])")
	}
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Sec-WebSocket-Protocol"), ","), ",") {
		if secret, ok := strings.CutPrefix(strings.TrimSpace(part), bearerProtocol); ok {
			return secret, nil
		}
	}
	return "", nil
}

// withWebsocket tells in a statement of withSearch, whose rest is a copy, where clients connect to
// (FHIR R4, extension capabilitystatement-websocket).
func (s *server) withWebsocket(statement map[string]any, r *http.Request) {
	statement["rest"].([]map[string]any)[0]["extension"] = []map[string]any{{
		"url":      "http://hl7.org/fhir/StructureDefinition/capabilitystatement-websocket",
		"valueUri": "ws" + strings.TrimPrefix(s.origin(r), "http") + "/websocket",
	}}
}
