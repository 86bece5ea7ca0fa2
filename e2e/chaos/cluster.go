package chaos

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Cluster is the nodes of a run, of one configuration file.
type Cluster struct {
	Machine *Machine
	Nodes   []*Node
}

// Ports differ between nodes, since without namespaces they share one loopback.
func httpPort(h *Host) int  { return h.m.ports() + 10*h.Index + 1 }
func natsPort(h *Host) int  { return h.m.ports() + 10*h.Index + 2 }
func routePort(h *Host) int { return h.m.ports() + 10*h.Index + 3 }

// ports is the first port of this run. In namespaces every run has all of them.
func (m *Machine) ports() int {
	if m.bridge != "" {
		return 8000
	}
	return m.base
}

// freePorts finds a hundred ports of loopback that nobody listens on, below the range that the
// kernel hands out. The process id keeps runs apart that look at the same time.
func freePorts() (base int, err error) {
	for i := range 200 {
		base = 10_000 + (os.Getpid()+i)%200*100
		if err = allFree(base); err == nil {
			return base, nil
		}
	}
	return 0, fmt.Errorf("no hundred ports of loopback are free: %w", err)
}

func allFree(base int) error {
	for port := range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+port))
		if err != nil {
			return err
		}
		l.Close()
	}
	return nil
}

// NewCluster writes the configuration and prepares the nodes. None of them runs yet.
func NewCluster(m *Machine, binary string, disk int64, env []string) (*Cluster, error) {
	c := &Cluster{Machine: m}
	m.endNodes = c.KillAll
	config := filepath.Join(m.Dir, "cluster.yaml")
	for i, h := range m.Hosts() {
		name := fmt.Sprintf("n%d", i+1)
		d, err := m.NewDisk(name, disk)
		if err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, newNode(m, h, name, binary, config, d, env))
	}
	if len(c.Nodes) > 1 {
		if err := writeCertificates(filepath.Join(m.Dir, "certs"), c.Nodes); err != nil {
			return nil, err
		}
	}
	return c, os.WriteFile(config, []byte(c.yaml()), 0o600)
}

// yaml is the configuration. Clients are on the nodes' loopback; only routes and notifications
// leave a host. Retries are quick, and go on until an endpoint is well again.
func (c *Cluster) yaml() string {
	var b strings.Builder
	b.WriteString("cluster:\n  name: chaos\n")
	if len(c.Nodes) > 1 {
		b.WriteString("  tls: {ca: certs/ca.pem, cert: \"certs/{node}.pem\", key: \"certs/{node}-key.pem\"}\n")
	}
	b.WriteString("nodes:\n")
	for _, n := range c.Nodes {
		fmt.Fprintf(&b, "  %s: {data: %q, http: %q, nats: %q", n.Name, filepath.Join(n.Disk.Path, "data"),
			strings.TrimPrefix(n.URL, "http://"), n.NATS)
		if len(c.Nodes) > 1 {
			fmt.Fprintf(&b, ", route: \"%s:%d\"", n.Host.Addr, routePort(n.Host))
		}
		b.WriteString("}\n")
	}
	fmt.Fprintf(&b, `delivery:
  rest_hook: {timeout: %s}
  retry: {attempts: unlimited, schedule: [300ms, 1s, 2s]}
  egress: {allow: [%q], allow_http: true}
`, attemptTimeout, c.Machine.Network)
	return b.String()
}

// attemptTimeout is how long a notification may take.
const attemptTimeout = 5 * time.Second

// Node returns a node by name, nil if there is none.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// StartAll starts every node that does not run and waits until all serve.
func (c *Cluster) StartAll(ctx context.Context, limit time.Duration) error {
	for _, n := range c.Nodes {
		if err := n.Start(); err != nil {
			return err
		}
	}
	return c.AwaitReady(ctx, limit)
}

// AwaitReady waits until all nodes serve.
func (c *Cluster) AwaitReady(ctx context.Context, limit time.Duration) error {
	return c.each(func(n *Node) error { return n.AwaitReady(ctx, limit) })
}

// KillAll ends all nodes at once.
func (c *Cluster) KillAll() {
	_ = c.each(func(n *Node) error { n.Kill(); return nil })
}

// each does something on all nodes at a time.
func (c *Cluster) each(f func(*Node) error) error {
	errs := make([]error, len(c.Nodes))
	var all sync.WaitGroup
	for i, n := range c.Nodes {
		all.Go(func() { errs[i] = f(n) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// Leader names the node that leads the log of events, as the first node that answers tells it;
// nil if none does.
func (c *Cluster) Leader(ctx context.Context) *Node {
	for _, n := range c.Nodes {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		var state any
		err := n.JSON(ctx, "/admin/api/v1/cluster", &state)
		cancel()
		if err == nil {
			if leader := c.Node(leaderOf(state, "EVENTS")); leader != nil {
				return leader
			}
		}
	}
	return nil
}

// leaderOf finds the object with this name and takes its leader.
func leaderOf(state any, name string) string {
	switch v := state.(type) {
	case map[string]any:
		if leader, ok := v["leader"].(string); ok && v["name"] == name {
			return leader
		}
		for _, e := range v {
			if l := leaderOf(e, name); l != "" {
				return l
			}
		}
	case []any:
		for _, e := range v {
			if l := leaderOf(e, name); l != "" {
				return l
			}
		}
	}
	return ""
}

// writeCertificates makes a private authority and a certificate for the routes of each node.
func writeCertificates(dir string, nodes []*Node) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "chaos"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if err := writeCertificate(dir, "ca", ca, ca, caKey, caKey); err != nil {
		return err
	}
	for i, n := range nodes {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		cert := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 2)), Subject: pkix.Name{CommonName: n.Name},
			NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
			KeyUsage:    x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			DNSNames:    []string{n.Name, "localhost"},
			IPAddresses: []net.IP{n.Host.Addr.AsSlice(), net.IPv4(127, 0, 0, 1)},
		}
		if err := writeCertificate(dir, n.Name, cert, ca, key, caKey); err != nil {
			return err
		}
	}
	return nil
}

func writeCertificate(dir, name string, cert, ca *x509.Certificate, key, caKey *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, cert, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(filepath.Join(dir, name+"-key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600),
	)
}
