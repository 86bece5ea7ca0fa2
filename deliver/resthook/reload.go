package resthook

import "sync/atomic"

// liveGuard holds the rules in force, which may be replaced at any moment.
type liveGuard struct{ atomic.Pointer[guard] }

func newLiveGuard(g *guard) *liveGuard {
	l := new(liveGuard)
	l.Store(g)
	return l
}

// SetEgress puts other rules in force, for Subscriptions that are written and for connections that
// are made from now on. Connections that wait for their next request are closed, since they may
// lead where none may go any more; attempts in progress end as they would. On an error nothing
// changes.
func (c *Channel) SetEgress(e Egress) error {
	g, err := newGuard(e)
	if err != nil {
		return err
	}
	c.egress.Store(g)
	c.transport.CloseIdleConnections()
	return nil
}
