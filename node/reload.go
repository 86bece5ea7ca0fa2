package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/node/config"
	"github.com/carillon-fhir/carillon/stream"
)

// reloading is the configuration as it is in force, and how it is read again.
type reloading struct {
	one   sync.Mutex // a reload at a time
	force atomic.Pointer[config.Config]
	load  func() (config.Config, error)
	level *slog.LevelVar
	cert  atomic.Pointer[tls.Certificate] // of the HTTP listener; nil where it has no TLS
}

// Reloads says how the configuration is read again, file, variables and flags, checked, and which
// level the log has. To be called before Run; without it there is nothing to be reloaded.
func (n *Node) Reloads(load func() (config.Config, error), level *slog.LevelVar) {
	n.reload.load, n.reload.level = load, level
}

// inForce is the configuration that the node uses now.
func (n *Node) inForce() config.Config { return *n.reload.force.Load() }

// reloaded are the keys that take effect without a restart.
func reloaded(key string) bool {
	return key == "observability.log.level" || strings.HasPrefix(key, "delivery.egress.") || key == "delivery.endpoints" || strings.HasPrefix(key, "security.secrets_key") ||
		slices.Contains([]string{"security.tls.cert", "security.tls.key", "security.nats.tls.cert", "security.nats.tls.key", "cluster.tls.cert", "cluster.tls.key"}, key)
}

// Reload reads the configuration again and puts in force what can be without a restart:
// certificates (their files are read again, whether their names changed or not), the level of the
// log, and where notifications may go. It names the other keys that changed and leaves them. What
// is wrong in the configuration is an error, and nothing changes then.
func (n *Node) Reload(ctx context.Context) (r api.Reloaded, err error) {
	n.reload.one.Lock()
	defer n.reload.one.Unlock()
	r.Node = n.name
	select {
	case <-n.ready:
	default:
		return r, errors.New("the node is starting; reload its configuration when it is ready")
	}
	if n.reload.load == nil {
		return r, errors.New("this node's configuration cannot be read again")
	}
	old := n.inForce()
	next, err := n.reload.load()
	if err != nil {
		return r, fmt.Errorf("the configuration stays as it was: %w", err)
	}
	if err := n.apply(old, next, &r); err != nil {
		return r, fmt.Errorf("the configuration stays as it was: %w", err)
	}
	n.log.Info("configuration was read again", "changed", strings.Join(r.Changed, ", "))
	if len(r.Restart) > 0 {
		n.log.Warn("changed keys need a restart of this node and are left as they were", "keys", strings.Join(r.Restart, ", "))
	}
	return r, ctx.Err()
}

// apply makes everything ready first, so that what fails changes nothing.
func (n *Node) apply(old, next config.Config, r *api.Reloaded) error {
	rules, err := settings(next)
	if err != nil {
		return err
	}
	ring, err := n.vault.nextRing(next, n.data.path)
	if err != nil {
		return err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(next.Observability.Log.Level)); err != nil {
		return next.Refuse("observability.log.level", "%v", err)
	}
	force, restart := old, []string{}
	for _, key := range config.Changed(old, next) {
		if reloaded(key) && sameTLS(key, old, next) {
			r.Changed = append(r.Changed, key)
		} else {
			restart = append(restart, key)
		}
	}
	certificate, err := n.readCertificate(&force, next)
	if err != nil {
		return err
	}
	files := stream.Certificates{Route: pemPair(next.Cluster.TLS.Cert, next.Cluster.TLS.Key), Client: pemPair(next.Security.NATS.TLS.Cert, next.Security.NATS.TLS.Key)}
	changed, err := n.server.ReloadCertificates(files) // all or nothing; the last step that may fail but for the rules, checked above
	if err != nil {
		return err
	}
	if err := n.resthook.Apply(rules); err != nil {
		return err
	}
	n.subs.rules.Store(&next.Delivery)
	n.endpoints.SetLimits(limitsOf(next.Delivery))
	n.vault.ring.Store(ring)
	n.vault.more()
	if certificate != nil {
		if before := n.reload.cert.Swap(certificate); !slices.EqualFunc(before.Certificate, certificate.Certificate, bytes.Equal) {
			changed = append(changed, "security.tls")
		}
	}
	if n.reload.level != nil {
		n.reload.level.Set(level)
	}
	for _, section := range changed {
		r.Changed = append(r.Changed, section+" (certificate)")
	}
	r.Restart = restart
	force.Observability.Log.Level, force.Delivery.Egress = next.Observability.Log.Level, next.Delivery.Egress
	force.Delivery.Endpoints = next.Delivery.Endpoints
	force.Security.SecretsKey, force.Security.SecretsKeyFile = next.Security.SecretsKey, next.Security.SecretsKeyFile
	keepTLS(&force.Security.NATS.TLS.Cert, &force.Security.NATS.TLS.Key, files.Client)
	keepTLS(&force.Cluster.TLS.Cert, &force.Cluster.TLS.Key, files.Route)
	n.reload.force.Store(&force)
	return nil
}

// sameTLS reports whether a key of a certificate leaves its listener what it is: one without TLS
// gets none, and one with it does not lose it, before a restart. Other keys have no such trouble.
func sameTLS(key string, old, next config.Config) bool {
	had, has := old.Text(key) != config.Config{}.Text(key), next.Text(key) != config.Config{}.Text(key)
	return !strings.Contains(key, ".tls.") || had == has
}

func pemPair(cert, key string) stream.TLS { return stream.TLS{Cert: cert, Key: key} }

// keepTLS names the files in force, where there were some and still are.
func keepTLS(cert, key *string, now stream.TLS) {
	if *cert != "" && now.Cert != "" {
		*cert, *key = now.Cert, now.Key
	}
}

// readCertificate reads the certificate of the HTTP listener again; nil where it has none.
func (n *Node) readCertificate(force *config.Config, next config.Config) (*tls.Certificate, error) {
	if n.reload.cert.Load() == nil || next.Security.TLS.Cert == "" {
		return nil, nil
	}
	c, err := tls.LoadX509KeyPair(next.Security.TLS.Cert, next.Security.TLS.Key)
	if err != nil {
		return nil, next.Refuse("security.tls.cert", "%v", err)
	}
	force.Security.TLS = next.Security.TLS
	return &c, nil
}

// serveHTTP serves on the listener, with the certificate that is in force at each connection.
func (n *Node) serveHTTP(srv *http.Server) error {
	files := n.cfg.Security.TLS
	if files.Cert == "" {
		return srv.Serve(n.listener)
	}
	c, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		return err
	}
	n.reload.cert.Store(&c)
	srv.TLSConfig = &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return n.reload.cert.Load(), nil },
	}
	return srv.ServeTLS(n.listener, "", "")
}

// Reload is Node.Reload with its errors as refusals.
func (a *admin) Reload(ctx context.Context, by string) (api.Reloaded, error) {
	r, err := a.Node.Reload(ctx)
	if err != nil && ctx.Err() == nil {
		a.log.Warn("configuration was not read again", "by", by, "err", err)
		return r, fhir.Refuse(fhir.IssueValue, "", err.Error())
	}
	return r, err
}
