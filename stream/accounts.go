package stream

import (
	"fmt"
	"slices"
	"strings"
)

// account is one of the accounts of the server: what is published in one is not seen in any
// other, but for what one exports and the other imports.
type account struct {
	name      string
	jetstream bool
	users     []user
	mappings  []string
	exports   []string
	imports   []string
}

// user is who may connect to an account. Nothing is allowed but what is listed, unless all is
// set.
type user struct {
	credential string // as the configuration writes it
	inside     bool   // connects only from inside this process
	all        bool
	publish    []string
	subscribe  []string
}

const inboxes = "_INBOX.>" // where clients of all libraries take answers, unless told otherwise

// accounts are all accounts of the server.
//
// CORE has the streams. Its one user is ours, has a key that exists only inside this process and
// connects only from inside it. EDGE is where the gate waits for producers, and the service for
// operators. While there are no logins everyone at the listener is its other user, the guest, whose
// key nobody uses: the server takes it for who names none. With logins there is no guest, and each login has an
// account of its own around it: inboxes are open to all users of an account, and an answer that
// a client asked for is published wherever the client said, so in one account for all a login
// would read what another pulls from its consumer, and could play it a dead letter.
func (s *Server) accounts() []account {
	core := account{name: "CORE", jetstream: true, users: []user{{credential: nkey(s.core.public), inside: true, all: true}}}
	edge := account{name: "EDGE", users: []user{{
		credential: nkey(s.gate.public), inside: true,
		subscribe: []string{s.fromHere() + "*.*.*"},
		publish:   []string{inboxes, prefixReply + ">", FilterEvents},
	}, {
		credential: nkey(s.answer.public), inside: true, subscribe: operatorTrees, publish: []string{inboxes, prefixReply + ">"},
	}}}
	if !s.HasLogins() {
		guests := s.fromHere() + guestName
		edge.users = append(edge.users, user{credential: nkey(s.guest.public), publish: append([]string{guests + ".*.*"}, operatorTrees...), subscribe: append(slices.Clone(openTrees), inboxes)})
		edge.mappings = []string{quote(FilterIngest) + ": " + quote(guests+".$1.$2")}
		edge.imports = imports("fhir.message.>", "fhir.dead.>")
		// Our own consumers on these streams push without acks: to pull from one is refused, and
		// its acks mean nothing.
		for _, stream := range MessagesDeadEvents {
			edge.open(stream, "*")
		}
		core.exports = exports(edge.name)
		return []account{s.systemAccount(), core, edge}
	}
	var outside []account
	var names, operators []string
	for _, l := range s.cfg.Logins {
		a := s.loginAccount(l)
		outside, names = append(outside, a), append(names, a.name)
		if l.Operator {
			operators = append(operators, a.name)
		}
		edge.exports = append(edge.exports, exported("service", s.fromHere()+l.Name+".*.*", "", a.name))
	}
	core.exports = exports(names...)
	edge.exports = append(edge.exports, exported("stream", FilterEvents, "", names...))
	if len(operators) > 0 { // a list of nobody would be one of everybody
		for _, tree := range operatorTrees {
			edge.exports = append(edge.exports, exported("service", tree, manyAnswers, operators...))
		}
	}
	return append([]account{s.systemAccount(), core, edge}, outside...)
}

// operatorTrees are what operators ask: every node what it is ($SRV, as clients of NATS services
// know it), and one node what the administration API tells too.
var operatorTrees = []string{"$SRV.>", "carillon.admin.>"}

// manyAnswers lets each node answer a question of $SRV, which come within a second or two.
const manyAnswers = `, response_type: stream, response_threshold: "10s"`

// MessagesDeadEvents are the streams that durable consumers of others may be made on.
var MessagesDeadEvents = []string{Messages, Dead, Events}

// loginAccount is the account of one login. It imports what the login may do, and the
// permissions of its user say the same: an import is of a whole tree where the login may have a
// part of it, since a message that two imports bring comes twice.
func (s *Server) loginAccount(l Login) account {
	a := account{name: loginAccountName(l.Name), users: []user{{
		credential: credential(l), publish: slices.Clone(l.Publish), subscribe: append(slices.Clone(l.Subscribe), inboxes),
	}}}
	if len(l.Publish) > 0 {
		a.imports = append(a.imports, fmt.Sprintf("{ service: { account: EDGE, subject: %s }, to: %s }",
			quote(s.fromHere()+l.Name+".*.*"), quote(FilterIngest)))
	}
	if l.Operator {
		for _, tree := range operatorTrees {
			a.imports = append(a.imports, fmt.Sprintf("{ service: { account: EDGE, subject: %s } }", quote(tree)))
		}
		a.users[0].publish = append(a.users[0].publish, operatorTrees...)
	}
	for _, tree := range openTrees {
		if slices.ContainsFunc(l.Subscribe, func(p string) bool { return treeOf(p) == tree }) {
			a.imports = append(a.imports, imports(tree)...)
		}
	}
	seen := map[string]bool{}
	for _, c := range l.Consumers {
		if seen[c] {
			continue // imported twice a request is answered twice
		}
		seen[c] = true
		stream, name, _ := parseConsumer(c) // checked
		a.open(stream, name)
	}
	return a
}

