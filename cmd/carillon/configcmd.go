package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/node/config"
)

func configCommand() *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "check and show the configuration",
		Subcommands: []*cli.Command{
			{
				Name: "check", Usage: "tell every mistake of a configuration file with its line", ArgsUsage: "FILE",
				Description: help(`Reads a configuration file as serve would, with the CARILLON_… variables over it, and tells
every mistake with its line. The exit code is 0 if there is none, else 2. With -o json, yaml or
csv the mistakes are the result, on stdout.`,
					"carillon config check cluster.yaml",
					"carillon config check cluster.yaml -o json"),
				Action: action(1, 1, configCheck),
			},
			{
				Name: "show", Usage: "print the configuration in force",
				Description: help(`Prints every key with the value that serve would use: the defaults, over them the file, over
that the CARILLON_… variables. With --running it is what a running node uses.`,
					"carillon config show --config cluster.yaml",
					"carillon config show --running -o json"),
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "config", Usage: "configuration `FILE`"},
					&cli.BoolFlag{Name: "running", Usage: "ask the node"},
				},
				Action: action(0, 0, configShow),
			},
		},
	}
}

func configCheck(c *call) error {
	cfg, err := loadConfig(c.Args().First())
	if err == nil {
		err = cfg.CheckListeners()
	}
	var bad *config.Error
	switch isBad := errors.As(err, &bad); {
	case err != nil && !isBad:
		return err
	case c.out.form != "table":
		return c.configChecked(bad)
	case isBad:
		return usage("%w", bad)
	}
	c.note("%s is right", c.Args().First())
	return nil
}

// configProblem is config.Problem for programs.
type configProblem struct {
	Where string `json:"where,omitempty"`
	Key   string `json:"key,omitempty"`
	Text  string `json:"text"`
}

// configChecked prints what is wrong, nothing if bad is nil, for programs.
func (c *call) configChecked(bad *config.Error) error {
	result := struct {
		File     string          `json:"file"`
		Valid    bool            `json:"valid"`
		Problems []configProblem `json:"problems"`
	}{c.Args().First(), bad == nil, []configProblem{}}
	if bad != nil {
		for _, p := range bad.Problems {
			result.Problems = append(result.Problems, configProblem(p))
		}
	}
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
	cfg, err := loadConfig(c.String("config"))
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
