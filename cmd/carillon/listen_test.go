package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestListenPrintsAndAnswersAsTold(t *testing.T) {
	var out bytes.Buffer
	r := &receiver{w: &out, status: 202, fail: 1}
	send := func(method, path, body string, header ...string) int {
		req := httptest.NewRequest(method, path, strings.NewReader(body))
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		return w.Code
	}
	tests := []struct {
		name, method, path, body string
		header                   []string
		status                   int
		want                     string // the line without its time
	}{
		{"the first fails", "PUT", "/hook/Patient/p", `{"resourceType":"Patient","id":"p"}`,
			[]string{"X-Carillon-Subscription", "a1", "X-Carillon-Event", "17", "X-Carillon-Attempt", "2"}, 500,
			"PUT /hook/Patient/p  Patient/p  subscription=a1  event=17  attempt=2  35 bytes  answered 500"},
		{"delete of the fhir style", "DELETE", "/hook/Patient/p", "", nil, 202, "DELETE /hook/Patient/p  Patient/p (deleted)  0 bytes  answered 202"},
		{"delete of the webhook style", "POST", "/hook", "{}", []string{"X-Medplum-Deleted-Resource", "Patient/q"}, 202,
			"POST /hook  Patient/q (deleted)  2 bytes  answered 202"},
		{"empty", "POST", "/hook", "", nil, 202, "POST /hook  (no resource)  0 bytes  answered 202"},
		{"what would steer a terminal", "POST", "/hook", `{"resourceType":"\u001b[31mX","id":"1"}`, nil, 202,
			"POST /hook   [31mX/1  39 bytes  answered 202"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out.Reset()
			if status := send(tt.method, tt.path, tt.body, tt.header...); status != tt.status {
				t.Errorf("answered %d", status)
			}
			_, line, _ := strings.Cut(strings.TrimSuffix(out.String(), "\n"), "  ")
			if line != tt.want {
				t.Errorf("printed %q, want %q", line, tt.want)
			}
		})
	}
	out.Reset()
	r.bodies = true
	send("POST", "/", `{"a":1.0}`)
	if !strings.HasSuffix(out.String(), "{\n  \"a\": 1.0\n}\n") {
		t.Errorf("printed %q", out.String())
	}
	out.Reset()
	send("PUT", "/Patient/p", "<Patient>\n</Patient>")
	if !strings.HasSuffix(out.String(), "answered 202\n<Patient>\n</Patient>\n") {
		t.Errorf("printed %q", out.String())
	}
	out.Reset()
	send("PUT", "/Patient/p", "<Patient>\x1b[2J</Patient>")
	if strings.Contains(out.String(), "\x1b") {
		t.Errorf("printed what steers a terminal: %q", out.String())
	}
	out.Reset()
	r.json = true
	send("PUT", "/Patient/p", "<Patient/>")
	if !strings.Contains(out.String(), `"body":"\u003cPatient/\u003e"`) {
		t.Errorf("printed %q", out.String())
	}
	out.Reset()
	send("POST", "/", `{"a":1.0}`, "webhook-id", "a.1.2")
	var line received
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.ID != "a.1.2" || string(line.Body) != `{"a":1.0}` || line.Status != http.StatusAccepted {
		t.Errorf("printed %q, %v", out.String(), err)
	}
}
