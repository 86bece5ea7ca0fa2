package api

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
)

// Config is what a Handler needs. Backend, Admin and Tokens are demanded.
type Config struct {
	Backend Backend
	Admin   Admin
	Tokens  Tokens

	// Sockets answers /websocket; without it there is none (404).
	Sockets Sockets

	// Origins are those of web pages, beside our own, whose scripts may use FHIR and websockets,
	// as browsers write them; "*" is all of them, once there is a token.
	Origins []string

	// Metrics answers /metrics; without it there is none (404).
	Metrics http.Handler

	// Ready returns what the operator should know (such as a disk that fills), and an error
	// while the node cannot do its work. Both texts are shown to anybody. Nil is always ready.
	Ready func(ctx context.Context) (warnings []string, err error)

	// Refused is told, for metrics, of each write that is refused: a request, an entry of a
	// batch, or a line of $ingest. Nil is not told.
	Refused func(fhir.IssueType)

	// Notes lists in what an accepted Subscription means something else here than on the server that it
	// was written for, for $validate. Nil lists nothing.
	Notes func(body []byte, from fhir.Origin) []fhir.Issue

	// Audit is told of each order that changes something, done or refused, before its client is
	// answered; it returns when that is durable. Writes of resources, where done, are told of by
	// the Backend, with the write. Nil is not told.
	Audit func(context.Context, Audit)

	Log *slog.Logger // nil discards

	Limits Limits

	// PublicURL is scheme and host under which clients reach this node, such as
	// https://carillon.example.org. Empty takes each request's Host.
	PublicURL string

	Version     string   // of Carillon
	FHIR        string   // release name, R4 if empty; /fhir/{name} is an alias of /fhir
	FHIRVersion string   // 4.0.1 if empty
	Types       []string // the release's resource types

	// InsecurePublic serves everybody everything while no token exists.
	InsecurePublic bool

	// PublicKeys is what /.well-known/jwks.json shows, a JWK Set (RFC 7517). Nil: an empty one.
	PublicKeys func() any
}

// Limits bound what one request may bring, in bytes after decompression. A zero field means
// its default.
type Limits struct {
	Resource      int // a resource; 8 MiB
	Bundle        int // a Bundle to be processed; 64 MiB
	Line          int // a line of $ingest; 8 MiB
	BundleEntries int // entries of a transaction; 999
}

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.Resource, 8<<20)
	def(&l.Bundle, 64<<20)
	def(&l.Line, 8<<20)
	def(&l.BundleEntries, 999)
	return l
}

// server is the Handler's state, unchanged once made.
type server struct {
	backend        Backend
	admin          Admin
	tokens         Tokens
	metrics        http.Handler
	ready          func(context.Context) ([]string, error)
	refused        func(fhir.IssueType)
	audit          func(context.Context, Audit)
	notes          func([]byte, fhir.Origin) []fhir.Issue
	log            *slog.Logger
	limits         Limits
	publicURL      string
	version        string
	release        string // R4
	fhirVersion    string // 4.0.1
	types          map[string]bool
	insecurePublic bool
	sockets        Sockets
	keys           func() any
	origins        origins
	mux            *http.ServeMux
	capabilities   map[string]any
	subsets        *subsetTable
}

// call is one request on its way through. It is the ResponseWriter that the routes are given, by
// which they find it.
type call struct {
	w       statusWriter
	r       *http.Request
	id      string // X-Request-Id, the client's or ours
	given   bool   // the id is the client's
	base    string // absolute FHIR base, without a slash at its end
	token   Token
	login   bool   // token is who asks; without it no login was needed
	mime    string // of the answer
	version fhir.Version
	pattern string
	prefer  preference
	brief   bool           // no answer to a write of this request shows the resource
	sentXML bool           // the body is a resource as XML
	chosen  bool           // mime is what the client asked for
	body    rollingBody    // of the request
	tree    *fhirjson.Tree // of the request's resource; given back when the request is answered
	values  [7]string      // of headers of the answer
	headers int            // how many of values are taken

	answering func(status int) // called once, before the answer; nil where nobody wants to know
	entities  []string         // what the request is about, for its AuditEvent
	untold    bool             // the request changes nothing after all: a dry run
}

