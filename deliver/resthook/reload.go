package resthook

// SetEgress puts other rules in force, for Subscriptions that are written and for attempts that
// begin from now on: no connection that was made by the old rules serves them, since it may lead
// where none may go any more. Attempts in progress end as they would. On an error nothing changes.
func (c *Channel) SetEgress(e Egress) error {
	s := c.way.Load().settings
	s.Egress = e
	return c.Apply(s)
}
