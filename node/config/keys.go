package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Keys lists every key that has a value of its own, in the order of the struct, such as
// delivery.retry.attempts. Keys below nodes.{NAME} are those of node and are not listed, nor are
// those of the lists of sections: the logins in security.nats.users, the rules in delivery.endpoints.
func Keys() []string {
	var keys []string
	collect(reflect.TypeFor[Config](), "", &keys)
	return keys
}

func collect(t reflect.Type, prefix string, keys *[]string) {
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("yaml")
		ft := t.Field(i).Type
		switch {
		case name == "" || name == "-", ft.Kind() == reflect.Map, isSections(ft):
		case isSection(ft):
			collect(ft, join(prefix, name), keys)
		default:
			*keys = append(*keys, join(prefix, name))
		}
	}
}

// isSection reports whether a type holds keys rather than a value.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != reflect.TypeFor[Schedule]()
}

// isSections reports whether a type is a list whose elements hold keys.
func isSections(t reflect.Type) bool { return t.Kind() == reflect.Slice && isSection(t.Elem()) }

func fieldNamed(v reflect.Value, name string) reflect.Value {
	for i := range v.NumField() {
		if tag := v.Type().Field(i).Tag.Get("yaml"); name != "" && name != "-" && tag == name {
			return v.Field(i)
		}
	}
	return reflect.Value{}
}

// siblings lists the keys of one section.
func siblings(v reflect.Value, section string) []string {
	var keys []string
	for i := range v.NumField() {
		if tag := v.Type().Field(i).Tag.Get("yaml"); tag != "-" && tag != "" {
			keys = append(keys, join(section, tag))
		}
	}
	return keys
}

// valueOf finds the field of a key that Keys lists; an invalid Value if there is none.
func valueOf(c *Config, key string) reflect.Value {
	v := reflect.ValueOf(c).Elem()
	for name := range strings.SplitSeq(key, ".") {
		if !v.IsValid() || !isSection(v.Type()) {
			return reflect.Value{}
		}
		v = fieldNamed(v, name)
	}
	if !v.IsValid() || isSection(v.Type()) || v.Kind() == reflect.Map || isSections(v.Type()) {
		return reflect.Value{}
	}
	return v
}

// Text writes the value of a key as it would stand in a file. Unknown keys have none.
func (c Config) Text(key string) string {
	v := valueOf(&c, key)
	if !v.IsValid() {
		return ""
	}
	return textOf(v)
}

func textOf(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case string:
		return quote(x)
	case []string:
		items := make([]string, len(x))
		for i, s := range x {
			items[i] = quote(s)
		}
		return "[" + strings.Join(items, ", ") + "]"
	case float64:
		return strconv.FormatFloat(x, 'g', -1, 64)
	case time.Duration:
		return formatDuration(x)
	default:
		return fmt.Sprint(x)
	}
}

// quote puts a string in quotes where YAML would read it as something else.
func quote(s string) string {
	plain := s != ""
	for i, c := range s {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '/' || c == '.' && i == 0:
		case i > 0 && ('0' <= c && c <= '9' || strings.ContainsRune("-_./", c)):
		default:
			plain = false
		}
	}
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off", ".inf", ".nan", ".":
		plain = false
	}
	if plain {
		return s
	}
	return strconv.Quote(s)
}

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

// suggest names the known word that is nearest to a wrong one, as the end of an error text.
// For keys it looks past the section too: a key in the wrong one is a frequent mistake.
func suggest(word string, known []string) string {
	best := Nearest(word, prefixes(known))
	if best == "" {
		leaf := word[strings.LastIndexByte(word, '.')+1:]
		for _, k := range known {
			if strings.HasSuffix(k, "."+leaf) {
				best = k
				break
			}
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// prefixes adds the sections that keys lie in.
func prefixes(keys []string) []string {
	all := append([]string{"nodes", "security.nats.users", "delivery.endpoints", "delivery.commands"}, keys...)
	for _, k := range keys {
		for i := strings.LastIndexByte(k, '.'); i > 0; i = strings.LastIndexByte(k[:i], '.') {
			all = append(all, k[:i])
		}
	}
	return all
}

// Nearest returns the known word that is at most two letters away from a wrong one, the first
// of several, and nothing if none is.
func Nearest(word string, known []string) string {
	best, bestDistance := "", 3
	for _, k := range known {
		if d := distance(word, k); d < bestDistance && d < len(k) {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete or replace to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			above := row[j+1]
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			row[j+1] = min(cost, above+1, row[j]+1)
			diagonal = above
		}
	}
	return row[len(b)]
}
