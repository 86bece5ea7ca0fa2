package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	Where string // "cluster.yaml:12", a variable's name or a flag; empty where the cause is a missing key
	Key   string // such as delivery.retry.attempts; empty where the problem is of no key
	Text  string
}

func (p Problem) String() string {
	s := p.Text
	if p.Key != "" {
		s = p.Key + ": " + s
	}
	if p.Where != "" {
		s = p.Where + ": " + s
	}
	return s
}

// Error is everything that is wrong with a configuration. The command line ends with exit
// code 2 when it meets one.
type Error struct {
	Problems []Problem
}

// Error is one line for each problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads a configuration: the defaults, over them the file (none if path is empty), over
// that the CARILLON_… variables of env, which has the form of os.Environ. It returns what it
// could read also when there are problems, which are told all at once as an *Error; a file
// that cannot be opened is an error of package os.
//
// If nodes has one entry, that node is chosen. If it has several none is, and what is told is
// wrong with any of them.
func Load(path string, env []string) (Config, error) {
	return loadWith(path, env, func(l *loader) {
		if names := l.cfg.Members(); len(names) == 1 {
			l.cfg = l.cfg.as(names[0])
		}
	})
}

// LoadNode is Load for the node of this name, which must have an entry in nodes, if there are
// any. No name is enough where nodes has one entry or none.
func LoadNode(path string, env []string, name string) (Config, error) {
	return loadWith(path, env, func(l *loader) { l.choose(name) })
}

func loadWith(path string, env []string, choose func(*loader)) (Config, error) {
	l := &loader{cfg: Default()}
	l.cfg.origin = map[string]string{}
	if path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return l.cfg, fmt.Errorf("read configuration: %w", err)
		}
		l.file = path
		l.parse(text)
	}
	l.completeNodes()
	l.environment(env)
	l.findFiles()
	choose(l)
	if len(l.problems) == 0 { // a value that was not read would be found wanting twice
		l.problems = l.cfg.problems()
	}
	if len(l.problems) > 0 {
		return l.cfg, &Error{Problems: l.problems}
	}
	return l.cfg, nil
}

// Set gives one key a value, written as in a file, on the word of origin ("--http"), which
// later problems name. A list may be written without its brackets.
func (c *Config) Set(key, value, origin string) error {
	l := &loader{cfg: *c}
	l.set(key, value, origin)
	if len(l.problems) > 0 {
		return &Error{Problems: l.problems}
	}
	*c = l.cfg
	return nil
}

// loader collects problems while it fills a Config.
type loader struct {
	cfg      Config
	file     string
	problems []Problem
}

func (l *loader) problem(where, key, format string, args ...any) {
	l.problems = append(l.problems, Problem{Where: where, Key: key, Text: fmt.Sprintf(format, args...)})
}

// parse reads the text of a file into cfg.
func (l *loader) parse(text []byte) {
	f, err := parser.ParseBytes(text, 0)
	if err != nil {
		l.syntax(err)
		return
	}
	if len(f.Docs) > 1 && f.Docs[1].Body != nil {
		l.problem(l.at(f.Docs[1].Body), "", "a configuration is one YAML document, this file has several")
		return
	}
	if len(f.Docs) == 0 || f.Docs[0].Body == nil {
		return // empty, or comments alone
	}
	l.section(f.Docs[0].Body, reflect.ValueOf(&l.cfg).Elem(), "")
}

func (l *loader) syntax(err error) {
	var e yaml.Error
	if !errors.As(err, &e) {
		l.problem(l.file, "", "not valid YAML: %v", err)
		return
	}
	where := l.file
	if t := e.GetToken(); t != nil {
		where = l.file + ":" + strconv.Itoa(t.Position.Line)
	}
	l.problem(where, "", "not valid YAML: %s", e.GetMessage())
}

// at says where a node stands in the file.
func (l *loader) at(n ast.Node) string {
	return l.file + ":" + strconv.Itoa(n.GetToken().Position.Line)
}

