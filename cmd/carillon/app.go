package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/lmittmann/tint"
	"github.com/mattn/go-isatty"
	"github.com/urfave/cli/v2"
)

// newApp builds the tree of commands. It holds only what works.
func newApp() *cli.App {
	app := &cli.App{
		Name:            "carillon",
		Usage:           "FHIR Subscriptions, delivered",
		HideHelpCommand: true,
		HideVersion:     true,
		Flags:           globalFlags(),
		ExitErrHandler:  func(*cli.Context, error) {}, // run decides, so that tests can call it
		OnUsageError:    onUsageError,
		Commands: []*cli.Command{
			serveCommand(), configCommand(), versionCommand(),
			subscriptionCommand(), ingestCommand(), resendCommand(), triggerCommand(), dlqCommand(), jobsCommand(), attemptsCommand(),
			deliverCommand(), explainCommand(), tokenCommand(), keysCommand(), consumerCommand(), clusterCommand(),
			matchCommand(), fhirpathCommand(), listenCommand(), tailCommand(), benchCommand(), benchLogCommand(),
			contextCommand(), completionCommand(), manCommand(),
		},
	}
	walk(app.Commands, func(c *cli.Command) {
		c.HideHelpCommand = true
		c.OnUsageError = onUsageError
	})
	return app
}

func walk(commands []*cli.Command, visit func(*cli.Command)) {
	for _, c := range commands {
		visit(c)
		walk(c.Subcommands, visit)
	}
}

func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "server", Usage: "`URL` of the node to ask (default " + defaultServer + ") [$CARILLON_SERVER]"},
		&cli.StringFlag{Name: "token", Usage: "API token; --token-file keeps it out of the list of processes [$CARILLON_TOKEN]"},
		&cli.StringFlag{Name: "token-file", Usage: "`FILE` that holds the API token [$CARILLON_TOKEN_FILE]"},
		&cli.StringFlag{Name: "context", Usage: "saved server and credentials by `NAME` [$CARILLON_CONTEXT]"},
		&cli.StringFlag{Name: "nats", Usage: "NATS `URL`, for tail (default " + defaultNATS + ") [$CARILLON_NATS]"},
		&cli.StringFlag{Name: "creds", Usage: "NATS credentials `FILE`, for tail [$CARILLON_CREDS]"},
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FORM` of results: table, json, yaml or csv", Value: "table"},
		&cli.BoolFlag{Name: "quiet", Usage: "print results and errors alone"},
		&cli.BoolFlag{Name: "no-color", Usage: "no colours, whatever the terminal can do; so does NO_COLOR"},
		&cli.StringFlag{Name: "log-level", Usage: "debug, info, warn or error"},
		&cli.StringFlag{Name: "log-format", Usage: "auto (text on a terminal, JSON lines otherwise), text or json"},
	}
}

// help makes the text of --help: what the command does, and examples, which a test runs.
func help(text string, examples ...string) string {
	var b strings.Builder
	b.WriteString(strings.TrimSpace(text))
	b.WriteString("\n\nExamples:\n")
	for _, e := range examples {
		b.WriteString("\n   $ " + e)
	}
	return b.String()
}

// call is one execution of a command.
type call struct {
	*cli.Context
	out output
}

// action makes the cli.ActionFunc of a command that takes between least and most arguments;
// most below 0 is any number.
func action(least, most int, f func(*call) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		switch n := c.NArg(); {
		case n < least:
			return usage("%s needs %s; see %s --help", c.Command.HelpName, argsText(c), c.Command.HelpName)
		case most == 0 && n > 0:
			return usage("%s takes no arguments, not %q", c.Command.HelpName, c.Args().First())
		case most > 0 && n > most:
			return usage("%s has one argument too many: %q", c.Command.HelpName, c.Args().Get(most))
		}
		out, err := newOutput(c)
		if err != nil {
			return err
		}
		return f(&call{Context: c, out: out})
	}
}

func argsText(c *cli.Context) string {
	if c.Command.ArgsUsage == "" {
		return "an argument"
	}
	return c.Command.ArgsUsage
}

// ctx is what requests run under.
func (c *call) ctx() context.Context { return c.Context.Context }

// need refuses a command line without a flag that the command cannot do without. The library
// would print the whole help.
func (c *call) need(flag string) error {
	if c.IsSet(flag) {
		return nil
	}
	return usage("%s needs --%s; see %s --help", c.Command.HelpName, flag, c.Command.HelpName)
}

// interruptible gives a context that ends with SIGINT or SIGTERM, for commands that go on until
// they are told to stop.
func (c *call) interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(c.ctx(), syscall.SIGINT, syscall.SIGTERM)
}

// note prints a remark for people, which --quiet leaves out.
func (c *call) note(format string, args ...any) {
	if !c.Bool("quiet") {
		fmt.Fprintf(c.App.ErrWriter, format+"\n", args...)
	}
}

// warn prints what is wrong although the command goes on.
func (c *call) warn(format string, args ...any) {
	fmt.Fprintf(c.App.ErrWriter, "carillon: "+format+"\n", args...)
}

// isTerminal reports whether w is a terminal: progress bars and colours go to nothing else.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// newLogger makes the logger of a command, on stderr, and the level by which it can be changed
// later. Format auto is coloured text on a terminal and JSON lines otherwise.
func newLogger(w io.Writer, level, format string, noColor bool) (*slog.Logger, *slog.LevelVar, error) {
	l := new(slog.LevelVar)
	switch level {
	case "debug", "info", "warn", "error":
		if err := l.UnmarshalText([]byte(level)); err != nil {
			return nil, nil, err
		}
	default:
		return nil, nil, usage("--log-level %q is not debug, info, warn or error", level)
	}
	switch format {
	case "auto", "text", "json":
	default:
		return nil, nil, usage("--log-format %q is not auto, text or json", format)
	}
	if format == "json" || format == "auto" && !isTerminal(w) {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l})), l, nil
	}
	return slog.New(tint.NewTextHandler(w, &tint.Options{
		Level: l, TimeFormat: "15:04:05.000", NoColor: noColor || os.Getenv("NO_COLOR") != "" || !isTerminal(w),
	})), l, nil
}

// readInput reads a whole file, or the standard input for "-", of at most limit bytes.
func (c *call) readInput(name string, limit int64) ([]byte, error) {
	r, err := c.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, usage("%s is larger than %d MiB", name, limit>>20)
	}
	return b, nil
}

// open opens a file, or the standard input for "-". A file that is not there is wrong usage.
func (c *call) open(name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(c.App.Reader), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, &exitError{code: exitUsage, err: err}
	}
	return f, nil
}
