package config

import (
	"time"
)

// Config is the whole configuration. Default gives the values that hold for keys that are
// left out.
type Config struct {
	Cluster Cluster `yaml:"cluster"`
	// Node is what this node uses: the keys of `node`, over them those of its own entry in
	// `nodes`, over them variables and flags. Until a node is chosen (several entries, and Load
	// rather than LoadNode) it is what the entries start from.
	Node Node `yaml:"node"`
	// Nodes holds every node of the file as that node itself sees it, without variables and
	// flags. It is empty where the file names no node.
	Nodes         map[string]Node `yaml:"nodes"`
	FHIR          FHIR            `yaml:"fhir"`
	Match         Match           `yaml:"match"`
	Delivery      Delivery        `yaml:"delivery"`
	Security      Security        `yaml:"security"`
	Limits        Limits          `yaml:"limits"`
	Observability Observability   `yaml:"observability"`
	// Durability says when a write is acknowledged. "always" is the only value: when it is
	// synced to disk.
	Durability string `yaml:"durability"`

	// Run is what the command line alone decides. No file or variable sets it.
	Run Run `yaml:"-"`

	// origin says where a key's value came from ("cluster.yaml:12"), for error messages.
	origin map[string]string
}

// Cluster is what all nodes have in common.
type Cluster struct {
	Name     string     `yaml:"name"`     // a data folder belongs to it for good
	Replicas int        `yaml:"replicas"` // copies of each log; 0: see Config.Replicas
	TLS      ClusterTLS `yaml:"tls"`
}

// ClusterTLS names the PEM files of the routes between nodes: each side shows its certificate,
// and takes the other's if the CA signed it. All are empty, or none is.
type ClusterTLS struct {
	CA   string `yaml:"ca"`
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// Node is where one node keeps its data and listens.
type Node struct {
	Data      string `yaml:"data"`       // folder of the logs and the projection
	HTTP      string `yaml:"http"`       // host:port of FHIR and administration; port 0 picks a free one
	NATS      string `yaml:"nats"`       // host:port for NATS clients; port 0 picks a free one
	Route     string `yaml:"route"`      // host:port where this node listens for the others, and they reach it; empty: none
	PublicURL string `yaml:"public_url"` // what absolute URLs in answers are built on; empty: the request's Host
}

// FHIR says which version of the standard is spoken.
type FHIR struct {
	Version string `yaml:"version"` // R4 or R4B, the same on every node and for the cluster's whole life
	// BaseURLs are those of the servers whose resources come in: an absolute reference to one
	// of them means the same as the relative one.
	BaseURLs []string `yaml:"base_urls"`
	// Definitions is a file or folder of SearchParameters, ValueSets and CodeSystems, written
	// when the node starts as by a client. Empty: none.
	Definitions string `yaml:"definitions"`
}

// Match says how changes are matched.
type Match struct {
	Repository Repository `yaml:"repository"`
}

// Repository says who tells criteria of other resources than the one that changed: what chains,
// _has and _list ask about.
type Repository struct {
	// Source is "local", what this cluster holds, as it was at the change; or "upstream",
	// another FHIR server, as it is when the change is matched.
	Source string `yaml:"source"`
	URL    string `yaml:"url"` // base of the upstream server; empty unless it is the source
	// AuthorizationFile holds the value of the Authorization header that the server is asked
	// with. It is read at every request, so it may be replaced at any time. Empty: none.
	AuthorizationFile string        `yaml:"authorization_file"`
	Timeout           time.Duration `yaml:"timeout"`   // for all that one change asks of the server
	Cache             Size          `yaml:"cache"`     // of its answers, in memory
	CacheAge          time.Duration `yaml:"cache_age"` // how long an answer is used again
}

// The values of Repository.Source.
const (
	Local    = "local"
	Upstream = "upstream"
)

// Delivery says how matches are sent.
type Delivery struct {
	RestHook RestHook `yaml:"rest_hook"`
	Retry    Retry    `yaml:"retry"`
	// OnExhausted is what follows the last failed attempt: "dead-letter" keeps the
	// Subscription active, "error" stops it.
	OnExhausted string   `yaml:"on_exhausted"`
	Concurrency int      `yaml:"concurrency"` // notifications of one healthy Subscription out at once
	Order       string   `yaml:"order"`       // "resource": order per resource; "strict": one at a time
	Channels    []string `yaml:"channels"`    // channel types that are switched on
	Egress      Egress   `yaml:"egress"`
}

// RestHook holds the defaults of rest-hook channels.
type RestHook struct {
	Style   string        `yaml:"style"`   // "fhir": PUT {endpoint}/{Type}/{id}; "webhook": POST {endpoint}
	Timeout time.Duration `yaml:"timeout"` // of a whole attempt
}

// Retry is the policy for failed attempts where a Subscription does not name its own.
type Retry struct {
	Attempts Attempts      `yaml:"attempts"` // in all, the first included
	Schedule Schedule      `yaml:"schedule"` // the waits between them
	Jitter   float64       `yaml:"jitter"`   // share by which a wait is made longer or shorter by chance
	MaxAge   time.Duration `yaml:"max_age"`  // older matches are given up; 0: no limit
}

// Egress says which addresses notifications may go to. Public addresses are allowed, private,
// loopback and link-local ones are not, unless these keys say otherwise. Deny is asked first.
type Egress struct {
	Allow        []string `yaml:"allow"`         // networks that are allowed although not public
	Deny         []string `yaml:"deny"`          // networks that are never sent to
	AllowPrivate bool     `yaml:"allow_private"` // all private and loopback networks
	AllowHTTP    bool     `yaml:"allow_http"`    // endpoints without TLS
}

// Security holds what protects the listeners.
type Security struct {
	TLS  TLS  `yaml:"tls"` // of the HTTP listener
	NATS NATS `yaml:"nats"`
}

// NATS says who may enter through the listener for NATS clients. Without users that is anyone
// who reaches it, so it must then stay on loopback.
type NATS struct {
	TLS   TLS        `yaml:"tls"`
	Users []NATSUser `yaml:"users"`
}

// NATSUser is a login for NATS clients. What is not listed it may not do.
type NATSUser struct {
	Name     string `yaml:"name"`
	Password string `yaml:"password"` // plain or bcrypt ($2a$, $2b$, $2y$); never shown
	NKey     string `yaml:"nkey"`     // public user key (U…); the other way to log in
	// Publish and Subscribe are subjects: within fhir.ingest.*.*, and within fhir.message.>,
	// fhir.dead.> and fhir.event.>.
	Publish   []string `yaml:"publish"`
	Subscribe []string `yaml:"subscribe"`
	// Consumers are durable consumers that an administrator made: messages, dead or events, a
	// slash, and the name.
	Consumers []string `yaml:"consumers"`
	// Operator lets it ask how the cluster is: on $SRV.> and carillon.admin.>.
	Operator bool `yaml:"operator"`
}

// TLS names the PEM files of a listener's certificate (with its chain) and key. Both are
// empty, or neither is.
type TLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// Limits bound what a client may send in one piece.
type Limits struct {
	ResourceSize  Size `yaml:"resource_size"`
	BundleSize    Size `yaml:"bundle_size"`
	LineSize      Size `yaml:"line_size"`      // of NDJSON
	BundleEntries int  `yaml:"bundle_entries"` // of a transaction
}

// Observability is what an operator sees.
type Observability struct {
	Log Log `yaml:"log"`
}

// Log says what is logged, and how.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn, error
	Format string `yaml:"format"` // auto: text on a terminal, JSON lines otherwise; text; json
}

