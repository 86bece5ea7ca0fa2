package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const movable = `{"resourceType":"Subscription","id":%q,"status":"active","criteria":"Patient?","channel":{"type":"rest-hook"}}`

func TestSubscriptionsOfAnotherServerAreTakenOverOneByOne(t *testing.T) {
	f := newFakeServer()
	defer f.close()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	var other *httptest.Server
	other = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer x" {
			w.WriteHeader(401)
			return
		}
		switch r.URL.RawQuery {
		case "":
			fmt.Fprintf(w, `{"resourceType":"Bundle","link":[{"relation":"next","url":"%s/fhir?page=2"}],"entry":[{"resource":`+movable+`},{"resource":{"resourceType":"OperationOutcome"}}]}`, other.URL, "s1")
		case "page=2":
			fmt.Fprintf(w, `{"resourceType":"Bundle","entry":[{"resource":`+movable+`},{"resource":`+movable+`}]}`, "bad", "s2")
		}
	}))
	defer other.Close()
	from := other.URL + "/fhir"

	code, out, errs := carillon(t, "", "--server", f.url(), "subscription", "import", "--header", "Authorization: Bearer x", "--dry-run", from)
	if code != exitUsage || !strings.Contains(out, "s1  accepted\n") || !strings.Contains(out, "bad  refused\n    Subscription.criteria: nothing is called bad") || !strings.Contains(errs, "2 accepted, 0 of them with another meaning, 1 refused") {
		t.Errorf("a dry run ends with %d: %s%s", code, out, errs)
	}
	if f.resources["Subscription/s1"] != nil {
		t.Error("a dry run stores")
	}
	code, out, errs = carillon(t, "", "--server", f.url(), "subscription", "import", "--header", "Authorization: Bearer x", "--off", "-o", "json", from)
	if code != exitUsage || !strings.Contains(string(f.resources["Subscription/s1"]), `"status":"off"`) || f.resources["Subscription/s2"] == nil || f.resources["Subscription/bad"] != nil {
		t.Errorf("it ends with %d: %s%s", code, out, errs)
	}
	if code, _, _ = carillon(t, "", "--server", f.url(), "subscription", "import", from); code != exitForbidden {
		t.Errorf("without the other server's login it ends with %d", code)
	}
}

func TestAFileOfSubscriptionsIsReadInAnyForm(t *testing.T) {
	f := newFakeServer()
	defer f.close()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for name, c := range map[string]struct {
		text string
		code int
		want string
	}{
		"one":       {fmt.Sprintf(movable, "a"), 0, "a  accepted"},
		"lines":     {fmt.Sprintf(movable+"\n"+movable+"\n", "a", "b"), 0, "b  accepted"},
		"a Bundle":  {fmt.Sprintf(`{"resourceType":"Bundle","entry":[{"resource":`+movable+`}]}`, "c"), 0, "c  accepted"},
		"a page":    {fmt.Sprintf(`{"resourceType":"Bundle","link":[{"relation":"next","url":"http://old.example/fhir?page=2"}],"entry":[{"resource":`+movable+`}]}`, "d"), 0, "one page of a search that goes on"},
		"bad id":    {fmt.Sprintf(`{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Subscription","id":7}},{"resource":`+movable+`}]}`, "e"), exitUsage, "number 1  refused"},
		"nothing":   {`{"resourceType":"Bundle"}`, exitNotFound, ""},
		"a Patient": {`{"resourceType":"Patient"}`, exitUsage, ""},
		"no JSON":   {`{`, exitUsage, ""},
		"bad":       {fmt.Sprintf(movable, "bad"), exitUsage, "bad  refused"},
	} {
		file := filepath.Join(t.TempDir(), "f.json")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, errs := carillon(t, "", "--server", f.url(), "subscription", "check", "-f", file)
		if code != c.code || !strings.Contains(out+errs, c.want) {
			t.Errorf("%s ends with %d: %s%s", name, code, out, errs)
		}
	}
}

// The pages of a hostile server neither lead elsewhere nor go round for ever.
func TestPagesOfAnotherServerLeadNowhereElse(t *testing.T) {
	f := newFakeServer()
	defer f.close()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for next, want := range map[string]string{
		"http://127.0.0.2:1/elsewhere": "another server",
		"?":                            "do not end",
		"file:///etc/passwd":           "another server",
	} {
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"resourceType":"Bundle","link":[{"relation":"next","url":%q}]}`, next)
		}))
		code, _, errs := carillon(t, "", "--server", f.url(), "subscription", "import", other.URL+"/fhir")
		if code != exitFailed || !strings.Contains(errs, want) {
			t.Errorf("next %s ends with %d: %s", next, code, errs)
		}
		other.Close()
	}
}
