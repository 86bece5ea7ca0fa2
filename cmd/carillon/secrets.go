package main

import (
	"time"

	"github.com/urfave/cli/v2"
)

func secretCommand() *cli.Command {
	return &cli.Command{
		Name: "secret", Usage: "the secret that notifications are signed with",
		Subcommands: []*cli.Command{{
			Name: "rotate", Usage: "give a Subscription a new secret, shown this once", ArgsUsage: "ID",
			Description: help(`Replaces the secret of a Subscription and prints the new one. Until the overlap ends every
notification bears signatures of both, so that its receiver can change over at any time;
X-Signature, which has room for one, is of the new secret at once.`,
				"carillon subscription secret rotate a1",
				"carillon subscription secret rotate a1 --overlap 72h -o json"),
			Flags: []cli.Flag{
				&cli.DurationFlag{Name: "overlap", Usage: "how long the old secret signs too; at most 720h", Value: 24 * time.Hour},
				&cli.StringFlag{Name: "secret", Usage: "the new `SECRET`; without it one is made"},
			},
			Action: action(1, 1, withID(rotateSecret)),
		}},
	}
}

func rotateSecret(c *call, cl *client, id string) error {
	order := map[string]any{"overlap": c.Duration("overlap").String()}
	if s := c.String("secret"); s != "" {
		order["secret"] = s
	}
	b, err := cl.send(c.ctx(), subscriptionsPath+"/"+id+"/secret", order)
	if err != nil {
		return err
	}
	return c.out.object(b, columns("SUBSCRIPTION=subscription SECRET=secret UNTIL=until"))
}

func keysCommand() *cli.Command {
	return &cli.Command{
		Name: "keys", Usage: "the keys by which secrets are sealed at rest",
		Subcommands: []*cli.Command{{
			Name: "rotate", Usage: "keep all secrets under the first master key",
			Description: help(`Wraps the keys of all Subscriptions anew by the first key of security.secrets_key, and seals
secrets that stand in clear of before there was one. Nothing that is sealed changes.

To change master keys: put the new one first in security.secrets_key of every node and have all
read it (carillon config reload), run this, then take the old one out.`,
				"carillon keys rotate", "carillon keys rotate -o json"),
			Action: action(0, 0, func(c *call) error {
				cl, err := c.client()
				if err != nil {
					return err
				}
				b, err := cl.send(c.ctx(), adminPath+"/keys/rotate", map[string]any{})
				if err != nil {
					return err
				}
				return c.out.object(b, columns("MASTER=master REWRAPPED=rewrapped SEALED=sealed"))
			}),
		}},
	}
}
