package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
)

// three is a cluster of three nodes on loopback, to which tests add what they are about.
const three = `
nodes:
  n1: {data: a, http: "127.0.0.1:8081", nats: "127.0.0.1:4223", route: "127.0.0.1:6223"}
  n3: {data: c, http: "127.0.0.1:8083", nats: "127.0.0.1:4225", route: "127.0.0.1:6225"}
  n2: {data: b, http: "127.0.0.1:8082", nats: "127.0.0.1:4224", route: "127.0.0.1:6224"}
`

// apart is a cluster on three machines that leaves everything else to the defaults.
const apart = `
cluster: {tls: {ca: ca.pem, cert: "{node}.pem", key: "/keys/{node}.pem"}}
nodes: {n1: {route: "10.0.0.1:6222"}, n2: {route: "10.0.0.2:6222"}, n3: {route: "10.0.0.3:6222"}}
`

// loadNode is load for one node of the file. It gives the file's folder too.
func loadNode(t *testing.T, text, name string, env ...string) (c Config, problems []string, dir string) {
	t.Helper()
	dir = t.TempDir()
	path := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadNode(path, env, name)
	return c, lines(t, err, path), dir
}

func TestANodeIsItsEntryOverWhatAllHave(t *testing.T) {
	c, problems, dir := loadNode(t, apart+"node: {data: /srv/x, http: '127.0.0.1:9'}\n", "n2", "CARILLON_NODE_NATS=127.0.0.1:7")
	if problems != nil {
		t.Fatal(problems)
	}
	if want := (Node{Data: "/srv/x", HTTP: "127.0.0.1:9", NATS: "127.0.0.1:7", Route: "10.0.0.2:6222"}); c.Node != want || c.Run.Node != "n2" {
		t.Errorf("%s is %+v, want n2: %+v", c.Run.Node, c.Node, want)
	}
	if got := c.Nodes["n3"]; got.HTTP != "127.0.0.1:9" || got.NATS != "127.0.0.1:4222" {
		t.Errorf("n3 is seen as %+v; it has what node says, but not a variable of n2", got)
	}
	want := ClusterTLS{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "n2.pem"), Key: "/keys/n2.pem"}
	if c.Cluster.TLS != want {
		t.Errorf("certificates are %+v, want %+v", c.Cluster.TLS, want)
	}
	if want := []string{"10.0.0.1:6222", "10.0.0.2:6222", "10.0.0.3:6222"}; !reflect.DeepEqual(c.Routes(), want) || !c.Clustered() {
		t.Errorf("routes are %q", c.Routes())
	}
	if want := []string{"n1", "n2", "n3"}; !reflect.DeepEqual(c.Members(), want) {
		t.Errorf("members are %q", c.Members())
	}
}

func TestAVariableWinsOverTheEntryOfTheNode(t *testing.T) {
	c, problems, _ := loadNode(t, apart, "n1", "CARILLON_NODE_HTTP=127.0.0.1:9", "CARILLON_NODE_ROUTE=0.0.0.0:7000")
	if problems != nil {
		t.Fatal(problems)
	}
	if c.Node.HTTP != "127.0.0.1:9" || c.Node.Route != "0.0.0.0:7000" || c.Routes()[0] != "10.0.0.1:6222" {
		t.Errorf("listens at %s and %s, and is reached at %s", c.Node.HTTP, c.Node.Route, c.Routes()[0])
	}
	_, problems, _ = loadNode(t, three, "n1", "CARILLON_NODE_ROUTE=0.0.0.0:6223")
	if len(problems) != 1 || !strings.Contains(problems[0], "cluster.tls: routes between machines need TLS") {
		t.Errorf("a route that others reach without TLS: %q", problems)
	}
	_, problems = load(t, "", "CARILLON_NODE_ROUTE=127.0.0.1:6222")
	if len(problems) != 1 || !strings.HasPrefix(problems[0], "CARILLON_NODE_ROUTE: node.route: a single node has no route") {
		t.Errorf("a route of a single node: %q", problems)
	}
}

