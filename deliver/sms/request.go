package sms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir/template"
)

// Preset is a gateway whose way of asking is known.
type Preset string

// The presets. Custom has nothing of its own: URL, Method, ContentType and Body say everything.
const (
	Twilio Preset = "twilio" // POST of To, From and Body with basic authentication
	Kannel Preset = "kannel" // GET /cgi-bin/sendsms with everything in the query
	Custom Preset = "custom"
)

// presets are what the gateways' own manuals show: Twilio's "Messages resource", and chapter 6.7,
// "SMS Push", of Kannel's user guide. ${text} is UTF-8, which Kannel must be told.
var presets = map[Preset]Gateway{
	Twilio: {
		URL:    "https://api.twilio.com/2010-04-01/Accounts/${user}/Messages.json",
		Method: http.MethodPost, ContentType: form, Body: "To=${to}&From=${from}&Body=${text}", Basic: true,
	},
	Kannel: {
		Method: http.MethodGet, Query: "username=${user}&password=${password}&from=${from}&to=${to}&text=${text}&charset=UTF-8&coding=${coding}",
	},
	Custom: {Method: http.MethodPost, ContentType: form},
}

const form = "application/x-www-form-urlencoded"

// variables are those of a request. ${coding} is 0 for a text of plain ASCII and 2 (UCS-2) for any
// other, as GSM has it.
var variables = []string{"to", "from", "text", "user", "password", "coding"}

// Gateway is how a gateway is asked. Values are escaped for the place where they stand: a URL, a form,
// a JSON string; in a body of another type they are put as they are.
type Gateway struct {
	URL         string // template
	Query       string // template of a query that is put behind URL
	Method      string // GET or POST
	ContentType string
	Body        string // template
	Basic       bool   // the login goes into an Authorization header
}

// request is a Gateway whose templates have been read.
type request struct {
	Gateway
	url, query, body template.Template
	escape           func(string) string // of values in the body
}

// read completes a gateway by its preset.
func read(p Preset, g Gateway) (*request, error) {
	preset, ok := presets[p]
	if !ok {
		return nil, fmt.Errorf("there is no preset %q; there are twilio, kannel and custom", string(p))
	}
	r := &request{Gateway: g}
	r.URL = or(g.URL, preset.URL)
	r.Query = or(g.Query, preset.Query)
	r.Method = or(g.Method, preset.Method)
	r.ContentType = or(g.ContentType, preset.ContentType)
	r.Body = or(g.Body, preset.Body)
	r.Basic = g.Basic || preset.Basic
	var err error
	for _, t := range []struct {
		name string
		from string
		to   *template.Template
	}{{"url", r.URL, &r.url}, {"query", r.Query, &r.query}, {"body", r.Body, &r.body}} {
		if *t.to, err = template.Parse(t.from, variables...); err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
	}
	u, err := url.Parse(r.url.Expand(func(string) string { return "x" }))
	switch {
	case r.URL == "":
		return nil, errors.New("url: the gateway's URL is missing")
	case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || u.Fragment != "":
		return nil, errors.New("url: it is not an absolute http or https URL without a login and fragment")
	case r.Method != http.MethodGet && r.Method != http.MethodPost:
		return nil, errors.New("method: it is GET or POST")
	case r.Method == http.MethodGet && r.Body != "":
		return nil, errors.New("body: a GET has none")
	case r.Method == http.MethodPost && r.Body == "" && r.Query == "":
		return nil, errors.New("body: a template of the request's body is missing")
	}
	for _, secret := range []string{"password"} { // a URL is logged by every proxy; Kannel knows no other way
		if r.url.Uses(secret) {
			return nil, fmt.Errorf("url: ${%s} does not belong into a URL; use query, body or basic", secret)
		}
	}
	r.escape, err = escaping(r.ContentType)
	return r, err
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// escaping is how a value is written in a body of a type.
func escaping(contentType string) (func(string) string, error) {
	if contentType == "" {
		return url.QueryEscape, nil
	}
	media, _, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
		return nil, errors.New("content_type: it is not a MIME type")
	case media == form:
		return url.QueryEscape, nil
	case media == "application/json" || strings.HasSuffix(media, "+json"):
		return jsonText, nil
	}
	return nil, fmt.Errorf("content_type: values can be written into %s and application/json", form)
}

// jsonText is a value as it stands between the quotes of a JSON string.
func jsonText(s string) string {
	b, _ := json.Marshal(s) // a string can always be written
	return string(b[1 : len(b)-1])
}

// build makes the request for one message. Its URL may hold the login, so it is in no error.
func (r *request) build(ctx context.Context, value func(string) string) (*http.Request, error) {
	escaped := func(escape func(string) string) func(string) string {
		return func(name string) string { return escape(value(name)) }
	}
	target := r.url.Expand(escaped(url.PathEscape))
	if r.Query != "" {
		join := "?"
		if strings.Contains(target, "?") {
			join = "&"
		}
		target += join + r.query.Expand(escaped(url.QueryEscape))
	}
	body := r.body.Expand(escaped(r.escape))
	req, err := http.NewRequestWithContext(ctx, r.Method, target, bytes.NewReader([]byte(body)))
	if err != nil {
		return nil, errors.New("the gateway's URL cannot be used")
	}
	if r.Method == http.MethodPost {
		req.Header.Set("Content-Type", r.ContentType)
	}
	if r.Basic {
		req.SetBasicAuth(value("user"), value("password"))
	}
	return req, nil
}

// coding is how GSM writes a text: 0 for what is in its 7-bit alphabet for sure, else 2.
func coding(text string) string {
	for _, c := range text {
		if c > 0x7e || c == '`' || (c < ' ' && c != '\n' && c != '\r') {
			return "2"
		}
	}
	return "0"
}
