package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/urfave/cli/v2"
)

const tokensPath = adminPath + "/tokens"

func tokenCommand() *cli.Command {
	return &cli.Command{
		Name:  "token",
		Usage: "API tokens",
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "make a token and print its secret, this once", ArgsUsage: "NAME",
				Description: help(`Makes a token with one or more roles and prints its secret on stdout. It is not shown again.

   reader      reads
   producer    reads, writes resources other than Subscriptions
   subscriber  reads, owns its Subscriptions
   operator    reads, lists, pauses, replays
   admin       everything

From the first token on, every request needs one: make the first with the role admin.`,
					"carillon token create me --role admin",
					"carillon token create --role producer --role reader --name lab"),
				Flags: []cli.Flag{
					&cli.StringSliceFlag{Name: "role", Usage: "reader, producer, subscriber, operator or admin; may be repeated"},
					&cli.StringFlag{Name: "name", Usage: "`NAME`, where it is not given as the argument"},
				},
				Action: action(0, 1, tokenCreate),
			},
			{
				Name: "list", Usage: "list tokens, without their secrets",
				Description: help("Lists the tokens.", "carillon token list"),
				Action: action(0, 0, func(c *call) error {
					return c.listFrom(tokensPath, nil, "ID=id NAME=name ROLES=roles CREATED=created")
				}),
			},
			{
				Name: "revoke", Usage: "make a token open nothing any more", ArgsUsage: "ID|NAME",
				Description: help("Revokes a token by its id or name.", "carillon token revoke lab"),
				Action:      action(1, 1, tokenRevoke),
			},
		},
	}
}

// tokenName takes the name as the argument or as --name.
func tokenName(c *call) (string, error) {
	name, flag := c.Args().First(), c.String("name")
	switch {
	case c.NArg() > 0 && c.IsSet("name"):
		return "", usage("name the token as the argument or with --name, not both")
	case c.IsSet("name"):
		name = flag
	}
	if name == "" {
		return "", usage("%s needs NAME; see %s --help", c.Command.HelpName, c.Command.HelpName)
	}
	return name, nil
}

func tokenCreate(c *call) error {
	name, err := tokenName(c)
	if err != nil {
		return err
	}
	if err := c.need("role"); err != nil {
		return err
	}
	roles := c.StringSlice("role")
	for _, r := range roles {
		switch r {
		case "reader", "producer", "subscriber", "operator", "admin":
		default:
			return usage("--role %q is not reader, producer, subscriber, operator or admin", r)
		}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	b, err := cl.send(c.ctx(), tokensPath, map[string]any{"name": name, "roles": roles})
	if err != nil {
		return err
	}
	if c.out.form != "table" {
		return c.out.object(b, columns("ID=id NAME=name ROLES=roles SECRET=secret"))
	}
	var t map[string]any
	if err := decode(b, &t); err != nil {
		return fmt.Errorf("the server's answer is no token: %w", err)
	}
	// The secret alone goes to stdout, so that it can be put into a file.
	c.note("token %s (%s) for %s; its secret is not shown again", text(t, "name"), text(t, "id"), strings.Join(roles, ", "))
	_, err = fmt.Fprintln(c.App.Writer, text(t, "secret"))
	return err
}

func tokenRevoke(c *call) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	name := c.Args().First()
	if _, err := cl.ask(c.ctx(), request{method: http.MethodDelete, path: tokensPath + "/" + url.PathEscape(name)}); err != nil {
		return err
	}
	c.note("revoked %s", name)
	return nil
}
