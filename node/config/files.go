package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// CheckFiles reads the certificates and keys that the configuration names, of all nodes if none
// is chosen, and returns an *Error with what would keep a node from starting or its routes from
// being taken. It is apart from Validate because a file may be written on a machine that has
// not got the others' keys.
func (c Config) CheckFiles() error {
	f := &files{now: time.Now(), seen: map[Problem]bool{}}
	c.each(f.check)
	if len(f.problems) > 0 {
		return &Error{Problems: f.problems}
	}
	return nil
}

type files struct {
	now      time.Time
	seen     map[Problem]bool // what all nodes share is told once
	problems []Problem
}

func (f *files) refuse(c Config, key string, err error) {
	v := &validation{cfg: c}
	v.refuse(key, "%v", err)
	for _, p := range v.problems {
		if !f.seen[p] {
			f.seen[p] = true
			f.problems = append(f.problems, p)
		}
	}
}

func (f *files) check(c Config) {
	f.pair(c, "security.tls", c.Security.TLS)
	f.pair(c, "security.nats.tls", c.Security.NATS.TLS)
	if path := c.Match.Repository.AuthorizationFile; path != "" {
		if _, err := ReadSecret(path); err != nil {
			f.refuse(c, "match.repository.authorization_file", err)
		}
	}
	f.endpoints(c)
	if _, err := c.Security.SecretsKeys(); err != nil {
		f.refuse(c, "security.secrets_key_file", err)
	}
	t := c.Cluster.TLS
	if t.CA == "" || len(c.Nodes) == 0 {
		return
	}
	roots := f.authority(c, t.CA)
	leaf := f.pair(c, "cluster.tls", TLS{Cert: t.Cert, Key: t.Key})
	if roots == nil || leaf == nil {
		return
	}
	if err := f.routeCertificate(c, roots, leaf); err != nil {
		f.refuse(c, "cluster.tls.cert", fmt.Errorf("%s: %w%s", t.Cert, err, c.label()))
	}
}

// pair reads a certificate and its key; nil if that fails or there is none.
func (f *files) pair(c Config, section string, t TLS) *x509.Certificate {
	if t.Cert == "" || t.Key == "" {
		return nil
	}
	key := section + ".cert"
	if _, err := os.Stat(t.Key); err != nil {
		key = section + ".key"
	}
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		f.refuse(c, key, err)
		return nil
	}
	if f.now.After(pair.Leaf.NotAfter) {
		f.refuse(c, key, fmt.Errorf("%s has expired on %s", t.Cert, pair.Leaf.NotAfter.UTC().Format(time.DateOnly)))
		return nil
	}
	return pair.Leaf
}

func (f *files) authority(c Config, path string) *x509.CertPool {
	pool, err := ReadCA(path)
	if err != nil {
		f.refuse(c, "cluster.tls.ca", err)
		return nil
	}
	return pool
}

// ReadCA reads a PEM file of certificate authorities.
func ReadCA(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", path)
	}
	return pool, nil
}

// endpoints reads the files that the rules for endpoints and the egress proxy need.
func (f *files) endpoints(c Config) {
	secret := func(key, path string) {
		if path == "" {
			return
		}
		if _, err := ReadSecret(path); err != nil {
			f.refuse(c, key, err)
		}
	}
	secret("delivery.egress.proxy_credentials_file", c.Delivery.Egress.ProxyCredentialsFile)
	secret("delivery.operator_events.webhook.secret_file", c.Delivery.OperatorEvents.Webhook.SecretFile)
	for i, e := range c.Delivery.Endpoints {
		key := fmt.Sprintf("delivery.endpoints[%d]", i)
		if e.CA != "" {
			if _, err := ReadCA(e.CA); err != nil {
				f.refuse(c, key+".ca", err)
			}
		}
		f.pair(c, key, TLS{Cert: e.Cert, Key: e.Key})
		secret(key+".basic.password_file", e.Basic.PasswordFile)
		secret(key+".oauth2.secret_file", e.OAuth2.SecretFile)
		if e.OAuth2.KeyFile != "" {
			if _, err := os.ReadFile(e.OAuth2.KeyFile); err != nil {
				f.refuse(c, key+".oauth2.key_file", err)
			}
		}
	}
}

// routeCertificate tells why other nodes would not take this node's certificate: a node is a
// server to some and a client to others, and is reached by the host of its route.
func (f *files) routeCertificate(c Config, roots *x509.CertPool, leaf *x509.Certificate) error {
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{use}, CurrentTime: f.now}); err != nil {
			var usage x509.CertificateInvalidError
			if errors.As(err, &usage) && usage.Reason == x509.IncompatibleUsage {
				return errors.New("must be for servers and for clients, since a node is both to the others")
			}
			return fmt.Errorf("not signed by cluster.tls.ca: %w", err)
		}
	}
	host, _, err := net.SplitHostPort(c.Nodes[c.Run.Node].Route)
	if err != nil {
		return nil // no route
	}
	return leaf.VerifyHostname(host)
}

// ReadSecret reads a secret from a file of its own: one line of printable ASCII. No error repeats
// any of it.
func ReadSecret(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(text))
	switch {
	case secret == "":
		return "", fmt.Errorf("%s is empty", path)
	case strings.IndexFunc(secret, func(r rune) bool { return r < ' ' || r > '~' }) >= 0:
		return "", fmt.Errorf("%s must hold one line of printable ASCII", path)
	}
	return secret, nil
}
