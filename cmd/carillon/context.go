package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/urfave/cli/v2"
)

// savedContext is a server with credentials, under a name.
type savedContext struct {
	Server string `yaml:"server,omitempty" json:"server,omitempty"`
	Token  string `yaml:"token,omitempty" json:"-"`
	NATS   string `yaml:"nats,omitempty" json:"nats,omitempty"`
	Creds  string `yaml:"creds,omitempty" json:"creds,omitempty"`
}

// contextFile is what is kept in the user's configuration folder. It holds tokens, so only its
// owner may read it.
type contextFile struct {
	Current  string                  `yaml:"current,omitempty"`
	Contexts map[string]savedContext `yaml:"contexts"`
}

func contextPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the user's configuration folder: %w", err)
	}
	return filepath.Join(dir, "carillon", "contexts.yaml"), nil
}

// readContexts reads the file; none is the same as an empty one.
func readContexts() (contextFile, error) {
	empty := contextFile{Contexts: map[string]savedContext{}}
	path, err := contextPath()
	if err != nil {
		return empty, nil // without a home folder there is nothing saved
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return empty, fmt.Errorf("read contexts: %w", err)
	}
	f := empty
	if err := yaml.UnmarshalWithOptions(b, &f, yaml.DisallowUnknownField()); err != nil {
		// The library quotes the lines around the mistake, and they may hold a token.
		return empty, usage("%s cannot be read; mend it or delete it", path)
	}
	if f.Contexts == nil {
		f.Contexts = map[string]savedContext{}
	}
	return f, nil
}

func writeContexts(f contextFile) error {
	path, err := contextPath()
	if err != nil {
		return err
	}
	b, err := yaml.Marshal(f)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("save contexts: %w", err)
	}
	return replaceFile(path, b)
}

// replaceFile writes a file that only its owner may read, so that others see the old one or
// the new one and never a part.
func replaceFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

// target says whom a command talks to. A flag wins over --context, that over the variables,
// those over the context in use, and that over the defaults. A token never travels to another
// server than the one it was saved with, nor does that of a variable to the server of --context.
func (c *call) target() (savedContext, error) {
	f, err := readContexts()
	if err != nil {
		return savedContext{}, err
	}
	t := savedContext{Server: os.Getenv("CARILLON_SERVER"), NATS: os.Getenv("CARILLON_NATS"), Creds: os.Getenv("CARILLON_CREDS")}
	if t.Token, err = tokenOf(os.Getenv("CARILLON_TOKEN"), os.Getenv("CARILLON_TOKEN_FILE")); err != nil {
		return t, err
	}
	name := first(c.String("context"), os.Getenv("CARILLON_CONTEXT"))
	saved, known := f.Contexts[first(name, f.Current)]
	switch {
	case name != "" && !known:
		return t, usage("there is no context %q%s", name, didYouMean(name, slices.Sorted(maps.Keys(f.Contexts))))
	case name != "":
		t = saved
	default:
		if t.Server == "" {
			t.Server, t.Token = saved.Server, first(t.Token, saved.Token)
		}
		if t.NATS == "" {
			t.NATS, t.Creds = saved.NATS, first(t.Creds, saved.Creds)
		}
	}
	return c.flagsOver(t, name != "" || os.Getenv("CARILLON_TOKEN") == "" && os.Getenv("CARILLON_TOKEN_FILE") == "")
}

// flagsOver puts the flags over a target. A server of the command line gets no token that was
// saved for another one.
func (c *call) flagsOver(t savedContext, tokenIsSaved bool) (savedContext, error) {
	if s := c.String("server"); s != "" {
		if tokenIsSaved && s != t.Server {
			t.Token = ""
		}
		t.Server = s
	}
	if n := c.String("nats"); n != "" {
		if n != t.NATS && os.Getenv("CARILLON_CREDS") == "" {
			t.Creds = ""
		}
		t.NATS = n
	}
	token, err := tokenOf(c.String("token"), c.String("token-file"))
	t.Token = first(token, t.Token)
	t.Creds = first(c.String("creds"), t.Creds)
	t.Server, t.NATS = first(t.Server, defaultServer), first(t.NATS, defaultNATS)
	return t, err
}

