package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/node/config"
)

// command runs a command line and gives its exit code and what it printed.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// made lists the files below a folder.
func made(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return files
}

func TestClusterInitMakesWhatEveryNodeNeeds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	code, stdout, stderr := command(t, "cluster", "init", "--dir", dir, "--name", "north", "--nodes", "n1=10.0.0.1,n2=fhir-2.example.org,n3=[fd00::3]")
	if code != exitDone {
		t.Fatal(stderr)
	}
	want := []string{"ca-key.pem", "certs/ca.pem", "certs/n1-key.pem", "certs/n1.pem", "certs/n2-key.pem", "certs/n2.pem", "certs/n3-key.pem", "certs/n3.pem", "certs/secrets.key", "cluster.yaml"}
	if got := made(t, dir); !reflect.DeepEqual(got, want) {
		t.Errorf("made %q", got)
	}
	for _, name := range want {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "-key.pem") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	for _, text := range []string{"ca-key.pem", "n1,n2,n3"} {
		if !strings.Contains(stdout, text) {
			t.Errorf("stdout leaves out %s: %s", text, stdout)
		}
	}
	if !strings.Contains(stderr, "on fhir-2.example.org:  carillon serve --config /etc/carillon/cluster.yaml --node n2") {
		t.Errorf("the next steps are not told: %s", stderr)
	}
	// Copied elsewhere, the folder serves every node as it is.
	moved := filepath.Join(t.TempDir(), "etc")
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	for name, host := range map[string]string{"n1": "10.0.0.1", "n2": "fhir-2.example.org", "n3": "fd00::3"} {
		cfg, err := config.LoadNode(filepath.Join(moved, "cluster.yaml"), nil, name)
		if err != nil {
			t.Fatal(err)
		}
		if err := cfg.CheckFiles(); err != nil {
			t.Error(err)
		}
		if cfg.Cluster.Name != "north" || cfg.Node.Route != net.JoinHostPort(host, "6222") || cfg.Replicas() != 3 {
			t.Errorf("%s is %+v in %+v", name, cfg.Node, cfg.Cluster)
		}
		namesAre(t, cfg.Cluster.TLS.Cert, name, host)
	}
}