// entries lists the keys of a mapping. A section whose keys are all commented out is null in
// YAML, and means the defaults.
func (l *loader) entries(n ast.Node, key string) []*ast.MappingValueNode {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	case *ast.NullNode:
		return nil
	}
	what := key
	if key == "" {
		what = "the file"
	}
	l.problem(l.at(n), "", "%s is a section with keys of its own, not %s", what, describe(n))
	return nil
}

// section reads a mapping into a struct.
func (l *loader) section(n ast.Node, v reflect.Value, key string) {
	for _, e := range l.entries(n, key) {
		name, ok := keyText(e.Key)
		if !ok {
			l.problem(l.at(e.Key), "", "only plain keys are understood here, not %s", describe(e.Key))
			continue
		}
		field := fieldNamed(v, name)
		if !field.IsValid() {
			l.problem(l.at(e.Key), "", "unknown key %s%s", join(key, name), suggest(join(key, name), append(siblings(v, key), Keys()...)))
			continue
		}
		l.value(e.Value, field, join(key, name), l.at(e.Key))
	}
}

// value reads a node into whatever its key holds.
func (l *loader) value(n ast.Node, v reflect.Value, key, where string) {
	if nodes, ok := v.Addr().Interface().(*map[string]Node); ok {
		l.cfg.origin[key] = where
		l.nodes(n, nodes, key)
		return
	}
	if commands, ok := v.Addr().Interface().(*map[string]Command); ok {
		l.cfg.origin[key] = where
		l.commands(n, commands, key)
		return
	}
	if isSections(v.Type()) {
		l.cfg.origin[key] = where
		l.sections(n, v, key)
		return
	}
	if isSection(v.Type()) {
		l.cfg.origin[key] = where
		l.section(n, v, key)
		return
	}
	if err := assign(n, v); err != nil {
		l.problem(where, key, "%v", err)
		return
	}
	l.cfg.origin[key] = where
}

func (l *loader) nodes(n ast.Node, nodes *map[string]Node, key string) {
	*nodes = map[string]Node{}
	for _, e := range l.entries(n, key) {
		name, ok := keyText(e.Key)
		if !ok || !nameGrammar.MatchString(name) {
			l.problem(l.at(e.Key), key, "a node's name has 1 to 64 letters, digits, - and _")
			continue
		}
		l.cfg.origin[join(key, name)] = l.at(e.Key)
		var node Node
		l.section(e.Value, reflect.ValueOf(&node).Elem(), join(key, name))
		(*nodes)[name] = node
	}
}

// sections reads a list of mappings into a slice of structs.
func (l *loader) sections(n ast.Node, v reflect.Value, key string) {
	v.SetZero()
	list, isList := n.(*ast.SequenceNode)
	if !isList {
		if _, none := n.(*ast.NullNode); !none {
			what := "rules"
			if v.Type() == reflect.TypeFor[[]NATSUser]() {
				what = "logins"
			}
			l.problem(l.at(n), key, "wants a list of %s, not %s", what, describe(n))
		}
		return
	}
	for i, item := range list.Values {
		element := fmt.Sprintf("%s[%d]", key, i)
		l.cfg.origin[element] = l.at(item)
		one := reflect.New(v.Type().Elem()).Elem()
		l.section(item, one, element)
		v.Set(reflect.Append(v, one))
	}
}

// completeNodes gives the entries of nodes what they leave out, from node.
func (l *loader) completeNodes() {
	if where, given := l.cfg.origin["node.route"]; given {
		l.problem(where, "node.route", "every node needs a route of its own; set nodes.NAME.route")
	}
	for name, entry := range l.cfg.Nodes {
		given, base := reflect.ValueOf(&entry).Elem(), reflect.ValueOf(l.cfg.Node)
		for i := range given.NumField() {
			key := "nodes." + name + "." + given.Type().Field(i).Tag.Get("yaml")
			if _, isGiven := l.cfg.origin[key]; !isGiven {
				given.Field(i).Set(base.Field(i))
			}
		}
		l.cfg.Nodes[name] = entry
	}
}

