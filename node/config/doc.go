// Package config is the configuration of a node: one Config struct with every key, its
// defaults, and the file, environment variables and flags that change them.
//
// It promises that nothing is ignored in silence. A key that is not known is refused with its
// line and the nearest known one, so is a CARILLON_… variable; a value that is out of range is
// refused with what is allowed; and all problems of a file are told at once. The yaml tags of
// the struct are the only list of keys: the file, the variables (CARILLON_SECTION_KEY), what
// Show prints and the test of cluster.yaml all follow from them.
//
// Start reading at config.go (the keys and their defaults), then load.go.
package config
