package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/node"
	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/node/config"
)

func configCommand() *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "check, show and reload the configuration",
		Subcommands: []*cli.Command{
			{
				Name: "check", Usage: "tell every mistake of a configuration file with its line", ArgsUsage: "FILE",
				Description: help(`Reads a configuration file as serve would, with the CARILLON_… variables over it, and tells
every mistake with its line. The exit code is 0 if there is none, else 2. With -o json, yaml or
csv the mistakes are the result, on stdout.

Every node in the file is looked at, or the one that --node names. Certificates and keys that
are not there, or do not fit, and definitions that criteria could not use are warnings: they may be
on another machine. serve refuses them.`,
					"carillon config check cluster.yaml",
					"carillon config check cluster.yaml --node n1 -o json"),
				Flags:  []cli.Flag{&cli.StringFlag{Name: "node", Usage: "check for the node of this `NAME` alone"}},
				Action: action(1, 1, configCheck),
			},
			{
				Name: "show", Usage: "print the configuration in force",
				Description: help(`Prints every key with the value that serve would use: the defaults, over them the file, over
that the CARILLON_… variables. With --running it is what a running node uses. Passwords are
masked.`,
					"carillon config show --config cluster.yaml --node n1",
					"carillon config show --running -o json"),
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "config", Usage: "configuration `FILE`"},
					&cli.StringFlag{Name: "node", Usage: "`NAME` of the node that it is for; without it nodes shows each of several"},
					&cli.BoolFlag{Name: "running", Usage: "ask the node"},
				},
				Action: action(0, 0, configShow),
			},
			{
				Name: "reload", Usage: "have the running node read its configuration again",
				Description: help(`Has the node that is asked read its configuration file again, with the flags and CARILLON_…
variables that it was started with; SIGHUP does the same. Certificates, the level of the log, the
rules of egress and of endpoints and the keys of secrets take effect at once. Other keys that have changed are named, and left until
the node is started again. A file with a mistake changes nothing. API tokens are no part of the
configuration: what is made or revoked is in force on every node at once.`,
					"carillon config reload",
					"carillon config reload -o json"),
				Action: action(0, 0, configReload),
			},
		},
	}
}

func configCheck(c *call) error {
	cfg, err := loadConfig(c.Args().First(), c.String("node"))
	if err == nil {
		err = cfg.CheckListeners()
	}
	var bad, files *config.Error
	isBad := errors.As(err, &bad)
	if err != nil && !isBad {
		return err
	}
	if !isBad { // a file that is wrong may name wrong files
		files = joined(cfg.CheckFiles(), node.CheckDefinitions(cfg))
	}
	switch {
	case c.out.form != "table":
		return c.configChecked(bad, files)
	case isBad:
		return usage("%w", bad)
	}
	for _, p := range problems(files) {
		c.warn("warning: %s: %s: %s", p.Where, p.Key, p.Text)
	}
	c.note("%s is right", c.Args().First())
	return nil
}

// joined is one error of the problems of several; nil if there are none.
func joined(errs ...error) *config.Error {
	var all []config.Problem
	for _, err := range errs {
		if e := (*config.Error)(nil); errors.As(err, &e) {
			all = append(all, e.Problems...)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return &config.Error{Problems: all}
}

// configProblem is config.Problem for programs.
type configProblem struct {
	Where string `json:"where,omitempty"`
	Key   string `json:"key,omitempty"`
	Text  string `json:"text"`
}

func problems(e *config.Error) []configProblem {
	list := []configProblem{}
	if e != nil {
		for _, p := range e.Problems {
			list = append(list, configProblem(p))
		}
	}
	return list
}

// configChecked prints what is wrong, nothing if bad is nil, for programs; files is what would
// keep a node from starting here.
func (c *call) configChecked(bad, files *config.Error) error {
	result := struct {
		File     string          `json:"file"`
		Valid    bool            `json:"valid"`
		Problems []configProblem `json:"problems"`
		Warnings []configProblem `json:"warnings"`
	}{c.Args().First(), bad == nil, problems(bad), problems(files)}
	whole := any(result)
	if c.out.form == "csv" {
		whole = result.Problems
	}
	b, err := json.Marshal(whole)
	if err != nil {
		return err
	}
	if c.out.form == "csv" {
		err = c.out.list(b, columns("WHERE=where KEY=key TEXT=text"))
	} else {
		err = c.out.raw(b)
	}
	if err == nil && bad != nil {
		err = &exitError{code: exitUsage} // the result has said it
	}
	return err
}

func configShow(c *call) error {
	if c.Bool("running") {
		return configRunning(c)
	}
	cfg, err := loadConfig(c.String("config"), c.String("node"))
	if err != nil {
		return err
	}
	if c.out.form == "json" {
		b, err := yaml.YAMLToJSON([]byte(cfg.Show()))
		if err != nil {
			return err
		}
		return c.out.raw(b)
	}
	if c.out.form == "csv" {
		return usage("a configuration has no form csv; take json or yaml")
	}
	_, err = fmt.Fprint(c.App.Writer, cfg.Show())
	return err
}

func configRunning(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	b, err := cl.get(c.ctx(), adminPath+"/config", nil)
	if err != nil {
		return err
	}
	if c.out.form == "table" {
		c.out.form = "yaml"
	}
	if c.out.form == "csv" {
		return usage("a configuration has no form csv; take json or yaml")
	}
	return c.out.raw(b)
}

func configReload(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	b, err := cl.send(c.ctx(), adminPath+"/config/reload", nil)
	if err != nil {
		return err
	}
	var r api.Reloaded
	if err := decode(b, &r); err != nil {
		return fmt.Errorf("the server's answer does not tell what was reloaded: %w", err)
	}
	if err := c.out.object(b, columns("NODE=node CHANGED=changed RESTART=restart")); err != nil {
		return err
	}
	if len(r.Changed)+len(r.Restart) == 0 {
		c.note("nothing has changed")
	}
	if len(r.Restart) > 0 {
		c.note("%s: in force when node %s is started again", strings.Join(r.Restart, ", "), r.Node)
	}
	return nil
}
