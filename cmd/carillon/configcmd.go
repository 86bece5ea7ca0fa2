package main

import (
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
every mistake with its line. The exit code is 0 if there is none, else 2.`,
					"carillon config check cluster.yaml"),
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
	if errors.As(err, &bad) {
		return usage("%w", bad)
	}
	if err != nil {
		return err
	}
	c.note("%s is right", c.Args().First())
	return nil
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
