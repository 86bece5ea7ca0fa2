// Command gensubset makes the tables of subset.go from the StructureDefinitions of HL7's packages
// on npm: hl7.fhir.r4.examples 4.0.1, hl7.fhir.r4b.core 4.3.0 and hl7.fhir.r5.core 5.0.0 (CC0).
// Its arguments are an unpacked package's folder and the table to write.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

type definition struct {
	Kind, Type, Derivation string
	Abstract               bool
	Snapshot               struct {
		Element []struct {
			Path       string
			Min        int
			IsSummary  bool
			IsModifier bool
		}
	}
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: gensubset PACKAGE-FOLDER TABLE")
	}
	files, err := filepath.Glob(filepath.Join(os.Args[1], "StructureDefinition-*.json"))
	if err != nil {
		log.Fatal(err)
	}
	lines := map[string]string{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			log.Fatal(err)
		}
		var d definition
		if err := json.Unmarshal(text, &d); err != nil {
			log.Fatalf("%s: %v", f, err)
		}
		if d.Kind == "resource" && !d.Abstract && d.Derivation == "specialization" {
			lines[d.Type] = line(d)
		}
	}
	var out strings.Builder
	out.WriteString("# Made by internal/gensubset from HL7's StructureDefinitions (CC0). Top-level elements of each resource type that are marked\n" +
		"# isSummary (s), have a minimum of 1 (m), or are marked isModifier (x), and all choices: value[x] is every value....\n")
	names := make([]string, 0, len(lines))
	for name := range lines {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		out.WriteString(lines[name])
	}
	if err := os.WriteFile(os.Args[2], []byte(out.String()), 0o644); err != nil {
		log.Fatal(err)
	}
}

func line(d definition) string {
	out := d.Type
	for _, e := range d.Snapshot.Element {
		name, ok := strings.CutPrefix(e.Path, d.Type+".")
		if !ok || strings.Contains(name, ".") {
			continue
		}
		flags := ""
		if e.IsSummary {
			flags += "s"
		}
		if e.Min > 0 {
			flags += "m"
		}
		if e.IsModifier {
			flags += "x"
		}
		if flags != "" || strings.HasSuffix(name, "[x]") {
			out += fmt.Sprintf(" %s:%s", name, flags)
		}
	}
	return out + "\n"
}