// New makes the Handler. It panics if the Config lacks a part or two routes contradict: both
// are faults of the program.
func New(cfg Config) http.Handler {
	if cfg.Backend == nil || cfg.Admin == nil || cfg.Tokens == nil {
		panic("api: Backend, Admin and Tokens are needed")
	}
	s := &server{
		backend: cfg.Backend, admin: cfg.Admin, tokens: cfg.Tokens, metrics: cfg.Metrics, ready: cfg.Ready, refused: cfg.Refused, audit: cfg.Audit, notes: cfg.Notes,
		log: cfg.Log, limits: cfg.Limits.withDefaults(), publicURL: strings.TrimRight(cfg.PublicURL, "/"),
		version: cfg.Version, release: cfg.FHIR, fhirVersion: cfg.FHIRVersion,
		types: map[string]bool{}, insecurePublic: cfg.InsecurePublic, keys: cfg.PublicKeys,
		sockets: cfg.Sockets, origins: newOrigins(cfg.Origins), mux: http.NewServeMux(),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.refused == nil {
		s.refused = func(fhir.IssueType) {}
	}
	if s.keys == nil {
		s.keys = func() any { return map[string]any{"keys": []any{}} }
	}
	if s.ready == nil {
		s.ready = func(context.Context) ([]string, error) { return nil, nil }
	}
	if s.release == "" {
		s.release, s.fhirVersion = "R4", "4.0.1"
	}
	for _, t := range cfg.Types {
		// Abstract types have no instances, and Parameters no address (FHIR R4 2.42).
		if t != "Resource" && t != "DomainResource" && t != "Parameters" {
			s.types[t] = true
		}
	}
	s.subsets = newSubsetTable(s.release)
	s.capabilities = s.capabilityStatement(time.Now())
	for _, rt := range s.routes() {
		s.mux.HandleFunc(rt.pattern, func(w http.ResponseWriter, _ *http.Request) {
			c := w.(*statusWriter).c
			c.pattern = rt.pattern
			if err := s.enter(c, rt); err != nil {
				s.fail(c, err)
			}
		})
	}
	s.mux.HandleFunc(unroutedPattern, func(w http.ResponseWriter, _ *http.Request) {
		c := w.(*statusWriter).c
		s.fail(c, s.unrouted(c.r))
	})
	return s
}

// unroutedPattern takes what no route does.
const unroutedPattern = "/"

// enter runs a route for whoever may.
func (s *server) enter(c *call, rt route) error {
	s.watch(c, rt.pattern)
	if err := s.admit(c, rt.pattern); err != nil {
		return err
	}
	c.noteViewer()
	if err := c.negotiate(rt.face); err != nil {
		return err
	}
	c.prefer = preferred(c.r.Header.Values("Prefer"))
	c.brief = c.prefer == preferMinimal || c.prefer == preferOutcome
	return rt.serve(s, c)
}

// ServeHTTP gives a request its id, finds its route, and sees that there is exactly one answer
// and one line in the log, whatever happens.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	c := &call{r: r, mime: mimeFHIR, version: fhir.Version(s.release)}
	c.w = statusWriter{ResponseWriter: w, c: c}
	c.id, c.given = requestID(r)
	c.header("X-Request-Id", c.id)
	c.header("X-Content-Type-Options", "nosniff")

	defer func() {
		if p := recover(); p != nil {
			s.recovered(c, p)
		}
		if c.tree != nil {
			c.tree.Release()
		}
		if s.log.Enabled(r.Context(), slog.LevelDebug) {
			s.log.Debug("request", "id", c.id, "method", r.Method, "route", c.pattern, "status", c.w.status, "took", time.Since(start))
		}
	}()
	if s.cors(c) {
		return
	}
	if err := s.rebase(c); err != nil {
		s.fail(c, err)
		return
	}
	s.mux.ServeHTTP(&c.w, c.r)
}

