package config

import (
	"encoding/base64"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// everyKeyOfARuleIsIn wants every key of a rule for endpoints in the example.
func everyKeyOfARuleIsIn(t *testing.T, rules []Endpoint) {
	t.Helper()
	var look func(at string, vs []reflect.Value)
	look = func(at string, vs []reflect.Value) {
		typ := vs[0].Type()
		for i := range typ.NumField() {
			name, shown := join(at, typ.Field(i).Tag.Get("yaml")), false
			var fields []reflect.Value
			for _, v := range vs {
				fields = append(fields, v.Field(i))
				shown = shown || !v.Field(i).IsZero()
			}
			if !shown {
				t.Errorf("cluster.yaml shows no rule with %s", name)
			}
			if isSection(typ.Field(i).Type) {
				look(name, fields)
			}
		}
	}
	var vs []reflect.Value
	for _, r := range rules {
		vs = append(vs, reflect.ValueOf(r))
	}
	look("", vs)
}

func TestRulesForEndpointsAreReadAndShownTheSame(t *testing.T) {
	c, problems := load(t, `
delivery:
  egress: {proxy: "socks5://proxy.example:1080", proxy_credentials_file: proxy-login}
  signatures: {ed25519: true}
  endpoints:
    - match: lab.example.org:8443
      concurrency: 4
      rate: 2.5
      timeout: 30s
      http2: off
      ca: ca.pem
      cert: c.pem
      key: k.pem
      basic: {user: carillon, password_file: pw}
    - {match: "*.clinic.example.org", oauth2: {token_url: "https://auth.example/token?x=1", client_id: me, key_file: /srv/key.pem, key_id: k1, scopes: [a, b], audience: "https://x"}}
`)
	if problems != nil {
		t.Fatal(problems)
	}
	folder := filepath.Dir(c.Delivery.Endpoints[0].CA)
	if !filepath.IsAbs(folder) {
		t.Errorf("paths are not relative to the file's folder: %s", c.Delivery.Endpoints[0].CA)
	}
	at := func(name string) string { return filepath.Join(folder, name) }
	want := []Endpoint{
		{Match: "lab.example.org:8443", Concurrency: 4, Rate: 2.5, Timeout: 30 * time.Second, HTTP2: "off",
			CA: at("ca.pem"), Cert: at("c.pem"), Key: at("k.pem"), Basic: Basic{User: "carillon", PasswordFile: at("pw")}},
		{Match: "*.clinic.example.org", OAuth2: OAuth2{TokenURL: "https://auth.example/token?x=1", ClientID: "me",
			KeyFile: "/srv/key.pem", KeyID: "k1", Scopes: []string{"a", "b"}, Audience: "https://x"}},
	}
	if !reflect.DeepEqual(c.Delivery.Endpoints, want) {
		t.Errorf("got  %+v\nwant %+v", c.Delivery.Endpoints, want)
	}
	again, problems := load(t, c.Show())
	if problems != nil {
		t.Fatalf("%v in\n%s", problems, c.Show())
	}
	if !reflect.DeepEqual(again.Delivery.Endpoints, want) || again.Delivery.Egress.Proxy != c.Delivery.Egress.Proxy || !again.Delivery.Signatures.Ed25519 {
		t.Errorf("%+v is read back from\n%s", again.Delivery, c.Show())
	}
	again.Delivery.Endpoints[0].Rate++
	if changed := Changed(c, again); !slices.Contains(changed, "delivery.endpoints") {
		t.Errorf("another rate is a change of %v", changed)
	}
}

func TestWrongRulesForEndpointsAreRefusedWithTheirLine(t *testing.T) {
	for text, want := range map[string]string{
		"- {concurrency: 4}":                                     "3: delivery.endpoints[0].match: \"\" is no host",
		"- {match: \"https://lab.example/x\"}":                   "no port between",
		"- {match: \"lab.example:99999\"}":                       "no port between 1 and 65535",
		"- {match: \"a.*.example\"}":                             "is no host",
		"- {match: a, matches: b}":                               "3: unknown key delivery.endpoints[0].matches; did you mean delivery.endpoints[0].match?",
		"- {match: a, concurrency: -1}":                          "-1 is not between 0",
		"- {match: a, rate: -0.5}":                               "not a number of requests",
		"- {match: a, rate: .nan}":                               "wants one plain value",
		"- {match: a, timeout: 1ms}":                             "1ms is not between",
		"- {match: a, http2: never}":                             `"never" is not auto or off`,
		"- {match: a, cert: c.pem}":                              "a certificate needs its key in delivery.endpoints[0].key",
		"- {match: a, basic: {user: b}}":                         "needs the file of its password",
		"- {match: a, basic: {password_file: b}}":                "a login needs a user",
		"- {match: a, basic: {user: \"b:c\", password_file: b}}": "no colon",
		"- {match: a, oauth2: {client_id: x, secret_file: y}}":   "needs the URL",
		"- {match: a, oauth2: {token_url: \"https://u:hunter2@t\", client_id: x, secret_file: y}}":                           "not an absolute http or https URL without user",
		"- {match: a, oauth2: {token_url: \"https://t\", client_id: x}}":                                                     "needs secret_file, or key_file",
		"- {match: a, oauth2: {token_url: \"https://t\", client_id: x, secret_file: y, key_file: z}}":                        "not both",
		"- {match: a, oauth2: {token_url: \"https://t\", client_id: x, secret_file: y}, basic: {user: b, password_file: c}}": "leave one out",
		"- {match: a}\n    - {match: a}": "4: delivery.endpoints[1].match: a has a rule already",
		"{match: a}":                     "wants a list of rules",
	} {
		_, problems := load(t, "delivery:\n  endpoints:\n    "+text+"\n")
		all := strings.Join(problems, "\n")
		if !strings.Contains(all, want) {
			t.Errorf("%s:\n%s\nwant %s", text, all, want)
		}
		if strings.Contains(all, "hunter2") {
			t.Errorf("%s: the password is in the text", text)
		}
	}
}

func TestAProxyIsAURLWithoutItsLogin(t *testing.T) {
	for text, want := range map[string]string{
		"{proxy: \"proxy.example:3128\"}":           "not a URL such as",
		"{proxy: \"ftp://proxy.example\"}":          "not a URL such as",
		"{proxy: \"http://u:hunter2@proxy:3128\"}":  "must not hold a user or password",
		"{proxy: \"http://proxy:3128/path\"}":       "scheme, host and port",
		"{proxy_credentials_file: x}":               "there is no proxy",
		"{proxy: \"https://proxy.example:3128\"}":   "",
		"{proxy: \"socks5://[2001:db8::1]:1080/\"}": "",
	} {
		_, problems := load(t, "delivery:\n  egress: "+text+"\n")
		if all := strings.Join(problems, "\n"); (want == "") != (all == "") || !strings.Contains(all, want) || strings.Contains(all, "hunter2") {
			t.Errorf("%s: %s", text, all)
		}
	}
}

func TestTheFirstRuleThatFitsHolds(t *testing.T) {
	d := Delivery{Endpoints: []Endpoint{
		{Match: "lab.example.org:8443"}, {Match: "Lab.example.org"}, {Match: "*.clinic.example"}, {Match: "10.0.0.1"}, {Match: "[2001:db8::1]:443"},
	}}
	for endpoint, want := range map[string]string{
		"https://lab.example.org:8443/x":    "lab.example.org:8443",
		"https://LAB.example.org./x":        "Lab.example.org",
		"https://a.b.clinic.example/":       "*.clinic.example",
		"https://clinic.example/":           "",
		"https://evilclinic.example/":       "",
		"http://10.0.0.1:80":                "10.0.0.1",
		"https://[2001:db8:0::1]/":          "[2001:db8::1]:443",
		"http://[2001:db8::1]/":             "",
		"https://lab.example.org.evil.com/": "",
	} {
		u, err := url.Parse(endpoint)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if r := d.EndpointFor(u); r != nil {
			got = r.Match
		}
		if got != want {
			t.Errorf("%s falls to %q, want %q", endpoint, got, want)
		}
	}
	u, _ := url.Parse("https://anything.example")
	if r := (Delivery{Endpoints: []Endpoint{{Match: "*"}}}).EndpointFor(u); r == nil {
		t.Error("* does not fit every host")
	}
}

func TestMasterKeysAreReadAndNeverShown(t *testing.T) {
	a := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("a", 32)))
	b := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("b", 32)))
	for text, want := range map[string]string{
		a:                                "",
		"[" + a + ", " + b + "]":         "",
		"[" + a + ", " + a + "]":         "key 2 is there twice",
		"hunter2":                        "key 1 is not the base64 form of 32 bytes",
		"\"(masked)\"":                   "in place of a key",
		a + "\n  secrets_key_file: keys": "one of the two",
	} {
		c, problems := load(t, "security:\n  secrets_key: "+text+"\n")
		if all := strings.Join(problems, "\n"); (want == "") != (all == "") || !strings.Contains(all, want) || strings.Contains(all, "hunter2") || strings.Contains(all, a) {
			t.Errorf("%s: %s", text, all)
		}
		if shown := c.Show(); strings.Contains(shown, a) || strings.Contains(shown, "hunter2") {
			t.Errorf("%s is shown:\n%s", text, shown)
		}
	}
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte("# of May\n"+b+"\n\n"+a+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := Security{SecretsKeyFile: file}.SecretsKeys()
	if err != nil || len(keys) != 2 || string(keys[0]) != strings.Repeat("b", 32) {
		t.Errorf("the file's keys are %q, %v", keys, err)
	}
	c := Default()
	c.Security.SecretsKeyFile = filepath.Join(filepath.Dir(file), "none")
	if err := c.CheckFiles(); err == nil || !strings.Contains(err.Error(), "security.secrets_key_file") {
		t.Errorf("a file that is not there: %v", err)
	}
}
