package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/node/config"
	"github.com/carillon-fhir/carillon/stream"
)

// A single node answers what a cluster answers.
func TestASingleNodeIsAClusterOfItself(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	r.do(201, "PUT", "/fhir/Patient/p", `{"resourceType":"Patient","id":"p"}`, nil)
	var c api.Cluster
	r.do(200, "GET", "/admin/api/v1/cluster", "", &c)
	if !c.Quorum || !c.Ready || c.Leader != "n1" || c.Node != "n1" || len(c.Problems) != 0 || len(c.Logs) != 4 || c.Logs[0].Last == 0 {
		t.Errorf("the cluster is %+v", c)
	}
	if len(c.Nodes) != 1 || len(c.Lanes) != len(stream.Lanes()) || len(c.Streams) < 4 {
		t.Fatalf("%d nodes, %d lanes, %d streams", len(c.Nodes), len(c.Lanes), len(c.Streams))
	}
	n := c.Nodes[0]
	if n.Name != "n1" || !n.Leased || !n.Ready || n.Draining || n.Version != "1.2.3-test" || n.HTTP != r.Addr() || n.DiskFree == 0 || n.Applied.Events == 0 {
		t.Errorf("the node is %+v", n)
	}
	if n.ClockSkew > 1 || n.ClockSkew < -1 {
		t.Errorf("its clock is %f s off itself", n.ClockSkew)
	}
	if !slices.Equal(n.Partitions, r.table.Names()) {
		t.Errorf("it runs %v, want %v", n.Partitions, r.table.Names())
	}
	if missing := slices.DeleteFunc(stream.Lanes(), func(l stream.Lane) bool { return slices.Contains(n.Lanes, l.Name) }); len(missing) > 0 {
		t.Errorf("it does not run lanes %v", missing)
	}

	// Drained it goes on, since nobody else is there to do the work.
	r.do(200, "POST", "/admin/api/v1/cluster/drain", `{"node":"n1"}`, &n)
	if !n.Draining {
		t.Error("it does not say that it drains")
	}
	r.do(404, "POST", "/admin/api/v1/cluster/drain", `{"node":"n2"}`, nil)
	c = api.Cluster{}
	r.do(200, "GET", "/admin/api/v1/cluster", "", &c)
	if len(c.Nodes[0].Lanes) != len(stream.Lanes()) || !strings.Contains(strings.Join(c.Warnings, "\n"), "carillon cluster drain n1 --undo") {
		t.Errorf("drained it runs %v, and warns %q", c.Nodes[0].Lanes, c.Warnings)
	}
	r.do(200, "POST", "/admin/api/v1/cluster/drain", `{"node":"n1","undo":true}`, &n)
	if n.Draining {
		t.Error("it drains after all")
	}

	var v api.Verification
	r.do(200, "POST", "/admin/api/v1/cluster/verify", "", &v)
	if !v.Equal || len(v.Nodes) != 1 || v.Nodes[0].Hash == "" || v.At.Events == 0 || len(v.Nodes[0].Buckets) < 10 {
		t.Errorf("compared with itself it is %+v", v)
	}
	// Nothing stands still afterwards.
	r.do(201, "PUT", "/fhir/Patient/q", `{"resourceType":"Patient","id":"q"}`, nil)
}