// choose makes this the configuration of one node.
func (l *loader) choose(name string) {
	names := l.cfg.Members()
	switch _, isMember := l.cfg.Nodes[name]; {
	case isMember:
		l.cfg = l.cfg.as(name)
	case name == "" && len(names) == 1:
		l.cfg = l.cfg.as(names[0])
	case name == "" && len(names) > 1:
		l.problem("", "", "which node is this? nodes has several: give --node with one of %s", strings.Join(names, ", "))
	case len(names) > 0:
		l.problem("", "", "--node %s has no entry in nodes, which names %s", name, strings.Join(names, ", "))
	default:
		l.cfg = l.cfg.as(name)
	}
}

// findFiles makes the paths of PEM files absolute. Those that a file names are relative to its
// folder, so that a folder with configuration and certificates can be copied anywhere; those of
// variables are relative to the working directory, as everywhere.
func (l *loader) findFiles() {
	find := func(key string, path *string) {
		if *path == "" || l.file == "" || !strings.HasPrefix(l.cfg.origin[key], l.file+":") || filepath.IsAbs(*path) {
			return
		}
		absolute, err := filepath.Abs(filepath.Join(filepath.Dir(l.file), *path))
		if err != nil {
			l.problem(l.cfg.origin[key], key, "%v", err)
			return
		}
		*path = absolute
	}
	for _, key := range pemFiles {
		find(key, valueOf(&l.cfg, key).Addr().Interface().(*string))
	}
	l.cfg.eachEndpointFile(find)
}

// ownVariables belong to the command line and are no keys.
var ownVariables = []string{
	"CARILLON_SERVER", "CARILLON_TOKEN", "CARILLON_TOKEN_FILE", "CARILLON_NATS", "CARILLON_CREDS", "CARILLON_CONTEXT",
}

// environment applies the CARILLON_… variables, in order of their names so that problems are
// told in the same order every time.
func (l *loader) environment(env []string) {
	keys := map[string]string{}
	var names []string
	for _, key := range Keys() {
		keys[Variable(key)] = key
		names = append(names, Variable(key))
	}
	for _, kv := range slices.Sorted(slices.Values(env)) {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "CARILLON_") || slices.Contains(ownVariables, name) {
			continue
		}
		key, known := keys[name]
		if !known {
			l.problem(name, "", "unknown variable%s", suggest(name, names))
			continue
		}
		l.set(key, value, name)
	}
}

