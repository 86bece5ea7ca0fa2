package node

import (
	"github.com/carillon-fhir/carillon/node/config"
	"github.com/carillon-fhir/carillon/stream"
)

// natsLogins are the logins of the listener for NATS clients.
func natsLogins(c config.NATS) []stream.Login {
	var logins []stream.Login
	for _, u := range c.Users {
		logins = append(logins, stream.Login{
			Name: u.Name, Password: u.Password, NKey: u.NKey,
			Publish: u.Publish, Subscribe: u.Subscribe, Consumers: u.Consumers, Operator: u.Operator,
		})
	}
	return logins
}

// natsTLS is the certificate of that listener; nil where there is none.
func natsTLS(c config.NATS) *stream.TLS {
	if c.TLS.Cert == "" {
		return nil
	}
	return &stream.TLS{Cert: c.TLS.Cert, Key: c.TLS.Key}
}

// noticesClosed reports whether plain NATS subscribers hear of no changes: once the API asks for
// a login, the guest of a listener without logins must not read on what it cannot read there.
func (n *Node) noticesClosed() bool { return n.tokens.any() && !n.server.HasLogins() }