// recovered answers for a handler that panicked. The panic's value may hold anything, so only
// the stack is logged.
func (s *server) recovered(c *call, p any) {
	if p == http.ErrAbortHandler {
		panic(p) // the server's own way to drop a connection
	}
	s.log.Error("request panicked", "id", c.id, "method", c.r.Method, "route", c.pattern, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
	if c.w.status == 0 {
		s.fail(c, fhir.Refuse(fhir.IssueException, "", ""))
	}
}

// rebase turns the aliases of the FHIR base into /fhir and finds its absolute form. Paths that
// are not clean are refused: a redirect would lose the method's meaning.
func (s *server) rebase(c *call) error {
	p := c.r.URL.Path
	base := "/fhir"
	for _, name := range []string{"R4", "R4B", "R5", "R6"} {
		rest, ok := strings.CutPrefix(p, "/fhir/"+name)
		if !ok || rest != "" && rest[0] != '/' {
			continue
		}
		if name != s.release {
			return fhir.Refuse(fhir.IssueNotFound, "", fmt.Sprintf("this cluster speaks FHIR %s, at /fhir and /fhir/%s", s.release, s.release))
		}
		base, p = "/fhir/"+name, "/fhir"+rest
	}
	if p == "/fhir/" {
		p = "/fhir"
	}
	if p == "" || p[0] != '/' || path.Clean(p) != p {
		return notFound(c.r)
	}
	if p != c.r.URL.Path {
		u := *c.r.URL
		u.Path, u.RawPath = p, ""
		c.r = c.r.WithContext(c.r.Context()) // a copy: the request is not ours
		c.r.URL = &u
	}
	c.base = s.origin(c.r) + base
	return nil
}

// origin is scheme and host that absolute URLs are built on.
func (s *server) origin(r *http.Request) string {
	switch {
	case s.publicURL != "":
		return s.publicURL
	case r.TLS != nil:
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// unrouted tells an unknown path from a method that a known path does not have.
func (s *server) unrouted(r *http.Request) error {
	var allow []string
	for _, m := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
		probe := *r
		probe.Method = m
		if _, pattern := s.mux.Handler(&probe); pattern != unroutedPattern {
			allow = append(allow, m)
		}
	}
	if allow == nil {
		return notFound(r)
	}
	return notAllowed(r.Method, allow...)
}

func notFound(r *http.Request) error {
	if strings.HasPrefix(r.URL.Path, "/fhir") {
		return fhir.Refuse(fhir.IssueNotFound, "", "there is no such address; GET /fhir/metadata lists what there is")
	}
	return fhir.Refuse(fhir.IssueNotFound, "", "there is no such address; FHIR is at /fhir, the administration API at /admin/api/v1")
}

func notAllowed(method string, allow ...string) error {
	list := strings.Join(allow, ", ")
	return &refusal{
		status: http.StatusMethodNotAllowed,
		err:    fhir.Refuse(fhir.IssueNotSupported, "", fmt.Sprintf("method %s is not allowed here; these are: %s", printable(method), list)),
		header: http.Header{"Allow": {list}},
	}
}

// fail answers an error. The one who answers it logs it, if it is ours.
func (s *server) fail(c *call, err error) {
	j := judge(c.r.Context(), err, c.precondition())
	if j.fault {
		s.log.Error("request failed", "id", c.id, "method", c.r.Method, "route", c.pattern, "err", err)
	}
	if c.r.Method != http.MethodGet && c.r.Method != http.MethodHead && strings.Contains(c.pattern, "/fhir") {
		s.refused(j.issues[0].Type)
	}
	for k, v := range j.header {
		c.w.Header()[k] = v
	}
	for _, k := range []string{"Etag", "Last-Modified", "Location"} {
		delete(c.w.Header(), k)
	}
	if !c.chosen && strings.HasPrefix(c.r.URL.Path, "/fhir") {
		_ = c.negotiate(faceFHIR) // what it does not understand is answered as JSON
	}
	c.send(j.status, c.mime, encode(j.outcome(c.id)))
}

// precondition reports whether the client made its request depend on the resource's state.
func (c *call) precondition() bool {
	h := c.r.Header
	return h.Get("If-Match") != "" || h.Get("If-None-Match") != "" || h.Get("If-None-Exist") != ""
}

// requestID takes the client's X-Request-Id, so that one id follows a request through several
// systems, or makes one. What could not stand in a header or a log line is replaced.
func requestID(r *http.Request) (id string, given bool) {
	id = r.Header.Get("X-Request-Id")
	if id != "" && len(id) <= 128 && !strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == '\\' }) {
		return id, true
	}
	return newRequestID(), false
}

// newRequestID is 20 lower-case letters and digits, random in 100 bits.
func newRequestID() string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	var b [20]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	for i := range b {
		b[i] = alphabet[b[i]%32]
	}
	return string(b[:])
}

// printable keeps a word of the client's from being anything but a word in our answers.
func printable(s string) string {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

// hasType refuses a type that the release has not.
func (s *server) hasType(typ string) error {
	if s.types[typ] {
		return nil
	}
	return fhir.Refuse(fhir.IssueNotFound, "", fmt.Sprintf("%s has no resource type %q", s.release, printable(typ)))
}

// sortedTypes lists the resource types by name.
func (s *server) sortedTypes() []string {
	out := make([]string, 0, len(s.types))
	for t := range s.types {
		out = append(out, t)
	}
	slices.Sort(out)
	return out
}