// Variable is the name of the environment variable that overrides a key.
func Variable(key string) string {
	return "CARILLON_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// set reads the text of a variable or flag into a key. The text is not parsed as YAML where
// the key holds text: a value such as "[::1]:8080" needs no quotes there.
func (l *loader) set(key, text, origin string) {
	v := valueOf(&l.cfg, key)
	if !v.IsValid() {
		l.problem(origin, "", "unknown key %s%s", key, suggest(key, Keys()))
		return
	}
	if err := assignText(text, v); err != nil {
		l.problem(origin, key, "%v", err)
		return
	}
	origins := make(map[string]string, len(l.cfg.origin)+1) // Configs are copied freely, and share the map
	for k, o := range l.cfg.origin {
		origins[k] = o
	}
	origins[key] = origin
	l.cfg.origin = origins
}

// assignText reads text that did not come from a YAML file.
func assignText(text string, v reflect.Value) error {
	switch v.Interface().(type) {
	case []string:
		list := []string{}
		for item := range strings.SplitSeq(strings.Trim(text, "[]"), ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
		v.Set(reflect.ValueOf(list))
		return nil
	case Schedule:
		if !strings.HasPrefix(text, "[") && !strings.HasPrefix(text, "{") {
			text = "[" + text + "]"
		}
		f, err := parser.ParseBytes([]byte(text), 0)
		if err != nil || len(f.Docs) != 1 || f.Docs[0].Body == nil {
			return errors.New("not a schedule; write 5s,5m,30m or {initial: 5s, factor: 2, max: 1h}")
		}
		return assign(f.Docs[0].Body, v)
	}
	return assignScalar(text, v)
}

// assign reads a YAML node into a leaf.
func assign(n ast.Node, v reflect.Value) error {
	switch v.Interface().(type) {
	case []string:
		list, err := scalars(n)
		if err != nil {
			return err
		}
		v.Set(reflect.ValueOf(list))
		return nil
	case Schedule:
		s, err := readSchedule(n)
		if err != nil {
			return err
		}
		v.Set(reflect.ValueOf(s))
		return nil
	}
	text, err := scalar(n)
	if err != nil {
		return err
	}
	if _, quoted := n.(*ast.StringNode); !quoted && v.Kind() == reflect.String && v.Type() == reflect.TypeFor[string]() {
		if _, isBool := n.(*ast.BoolNode); isBool {
			return fmt.Errorf("wants text, not %s; put it in quotes if it is meant so", describe(n))
		}
	}
	return assignScalar(text, v)
}

func assignScalar(text string, v reflect.Value) error {
	var value any
	var err error
	switch v.Interface().(type) {
	case string:
		value = text
	case bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		value = text == "true"
	case int:
		if value, err = strconv.Atoi(text); err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
	case float64:
		if value, err = strconv.ParseFloat(text, 64); err != nil {
			return fmt.Errorf("%q is not a number", text)
		}
	case time.Duration:
		value, err = parseDuration(text)
	case Size:
		value, err = ParseSize(text)
	case Attempts:
		value, err = parseAttempts(text)
	default:
		panic("config: no reader for " + v.Type().String())
	}
	if err != nil {
		return err
	}
	v.Set(reflect.ValueOf(value))
	return nil
}

func readSchedule(n ast.Node) (Schedule, error) {
	if _, isList := n.(*ast.SequenceNode); isList {
		items, err := scalars(n)
		if err != nil {
			return Schedule{}, err
		}
		if len(items) == 0 {
			return Schedule{}, errors.New("a list of waits needs at least one")
		}
		var s Schedule
		for _, item := range items {
			d, err := parseDuration(item)
			if err != nil {
				return Schedule{}, err
			}
			s.Waits = append(s.Waits, d)
		}
		return s, nil
	}
	return readExponential(n)
}

func readExponential(n ast.Node) (Schedule, error) {
	var entries []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		entries = n.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{n}
	default:
		return Schedule{}, fmt.Errorf("wants a list of durations such as [5s, 5m, 30m], or {initial, factor, max}, not %s", describe(n))
	}
	var s Schedule
	for _, e := range entries {
		name, _ := keyText(e.Key)
		text, err := scalar(e.Value)
		if err != nil {
			return s, fmt.Errorf("%s: %w", name, err)
		}
		switch name {
		case "initial":
			s.Initial, err = parseDuration(text)
		case "max":
			s.Max, err = parseDuration(text)
		case "factor":
			s.Factor, err = strconv.ParseFloat(text, 64)
		default:
			return s, fmt.Errorf("unknown key %s; a schedule has initial, factor and max", name)
		}
		if err != nil {
			return s, fmt.Errorf("%s: %w", name, err)
		}
	}
	return s, nil
}

// scalars reads a list of plain values. A single value stands for a list of one.
func scalars(n ast.Node) ([]string, error) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		one, err := scalar(n)
		return []string{one}, err
	}
	list := []string{}
	for _, item := range seq.Values {
		text, err := scalar(item)
		if err != nil {
			return nil, err
		}
		list = append(list, text)
	}
	return list, nil
}

func scalar(n ast.Node) (string, error) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, nil
	case *ast.LiteralNode:
		return strings.TrimSpace(n.Value.Value), nil
	case *ast.NullNode:
		return "", errors.New("has no value; give one, or leave the key out for its default")
	}
	return "", fmt.Errorf("wants one plain value, not %s", describe(n))
}

func describe(n ast.Node) string {
	switch n := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a section"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "nothing"
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return "a YAML anchor or alias"
	case *ast.TagNode:
		return "a YAML tag"
	case *ast.BoolNode:
		return n.GetToken().Value
	}
	return "a plain value"
}

func keyText(k ast.MapKeyNode) (string, bool) {
	switch k.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return k.GetToken().Value, true
	}
	return "", false
}
