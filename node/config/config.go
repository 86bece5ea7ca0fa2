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
	Retention     Retention       `yaml:"retention"`
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
	OnExhausted string `yaml:"on_exhausted"`
	// DisableAfter is how long a Subscription may be without an accepted notification while its
	// attempts fail; then it goes to error. 0: it is never stopped for that.
	DisableAfter time.Duration `yaml:"disable_after"`
	Breaker      Breaker       `yaml:"breaker"`
	Concurrency  int           `yaml:"concurrency"` // notifications of one healthy Subscription out at once
	Order        string        `yaml:"order"`       // "resource": order per resource; "strict": one at a time
	Channels     []string      `yaml:"channels"`    // channel types that are switched on
	Email        Email         `yaml:"email"`
	SMS          SMS           `yaml:"sms"`
	Egress       Egress        `yaml:"egress"`
	// Endpoints are rules for endpoints by their host. The first that fits holds.
	Endpoints      []Endpoint     `yaml:"endpoints"`
	Signatures     Signatures     `yaml:"signatures"`
	OperatorEvents OperatorEvents `yaml:"operator_events"`
	Message        Message        `yaml:"message"`
	// Commands are programs that send notifications, by the name that Subscriptions ask for.
	Commands map[string]Command `yaml:"commands"`
}

// Breaker says when an endpoint that keeps failing is left alone for a while.
type Breaker struct {
	Failures int           `yaml:"failures"` // in a row, of all its Subscriptions; 0: there is no breaker
	Window   time.Duration `yaml:"window"`   // two failures further apart are not in a row
	After    time.Duration `yaml:"after"`    // how long the row must have gone on
	Open     time.Duration `yaml:"open"`     // until one attempt finds out whether the endpoint is back
}

// OperatorEvents says who is told when delivery begins to fail, recovers, or is stopped.
type OperatorEvents struct {
	Webhook OperatorWebhook `yaml:"webhook"`
	Email   OperatorEmail   `yaml:"email"`
	// Suppress is how long the same event about the same thing is not told again.
	Suppress time.Duration `yaml:"suppress"`
}

// OperatorWebhook is an address that events are posted to. It is the operator's own, so that
// delivery.egress does not bind it.
type OperatorWebhook struct {
	URL        string `yaml:"url"`         // empty: nobody is told
	SecretFile string `yaml:"secret_file"` // holds the secret of its signatures (Standard Webhooks); empty: none
}

// OperatorEmail is who gets events by mail, through the server of delivery.email.
type OperatorEmail struct {
	To []string `yaml:"to"` // addresses; empty: nobody
}

// Signatures says how notifications of Subscriptions with a secret are signed beside their HMAC.
type Signatures struct {
	// Ed25519 adds a signature by the cluster's own key (Standard Webhooks v1a) to every
	// rest-hook notification. /.well-known/jwks.json has the public half.
	Ed25519 bool `yaml:"ed25519"`
}

// Retention says how long things are kept.
type Retention struct {
	Dead     time.Duration `yaml:"dead"`     // dead letters, from their last failure; 0: until they are purged by hand
	Messages time.Duration `yaml:"messages"` // what message channels have published; 0 keeps it
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
	// Proxy is the URL of the proxy that all requests to endpoints go through: http or https for
	// CONNECT, or socks5. Empty: none; the environment's is never taken.
	Proxy string `yaml:"proxy"`
	// ProxyCredentialsFile holds user:password for the proxy in one line.
	ProxyCredentialsFile string `yaml:"proxy_credentials_file"`
}

// Security holds what protects the listeners.
type Security struct {
	TLS  TLS  `yaml:"tls"` // of the HTTP listener
	NATS NATS `yaml:"nats"`
	// Origins are those of the web pages, beside our own, whose scripts may use FHIR and
	// websockets, as browsers write them: scheme://host[:port]. "*", alone, is all of them.
	Origins []string `yaml:"origins"`
	// SecretsKey are the master keys by which secrets of Subscriptions are sealed at rest, each the
	// base64 form of 32 bytes: the first seals, all open. Never shown. SecretsKeyFile holds them
	// one a line. With neither a single node makes a key file in its data folder, and a cluster
	// keeps secrets as they are written.
	SecretsKey     []string `yaml:"secrets_key"`
	SecretsKeyFile string   `yaml:"secrets_key_file"`
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

	Sockets                int `yaml:"sockets"`                  // websockets open at one node
	SocketsPerSubscription int `yaml:"sockets_per_subscription"` // of them bound to one Subscription
}

// Observability is what an operator sees.
type Observability struct {
	Log Log `yaml:"log"`
	// AuditLog is the file for attempts whose Subscription wants them logged; empty: the node's log.
	AuditLog string `yaml:"audit_log"`
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
			OnExhausted:    "dead-letter",
			Breaker:        Breaker{Failures: 20, Window: time.Minute, After: 30 * time.Second, Open: 10 * time.Second},
			OperatorEvents: OperatorEvents{Suppress: 10 * time.Minute},
			Concurrency:    8,
			Order:          "resource",
			Channels:       []string{"rest-hook", "websocket", "message", "email", "sms"},
			Message:        Message{Envelope: "plain"},
			Email: Email{
				TLS: "starttls", Subject: "FHIR notification", Body: "${payload}", Connections: 4, Timeout: 30 * time.Second,
			},
			SMS: SMS{
				Text: "FHIR notification ${event} of Subscription ${subscription}", Connections: 4, Timeout: 30 * time.Second,
			},
		},
		Limits: Limits{
			ResourceSize:  8 << 20,
			BundleSize:    64 << 20,
			LineSize:      8 << 20,
			BundleEntries: 999,

			Sockets:                10_000,
			SocketsPerSubscription: 1000,
		},
		Observability: Observability{Log: Log{Level: "info", Format: "auto"}},
		Durability:    "always",
	}
}
