// Package clients shows that clients which others wrote work with Carillon unchanged: JavaScript
// libraries of npm, the recipes of Medplum's documentation, and the receivers of receivers/, which
// the documentation hands to subscribers.
//
// Each test starts the real binary and runs a script under testdata against it, which fails by its
// exit code. Versions are pinned by lock files. Where Node, npm, Python or the packages are absent
// a test is skipped and says so in one line; with -short all of Node's are.
package clients
