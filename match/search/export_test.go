package search

// Blunt gives definitions whose hashes have few bits, so that they collide all the time.
func (d *Definitions) Blunt(bits int) *Definitions {
	c := *d
	c.blunt = ^uint64(0) << bits
	c.pool = nil // what is shared was compiled with sharper ones
	return &c
}
