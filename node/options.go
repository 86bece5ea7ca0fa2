package node

import (
	"fmt"
	"regexp"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/node/hook"
)

// Option adds to a node what a program that embeds it brings along.
type Option func(*additions) error

// additions are what Options give.
type additions struct {
	channels     map[string]deliver.Channel // by name of the delivery class
	interceptors []hook.Interceptor
}

// classGrammar is what a delivery class may be called: the names of Java classes are among them.
var classGrammar = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.$-]{0,199}$`)

// WithChannel registers a channel under the name by which Subscriptions ask for it, in the
// extension subscription-channel-rest-delivery-class: their notifications are sent through it in
// place of the rest-hook, and what their endpoint says, if they have one, is the channel's own
// business (it is not checked by the rules for egress). The channel must keep what
// deliver.Channel says; delivertest.TestChannel tries it. Every node of a cluster must have it: one
// that has not holds what is to be sent through it.
func WithChannel(name string, c deliver.Channel) Option {
	return func(a *additions) error {
		switch {
		case !classGrammar.MatchString(name):
			return fmt.Errorf("channel %q: a name begins with a letter and has letters, digits, '_', '-', '.' and '$', at most 200", name)
		case c == nil:
			return fmt.Errorf("channel %s is nil", name)
		case a.channels[name] != nil:
			return fmt.Errorf("channel %s is registered twice", name)
		}
		a.channels[name] = c
		return nil
	}
}

// WithInterceptors adds interceptors after those that were given before. Package hook says when
// they are called.
func WithInterceptors(interceptors ...hook.Interceptor) Option {
	return func(a *additions) error {
		a.interceptors = append(a.interceptors, interceptors...)
		return nil
	}
}

// added takes the options together.
func added(opts []Option) (additions, error) {
	a := additions{channels: map[string]deliver.Channel{}}
	for _, o := range opts {
		if err := o(&a); err != nil {
			return a, err
		}
	}
	return a, nil
}
