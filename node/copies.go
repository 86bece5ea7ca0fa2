package node

import (
	"sync"

	"github.com/carillon-fhir/carillon/deliver"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/store"
)

// copies knows of which notifications the copy for a named channel was published, so that another
// attempt at the endpoint does not publish it again. The log refuses a second one for two minutes;
// attempts are up to hours apart, and what keeps us from an endpoint on our own side may last
// longer still.
//
// The copy comes before the notification, so an outcome of the endpoint's says that it was made:
// that is known after a restart too. What this process has published it remembers besides, of the
// newest some thousands. Where neither is known it is published; a consumer then knows it by its
// webhook-id.
type copies struct {
	store *store.Store

	mu       sync.Mutex
	now, old map[copyID]struct{} // old is forgotten when now is full
}

type copyID struct {
	record.MatchID
	round int
}

const maxCopies = 8192 // in each half

// made reports whether a notification's copy is known to be published. Test notifications have
// none: each of them is meant to arrive.
func (c *copies) made(n deliver.Notification) bool {
	if n.Test {
		return false
	}
	c.mu.Lock()
	_, now := c.now[copyID{n.MatchID, n.Round}]
	_, old := c.old[copyID{n.MatchID, n.Round}]
	c.mu.Unlock()
	if now || old {
		return true
	}
	if n.Attempt <= 1 {
		return false // no outcome of an endpoint in this round yet
	}
	m, ok, err := c.store.MatchByID(n.MatchID)
	return err == nil && ok && m.Round == n.Round && m.Code.IsAttempt() && m.Code != record.PublishError && m.Code != ""
}

func (c *copies) note(n deliver.Notification) {
	if n.Test {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil || len(c.now) >= maxCopies {
		c.now, c.old = make(map[copyID]struct{}), c.now
	}
	c.now[copyID{n.MatchID, n.Round}] = struct{}{}
}