func TestWhichNodeItIsMustBeKnown(t *testing.T) {
	for _, tt := range []struct{ text, node, want string }{
		{three, "", "which node is this? nodes has several: give --node with one of n1, n2, n3"},
		{three, "n4", "--node n4 has no entry in nodes, which names n1, n2, n3"},
		{"nodes: {a: {}}", "b", "--node b has no entry in nodes, which names a"},
		{"", "a/b", `--node: "a/b" is not 1 to 64 letters, digits, - and _`},
	} {
		if _, got, _ := loadNode(t, tt.text, tt.node); !reflect.DeepEqual(got, []string{tt.want}) {
			t.Errorf("--node %q: got %q, want %q", tt.node, got, tt.want)
		}
	}
	for _, tt := range []struct{ text, node, want string }{
		{three, "n3", "n3"}, {"nodes: {a: {}}", "", "a"}, {"", "", ""}, {"", "b", "b"},
	} {
		if c, problems, _ := loadNode(t, tt.text, tt.node); problems != nil || c.Run.Node != tt.want {
			t.Errorf("--node %q: got %q, %q", tt.node, c.Run.Node, problems)
		}
	}
}

func TestCopiesOfTheLogs(t *testing.T) {
	for _, tt := range []struct {
		text string
		want int
	}{
		{"", 1}, {"nodes: {a: {}}", 1}, {three, 3}, {three + "cluster: {replicas: 1}", 1}, {three + "cluster: {replicas: 3}", 3},
		{"nodes: {a: {route: '127.0.0.1:6222'}}", 1},
	} {
		c, problems := load(t, tt.text)
		if problems != nil || c.Replicas() != tt.want {
			t.Errorf("%s: %d copies, want %d; %q", tt.text, c.Replicas(), tt.want, problems)
		}
	}
	if c, _ := load(t, "nodes: {a: {route: '127.0.0.1:6222'}}"); c.Clustered() || c.Routes() != nil {
		t.Error("one node is a cluster")
	}
}

