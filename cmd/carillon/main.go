package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/node/config"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	app := newApp()
	app.Reader, app.Writer, app.ErrWriter = stdin, stdout, stderr
	args, err := arrange(app, args)
	if err == nil {
		err = app.RunContext(ctx, append([]string{app.Name}, args...))
	}
	if err == nil {
		return exitDone
	}
	code := exitCode(err)
	if text := err.Error(); text != "" {
		for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
			fmt.Fprintf(stderr, "carillon: %s\n", line)
		}
	}
	return code
}

// The exit codes, which scripts rely on.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2 // wrong usage, or input that was refused
	exitNotFound    = 3
	exitForbidden   = 4
	exitUnreachable = 5
)

// exitError gives an error its exit code. With no text nothing is printed: the result alone
// has been the answer, as with explain.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func exit(code int, format string, args ...any) error {
	return &exitError{code: code, err: fmt.Errorf(format, args...)}
}

func usage(format string, args ...any) error { return exit(exitUsage, format, args...) }

// exitCode finds the exit code of any error that a command returns.
func exitCode(err error) int {
	var e *exitError
	var bad *config.Error
	switch {
	case errors.As(err, &e):
		return e.code
	case errors.As(err, &bad), fhir.AsError(err) != nil:
		return exitUsage
	}
	return exitFailed
}

// onUsageError keeps what urfave/cli finds wrong to one line; it would print the help too.
func onUsageError(_ *cli.Context, err error, _ bool) error {
	return &exitError{code: exitUsage, err: err}
}
