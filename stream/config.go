package stream

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Config says how the embedded server runs.
type Config struct {
	Name    string // server name; stable, since the store belongs to it
	Cluster string // cluster name; a tag of the server while there is one node; may be empty
	Dir     string // data folder; the engine keeps its files below it
	// Listen is host:port for NATS clients, on loopback unless there are Logins and ClientTLS.
	// Port 0 picks a free one. Empty opens no listener.
	Listen     string
	Logins     []Login // who may connect; without any everybody at the listener is one guest
	ClientTLS  *TLS    // of the listener for NATS clients; nil is none
	Insecure   bool    // Listen may be reached by others without Logins or ClientTLS
	MaxPayload int     // largest message in bytes, headers included; 0 is 9 MiB
	MaxStore   int64   // bytes of disk that the streams may use; 0 is no limit but the disk
	MaxMemory  int64   // bytes of memory that memory streams may use; 0 is 256 MiB
	Replicas   int     // copies of each stream: 1, or 3 in a cluster; 0 is 1
	// Route is the host:port where this node listens for other nodes and they reach it; empty
	// where it is alone. Routes are those of all nodes, its own included.
	Route  string
	Routes []string
	TLS    *RouteTLS    // of the routes, mutual; may be nil while all of them are on loopback
	Log    *slog.Logger // nil discards
	// MessageSubjects are subjects that MESSAGES takes beside fhir.message.*, with * and > for
	// tokens. They must not overlap. Messages of a subject that is left out later stay.
	MessageSubjects []string
	MessageAge      time.Duration // how long MESSAGES keeps a message; 0 is for good, else at least MinMessageAge
}

// TLS names the PEM files of a listener's certificate, with its chain, and key.
type TLS struct{ Cert, Key string }

const (
	defaultMaxPayload = 9 << 20 // a resource of 8 MiB and its headers
	defaultMaxMemory  = 256 << 20
	maxMaxPayload     = 64 << 20 // the engine's own bound on what one client may have pending
)

// complete fills in defaults and refuses what cannot run.
func (c Config) complete() (Config, error) {
	if !validName(c.Name) {
		return c, fmt.Errorf("node name %q: use letters, digits, '-' and '_'", c.Name)
	}
	if c.Cluster != "" && !validName(c.Cluster) {
		return c, fmt.Errorf("cluster name %q: use letters, digits, '-' and '_'", c.Cluster)
	}
	if c.Dir == "" {
		return c, errors.New("the log needs a data folder")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.MaxPayload == 0 {
		c.MaxPayload = defaultMaxPayload
	}
	if c.MaxPayload < 1<<16 || c.MaxPayload > maxMaxPayload {
		return c, fmt.Errorf("largest message of %d bytes: must be between 64 KiB and 64 MiB", c.MaxPayload)
	}
	if c.MaxMemory == 0 {
		c.MaxMemory = defaultMaxMemory
	}
	c, err := c.completeCluster()
	if err != nil {
		return c, err
	}
	if err := checkLogins(c.Logins); err != nil {
		return c, err
	}
	return c, c.checkListen()
}

// checkListen refuses an address that cannot be listened on, and one that others can reach
// where that is not safe.
func (c Config) checkListen() error {
	if c.Listen == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("NATS listen address %q: %w; write host:port", c.Listen, err)
	}
	if n, err := strconv.Atoi(port); err != nil || n < -1 || n > 65535 {
		return fmt.Errorf("NATS listen address %q: %q is not a port", c.Listen, port)
	}
	if c.ClientTLS != nil && (c.ClientTLS.Cert == "" || c.ClientTLS.Key == "") {
		return errors.New("TLS of the NATS listener needs a certificate and its key (security.nats.tls)")
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() || c.Insecure {
		return nil
	}
	var lack []string
	if len(c.Logins) == 0 {
		lack = append(lack, "logins (security.nats.users)") // whoever connects would be the guest
	}
	if c.ClientTLS == nil {
		lack = append(lack, "TLS (security.nats.tls)") // passwords and health data would pass in clear
	}
	if len(lack) == 0 {
		return nil
	}
	missing := strings.Join(lack, " and ")
	return fmt.Errorf("NATS listen address %q can be reached from other machines: without %s only loopback is served; configure %s, listen on 127.0.0.1, or give --insecure-public",
		c.Listen, missing, missing)
}

// options are the server's options, made from text by its own parser: what is set in code past
// the parser misses its defaults and its checks.
func (s *Server) options() (*server.Options, error) {
	o := &server.Options{}
	if err := o.ProcessConfigString(s.configText()); err != nil {
		return nil, fmt.Errorf("configure the embedded NATS server: %w", err)
	}
	o.NoLog = true
	o.NoSigs = true // signals are the process's business
	o.DontListen = s.cfg.Listen == ""
	setLameDuck(o)
	return o, s.showCertificates(o)
}

// configText is the server's configuration; accounts.go says who may do what.
func (s *Server) configText() string {
	host, port := "127.0.0.1", "-1"
	if s.listen != "" {
		host, port, _ = net.SplitHostPort(s.listen)
		if port == "0" {
			port = "-1"
		}
	}
	var accounts strings.Builder
	for _, a := range s.accounts() {
		accounts.WriteString(a.text())
	}
	return fmt.Sprintf(`
server_name: %s
server_tags: [%s]
host: %s
port: %s
max_payload: %d
jetstream {
  store_dir: %s
  max_memory_store: %d
  max_file_store: %d
  sync_interval: %s
  limits { default_max_consumers: -1 }
}
%s
system_account: SYS
accounts {
%s}
`, quote(s.cfg.Name), quote("cluster:"+s.cfg.Cluster), quote(host), port, s.cfg.MaxPayload,
		quote(filepath.Join(s.cfg.Dir, "nats")), s.cfg.MaxMemory, s.cfg.limit(), syncInterval, s.clientText()+s.cfg.clusterText(), accounts.String())
}

// clientText says how NATS clients are let in.
func (s *Server) clientText() string {
	var lines []string
	if !s.HasLogins() {
		lines = append(lines, "no_auth_user: "+quote(s.guest.public))
	}
	if t := s.cfg.ClientTLS; t != nil {
		lines = append(lines, fmt.Sprintf("tls { cert_file: %s, key_file: %s, timeout: 5 }", quote(t.Cert), quote(t.Key)))
	}
	return strings.Join(lines, "\n")
}
