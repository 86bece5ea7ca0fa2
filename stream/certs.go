package stream

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/nats-io/nats-server/v2/server"
)

// shownCert is a certificate that is read again without a restart. Connections that are open keep what
// they were opened with.
type shownCert struct {
	now atomic.Pointer[tls.Certificate]
}

func (c *shownCert) show(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.now.Load(), nil }

func (c *shownCert) showAsClient(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return c.now.Load(), nil
}

// into makes a listener, and whoever dials with the same settings, show this certificate.
func (c *shownCert) into(config *tls.Config) {
	// With certificates in the list the callback is not asked by clients that name no host.
	config.Certificates = nil
	config.GetCertificate, config.GetClientCertificate = c.show, c.showAsClient
}

// Certificates names the PEM files of the certificates that this node shows: to other nodes, and
// to NATS clients. Without a file there is none.
type Certificates struct {
	Route  TLS
	Client TLS
}

// showCertificates has the server show certificates that ReloadCertificates can replace. The
// parser has read the files already.
func (s *Server) showCertificates(o *server.Options) error {
	for _, l := range []struct {
		config *tls.Config
		cert   *shownCert
	}{{o.Cluster.TLSConfig, &s.routeCert}, {o.TLSConfig, &s.clientCert}} {
		if l.config == nil {
			continue
		}
		if len(l.config.Certificates) == 0 {
			return errors.New("configure the embedded NATS server: a listener with TLS has no certificate")
		}
		if l.cert.now.Load() == nil { // a Restart keeps what was reloaded
			l.cert.now.Store(&l.config.Certificates[0])
		}
		l.cert.into(l.config)
	}
	return nil
}

// ReloadCertificates reads the certificates of routes and of the listener for NATS clients again,
// from these files, and shows them to whoever connects from now on. It names those that are
// others than before. On an error nothing changes: both are read before either is used. A
// listener without TLS does not get any.
func (s *Server) ReloadCertificates(files Certificates) (changed []string, err error) {
	type pair struct {
		cert *shownCert
		next *tls.Certificate
	}
	var pairs []pair
	for _, f := range []struct {
		what  string
		files TLS
		cert  *shownCert
	}{{"cluster.tls", files.Route, &s.routeCert}, {"security.nats.tls", files.Client, &s.clientCert}} {
		before := f.cert.now.Load()
		if before == nil || f.files.Cert == "" {
			continue
		}
		next, err := tls.LoadX509KeyPair(f.files.Cert, f.files.Key)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.what, err)
		}
		if !slices.EqualFunc(before.Certificate, next.Certificate, bytes.Equal) {
			pairs = append(pairs, pair{f.cert, &next})
			changed = append(changed, f.what)
		}
	}
	for _, p := range pairs {
		p.cert.now.Store(p.next)
	}
	return changed, nil
}
