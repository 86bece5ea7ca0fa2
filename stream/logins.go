package stream

import (
	"fmt"
	"slices"
	"strings"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"golang.org/x/crypto/bcrypt"
)

// Login is a NATS client that has to say who it is, and what it may do. Everything else is
// denied to it.
type Login struct {
	Name string // of letters, digits, '-' and '_'; also the user name of a login with a password

	// Exactly one of the two opens the login.
	Password string // plain, or as bcrypt hash ($2a$, $2b$, $2y$)
	NKey     string // public key of a user (U…)

	Publish   []string // within fhir.ingest.*.*
	Subscribe []string // within fhir.message.>, fhir.dead.>, fhir.event.>
	Consumers []string // durable consumers: messages/NAME, dead/NAME, events/NAME
	Operator  bool     // may ask on $SRV.> and carillon.admin.> how the cluster is
}

// check refuses a login that cannot be meant so.
func (l Login) check() error {
	if !validName(l.Name) {
		return fmt.Errorf("login %q: a name is made of letters, digits, '-' and '_'", l.Name)
	}
	if err := l.checkCredential(); err != nil {
		return fmt.Errorf("login %s: %w", l.Name, err)
	}
	for _, p := range l.Publish {
		if !ingestPattern(p) {
			return fmt.Errorf("login %s: publish %q is not of the form fhir.ingest.{Type}.{id}, with * for any", l.Name, p)
		}
	}
	for _, p := range l.Subscribe {
		if treeOf(p) == "" {
			return fmt.Errorf("login %s: subscribe %q is not within fhir.message.>, fhir.dead.> or fhir.event.>", l.Name, p)
		}
	}
	for _, c := range l.Consumers {
		if _, _, err := parseConsumer(c); err != nil {
			return fmt.Errorf("login %s: %w", l.Name, err)
		}
	}
	return nil
}

func (l Login) checkCredential() error {
	switch {
	case (l.Password == "") == (l.NKey == ""):
		return fmt.Errorf("give a password or an nkey, and not both")
	case l.NKey != "" && !nkeys.IsValidPublicUserKey(l.NKey):
		return fmt.Errorf("the nkey is not the public key of a user: those begin with U (nk -gen user -pubout)")
	case hashed(l.Password):
		// The engine would take a hash that it cannot read for one that nothing opens.
		if _, err := bcrypt.Cost([]byte(l.Password)); err != nil {
			return fmt.Errorf("the password looks like a bcrypt hash and is none")
		}
	}
	return nil
}

// hashed reports whether the engine takes a password for a bcrypt hash.
func hashed(password string) bool {
	return strings.HasPrefix(password, "$2a$") || strings.HasPrefix(password, "$2b$") ||
		strings.HasPrefix(password, "$2x$") || strings.HasPrefix(password, "$2y$")
}

// checkLogins refuses logins that cannot be told apart.
func checkLogins(logins []Login) error {
	names, keys := map[string]bool{}, map[string]bool{}
	for _, l := range logins {
		if err := l.check(); err != nil {
			return err
		}
		if names[l.Name] {
			return fmt.Errorf("login %s is there twice", l.Name)
		}
		if l.NKey != "" && keys[l.NKey] {
			return fmt.Errorf("login %s has the nkey of another login", l.Name)
		}
		names[l.Name], keys[l.NKey] = true, true
	}
	return nil
}

// ingestPattern reports whether a pattern names resources of fhir.ingest.*.*.
func ingestPattern(p string) bool {
	t := strings.Split(p, ".")
	if len(t) != 4 || t[0] != "fhir" || t[1] != "ingest" {
		return false
	}
	_, err := ParseIDToken(t[3])
	return (t[2] == "*" || validType(t[2])) && (t[3] == "*" || err == nil)
}

// openTrees are the subjects that EDGE may hear of.
var openTrees = []string{"fhir.message.>", "fhir.dead.>", FilterEvents}

// treeOf is the open tree that a pattern lies in; empty if in none.
func treeOf(pattern string) string {
	for _, tree := range openTrees {
		if within(pattern, tree) {
			return tree
		}
	}
	return ""
}

// within reports whether every subject of a pattern is one of another's.
func within(pattern, of string) bool {
	p, o := strings.Split(pattern, "."), strings.Split(of, ".")
	for i, t := range p {
		if t == "" || strings.ContainsAny(t, " \t\r\n") || (len(t) > 1 && strings.ContainsAny(t, "*>")) || (t == ">" && i < len(p)-1) {
			return false // not a pattern at all
		}
	}
	for i, t := range o {
		switch {
		case i >= len(p):
			return false
		case t == ">":
			return true
		case p[i] == ">", t != "*" && t != p[i]:
			return false
		}
	}
	return len(p) == len(o)
}

// HasLogins reports whether NATS clients have to say who they are.
func (s *Server) HasLogins() bool { return len(s.cfg.Logins) > 0 }

// fromHere is the root of the subjects on which requests reach this node's gate: the engine
// writes node and login into the subject of what a producer publishes. A request is answered by
// the node that its producer is connected to, in the order of that connection; a queue group of
// all gates would not do, since the engine picks any of its members on any node.
func (s *Server) fromHere() string { return "fhir.from." + s.cfg.Name + "." }

// guestName stands in the subject where there are no logins.
const guestName = "guest"

// SubscribeIngest hands the requests of producers that are connected to this node to fn, one
// after the other in the order in which each of them was sent. Producer reads them.
func (s *Server) SubscribeIngest(fn nats.MsgHandler) (*nats.Subscription, error) {
	sub, err := s.Edge().Subscribe(s.fromHere()+"*.*.*", fn)
	if err != nil {
		return nil, fmt.Errorf("subscribe to the requests of producers: %w", err)
	}
	return sub, nil
}

// Producer tells who asks for the ingest of which resource; login is empty where there are no
// logins. The engine says who it is, and has asked the permission of what was published. It is
// asked here once more: the engine itself publishes, without asking, what a client has it send
// to a reply subject of the client's choice. It removes what the engine wrote into the headers.
func (s *Server) Producer(m *nats.Msg) (login string, key fhir.Key, err error) {
	rest, ok := strings.CutPrefix(m.Subject, s.fromHere())
	login, rest, cut := strings.Cut(rest, ".")
	if !ok || !cut {
		return "", fhir.Key{}, notOfForm(m.Subject, s.fromHere()+"{login}.{Type}.{id}")
	}
	subject := "fhir.ingest." + rest
	if key, err = ParseIngest(subject); err != nil {
		return "", fhir.Key{}, err
	}
	if !s.HasLogins() {
		return "", key, nil
	}
	i := slices.IndexFunc(s.cfg.Logins, func(l Login) bool { return l.Name == login })
	if i < 0 || !slices.ContainsFunc(s.cfg.Logins[i].Publish, func(p string) bool { return matches(p, subject) }) {
		return "", fhir.Key{}, fmt.Errorf("login %s may not publish on %s", login, subject)
	}
	delete(m.Header, headerRequestInfo)
	return login, key, nil
}

// headerRequestInfo is what the engine adds to a request that crosses from one account to
// another. It replaces one that came with the request.
const headerRequestInfo = "Nats-Request-Info"
