package main

import (
	"log/slog"

	"github.com/carillon-fhir/carillon/node"
	"github.com/carillon-fhir/carillon/node/config"
)

// openNode makes the node that serve runs: its data folder and its HTTP address are taken.
func openNode(cfg config.Config, log *slog.Logger, version string) (member, error) {
	return node.New(cfg, log, version)
}