// open lets the account's last user pull from a durable consumer, or from each if the name is *.
//
// The engine answers $JS.API in an account without streams by itself ("JetStream not enabled"),
// beside CORE, and the first answer counts. So what asks for a consumer is mapped to a subject
// that only CORE answers. (A permission is asked for the subject after a mapping.)
func (a *account) open(stream, name string) {
	info, next, ack := consumerInfo(stream, name), consumerNext(stream, name), consumerAck(stream, name)
	mapped := prefixInfo + stream + "." + name
	a.mappings = append(a.mappings, quote(info)+": "+quote(strings.Replace(mapped, "*", "$1", 1)))
	a.imports = append(a.imports,
		fmt.Sprintf("{ service: { account: CORE, subject: %s }, to: %s }", quote(info), quote(mapped)),
		fmt.Sprintf("{ service: { account: CORE, subject: %s } }", quote(next)),
		fmt.Sprintf("{ service: { account: CORE, subject: %s } }", quote(ack)))
	u := &a.users[len(a.users)-1]
	u.publish = append(u.publish, mapped, next, ack)
}

func loginAccountName(login string) string { return "EDGE_" + login }

// prefixReply is that of the subjects under which the engine takes answers across accounts. No
// client may name one as its reply subject.
const prefixReply = "_R_."

// prefixInfo is where a client's question what a consumer is goes on its way to CORE.
const prefixInfo = "fhir.info."

// What a client publishes on to use a durable pull consumer: it asks what the consumer is,
// pulls, and acknowledges.
func consumerInfo(stream, name string) string { return "$JS.API.CONSUMER.INFO." + stream + "." + name }
func consumerNext(stream, name string) string {
	return "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + name
}
func consumerAck(stream, name string) string { return "$JS.ACK." + stream + "." + name + ".>" }

// exports are what CORE offers to the accounts of those outside.
func exports(to ...string) []string {
	all := []string{exported("stream", "fhir.message.>", "", to...), exported("stream", "fhir.dead.>", "", to...)}
	// Many messages answer one pull, for as long as it may stay open.
	many := fmt.Sprintf(", response_type: stream, response_threshold: %s", quote((maxPull + maxPull/5).String()))
	for _, stream := range MessagesDeadEvents {
		all = append(all,
			exported("service", consumerInfo(stream, "*"), "", to...),
			exported("service", consumerNext(stream, "*"), many, to...),
			exported("service", consumerAck(stream, "*"), "", to...))
	}
	return all
}

func exported(kind, subject, more string, to ...string) string {
	return fmt.Sprintf("{ %s: %s, accounts: [%s]%s }", kind, quote(subject), quoted(to), more)
}

// imports take trees to listen to: events from EDGE, where the gate tells of them, the others
// from CORE.
func imports(trees ...string) []string {
	var all []string
	for _, tree := range trees {
		from := "CORE"
		if tree == FilterEvents {
			from = "EDGE"
		}
		all = append(all, fmt.Sprintf("{ stream: { account: %s, subject: %s } }", from, quote(tree)))
	}
	return all
}

// text writes the account as the server's configuration wants it.
func (a account) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "  %s {\n", quote(a.name))
	if a.jetstream {
		b.WriteString("    jetstream: enabled\n")
	}
	b.WriteString("    users: [\n")
	for _, u := range a.users {
		fmt.Fprintf(&b, "      %s\n", u.text())
	}
	b.WriteString("    ]\n")
	if len(a.mappings) > 0 {
		fmt.Fprintf(&b, "    mappings: {\n      %s\n    }\n", strings.Join(a.mappings, "\n      "))
	}
	for _, list := range []struct {
		name  string
		items []string
	}{{"exports", a.exports}, {"imports", a.imports}} {
		if len(list.items) > 0 {
			fmt.Fprintf(&b, "    %s: [\n      %s\n    ]\n", list.name, strings.Join(list.items, "\n      "))
		}
	}
	b.WriteString("  }\n")
	return b.String()
}

func (u user) text() string {
	kind := "STANDARD"
	if u.inside {
		kind = "IN_PROCESS"
	}
	permissions := ""
	if !u.all {
		permissions = fmt.Sprintf(", permissions: { publish: %s, subscribe: %s }", allow(u.publish), allow(u.subscribe))
	}
	return fmt.Sprintf("{ %s, allowed_connection_types: [%q]%s }", u.credential, kind, permissions)
}

// allow lists what is allowed. The engine takes an empty list for no restriction.
func allow(subjects []string) string {
	if len(subjects) == 0 {
		return `{ deny: [">"] }`
	}
	return "{ allow: [" + quoted(subjects) + "] }"
}

func credential(l Login) string {
	if l.NKey != "" {
		return nkey(l.NKey)
	}
	return "user: " + quote(l.Name) + ", password: " + quote(l.Password)
}

func nkey(public string) string { return "nkey: " + quote(public) }

func quoted(texts []string) string {
	q := make([]string, len(texts))
	for i, t := range texts {
		q[i] = quote(t)
	}
	return strings.Join(q, ", ")
}

// quote writes a string of the server's configuration. Its escapes are fewer than Go's, so
// whatever is no plain letter or sign goes as bytes.
func quote(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(text); i++ {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			fmt.Fprintf(&b, `\x%02x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