func TestAWrongClusterIsToldWithItsLines(t *testing.T) {
	const routeWanted = "every node of a cluster needs a route, the host:port where it listens for the others and they reach it, such as 10.0.0.1:6222"
	tests := []struct {
		name string
		text string
		want []string
	}{
		{"two nodes", "nodes:\n  n1: {route: '10.0.0.1:6222'}\n  n2: {route: '10.0.0.2:6222'}\ncluster: {tls: {ca: a, cert: b, key: c}}\n",
			[]string{"c.yaml:1: nodes: two nodes have no quorum when one is lost; use 1, 3 or 5"}},
		{"a node without a route", three + "  n4: {data: d, http: '127.0.0.1:0', nats: '127.0.0.1:0'}\n",
			[]string{"c.yaml:6: nodes.n4.route: " + routeWanted}},
		{"a route for all", "node:\n  route: '127.0.0.1:6222'\n",
			[]string{"c.yaml:2: node.route: every node needs a route of its own; set nodes.NAME.route"}},
		{"a route that says nothing", three + "  n4: {data: d, http: '127.0.0.1:0', nats: '127.0.0.1:0', route: ':6229'}\ncluster: {tls: {ca: a, cert: b, key: c}}\n",
			[]string{"c.yaml:6: nodes.n4.route: :6229 is no address that other nodes can reach; give this machine's, and let it listen on all with CARILLON_NODE_ROUTE=:6229"}},
		{"a route without a port", three + "  n4:\n    data: d\n    http: '127.0.0.1:0'\n    nats: '127.0.0.1:0'\n    route: '127.0.0.1:0'\n",
			[]string{"c.yaml:10: nodes.n4.route: other nodes must know the port; give one that is not 0"}},
		{"a route that is no address", strings.Replace(three, "127.0.0.1:6223", "6223", 1),
			[]string{`c.yaml:3: nodes.n1.route: "6223" is not of the form host:port`}},
		{"routes between machines without TLS", strings.Replace(apart, "cluster:", "#", 1),
			[]string{"cluster.tls: routes between machines need TLS; set ca, cert and key (`carillon cluster init` makes the files), or keep every route on loopback"}},
		{"half of the certificates", "cluster:\n  tls: {ca: a}\n" + three,
			[]string{"c.yaml:2: cluster.tls: ca, cert and key go together; `carillon cluster init` makes all three"}},
		{"five copies", "cluster:\n  replicas: 5\n" + three,
			[]string{"c.yaml:2: cluster.replicas: 5 is not 0, 1 or 3; a cluster of five or more keeps three copies of each log, too"}},
		{"three copies of one", "cluster: {replicas: 3}\n",
			[]string{"c.yaml:1: cluster.replicas: three copies of each log need three nodes, and nodes has 0"}},
		{"the same ports on one machine", strings.Replace(strings.Replace(three, ":8083", ":8081", 1), ":4225", ":6223", 1),
			[]string{"c.yaml:4: nodes.n3.http: 127.0.0.1:8081 is the address of nodes.n1.http already",
				"c.yaml:4: nodes.n3.nats: 127.0.0.1:6223 is the address of nodes.n1.route already"}},
		{"the same folder on one machine", strings.Replace(three, "data: c", "data: a", 1),
			[]string{"c.yaml:4: nodes.n3.data: a is the folder of nodes.n1 already"}},
		{"the same route on two machines", strings.Replace(apart, "10.0.0.3", "10.0.0.1", 1) + "node: {data: x}\n",
			[]string{"c.yaml:3: nodes.n3.http: 127.0.0.1:8080 is the address of nodes.n1.http already",
				"c.yaml:3: nodes.n3.nats: 127.0.0.1:4222 is the address of nodes.n1.nats already",
				"c.yaml:3: nodes.n3.route: 10.0.0.1:6222 is the address of nodes.n1.route already",
				"c.yaml:3: nodes.n3.data: x is the folder of nodes.n1 already"}},
		{"the address of another machine", apart + "node: {http: '10.0.0.1:8080'}\nsecurity: {tls: {cert: a, key: b}}\n",
			[]string{"c.yaml:3: nodes.n2.http: 10.0.0.1:8080 is the address of nodes.n1.http already",
				"c.yaml:3: nodes.n3.http: 10.0.0.1:8080 is the address of nodes.n1.http already",
				"c.yaml:3: nodes.n3.http: 10.0.0.1:8080 is the address of nodes.n2.http already"}},
		{"what is wrong with another node", strings.Replace(three, `"127.0.0.1:8082"`, "nonsense", 1),
			[]string{`c.yaml:5: nodes.n2.http: "nonsense" is not of the form host:port`}},
		{"what is wrong with all nodes is told once", apart + "node:\n  http: nonsense\n",
			[]string{`c.yaml:5: node.http: "nonsense" is not of the form host:port`}},
		{"a route on a listener's port", strings.Replace(three, ":6223", ":8081", 1),
			[]string{"c.yaml:3: nodes.n1.route: 127.0.0.1:8081 is the address of another listener of this node already"}},
		{"a key of an entry", three + "  n4: {rout: x}\n",
			[]string{"c.yaml:6: unknown key nodes.n4.rout; did you mean nodes.n4.route?"}},
		{"a name that is not there", "security: {tls: {cert: '{node}.pem', key: k}}\n",
			[]string{"c.yaml:1: security.tls.cert: {node} stands for the name of the node, and none is given; give --node, or an entry in nodes"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, got := load(t, tt.text)
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
			if strings.Contains(tt.text, "n1:") { // every node refuses what any of them would
				if _, got, _ := loadNode(t, tt.text, "n1"); !reflect.DeepEqual(got, tt.want) {
					t.Errorf("as n1 got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
				}
			}
		})
	}
}

func TestMachinesOfTheirOwnMayUseTheSamePorts(t *testing.T) {
	for _, text := range []string{three, apart, apart + "node: {http: '0.0.0.0:8080'}\n", strings.ReplaceAll(apart, "10.0.0.", "host-")} {
		if _, problems := load(t, text); problems != nil {
			t.Errorf("%s: %q", text, problems)
		}
	}
}

func TestEveryNodesListenersAreLookedAt(t *testing.T) {
	c, problems := load(t, strings.Replace(apart, `n2: {route: "10.0.0.2:6222"}`, `n2: {route: "10.0.0.2:6222", http: "10.0.0.2:80"}`, 1))
	if problems != nil {
		t.Fatal(problems)
	}
	want := []string{"c.yaml:3: nodes.n2.http: 10.0.0.2:80 can be reached from other machines but has no TLS; set security.tls.cert and security.tls.key, or listen on loopback, or start with --insecure-public"}
	got := lines(t, c.CheckListeners(), strings.TrimSuffix(c.origin["nodes"], ":3"))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestLoginsAreRead(t *testing.T) {
	key := userKey(t)
	c, problems := load(t, `
node: {nats: "10.0.0.1:4222"}
security:
  nats:
    tls: {cert: a.pem, key: b.pem}
    users:
      - name: lab
        password: "$2b$11$`+strings.Repeat("a", 53)+`"
        publish: ["fhir.ingest.Observation.*", "fhir.ingest.*.x-1_2"]
        subscribe: [fhir.message.lab, "fhir.dead.>", "fhir.event.Patient.>", "fhir.event.*.3.*"]
        consumers: [messages/lab, dead/d, events/e-1]
      - {name: monitor, nkey: `+key+`, subscribe: "fhir.dead.>"}
`)
	if problems != nil {
		t.Fatal(problems)
	}
	want := []NATSUser{{
		Name: "lab", Password: "$2b$11$" + strings.Repeat("a", 53),
		Publish:   []string{"fhir.ingest.Observation.*", "fhir.ingest.*.x-1_2"},
		Subscribe: []string{"fhir.message.lab", "fhir.dead.>", "fhir.event.Patient.>", "fhir.event.*.3.*"},
		Consumers: []string{"messages/lab", "dead/d", "events/e-1"},
	}, {Name: "monitor", NKey: key, Subscribe: []string{"fhir.dead.>"}}}
	if !reflect.DeepEqual(c.Security.NATS.Users, want) {
		t.Errorf("got %+v", c.Security.NATS.Users)
	}
	if err := c.CheckListeners(); err != nil {
		t.Error(err)
	}
}

func TestWrongLoginsAreToldWithoutTheirSecrets(t *testing.T) {
	const secret = "hunter2hunter2"
	login := func(rest string) string { return "security:\n  nats:\n    users:\n      - {name: a, " + rest + "}\n" }
	at := func(text string) []string { return []string{"c.yaml:4: security.nats.users[0]." + text} }
	tests := []struct {
		name string
		text string
		want []string
	}{
		{"no secret", login("publish: []"), at("password: a login needs a password or an nkey")},
		{"both", login("password: " + secret + ", nkey: " + userKey(t)), at("nkey: a login has a password or an nkey, not both")},
		{"a seed", login("nkey: SU" + secret), at("nkey: this looks like a seed, which is secret; give the public key, which begins with U, and make a new pair if others have seen this file")},
		{"no nkey", login("nkey: " + secret), at("nkey: not the public key of a user: 56 characters that begin with U")},
		{"half a hash", login("password: $2a$11$" + secret), at("password: begins like a bcrypt hash but is not a whole one, which has 60 characters and begins $2a$, $2b$ or $2y$")},
		{"masked", login("password: (masked)"), at("password: this is what `carillon config show` writes in place of a password; put the password here")},
		{"unknown key", login("pasword: " + secret), []string{"c.yaml:4: unknown key security.nats.users[0].pasword; did you mean security.nats.users[0].password?"}},
		{"the same name", login("password: "+secret) + "      - {name: a, password: x}\n", []string{"c.yaml:5: security.nats.users[1].name: a is the name of another login already"}},
		{"a name", "security: {nats: {users: [{name: a b, password: x}]}}\n", []string{`c.yaml:1: security.nats.users[0].name: "a b" is not 1 to 64 letters, digits, - and _`}},
		{"no name", "security: {nats: {users: [{password: x}]}}\n", []string{"c.yaml:1: security.nats.users[0].name: a login needs a name"}},
		{"no list", "security: {nats: {users: {a: " + secret + "}}}\n", []string{"c.yaml:1: security.nats.users: wants a list of logins, not a section"}},
		{"publish elsewhere", login("password: x, publish: [fhir.event.Patient.1]"), at(`publish: "fhir.event.Patient.1" is not within fhir.ingest.*.*, which is fhir.ingest, a type or *, and an id or *`)},
		{"publish too much", login("password: x, publish: ['fhir.ingest.>']"), at(`publish: "fhir.ingest.>" is not within fhir.ingest.*.*, which is fhir.ingest, a type or *, and an id or *`)},
		{"subscribe to all", login("password: x, subscribe: ['fhir.>', '>', 'fhir.*.x', fhir.dead, 'fhir.dead.>.x', '$JS.API.>', 'fhir.control.x', 'fhir.dead.']"), func() []string {
			var all []string
			for _, s := range []string{"fhir.>", ">", "fhir.*.x", "fhir.dead", "fhir.dead.>.x", "$JS.API.>", "fhir.control.x", "fhir.dead."} {
				all = append(all, at(`subscribe: "`+s+`" is not within fhir.message.>, fhir.dead.> or fhir.event.>`)...)
			}
			return all
		}()},
		{"a consumer", login("password: x, consumers: [lab]"), at(`consumers: "lab" is not messages/NAME, dead/NAME or events/NAME`)},
		{"half of TLS", "security: {nats: {tls: {key: a}}}\n", []string{"c.yaml:1: security.nats.tls.key: a key needs its certificate in security.nats.tls.cert"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, got := load(t, tt.text)
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
			if strings.Contains(strings.Join(got, ""), secret) {
				t.Error("the secret is shown")
			}
		})
	}
}

func TestShowOfAClusterIsReadBackButForPasswords(t *testing.T) {
	const secret = "hunter2hunter2"
	text := apart + "node: {data: x}\nsecurity: {nats: {users: [{name: a, password: " + secret + ", subscribe: ['fhir.dead.>']}, {name: b, nkey: " + userKey(t) + "}]}}\n"
	for _, name := range []string{"", "n2"} {
		c, problems := load(t, text)
		if name != "" {
			c, problems, _ = loadNode(t, text, name, "CARILLON_NODE_HTTP=127.0.0.1:9", "CARILLON_NODE_ROUTE=0.0.0.0:7")
		}
		if problems != nil {
			t.Fatal(problems)
		}
		shown := c.Show()
		if strings.Contains(shown, secret) {
			t.Error("the password is shown")
		}
		again, problems := load(t, strings.Replace(shown, mask, secret, 1))
		if problems != nil {
			t.Fatalf("%v in\n%s", problems, shown)
		}
		for _, key := range Keys() {
			if key != "node.route" && c.Text(key) != again.Text(key) {
				t.Errorf("%s was %s, is read back as %s", key, c.Text(key), again.Text(key))
			}
		}
		if !reflect.DeepEqual(c.Nodes, again.Nodes) || !reflect.DeepEqual(c.Security.NATS, again.Security.NATS) {
			t.Errorf("was %+v %+v\nread back as %+v %+v", c.Nodes, c.Security.NATS, again.Nodes, again.Security.NATS)
		}
		if _, problems = load(t, shown); len(problems) != 1 || !strings.Contains(problems[0], "carillon config show") {
			t.Errorf("the masked password was taken: %q", problems)
		}
		if name == "n2" && !strings.Contains(shown, "# CARILLON_NODE_ROUTE=0.0.0.0:7\n") {
			t.Errorf("the variable is not told:\n%s", shown)
		}
	}
}

func TestMissingFilesAreToldByCheckFilesAlone(t *testing.T) {
	c, problems := load(t, apart+"security: {tls: {cert: h.pem, key: k.pem}}\n")
	if problems != nil {
		t.Fatal(problems)
	}
	dir := filepath.Dir(strings.TrimSuffix(c.origin["nodes"], ":3"))
	got := lines(t, c.CheckFiles(), dir+"/c.yaml")
	if len(got) != 5 { // HTTP's and the CA once for all, then each node's
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	if !strings.HasPrefix(got[0], "c.yaml:4: security.tls.key: open ") && !strings.HasPrefix(got[0], "c.yaml:4: security.tls.cert: open ") {
		t.Errorf("got %s", got[0])
	}
	one, _, _ := loadNode(t, apart, "n3")
	if got := lines(t, one.CheckFiles(), ""); len(got) != 2 || !strings.Contains(got[1], "/keys/n3.pem") && !strings.Contains(got[1], "n3.pem") {
		t.Errorf("got %q", got)
	}
}

func userKey(t *testing.T) string {
	t.Helper()
	k, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := k.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// The folder of definitions lies beside the configuration, like certificates.
func TestTheFolderOfDefinitionsIsRelativeToTheFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(file, []byte("fhir: {version: R4B, definitions: defs}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.FHIR.Definitions != filepath.Join(dir, "defs") || cfg.FHIR.Version != "R4B" {
		t.Errorf("read %+v", cfg.FHIR)
	}
}
