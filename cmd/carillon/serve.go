package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/node/api"
	"github.com/carillon-fhir/carillon/node/config"
)

// member is a node as serve sees it.
type member interface {
	// Run serves until ctx ends, then drains: it finishes what is under way and hands over
	// the rest. It returns nil after a clean stop.
	Run(ctx context.Context) error
	// Ready is closed when the node serves. The methods below are valid from then on.
	Ready() <-chan struct{}
	Addr() string     // host:port of the HTTP listener
	NATSAddr() string // host:port of the listener for NATS clients
	Name() string     // of the node
	// Reloads says how the configuration is read again, and Reload does so.
	Reloads(load func() (config.Config, error), level *slog.LevelVar)
	Reload(ctx context.Context) (api.Reloaded, error)
}

// errKilled ends the process while the node still drains.
var errKilled = errors.New("stopped by a second signal before everything was handed over; nothing acknowledged is lost")

func serveCommand() *cli.Command {
	return &cli.Command{
		Name:  "serve",
		Usage: "run a node",
		Description: help(`Runs a node in the foreground, with its defaults or a configuration file, and prints one
line on stdout when it serves:

   ready http=URL nats=URL node=NAME cluster=NAME

Logs go to stderr. The first SIGTERM or SIGINT drains the node, the second one ends it at
once; nothing that was acknowledged is lost either way. SIGHUP reads the configuration again, as
carillon config reload does.`,
			"carillon serve --dev",
			"carillon serve --config cluster.yaml --node n1 --data /var/lib/carillon"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE` (see cluster.yaml)"},
			&cli.StringFlag{Name: "node", Usage: "`NAME` of this node: its entry in nodes, where there are several (default n1, kept in the data folder)"},
			&cli.StringFlag{Name: "data", Usage: "`DIR` of its data"},
			&cli.StringFlag{Name: "http", Usage: "`ADDR` to serve FHIR and administration on; port 0 picks a free one"},
			&cli.StringFlag{Name: "nats", Usage: "`ADDR` to serve NATS clients on; port 0 picks a free one"},
			&cli.BoolFlag{Name: "dev", Usage: "for a laptop: endpoints on this machine and without TLS are allowed"},
			&cli.BoolFlag{Name: "rebuild", Usage: "make the projection again from the logs before serving"},
			&cli.BoolFlag{Name: "insecure-public", Usage: "serve other machines although TLS or login is missing"},
		},
		Action: action(0, 0, serve),
	}
}

func serve(c *call) error {
	cfg, err := serveConfig(c)
	if err != nil {
		return err
	}
	log, level, err := newLogger(c.App.ErrWriter, cfg.Observability.Log.Level, cfg.Observability.Log.Format, c.Bool("no-color"))
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.ctx(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	n, err := openNode(cfg, log, version())
	if err != nil {
		return err
	}
	n.Reloads(func() (config.Config, error) { return serveConfig(c) }, level)
	if cfg.Run.Dev {
		log.Warn("development mode: endpoints on this machine and without TLS are allowed", "http", cfg.Node.HTTP)
	}
	if cfg.Run.InsecurePublic {
		log.Warn("insecure-public: listeners may be reached by others without TLS or login", "http", cfg.Node.HTTP, "nats", cfg.Node.NATS)
	}
	return runNode(ctx, c, n, cfg, log)
}

// serveConfig joins file, variables and flags, in rising order of precedence.
func serveConfig(c *call) (config.Config, error) {
	cfg, err := loaded(config.LoadNode(c.String("config"), os.Environ(), c.String("node")))
	if err != nil {
		return cfg, err
	}
	for _, f := range []struct{ flag, key string }{
		{"data", "node.data"}, {"http", "node.http"}, {"nats", "node.nats"},
		{"log-level", "observability.log.level"}, {"log-format", "observability.log.format"},
	} {
		if !c.IsSet(f.flag) {
			continue
		}
		if err := cfg.Set(f.key, c.String(f.flag), "--"+f.flag); err != nil {
			return cfg, err
		}
	}
	cfg.Run.Rebuild = c.Bool("rebuild")
	cfg.Run.InsecurePublic = c.Bool("insecure-public")
	if cfg.Run.Dev = c.Bool("dev"); cfg.Run.Dev {
		cfg.Delivery.Egress.AllowPrivate = true
		cfg.Delivery.Egress.AllowHTTP = true
	}
	if err := cfg.Validate(); err != nil {
		return cfg, err
	}
	if err := cfg.CheckListeners(); err != nil {
		return cfg, err
	}
	return cfg, cfg.CheckFiles()
}

// loadConfig reads a configuration, for the node of this name or, without one, for whichever
// node it will be.
func loadConfig(path, name string) (config.Config, error) {
	if name == "" {
		return loaded(config.Load(path, os.Environ()))
	}
	return loaded(config.LoadNode(path, os.Environ(), name))
}

// loaded makes a file that cannot be read wrong usage.
func loaded(cfg config.Config, err error) (config.Config, error) {
	var bad *config.Error
	if err != nil && !errors.As(err, &bad) {
		return cfg, &exitError{code: exitUsage, err: err}
	}
	return cfg, err
}

// reloading has the node read its configuration again at each SIGHUP, until ctx ends or the node
// does, with its error.
func reloading(ctx context.Context, n member, done <-chan error, log *slog.Logger) (ended bool, err error) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case err := <-done:
			return true, err
		case <-ctx.Done():
			return false, nil
		case <-hangup:
			if _, err := n.Reload(ctx); err != nil && ctx.Err() == nil {
				log.Error("configuration was not read again", "err", err)
			}
		}
	}
}

// runNode runs a node until ctx ends and prints the ready line once it serves. While it drains
// a second signal ends the process.
func runNode(ctx context.Context, c *call, n member, cfg config.Config, log *slog.Logger) error {
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	select {
	case err := <-done:
		return err // it never served
	case <-n.Ready():
	}
	scheme := "http"
	if cfg.Security.TLS.Cert != "" {
		scheme = "https"
	}
	fmt.Fprintf(c.App.Writer, "ready http=%s://%s nats=nats://%s node=%s cluster=%s\n",
		scheme, n.Addr(), n.NATSAddr(), n.Name(), cfg.Cluster.Name)
	if ended, err := reloading(ctx, n, done, log); ended {
		return err
	}
	second := make(chan os.Signal, 1)
	signal.Notify(second, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(second)
	log.Info("draining; a second signal ends the process at once", "node", n.Name())
	select {
	case err := <-done:
		return err
	case <-second:
		return errKilled
	}
}