// namesAre looks at whom a certificate is for.
func namesAre(t *testing.T, path string, names ...string) {
	t.Helper()
	cert := readCert(t, path)
	for _, name := range names {
		if err := cert.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if got := len(cert.DNSNames) + len(cert.IPAddresses); got != len(names) {
		t.Errorf("%s names %v and %v too", path, cert.DNSNames, cert.IPAddresses)
	}
	if cert.IsCA {
		t.Errorf("%s may sign others", path)
	}
}

func readCert(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(path, strings.TrimSuffix(path, ".pem")+"-key.pem")
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

func TestNodesOfAClusterKnowEachOtherAndNobodyElse(t *testing.T) {
	ours, theirs := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	for _, dir := range []string{ours, theirs} {
		if code, _, stderr := command(t, "cluster", "init", "--dir", dir, "--local", "3"); code != exitDone {
			t.Fatal(stderr)
		}
	}
	if err := mutualTLS(t, ours, "n1", ours, "n2"); err != nil {
		t.Errorf("n1 and n2 of one cluster: %v", err)
	}
	if err := mutualTLS(t, ours, "n1", theirs, "n2"); err == nil {
		t.Error("a node of another cluster was taken")
	}
}

// mutualTLS has one node dial another, each with its own cluster's CA, and gives the first error.
func mutualTLS(t *testing.T, dirA, a, dirB, b string) error {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	server := tls.Server(far, routeConfig(t, dirB, b))
	failed := make(chan error, 1)
	go func() {
		err := server.HandshakeContext(t.Context())
		far.Close()
		failed <- err
	}()
	client := routeConfig(t, dirA, a)
	client.ServerName = "127.0.0.1"
	err := tls.Client(near, client).HandshakeContext(t.Context())
	near.Close()
	if other := <-failed; err == nil {
		err = other
	}
	return err
}

func routeConfig(t *testing.T, dir, name string) *tls.Config {
	t.Helper()
	cfg, err := config.LoadNode(filepath.Join(dir, "cluster.yaml"), nil, name)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(cfg.Cluster.TLS.Cert, cfg.Cluster.TLS.Key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(cfg.Cluster.TLS.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

func TestLocalNodesDoNotMeet(t *testing.T) {
	for _, n := range []string{"1", "3", "5"} {
		dir := filepath.Join(t.TempDir(), "c")
		if code, _, stderr := command(t, "cluster", "init", "--dir", dir, "--local", n); code != exitDone {
			t.Fatal(stderr)
		}
		cfg, err := config.LoadNode(filepath.Join(dir, "cluster.yaml"), nil, "n1")
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(len(cfg.Nodes)); got != n {
			t.Errorf("%s nodes, want %s", got, n)
		}
		want := config.Node{Data: filepath.Join(dir, "data", "n1"), HTTP: "127.0.0.1:8081", NATS: "127.0.0.1:4223", Route: "127.0.0.1:6223"}
		if cfg.Node != want {
			t.Errorf("n1 is %+v", cfg.Node)
		}
		namesAre(t, cfg.Cluster.TLS.Cert, "127.0.0.1", "::1", "localhost", "n1")
	}
}

// TestWhatIsThereToBeUncommentedIsRight takes the comments away from what init writes.
func TestWhatIsThereToBeUncommentedIsRight(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	if code, _, stderr := command(t, "cluster", "init", "--dir", dir, "--nodes", "n1=10.0.0.1,n2=10.0.0.2,n3=10.0.0.3"); code != exitDone {
		t.Fatal(stderr)
	}
	path := filepath.Join(dir, "cluster.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`(?m)^( *)#(\S.*)$`).ReplaceAll(text, []byte("$1$2"))
	text = bytes.Replace(text, []byte(`password: ""`), []byte("password: x"), 1)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.CheckListeners(); err != nil {
		t.Error(err)
	}
	if err := cfg.CheckFiles(); err != nil {
		t.Error(err)
	}
	if cfg.Nodes["n2"].HTTP != "10.0.0.2:8080" || cfg.Nodes["n2"].NATS != "10.0.0.2:4222" || len(cfg.Security.NATS.Users) != 1 {
		t.Errorf("%+v %+v", cfg.Nodes, cfg.Security.NATS.Users)
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	for _, there := range []string{"cluster.yaml", "ca-key.pem", "certs/n2-key.pem"} {
		dir := t.TempDir()
		path := filepath.Join(dir, there)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		code, _, stderr := command(t, "cluster", "init", "--dir", dir, "--local", "3")
		if want := "carillon: " + path + " exists, and nothing is overwritten; give another folder with --dir\n"; code != exitUsage || stderr != want {
			t.Errorf("exit %d: %s", code, stderr)
		}
		if text, _ := os.ReadFile(path); string(text) != "mine" {
			t.Errorf("%s was overwritten", there)
		}
		if got := made(t, dir); len(got) != 1 {
			t.Errorf("made %q although %s was there", got, there)
		}
	}
}

func TestWhatIsNoClusterIsRefused(t *testing.T) {
	for line, want := range map[string]string{
		"":                                 "carillon cluster init needs --nodes n1=HOST,n2=HOST,n3=HOST, or --local N for nodes on this machine",
		"--local 3 --nodes a=b":            "carillon cluster init needs --nodes n1=HOST,n2=HOST,n3=HOST, or --local N for nodes on this machine",
		"--local 2":                        "--local 2: use 1, 3 or 5 nodes, at most 9; two have no quorum when one is lost",
		"--local 0":                        "--local 0: use 1, 3 or 5 nodes, at most 9; two have no quorum when one is lost",
		"--local 3 --days 0":               "--days 0 is not between 1 and 36500",
		"--local 3 --name a/b":             `--name "a/b" is not 1 to 64 letters, digits, - and _`,
		"--nodes n1=a,n2=b":                "--nodes: two nodes have no quorum when one is lost; use 1, 3 or 5",
		"--nodes n1=a,n1=b,n3=c":           "--nodes: n1 is there twice",
		"--nodes n1=a,n2=a,n3=c":           "--nodes: a is the host of two nodes; for nodes on one machine use --local",
		"--nodes n1=a,n2,n3=c":             `--nodes: "n2" is not of the form NAME=HOST`,
		"--nodes n1=a:6222,n2=b,n3=c":      `--nodes: "a:6222" is not the name or address of a host; ports are set in cluster.yaml later`,
		"--nodes n1=0.0.0.0,n2=b,n3=c":     "--nodes: other nodes cannot reach 0.0.0.0; give the machine's own address",
		"--nodes n/1=a,n2=b,n3=c":          `--nodes: "n/1" is not a name of 1 to 64 letters, digits, - and _`,
		"--nodes ca=a,n2=b,n3=c":           "--nodes: certs/ca.pem is the file of something else; give the node another name",
		"--nodes n1=a,n1-key=b,n3=c":       "--nodes: certs/n1-key.pem is the file of something else; give the node another name",
		"--nodes n1=../x,n2=b,n3=c":        `--nodes: "../x" is not the name or address of a host; ports are set in cluster.yaml later`,
		"--nodes n1=a,n2=b,n3=c --local 0": "carillon cluster init needs --nodes n1=HOST,n2=HOST,n3=HOST, or --local N for nodes on this machine",
	} {
		dir := filepath.Join(t.TempDir(), "c")
		code, _, stderr := command(t, slices.Concat([]string{"cluster", "init", "--dir", dir}, strings.Fields(line))...)
		if code != exitUsage || stderr != "carillon: "+want+"\n" {
			t.Errorf("%s: exit %d: %s", line, code, stderr)
		}
		if got := made(t, dir); len(got) > 0 {
			t.Errorf("%s: made %q", line, got)
		}
	}
}

func TestCertificatesThatDoNotFitAreRefusedBeforeANodeStarts(t *testing.T) {
	const n = `nodes: {n1: {route: "127.0.0.1:1", http: "127.0.0.1:2", nats: "127.0.0.1:3", data: a}, n2: {route: "localhost:4", http: "127.0.0.1:5", nats: "127.0.0.1:6", data: b}, n3: {route: "[::1]:7", http: "127.0.0.1:8", nats: "127.0.0.1:9", data: c}}`
	now := time.Now()
	ours, err := newAuthority("ours", now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := newAuthority("theirs", now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	past, err := newAuthority("past", now.Add(-48*time.Hour), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		signer *authority
		sans   []string
		key    bool // is it that of the certificate?
		want   string
	}{
		{"what fits", ours, []string{"127.0.0.1"}, true, ""},
		{"another host", ours, []string{"10.0.0.1"}, true, "x509: certificate is valid for 10.0.0.1, not 127.0.0.1"},
		{"another CA", theirs, []string{"127.0.0.1"}, true, "not signed by cluster.tls.ca: x509: certificate signed by unknown authority"},
		{"too old", past, []string{"127.0.0.1"}, true, "has expired on " + now.Add(-47*time.Hour).UTC().Format(time.DateOnly)},
		{"another key", ours, []string{"127.0.0.1"}, false, "private key does not match public key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			cert, key, err := tt.signer.issue("n1", tt.sans)
			if err != nil {
				t.Fatal(err)
			}
			if !tt.key {
				key = ours.keyPEM
			}
			for name, text := range map[string][]byte{
				"ca.pem": ours.certPEM(), "n1.pem": cert, "n1-key.pem": key,
				"c.yaml": []byte("cluster: {tls: {ca: ca.pem, cert: '{node}.pem', key: '{node}-key.pem'}}\n" + n),
			} {
				if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cfg, err := config.LoadNode(filepath.Join(dir, "c.yaml"), nil, "n1")
			if err != nil {
				t.Fatal(err)
			}
			err = cfg.CheckFiles()
			if tt.want == "" && err != nil {
				t.Error(err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), "c.yaml:1: cluster.tls.cert: ") || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}
