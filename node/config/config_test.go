package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
)

// load writes text to a file and reads it, without the environment.
func load(t *testing.T, text string, env ...string) (Config, []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path, env)
	return c, lines(t, err, path)
}

// lines splits an *Error into its problems, with the file's folder cut off.
func lines(t *testing.T, err error, path string) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error is %T (%v), not *Error", err, err)
	}
	text := e.Error()
	if path != "" {
		text = strings.ReplaceAll(text, path, "c.yaml")
	}
	return strings.Split(text, "\n")
}

func TestDefaultIsValid(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Fatal(err)
	}
	if err := Default().CheckListeners(); err != nil {
		t.Fatal(err)
	}
}

// commentedOut is a line of cluster.yaml that is a key at its default or an example.
var commentedOut = regexp.MustCompile(`(?m)^( *)#(\S.*)$`)

func TestClusterYAMLHasEveryKeyWithItsDefault(t *testing.T) {
	path := filepath.Join("..", "..", "cluster.yaml")
	asWritten, err := Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The example has a folder of its own; the default stands in the line above it.
	whole := strings.Replace(string(text), "\n  data: /var/lib/carillon", "", 1)
	c, problems := load(t, commentedOut.ReplaceAllString(whole, "$1$2"))
	if problems != nil {
		t.Fatalf("with the comments taken away: %q", problems)
	}
	if err := c.CheckListeners(); err != nil {
		t.Error(err)
	}
	for _, key := range Keys() {
		switch {
		case key == "node.route" || strings.HasPrefix(key, "cluster.tls."):
			continue // below
		case c.origin[key] == "":
			t.Errorf("cluster.yaml leaves out %s", key)
		case c.Text(key) != Default().Text(key):
			t.Errorf("cluster.yaml gives %s as %s, its default is %s", key, c.Text(key), Default().Text(key))
		case key != "node.data" && asWritten.Text(key) != Default().Text(key):
			t.Errorf("the example has %s as %s, which is not its default", key, asWritten.Text(key))
		}
	}
	if tls := asWritten.Cluster.TLS; tls.CA == "" || tls.Cert == "" || tls.Key == "" {
		t.Errorf("the example has no certificates of routes: %+v", tls)
	}
	if !asWritten.Clustered() || len(asWritten.Nodes) != 3 {
		t.Errorf("the example is no cluster of three: %v", asWritten.Nodes)
	}
	everyKeyOfALoginIsIn(t, c.Security.NATS.Users)
	everyKeyOfARuleIsIn(t, c.Delivery.Endpoints)
	everyKeyOfACommandIsIn(t, c.Delivery.Commands)
}

func everyKeyOfALoginIsIn(t *testing.T, users []NATSUser) {
	t.Helper()
	shown := map[string]bool{}
	for _, u := range users {
		v := reflect.ValueOf(u)
		for i := range v.NumField() {
			shown[v.Type().Field(i).Tag.Get("yaml")] = shown[v.Type().Field(i).Tag.Get("yaml")] || !v.Field(i).IsZero()
		}
	}
	for _, name := range []string{"name", "password", "nkey", "publish", "subscribe", "consumers", "operator"} {
		if !shown[name] {
			t.Errorf("cluster.yaml shows no login with %s", name)
		}
	}
	if len(shown) != 7 {
		t.Errorf("a login has keys that this test does not know: %v", shown)
	}
}

func TestShowIsReadBackTheSame(t *testing.T) {
	c, problems := load(t, `
node: {http: "[::1]:0", public_url: "https://a.example/x"}
fhir: {base_urls: [https://b.example/fhir, "https://c.example"]}
delivery:
  retry: {attempts: unlimited, schedule: {initial: 1s, factor: 1.5, max: 1h30m}, jitter: 0}
  egress: {allow: [10.0.0.0/8, "fd00::/8"], allow_http: true}
limits: {resource_size: 1500B, bundle_size: 1GiB}
`)
	if problems != nil {
		t.Fatal(problems)
	}
	again, problems := load(t, c.Show())
	if problems != nil {
		t.Fatalf("%v in\n%s", problems, c.Show())
	}
	c.origin, again.origin = nil, nil
	for _, key := range Keys() {
		if c.Text(key) != again.Text(key) {
			t.Errorf("%s was %s, is read back as %s", key, c.Text(key), again.Text(key))
		}
	}
}

