package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// noSockets lets everybody in and tells who it was.
type noSockets struct{}

func (noSockets) Serve(w http.ResponseWriter, _ *http.Request, token string) error {
	w.Header().Set("Opened-By", token)
	w.WriteHeader(http.StatusSwitchingProtocols)
	return nil
}

const app = "https://app.example.org"

func withOrigins(list ...string) func(*Config) {
	return func(c *Config) { c.Origins, c.Sockets = list, noSockets{} }
}

func withLogin(c *Config) { c.Tokens = &fakeTokens{} }

func allowed(w *httptest.ResponseRecorder) string {
	return w.Header().Get("Access-Control-Allow-Origin")
}

func TestPagesOfListedOriginsMayUseFHIR(t *testing.T) {
	s := open(t, withOrigins(app, "http://localhost:3000"), withLogin)
	w := s.must(204, "OPTIONS", "/fhir/Patient/p1", "", "Origin: "+app,
		"Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: authorization,content-type,if-match")
	h := w.Header()
	if allowed(w) != app || h.Get("Access-Control-Allow-Credentials") != "" || h.Get("Vary") != "Origin" {
		t.Errorf("preflight: %v", h)
	}
	for _, want := range []string{"PUT", "DELETE", "PATCH"} {
		if !strings.Contains(h.Get("Access-Control-Allow-Methods"), want) {
			t.Errorf("%s may not be used", want)
		}
	}
	for _, want := range []string{"Authorization", "Content-Type", "If-Match", "Prefer"} {
		if !strings.Contains(h.Get("Access-Control-Allow-Headers"), want) {
			t.Errorf("%s may not be sent", want)
		}
	}
	w = s.must(201, "PUT", "/fhir/Patient/p1", patient, "Origin: "+app, "Authorization: Bearer admin")
	for _, want := range []string{"ETag", "Location", "Last-Modified", "Content-Location"} {
		if !strings.Contains(w.Header().Get("Access-Control-Expose-Headers"), want) {
			t.Errorf("%s is not shown", want)
		}
	}
	if allowed(w) != app {
		t.Errorf("answer: %v", w.Header())
	}
	// A refusal is readable too.
	if w := s.must(401, "GET", "/fhir/Patient/p1", "", "Origin: http://localhost:3000"); allowed(w) != "http://localhost:3000" {
		t.Errorf("refusal: %v", w.Header())
	}
	if w := s.must(404, "GET", "/fhir/R5/Patient", "", "Origin: "+app); allowed(w) != app {
		t.Errorf("refusal of an alias: %v", w.Header())
	}
}

func TestPagesOfOtherOriginsMayNot(t *testing.T) {
	for _, tc := range []struct {
		name           string
		origins        []string
		path, origin   string
		login, without bool
	}{
		{"none is listed", nil, "/fhir/metadata", app, true, true},
		{"another", []string{app}, "/fhir/metadata", "https://evil.example.org", true, true},
		{"one that begins alike", []string{app}, "/fhir/metadata", app + ".evil.example", true, true},
		{"another scheme", []string{app}, "/fhir/metadata", "http://app.example.org", true, true},
		{"another port", []string{app}, "/fhir/metadata", app + ":8443", true, true},
		{"a file", []string{app}, "/fhir/metadata", "null", true, true},
		{"administration", []string{app}, "/admin/api/v1/status", app, true, true},
		{"administration, for all", []string{"*"}, "/admin/api/v1/status", app, true, true},
		// Every page in the operator's browser could read everything.
		{"all, while no login is asked", []string{"*"}, "/fhir/metadata", app, false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, login := range []bool{true, false} {
				if login && !tc.login || !login && !tc.without {
					continue
				}
				s := open(t, withOrigins(tc.origins...))
				if login {
					s = open(t, withOrigins(tc.origins...), withLogin)
				}
				for _, method := range []string{"GET", "OPTIONS"} {
					if w := s.do(method, tc.path, "", "Origin: "+tc.origin, "Access-Control-Request-Method: GET"); allowed(w) != "" {
						t.Errorf("login %v: %s is allowed for %q", login, method, allowed(w))
					}
				}
				s.must(405, "OPTIONS", tc.path, "", "Origin: "+tc.origin, "Access-Control-Request-Method: GET")
			}
		})
	}
}

