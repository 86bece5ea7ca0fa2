package resthook

import "time"

// NewLoginAt is NewLogin by another clock.
func (o OAuth2) NewLoginAt(now func() time.Time) Login { return &tokens{OAuth2: o, now: now} }