// Who is outside finds the node as a NATS service and asks how the cluster is, and reaches nothing
// that nodes ask one another.
func TestOperatorsAskTheNodeByNATS(t *testing.T) {
	r := runNode(t, testConfig(t.TempDir()))
	nc, err := nats.Connect("nats://" + r.NATSAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ask := func(subject string) []byte {
		t.Helper()
		m, err := nc.Request(subject, nil, 10*time.Second)
		if err != nil {
			t.Fatalf("%s: %v", subject, err)
		}
		if code := m.Header.Get("Nats-Service-Error-Code"); code != "" {
			t.Errorf("%s: %s", subject, m.Header.Get("Nats-Service-Error"))
		}
		return m.Data
	}
	for _, subject := range []string{"$SRV.PING", "$SRV.PING.carillon", "$SRV.INFO.carillon", "$SRV.STATS.carillon"} {
		var s struct {
			Name, Version string
			Metadata      map[string]string
		}
		if err := json.Unmarshal(ask(subject), &s); err != nil || s.Name != "carillon" || s.Version != "1.2.3" || s.Metadata["node"] != "n1" {
			t.Errorf("%s: %+v, %v", subject, s, err)
		}
	}
	var c api.Cluster
	if err := json.Unmarshal(ask("carillon.admin.cluster.status"), &c); err != nil || c.Node != "n1" || len(c.Nodes) != 1 {
		t.Errorf("status: %+v, %v", c, err)
	}
	if _, err := nc.Request("carillon.node.n1.state", nil, 200*time.Millisecond); err == nil {
		t.Error("a client asks what only nodes may")
	}
	// Once the API asks for a login the guest is asked for one too.
	r.do(201, "POST", "/admin/api/v1/tokens", `{"name":"a","roles":["admin"]}`, nil)
	m, err := nc.Request("carillon.admin.cluster.status", nil, 10*time.Second)
	if err != nil || m.Header.Get("Nats-Service-Error-Code") != "403" {
		t.Errorf("after a token was made: %v, %v", m, err)
	}
}

// A record that a newer release wrote ends the node with both numbers, at once and at every start.
func TestARecordOfANewerFormatEndsTheNode(t *testing.T) {
	dir := t.TempDir()
	r := runNode(t, testConfig(dir))
	m := nats.NewMsg(stream.ControlSubject("novelty"))
	m.Header.Set(headerFormat, "3")
	if _, err := r.server.JetStream().PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	err := <-r.end
	r.once.Do(func() { r.stop() })
	want := func(err error) {
		t.Helper()
		if !errors.Is(err, errNewerFormat) || !strings.Contains(err.Error(), "has format 3, and this release knows formats 1 to 2") {
			t.Errorf("it ended with %v", err)
		}
	}
	want(err)
	n, err := New(testConfig(dir), slog.New(slog.DiscardHandler), "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	want(n.Run(t.Context()))
}

// writeCertificate writes one for 127.0.0.1 that signs itself, and gives who trusts it.
func writeCertificate(t *testing.T, dir string) (config.TLS, *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := config.TLS{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	err = errors.Join(os.WriteFile(files.Cert, cert, 0o600), os.WriteFile(files.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return files, &tls.Config{RootCAs: pool}
}

func TestReloadPutsInForceWhatItCanAndNamesTheRest(t *testing.T) {
	dir, level := t.TempDir(), new(slog.LevelVar)
	files, before := writeCertificate(t, dir)
	cfg := testConfig(t.TempDir())
	cfg.Security.TLS = files
	next, wrong := cfg, error(nil)
	r := runNode(t, cfg, func(n *Node) { n.Reloads(func() (config.Config, error) { return next, wrong }, level) })
	shows := func(with *tls.Config) bool {
		c, err := tls.Dial("tcp", r.Addr(), with)
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	reload := func() api.Reloaded {
		t.Helper()
		got, err := r.Reload(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := reload(); len(got.Changed)+len(got.Restart) != 0 {
		t.Errorf("nothing changed, and %+v is told", got)
	}

	_, after := writeCertificate(t, dir)
	next.Observability.Log.Level = "debug"
	next.Delivery.Egress.AllowPrivate = false
	next.Delivery.Retry.Attempts = 7
	next.Node.HTTP = "127.0.0.1:1"
	for range 2 { // what needs a restart is named until there was one
		got := reload()
		if want := []string{"node.http", "delivery.retry.attempts"}; !slices.Equal(got.Restart, want) {
			t.Errorf("needs a restart: %q, want %q", got.Restart, want)
		}
	}
	if level.Level() != slog.LevelDebug || shows(before) || !shows(after) {
		t.Errorf("level %s; shows the certificate before: %t, after: %t", level.Level(), shows(before), shows(after))
	}
	if err := r.resthook.CheckURL("http://127.0.0.1:9/"); err == nil {
		t.Error("an endpoint may be used that the rules do not allow any more")
	}
	if now := r.inForce(); now.Observability.Log.Level != "debug" || now.Node.HTTP != cfg.Node.HTTP || now.Delivery.Retry.Attempts != 3 {
		t.Errorf("in force is %+v", now)
	}

	// What is wrong changes nothing.
	kept := r.inForce()
	for name, break_ := range map[string]func(){
		"the file":      func() { wrong = errors.New("cluster.yaml:3: unknown key") },
		"a network":     func() { next.Delivery.Egress.Allow = []string{"x"} },
		"a level":       func() { next.Observability.Log.Level = "loud" },
		"a certificate": func() { next.Security.TLS.Cert = files.Key },
	} {
		good := next
		next.Observability.Log.Level = "warn"
		break_()
		if _, err := r.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "stays as it was") {
			t.Errorf("%s is wrong: %v", name, err)
		}
		next, wrong = good, nil
		if changed := config.Changed(kept, r.inForce()); changed != nil || level.Level() != slog.LevelDebug || !shows(after) {
			t.Errorf("%s is wrong, and %q changed", name, changed)
		}
	}
}