func TestEveryOriginIsAllowedOnceThereIsALogin(t *testing.T) {
	s := open(t, withOrigins("*"), withLogin)
	w := s.must(204, "OPTIONS", "/fhir", "", "Origin: "+app, "Access-Control-Request-Method: POST")
	if allowed(w) != "*" {
		t.Errorf("%v", w.Header())
	}
}

// Without a login a listed page may write FHIR, and nothing else.
func TestWithoutTokensListedPagesMayWrite(t *testing.T) {
	s := open(t, withOrigins(app))
	cross := []string{"Sec-Fetch-Site: cross-site", "Origin: " + app}
	s.must(201, "PUT", "/fhir/Patient/p1", patient, cross...)
	s.must(403, "POST", "/admin/api/v1/subscriptions/s/pause", "", cross...)
	s.must(403, "PUT", "/fhir/Patient/p1", patient, "Sec-Fetch-Site: cross-site", "Origin: https://evil.example.org")
	all := open(t, withOrigins("*"))
	all.must(403, "PUT", "/fhir/Patient/p1", patient, cross...)
}

var upgrade = []string{"Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}

func upgradeWith(headers ...string) []string { return append(headers, upgrade...) }

func TestWhoMayOpenAWebsocket(t *testing.T) {
	for _, tc := range []struct {
		name    string
		origins []string
		login   bool
		path    string
		headers []string
		status  int
		token   string
	}{
		{"no browser", nil, false, "/websocket", upgrade, 101, ""},
		{"a page of ours", nil, false, "/websocket", upgradeWith("Origin: http://127.0.0.1:8080"), 101, ""},
		{"another page", nil, false, "/websocket", upgradeWith("Origin: " + app), 403, ""},
		{"another page, by its own account", nil, false, "/websocket", upgradeWith("Origin: null"), 403, ""},
		{"a listed page", []string{app}, false, "/websocket", upgradeWith("Origin: " + app), 101, ""},
		{"all pages, without login", []string{"*"}, false, "/websocket", upgradeWith("Origin: " + app), 403, ""},
		{"all pages, with login", []string{"*"}, true, "/websocket", upgradeWith("Origin: "+app, "Authorization: Bearer reader"), 101, "t-reader"},
		{"another machine, without login", nil, false, "/websocket", upgradeWith("Remote: 10.0.0.1:5"), 403, ""},
		{"no token", nil, true, "/websocket", upgrade, 401, ""},
		{"wrong token", nil, true, "/websocket", upgradeWith("Authorization: Bearer x"), 401, ""},
		{"token in the header", nil, true, "/websocket", upgradeWith("Authorization: Bearer producer"), 101, "t-producer"},
		{"token as subprotocol", nil, true, "/websocket", upgradeWith("Sec-WebSocket-Protocol: carillon, bearer.reader"), 101, "t-reader"},
		{"wrong token as subprotocol", nil, true, "/websocket", upgradeWith("Sec-WebSocket-Protocol: carillon, bearer.x"), 401, ""},
		{"token in the address", nil, true, "/websocket?access_token=reader", upgrade, 400, ""},
		{"no upgrade", nil, false, "/websocket", nil, 426, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t, withOrigins(tc.origins...))
			if tc.login {
				s = open(t, withOrigins(tc.origins...), withLogin)
			}
			w := s.must(tc.status, "GET", tc.path, "", tc.headers...)
			if got := w.Header().Get("Opened-By"); got != tc.token {
				t.Errorf("opened by %q, want %q", got, tc.token)
			}
			if tc.status != 101 {
				issue(t, w)
			}
		})
	}
}

func TestTheStatementTellsWhereWebsocketsAre(t *testing.T) {
	const url = `"valueUri":"ws://127.0.0.1:8080/websocket"`
	s := open(t, withOrigins())
	if w := s.must(200, "GET", "/fhir/metadata", ""); !strings.Contains(w.Body.String(), url) {
		t.Errorf("not in %s", w.Body)
	}
	s = open(t, withOrigins(), func(c *Config) { c.PublicURL = "https://carillon.example.org/" })
	if w := s.must(200, "GET", "/fhir/metadata", ""); !strings.Contains(w.Body.String(), `"wss://carillon.example.org/websocket"`) {
		t.Errorf("not in %s", w.Body)
	}
	if w := open(t).must(200, "GET", "/fhir/metadata", ""); strings.Contains(w.Body.String(), "/websocket") {
		t.Error("there are none, and the statement names them")
	}
}
