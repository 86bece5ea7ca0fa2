package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/node/config"
)

// arrange puts a command line into the order that urfave/cli wants: global flags, the command,
// its flags, "--" and the arguments. The library stops looking for flags at the first argument
// and takes global ones only before the command; people write them where they come to mind.
//
// Everything after "--" is an argument. A flag is looked up in the command that has been named
// so far and then among the global ones; a global flag given before a command that has one of
// the same name (serve --nats) is taken for the command's. What is unknown is refused here, in
// one line with the nearest known word.
func arrange(app *cli.App, args []string) ([]string, error) {
	a := arrangement{app: app, commands: app.Commands, flags: app.Flags}
	if err := a.read(args); err != nil {
		return nil, err
	}
	return a.result()
}

type arrangement struct {
	app      *cli.App
	path     []string
	commands []*cli.Command // that may come next; none once a command without further ones is named
	flags    []cli.Flag     // of the command named so far
	global   []givenFlag
	own      []givenFlag
	operands []string
	help     bool
}

type givenFlag struct {
	flag cli.Flag
	text string // as urfave/cli is given it
}

func (a *arrangement) read(args []string) error {
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		switch {
		case word == "--":
			return a.rest(args)
		case len(word) > 1 && word[0] == '-':
			var err error
			if args, err = a.takeFlag(word, args); err != nil {
				return err
			}
		case len(a.path) == 0 && word == "help":
			a.help = true
		case len(a.commands) > 0:
			if err := a.descend(word); err != nil {
				return err
			}
		default:
			a.operands = append(a.operands, word)
		}
	}
	return nil
}

func (a *arrangement) rest(args []string) error {
	if len(a.commands) > 0 && len(args) > 0 {
		return a.descend(args[0]) // always an error: a command does not stand behind "--"
	}
	a.operands = append(a.operands, args...)
	return nil
}

func (a *arrangement) descend(word string) error {
	for _, c := range a.commands {
		if c.HasName(word) {
			a.path = append(a.path, c.Name)
			a.commands, a.flags = c.Subcommands, c.Flags
			return nil
		}
	}
	var known []string
	for _, c := range a.commands {
		known = append(known, c.Names()...)
	}
	name := strings.Join(append([]string{a.app.Name}, a.path...), " ")
	return usage("unknown command %q%s; see %s --help", word, didYouMean(word, known), name)
}

// takeFlag reads a flag and, if it has one, its value; it returns the words that are left.
func (a *arrangement) takeFlag(word string, args []string) ([]string, error) {
	name, value, hasValue := strings.Cut(strings.TrimLeft(word, "-"), "=")
	if name == "help" || name == "h" {
		a.help = true
		return args, nil
	}
	if name == "version" && len(a.path) == 0 {
		return args, a.descend("version")
	}
	f, isOwn := findFlag(a.flags, name), len(a.path) > 0
	if f == nil {
		f, isOwn = findFlag(a.app.Flags, name), false
	}
	if f == nil {
		return nil, a.unknownFlag(name)
	}
	given := givenFlag{flag: f, text: "--" + name}
	if takesValue(f) {
		if !hasValue {
			if len(args) == 0 {
				return nil, usage("flag --%s needs a value", name)
			}
			value, args = args[0], args[1:]
		}
		given.text += "=" + value
	} else if hasValue {
		given.text += "=" + value
	}
	if isOwn {
		a.own = append(a.own, given)
	} else {
		a.global = append(a.global, given)
	}
	return args, nil
}

func (a *arrangement) unknownFlag(name string) error {
	var known []string
	for _, f := range slices.Concat(a.flags, a.app.Flags) {
		known = append(known, f.Names()...)
	}
	command := strings.Join(append([]string{a.app.Name}, a.path...), " ")
	suggestion := didYouMean(name, known)
	if suggestion != "" {
		suggestion = strings.Replace(suggestion, "mean ", "mean --", 1)
	}
	return usage("unknown flag --%s%s; see %s --help", name, suggestion, command)
}

func (a *arrangement) result() ([]string, error) {
	if a.help {
		return append(slices.Clone(a.path), "--help"), nil
	}
	if len(a.path) > 0 && len(a.commands) > 0 {
		var names []string
		for _, c := range a.commands {
			names = append(names, c.Name)
		}
		return nil, usage("%s %s needs one of: %s", a.app.Name, strings.Join(a.path, " "), strings.Join(names, ", "))
	}
	var front, own []string
	for _, g := range a.global {
		if len(a.path) > 0 && findFlag(a.flags, g.flag.Names()[0]) != nil {
			own = append(own, g.text)
			continue
		}
		front = append(front, g.text)
	}
	for _, g := range a.own {
		own = append(own, g.text)
	}
	all := slices.Concat(front, a.path, own)
	if len(a.operands) > 0 {
		all = append(append(all, "--"), a.operands...)
	}
	return all, nil
}

func findFlag(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

// didYouMean ends an error text with the nearest known word, if one is near.
func didYouMean(word string, known []string) string {
	if best := config.Nearest(word, known); best != "" {
		return ", did you mean " + best + "?"
	}
	return ""
}