// Run is what the command line alone decides.
type Run struct {
	// Node is the name of this node: given by --node, else the only entry of nodes. Empty lets
	// the data folder decide, and is n1 for a new one, if nodes has no entries.
	Node string
	// Dev says that the node was started for trying things on one machine.
	Dev bool
	// Rebuild folds the projection from the logs again before serving.
	Rebuild bool
	// InsecurePublic allows listeners that others can reach without TLS or login.
	InsecurePublic bool
}

// Default returns the configuration that holds where nothing is configured.
func Default() Config {
	return Config{
		Cluster: Cluster{Name: "carillon"},
		Node: Node{
			Data: "./carillon-data",
			HTTP: "127.0.0.1:8080",
			NATS: "127.0.0.1:4222",
		},
		FHIR: FHIR{Version: "R4"},
		Match: Match{Repository: Repository{
			Source: Local, Timeout: 2 * time.Second, Cache: 16 << 20, CacheAge: time.Second,
		}},
		Delivery: Delivery{
			RestHook: RestHook{Style: "fhir", Timeout: 15 * time.Second},
			Retry: Retry{
				Attempts: 3,
				Schedule: Schedule{Waits: []time.Duration{
					5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour,
				}},
				Jitter: 0.2,
			},
			OnExhausted: "dead-letter",
			Concurrency: 8,
			Order:       "resource",
			Channels:    []string{"rest-hook"},
		},
		Limits: Limits{
			ResourceSize:  8 << 20,
			BundleSize:    64 << 20,
			LineSize:      8 << 20,
			BundleEntries: 999,
		},
		Observability: Observability{Log: Log{Level: "info", Format: "auto"}},
		Durability:    "always",
	}
}