func TestEveryVariableNameIsUnique(t *testing.T) {
	seen := map[string]string{}
	for _, key := range Keys() {
		name := Variable(key)
		if other, taken := seen[name]; taken {
			t.Errorf("%s is the variable of %s and of %s", name, other, key)
		}
		seen[name] = key
		for _, own := range ownVariables {
			if own == name {
				t.Errorf("%s is a variable of the command line and of key %s", own, key)
			}
		}
	}
}

func TestValuesAreRead(t *testing.T) {
	c, problems := load(t, `
cluster: {name: north}
nodes:
  a1: {data: /srv/a, http: 127.0.0.1:1}
node: {data: /srv/b, nats: "127.0.0.1:2"}
delivery:
  retry:
    attempts: 8
    schedule: [1s, 2m]
    max_age: 48h
security:
`)
	if problems != nil {
		t.Fatal(problems)
	}
	want := Default()
	want.Cluster.Name = "north"
	want.Nodes = map[string]Node{"a1": {Data: "/srv/a", HTTP: "127.0.0.1:1", NATS: "127.0.0.1:2"}}
	want.Run.Node = "a1"
	want.Node = Node{Data: "/srv/a", HTTP: "127.0.0.1:1", NATS: "127.0.0.1:2"}
	want.Delivery.Retry.Attempts = 8
	want.Delivery.Retry.Schedule = Schedule{Waits: []time.Duration{time.Second, 2 * time.Minute}}
	want.Delivery.Retry.MaxAge = 48 * time.Hour
	c.origin = nil
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestWhatIsWrongIsToldWithItsLine(t *testing.T) {
	tests := []struct {
		name string
		text string
		want []string
	}{
		{"unknown key, with suggestion", "delivery:\n  retry:\n    atempts: 3\n",
			[]string{`c.yaml:3: unknown key delivery.retry.atempts; did you mean delivery.retry.attempts?`}},
		{"unknown section, with suggestion", "\ndelivry: {}\n",
			[]string{`c.yaml:2: unknown key delivry; did you mean delivery?`}},
		{"key in the wrong section", "delivery:\n  jitter: 0.1\n",
			[]string{`c.yaml:2: unknown key delivery.jitter; did you mean delivery.retry.jitter?`}},
		{"keys of later versions are unknown", "retention: {events: 30d}\nmatch: {partitions: []}\n",
			[]string{`c.yaml:1: unknown key retention.events`, `c.yaml:2: unknown key match.partitions`}},
		{"upstream without an address", "match: {repository: {source: upstream}}\n",
			[]string{`c.yaml:1: match.repository.source: upstream needs the server's base in match.repository.url`}},
		{"address without an upstream", "match: {repository: {url: 'https://ehr.example/fhir'}}\n",
			[]string{`c.yaml:1: match.repository.url: is not asked while match.repository.source is local; say upstream there, or leave the URL out`}},
		{"upstream that is none", "match: {repository: {source: remote, timeout: 1m, cache_age: 2m, cache: 2GiB}}\n",
			[]string{`c.yaml:1: match.repository.source: "remote" is not local or upstream`,
				`c.yaml:1: match.repository.timeout: 1m is not between 50ms and 8s`,
				`c.yaml:1: match.repository.cache: 2GiB is not between 0B and 1GiB`,
				`c.yaml:1: match.repository.cache_age: 2m is not between 0s and 1m`}},
		{"password in the upstream's URL is not shown", "match: {repository: {source: upstream, url: 'https://me:hunter2@x.example'}}\n",
			[]string{`c.yaml:1: match.repository.url: a URL here must not hold a user or password`}},
		{"key of a node", "nodes:\n  n1:\n    dta: x\n",
			[]string{`c.yaml:3: unknown key nodes.n1.dta; did you mean nodes.n1.data?`}},
		{"name of a node", "nodes:\n  a/b: {}\n",
			[]string{`c.yaml:2: nodes: a node's name has 1 to 64 letters, digits, - and _`}},
		{"operators by mail without a server", "delivery:\n  operator_events: {email: {to: [ops@example.org]}}\n",
			[]string{`c.yaml:2: delivery.operator_events.email.to: there is no mail server to send it by: set delivery.email.server`}},
		{"operators by mail without an address", "delivery:\n  email: {server: \"localhost:25\", from: a@example.org}\n  operator_events: {email: {to: [ops]}}\n",
			[]string{`c.yaml:3: delivery.operator_events.email.to: address 1 is not one like somebody@example.org`}},
		{"all at once", "delivery:\n  order: any\n  concurrency: 0\nlimits:\n  bundle_entries: 1000\n",
			[]string{`c.yaml:3: delivery.concurrency: 0 is not between 1 and 256`,
				`c.yaml:2: delivery.order: "any" is not resource or strict`,
				`c.yaml:5: limits.bundle_entries: 1000 is not between 1 and 999`}},
		{"durability interval", "durability: interval\n",
			[]string{`c.yaml:1: durability: interval is not available in this version; always is the only value`}},
		{"version of FHIR", "fhir: {version: R5}\n",
			[]string{`c.yaml:1: fhir.version: R5 comes with a later version, since its Subscriptions are of topics; R4 and R4B are the values`}},
		{"size without a unit", "limits: {resource_size: 8000}\n",
			[]string{`c.yaml:1: limits.resource_size: "8000" is not a size; write one like 8MiB or 512KiB`}},
		{"size that overflows", "limits: {resource_size: 99999999999GiB}\n",
			[]string{`c.yaml:1: limits.resource_size: "99999999999GiB" is not a size; write one like 8MiB or 512KiB`}},
		{"duration without a unit", "delivery: {rest_hook: {timeout: 15}}\n",
			[]string{`c.yaml:1: delivery.rest_hook.timeout: "15" is not a duration; write one like 15s, 30m or 12h`}},
		{"attempts", "delivery: {retry: {attempts: 19}}\n",
			[]string{`c.yaml:1: delivery.retry.attempts: "19" is not 1 to 18 or unlimited`}},
		{"empty schedule", "delivery: {retry: {schedule: []}}\n",
			[]string{`c.yaml:1: delivery.retry.schedule: a list of waits needs at least one`}},
		{"half a schedule", "delivery:\n  retry:\n    schedule:\n      initial: 5s\n",
			[]string{`c.yaml:3: delivery.retry.schedule.max: 0s is not between 5s and 720h`,
				`c.yaml:3: delivery.retry.schedule.factor: 0 is not between 1 and 100`}},
		{"key of a schedule", "delivery: {retry: {schedule: {start: 5s}}}\n",
			[]string{`c.yaml:1: delivery.retry.schedule: unknown key start; a schedule has initial, factor and max`}},
		{"network", "delivery: {egress: {allow: [10.0.0.0/8, intranet]}}\n",
			[]string{`c.yaml:1: delivery.egress.allow: "intranet" is not an address or a network such as 10.20.0.0/16`}},
		{"channel", "delivery: {channels: [rest-hook, pigeon]}\n",
			[]string{`c.yaml:1: delivery.channels: this version has no channel "pigeon"; there are ` + strings.Join(fhir.Channels(), ", ")}},
		{"mail without a sender", "delivery: {email: {server: 'relay:25'}}\n",
			[]string{`c.yaml:1: delivery.email: from: the address is not one like somebody@example.org`}},
		{"mail with health data in its subject", "delivery: {email: {server: 'relay:25', from: a@example.org, subject: '${resource_id}'}}\n",
			[]string{"c.yaml:1: delivery.email: subject: there is no variable ${resource_id}; there are ${subscription}, ${event}, ${interaction}, ${resource_type}"}},
		{"half a login", "delivery: {email: {server: 'relay:25', from: a@example.org, user: carillon}}\n",
			[]string{`c.yaml:1: delivery.email.password_file: user and password_file go together`}},
		{"gateway without an address", "delivery: {sms: {gateway: {preset: kannel}}}\n",
			[]string{`c.yaml:1: delivery.sms: gateway: url: the gateway's URL is missing`}},
		{"origins", "security:\n  origins: ['*', 'https://App.example.org/', 'http://x.example:80', app.example.org, 'https://a.example/b', 'https://*.example', 'https://ok.example:8443']\n",
			[]string{`c.yaml:2: security.origins: "*" is every origin and stands alone`,
				`c.yaml:2: security.origins: "https://App.example.org/" is not how browsers write it; say https://app.example.org`,
				`c.yaml:2: security.origins: "http://x.example:80" is not how browsers write it; say http://x.example`,
				`c.yaml:2: security.origins: "app.example.org" is no origin; write it as scheme and host, such as https://app.example.org`,
				`c.yaml:2: security.origins: "https://a.example/b" is no origin; write it as scheme and host, such as https://app.example.org`,
				`c.yaml:2: security.origins: "https://*.example" is no origin; write it as scheme and host, such as https://app.example.org`}},
		{"password in an origin is not shown", "security: {origins: ['https://me:hunter2@x.example']}\n",
			[]string{`c.yaml:1: security.origins: an origin has no user and no password; write it as scheme and host, such as https://app.example.org`}},
		{"limits of websockets", "limits: {sockets: 0, sockets_per_subscription: 1000001}\n",
			[]string{`c.yaml:1: limits.sockets: 0 is not between 1 and 1000000`,
				`c.yaml:1: limits.sockets_per_subscription: 1000001 is not between 1 and 1000000`}},
		{"listener", "node: {http: '8080', nats: 'x:99999'}\n",
			[]string{`c.yaml:1: node.http: "8080" is not of the form host:port`,
				`c.yaml:1: node.nats: "x:99999" has no port between 0 and 65535`}},
		{"two listeners on one address", "node: {http: '127.0.0.1:4222'}\n",
			[]string{`c.yaml:1: node.nats: 127.0.0.1:4222 is the address of node.http already`}},
		{"password in a URL is not shown", "node: {public_url: 'https://me:hunter2@x.example'}\n",
			[]string{`c.yaml:1: node.public_url: a URL here must not hold a user or password`}},
		{"half of TLS", "security: {tls: {cert: a.pem}}\n",
			[]string{`c.yaml:1: security.tls.cert: a certificate needs its key in security.tls.key`}},
		{"section that is a value", "delivery: 5\n",
			[]string{`c.yaml:1: delivery is a section with keys of its own, not a plain value`}},
		{"value that is a section", "durability: {a: b}\n",
			[]string{`c.yaml:1: durability: wants one plain value, not a section`}},
		{"value left out", "durability:\n",
			[]string{`c.yaml:1: durability: has no value; give one, or leave the key out for its default`}},
		{"boolean for text", "durability: true\n",
			[]string{`c.yaml:1: durability: wants text, not true; put it in quotes if it is meant so`}},
		{"text for a boolean", "delivery: {egress: {allow_http: yes}}\n",
			[]string{`c.yaml:1: delivery.egress.allow_http: "yes" is neither true nor false`}},
		{"a list for the whole file", "- a\n- b\n",
			[]string{`c.yaml:1: the file is a section with keys of its own, not a list`}},
		{"duplicate key", "durability: always\ndurability: always\n",
			[]string{`c.yaml:2: not valid YAML: mapping key "durability" already defined at [1:1]`}},
		{"two documents", "durability: always\n---\ndurability: always\n",
			[]string{`c.yaml:3: a configuration is one YAML document, this file has several`}},
		{"anchor", "cluster: &c {name: a}\n",
			[]string{`c.yaml:1: cluster is a section with keys of its own, not a YAML anchor or alias`}},
		{"syntax", "node: [\n", []string{`c.yaml:1: not valid YAML: sequence end token ']' not found`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, got := load(t, tt.text)
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

func TestEmptyFileMeansDefaults(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "---\n", "delivery:\n  # retry:\n"} {
		if _, problems := load(t, text); problems != nil {
			t.Errorf("%q: %v", text, problems)
		}
	}
}

func TestMissingFileIsAnErrorOfTheSystem(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.yaml"), nil)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestVariablesOverrideTheFile(t *testing.T) {
	c, problems := load(t, "nodes: {n1: {http: '127.0.0.1:1'}}\ndelivery: {retry: {attempts: 5}}\n",
		"CARILLON_NODE_HTTP=[::1]:7", "CARILLON_DELIVERY_RETRY_ATTEMPTS=unlimited",
		"CARILLON_DELIVERY_RETRY_SCHEDULE=1s,2s", "CARILLON_DELIVERY_EGRESS_ALLOW=10.0.0.0/8, fd00::/8",
		"CARILLON_LIMITS_RESOURCE_SIZE=1MiB", "CARILLON_SERVER=http://x", "CARILLON_TOKEN=secret", "HOME=/root")
	if problems != nil {
		t.Fatal(problems)
	}
	for key, want := range map[string]string{
		"node.http":               `"[::1]:7"`,
		"delivery.retry.attempts": "unlimited",
		"delivery.retry.schedule": "[1s, 2s]",
		"delivery.egress.allow":   `["10.0.0.0/8", "fd00::/8"]`,
		"limits.resource_size":    "1MiB",
	} {
		if got := c.Text(key); got != want {
			t.Errorf("%s is %s, want %s", key, got, want)
		}
	}
}

func TestVariableWithAnExponentialSchedule(t *testing.T) {
	c, problems := load(t, "", "CARILLON_DELIVERY_RETRY_SCHEDULE={initial: 1s, factor: 2, max: 1m}")
	if problems != nil || c.Delivery.Retry.Schedule.Factor != 2 {
		t.Errorf("%v %v", c.Delivery.Retry.Schedule, problems)
	}
}

func TestWrongVariablesAreRefusedByName(t *testing.T) {
	_, problems := load(t, "", "CARILLON_NODE_HTP=x", "CARILLON_DURABILITY=sometimes")
	want := []string{`CARILLON_NODE_HTP: unknown variable; did you mean CARILLON_NODE_HTTP?`}
	if !reflect.DeepEqual(problems, want) {
		t.Errorf("got %q", problems)
	}
	_, problems = load(t, "", "CARILLON_DURABILITY=sometimes")
	want = []string{`CARILLON_DURABILITY: durability: "sometimes" is not always`}
	if !reflect.DeepEqual(problems, want) {
		t.Errorf("got %q", problems)
	}
}

func TestSetNamesTheFlag(t *testing.T) {
	c := Default()
	if err := c.Set("node.http", "127.0.0.1:0", "--http"); err != nil {
		t.Fatal(err)
	}
	before := c
	if err := c.Set("node.http", "nonsense", "--http"); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, c.Validate(), ""); !reflect.DeepEqual(got, []string{`--http: node.http: "nonsense" is not of the form host:port`}) {
		t.Errorf("got %q", got)
	}
	if before.Node.HTTP != "127.0.0.1:0" || before.Validate() != nil {
		t.Error("a copy of the configuration changed with it")
	}
	if err := c.Set("node.htp", "x", "--htp"); err == nil {
		t.Error("an unknown key was set")
	}
}

func TestPublicListenersNeedProtection(t *testing.T) {
	c := Default()
	c.Node.HTTP, c.Node.NATS = "0.0.0.0:8080", ":4222"
	if got := lines(t, c.CheckListeners(), ""); len(got) != 3 { // HTTP: TLS; NATS: TLS and logins
		t.Errorf("got %q", got)
	}
	c.Run.InsecurePublic = true
	if err := c.CheckListeners(); err != nil {
		t.Error(err)
	}
}

func TestLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "localhost:1": true,
		"0.0.0.0:1": false, "[::]:1": false, ":1": false, "10.0.0.1:1": false, "example.org:1": false, "nonsense": false,
	} {
		if got := Loopback(address); got != want {
			t.Errorf("Loopback(%q) = %v", address, got)
		}
	}
}

func TestScheduleWaits(t *testing.T) {
	list := Schedule{Waits: []time.Duration{1, 5, 9}}
	exponential := Schedule{Initial: time.Second, Factor: 2, Max: 5 * time.Second}
	for _, tt := range []struct {
		s    Schedule
		n    int
		want time.Duration
	}{
		{list, 1, 1}, {list, 3, 9}, {list, 99, 9},
		{exponential, 1, time.Second}, {exponential, 3, 4 * time.Second}, {exponential, 4, 5 * time.Second},
		{exponential, 100_000, 5 * time.Second},
	} {
		if got := tt.s.Wait(tt.n); got != tt.want {
			t.Errorf("%v after attempt %d waits %v, want %v", tt.s, tt.n, got, tt.want)
		}
	}
}

func FuzzLoadNeverPanics(f *testing.F) {
	f.Add("delivery: {retry: {schedule: [1s]}}")
	f.Add("nodes:\n  n1: {data: x}\n? [a]\n: b\n")
	f.Add("a: *b\n<<: {c: d}\n!!x y: z")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = Load(path, nil)
	})
}
