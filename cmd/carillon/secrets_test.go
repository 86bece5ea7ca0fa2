package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestListenChecksSignatures(t *testing.T) {
	const secret, body = "s3cret", `{"resourceType":"Patient","id":"p"}`
	sum := func(text string) []byte {
		m := hmac.New(sha256.New, []byte(secret))
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	at := fmt.Sprint(time.Now().Unix())
	standard := "v1," + base64.StdEncoding.EncodeToString(sum("i.1.1."+at+"."+body))
	for _, tc := range []struct {
		name   string
		header map[string]string
		status int
		says   string
	}{
		{"Standard Webhooks", map[string]string{"webhook-id": "i.1.1", "webhook-timestamp": at, "webhook-signature": "v1,eHh4 " + standard}, 200, `"signature":"valid"`},
		{"Medplum", map[string]string{"X-Signature": hex.EncodeToString(sum(body))}, 200, `"signature":"valid"`},
		{"of another id", map[string]string{"webhook-id": "i.1.2", "webhook-timestamp": at, "webhook-signature": standard}, 401, "of another secret"},
		{"an old one", map[string]string{"webhook-id": "i.1.1", "webhook-timestamp": "1700000000", "webhook-signature": standard}, 401, "a replay"},
		{"a time that is none", map[string]string{"webhook-id": "i.1.1", "webhook-timestamp": "now", "webhook-signature": standard}, 401, "no number"},
		{"Medplum, wrong", map[string]string{"X-Signature": hex.EncodeToString(sum("x"))}, 401, "X-Signature is of another"},
		{"none", nil, 401, "no signature"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			r := &receiver{w: &out, json: true, status: 200, secret: secret}
			req := httptest.NewRequest("POST", "/hook", strings.NewReader(body))
			for k, v := range tc.header {
				req.Header.Set(k, v)
			}
			w := httptest.NewRecorder()
			r.ServeHTTP(w, req)
			if w.Code != tc.status || !strings.Contains(out.String(), tc.says) || strings.Contains(out.String(), secret) {
				t.Errorf("%d: %s", w.Code, out.String())
			}
		})
	}
	var out bytes.Buffer
	r := &receiver{w: &out, status: 200}
	r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", nil))
	if strings.Contains(out.String(), "signature") {
		t.Errorf("unasked: %s", out.String())
	}
}