// tokenOf is a token that was given itself or by the file that holds it.
func tokenOf(token, file string) (string, error) {
	if token != "" || file == "" {
		return token, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", &exitError{code: exitUsage, err: err}
	}
	return strings.TrimSpace(string(b)), nil
}

func contextCommand() *cli.Command {
	return &cli.Command{
		Name:  "context",
		Usage: "save servers and credentials under names",
		Subcommands: []*cli.Command{
			{
				Name: "save", Usage: "save --server, --token, --nats and --creds under a name", ArgsUsage: "NAME",
				Description: help("Saves what --server, --token (or --token-file), --nats and --creds say, in a file that only its owner can read. Commands take it with --context NAME.",
					"carillon context save ward3 --server https://ward3.example.org --token-file token.txt"),
				Action: action(1, 1, contextSave),
			},
			{
				Name: "list", Usage: "list the saved contexts, without their tokens",
				Description: help("Lists the saved contexts. Tokens are not shown.", "carillon context list"),
				Action:      action(0, 0, contextList),
			},
			{
				Name: "use", Usage: "take a context where --context is not given", ArgsUsage: "NAME",
				Description: help("Makes a saved context the one that commands use without --context.", "carillon context use ward3"),
				Action:      action(1, 1, contextUse),
			},
			{
				Name: "delete", Usage: "delete a saved context", ArgsUsage: "NAME",
				Description: help("Deletes a saved context with its token.", "carillon context delete ward3"),
				Action:      action(1, 1, contextDelete),
			},
		},
	}
}

var contextName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

func contextSave(c *call) error {
	name := c.Args().First()
	if !contextName.MatchString(name) {
		return usage("a context's name has 1 to 64 letters, digits, '.', '-' and '_'")
	}
	token, err := tokenOf(first(c.String("token"), os.Getenv("CARILLON_TOKEN")), c.String("token-file"))
	if err != nil {
		return err
	}
	f, err := readContexts()
	if err != nil {
		return err
	}
	f.Contexts[name] = savedContext{
		Server: first(c.String("server"), os.Getenv("CARILLON_SERVER")), Token: token,
		NATS: first(c.String("nats"), os.Getenv("CARILLON_NATS")), Creds: first(c.String("creds"), os.Getenv("CARILLON_CREDS")),
	}
	if err := writeContexts(f); err != nil {
		return err
	}
	c.note("saved context %s", name)
	return nil
}

func contextList(c *call) error {
	f, err := readContexts()
	if err != nil {
		return err
	}
	type row struct {
		Name    string `json:"name"`
		Current bool   `json:"current"`
		HasAuth bool   `json:"hasToken"`
		savedContext
	}
	rows := []row{}
	for _, name := range slices.Sorted(maps.Keys(f.Contexts)) {
		s := f.Contexts[name]
		rows = append(rows, row{Name: name, Current: name == f.Current, HasAuth: s.Token != "", savedContext: s})
	}
	b, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	return c.out.list(b, columns("NAME=name CURRENT=current SERVER=server TOKEN=hasToken NATS=nats"))
}

func contextUse(c *call) error {
	return changeContext(c, func(f *contextFile, name string) { f.Current = name })
}

func contextDelete(c *call) error {
	return changeContext(c, func(f *contextFile, name string) {
		delete(f.Contexts, name)
		if f.Current == name {
			f.Current = ""
		}
	})
}

func changeContext(c *call, change func(*contextFile, string)) error {
	name := c.Args().First()
	f, err := readContexts()
	if err != nil {
		return err
	}
	if _, ok := f.Contexts[name]; !ok {
		return exit(exitNotFound, "there is no context %q%s", name, didYouMean(name, slices.Sorted(maps.Keys(f.Contexts))))
	}
	change(&f, name)
	return writeContexts(f)
}
