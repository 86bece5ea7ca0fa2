package main

import (
	"encoding/json"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/urfave/cli/v2"
)

// Set by the Makefile with -ldflags -X.
var (
	stampedVersion string
	stampedCommit  string
)

// version is what the build was stamped with, else what the Go toolchain knows. Every request
// carries it.
var version = sync.OnceValue(func() string {
	if stampedVersion != "" {
		return stampedVersion
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" && b.Main.Version != "(devel)" {
		return b.Main.Version
	}
	return "devel"
})

func commit() string {
	if stampedCommit != "" {
		return stampedCommit
	}
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

// moduleVersion is the version of a dependency as it was linked.
func moduleVersion(path string) string {
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, d := range b.Deps {
			if d.Path == path {
				return d.Version
			}
		}
	}
	return "unknown"
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:        "version",
		Usage:       "print the versions of Carillon, Go, NATS and FHIR",
		Description: help("Prints the version of this binary, its commit, and what it was built with and speaks.", "carillon version", "carillon version -o json"),
		Action: action(0, 0, func(c *call) error {
			b, err := json.Marshal(struct {
				Version string   `json:"version"`
				Commit  string   `json:"commit"`
				Go      string   `json:"go"`
				NATS    string   `json:"nats"`
				FHIR    []string `json:"fhir"`
			}{version(), commit(), runtime.Version(), moduleVersion("github.com/nats-io/nats-server/v2"), []string{"R4"}})
			if err != nil {
				return err
			}
			return c.out.object(b, columns("CARILLON=version COMMIT=commit GO=go NATS=nats FHIR=fhir"))
		}),
	}
}
