package stream

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"

	"github.com/nats-io/nats-server/v2/server"
)

// Config says how the embedded server runs.
type Config struct {
	Name    string // server name; stable, since the store belongs to it
	Cluster string // cluster name; a tag of the server while there is one node; may be empty
	Dir     string // data folder; the engine keeps its files below it
	// Listen is host:port for NATS clients, on loopback while there are no logins. Port 0 picks
	// a free one. Empty opens no listener.
	Listen     string
	MaxPayload int          // largest message in bytes, headers included; 0 is 9 MiB
	MaxStore   int64        // bytes of disk that the streams may use; 0 is no limit but the disk
	MaxMemory  int64        // bytes of memory that memory streams may use; 0 is 256 MiB
	Replicas   int          // copies of each stream; 0 is 1
	Log        *slog.Logger // nil discards
}

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
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.Replicas != 1 {
		return c, fmt.Errorf("%d replicas: this version runs a single node", c.Replicas)
	}
	if c.Listen == "" {
		return c, nil
	}
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return c, fmt.Errorf("NATS listen address %q: %w; write host:port", c.Listen, err)
	}
	if n, err := strconv.Atoi(port); err != nil || n < -1 || n > 65535 {
		return c, fmt.Errorf("NATS listen address %q: %q is not a port", c.Listen, port)
	}
	// Whoever connects is the EDGE user without a login: others must not reach the listener.
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return c, fmt.Errorf("NATS listen address %q: without logins only loopback is served", c.Listen)
	}
	return c, nil
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
	return o, nil
}

// configText is the server's configuration. The users of CORE and the gate have keys that exist
// only inside this process, and may connect only from inside it. Everyone who comes through the
// listener is the guest, whose key nobody uses: the server takes it for who names none.
func (s *Server) configText() string {
	host, port := "127.0.0.1", "-1"
	if s.listen != "" {
		host, port, _ = net.SplitHostPort(s.listen)
		if port == "0" {
			port = "-1"
		}
	}
	q := strconv.Quote
	return fmt.Sprintf(`
server_name: %[1]s
server_tags: [%[15]s]
host: %[2]s
port: %[3]s
max_payload: %[4]d
jetstream {
  store_dir: %[5]s
  max_memory_store: %[6]d
  max_file_store: %[7]d
  sync_interval: always
  limits { default_max_consumers: -1 }
}
system_account: SYS
no_auth_user: %[14]s
accounts {
  SYS { }
  CORE {
    jetstream: enabled
    users: [ { nkey: %[8]s, allowed_connection_types: ["IN_PROCESS"] } ]
    exports: [
      { stream: %[10]s, accounts: ["EDGE"] }
      { stream: %[11]s, accounts: ["EDGE"] }
    ]
  }
  EDGE {
    users: [
      { nkey: %[9]s, allowed_connection_types: ["IN_PROCESS"], permissions: {
          subscribe: { allow: [%[13]s] }
          publish: { allow: ["_INBOX.>", %[12]s] } } }
      { nkey: %[14]s, allowed_connection_types: ["STANDARD"], permissions: {
          publish: { allow: [%[13]s] }
          subscribe: { allow: [%[10]s, %[11]s, %[12]s, "_INBOX.>"] } } }
    ]
    imports: [
      { stream: { account: "CORE", subject: %[10]s } }
      { stream: { account: "CORE", subject: %[11]s } }
    ]
  }
}
`, q(s.cfg.Name), q(host), port, s.cfg.MaxPayload, q(filepath.Join(s.cfg.Dir, "nats")),
		s.cfg.MaxMemory, s.cfg.limit(), q(s.core.public), q(s.gate.public),
		q("fhir.message.>"), q("fhir.dead.>"), q(FilterEvents), q(FilterIngest), q(s.guest.public), q("cluster:"+s.cfg.Cluster))
}
