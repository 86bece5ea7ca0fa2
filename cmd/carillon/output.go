package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/urfave/cli/v2"
)

// output prints results in the form that -o asks for.
type output struct {
	w    io.Writer
	form string
}

func newOutput(c *cli.Context) (output, error) {
	switch form := c.String("output"); form {
	case "table", "json", "yaml", "csv":
		return output{w: c.App.Writer, form: form}, nil
	default:
		return output{}, usage("-o %q is not table, json, yaml or csv", form)
	}
}

// column is one column of a table: its heading and where in the JSON object its value is, such
// as lastError.outcome.
type column struct {
	head string
	path string
}

// columns reads a short form: "ID=id STATUS=status".
func columns(spec string) []column {
	var cs []column
	for field := range strings.FieldsSeq(spec) {
		head, path, _ := strings.Cut(field, "=")
		cs = append(cs, column{head: head, path: path})
	}
	return cs
}

// list prints a JSON array of objects.
func (o output) list(body []byte, cs []column) error {
	if o.form == "json" || o.form == "yaml" {
		return o.raw(body)
	}
	var rows []map[string]any
	if err := decode(body, &rows); err != nil {
		return fmt.Errorf("the server's answer is not a list of objects: %w", err)
	}
	return o.rows(rows, cs)
}

// object prints one JSON object; as a table that is one line for each column.
func (o output) object(body []byte, cs []column) error {
	if o.form == "json" || o.form == "yaml" {
		return o.raw(body)
	}
	var row map[string]any
	if err := decode(body, &row); err != nil {
		return fmt.Errorf("the server's answer is not an object: %w", err)
	}
	if o.form == "csv" {
		return o.rows([]map[string]any{row}, cs)
	}
	t := tabwriter.NewWriter(o.w, 0, 0, 2, ' ', 0)
	for _, c := range cs {
		if v := forPeople(text(row, c.path)); v != "" {
			fmt.Fprintf(t, "%s\t%s\n", strings.ToLower(strings.ReplaceAll(c.head, "_", " ")), v)
		}
	}
	return t.Flush()
}

func (o output) rows(rows []map[string]any, cs []column) error {
	heads := make([]string, len(cs))
	for i, c := range cs {
		heads[i] = c.head
	}
	lines := [][]string{heads}
	for _, r := range rows {
		line := make([]string, len(cs))
		for i, c := range cs {
			line[i] = text(r, c.path)
			if o.form == "table" {
				line[i] = forPeople(line[i])
			}
		}
		lines = append(lines, line)
	}
	if o.form == "csv" {
		for i := range heads {
			heads[i] = cs[i].path
		}
		w := csv.NewWriter(o.w)
		return w.WriteAll(lines)
	}
	t := tabwriter.NewWriter(o.w, 0, 0, 2, ' ', 0)
	for i, line := range lines {
		for j := range line {
			if i == 0 {
				line[j] = strings.ReplaceAll(line[j], "_", " ")
			} else if line[j] == "" {
				line[j] = "-"
			}
		}
		fmt.Fprintln(t, strings.TrimRight(strings.Join(line, "\t"), "\t"))
	}
	return t.Flush()
}

// raw prints JSON as JSON, indented, or as YAML. Order and number text stay as they came.
func (o output) raw(body []byte) error {
	if o.form == "yaml" {
		y, err := yaml.JSONToYAML(body)
		if err != nil {
			return fmt.Errorf("the server's answer cannot be written as YAML: %w", err)
		}
		_, err = o.w.Write(y)
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(body), "", "  "); err != nil {
		return fmt.Errorf("the server's answer is not JSON: %w", err)
	}
	b.WriteByte('\n')
	_, err := o.w.Write(b.Bytes())
	return err
}

// decode reads JSON and keeps the text of numbers.
func decode(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	return d.Decode(into)
}

// text finds a value of an object by its path and writes it on one line.
func text(o map[string]any, path string) string {
	name, rest, deeper := strings.Cut(path, ".")
	v, ok := o[name]
	if !ok || v == nil {
		return ""
	}
	if m, isObject := v.(map[string]any); isObject && deeper {
		return text(m, rest)
	}
	return oneLine(v)
}

// forPeople shortens points in time to milliseconds; scripts get them as they are.
func forPeople(s string) string {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	return s
}

func oneLine(v any) string {
	switch v := v.(type) {
	case string:
		return strings.Map(printable, v)
	case []any:
		items := make([]string, len(v))
		for i, item := range v {
			items[i] = oneLine(item)
		}
		return strings.Join(items, ",")
	case map[string]any:
		b, err := json.Marshal(v)
		if err != nil {
			return ""
		}
		return string(b)
	case bool:
		if v {
			return "yes"
		}
		return "no"
	default:
		return fmt.Sprint(v)
	}
}

// printable keeps what others wrote from steering the terminal.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 {
		return ' '
	}
	return r
}
