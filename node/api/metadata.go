package api

import (
	"maps"
	"net/http"
	"slices"
	"time"
)

// metadata is GET /fhir/metadata.
func (s *server) metadata(c *call) error {
	if err := c.onlyQuery("mode"); err != nil {
		return err
	}
	if mode := c.r.URL.Query().Get("mode"); mode != "" && mode != "full" {
		return badRequest("mode is full; normative and terminology are not supported")
	}
	st := s.withSearch(maps.Clone(s.capabilities))
	if s.sockets != nil {
		s.withWebsocket(st, c.r)
	}
	st["implementation"] = map[string]any{"description": "Carillon, FHIR Subscription delivery", "url": c.base}
	return c.sendJSON(http.StatusOK, st)
}

// capabilityStatement says what works, and nothing else (FHIR R4 CapabilityStatement).
func (s *server) capabilityStatement(started time.Time) map[string]any {
	type object = map[string]any
	codes := func(names ...string) []object {
		out := make([]object, len(names))
		for i, n := range names {
			out[i] = object{"code": n}
		}
		return out
	}
	operation := func(name, definition string) object { return object{"name": name, "definition": definition} }
	const ours = "https://carillon-fhir.github.io/OperationDefinition/"
	var resources []object
	for _, typ := range s.sortedTypes() {
		r := object{
			"type":              typ,
			"interaction":       codes("read", "vread", "update", "patch", "delete", "history-instance", "create", "search-type"),
			"versioning":        "versioned-update",
			"readHistory":       true,
			"updateCreate":      true,
			"conditionalCreate": true,
			"conditionalRead":   "not-match",
			"conditionalUpdate": true,
			"conditionalDelete": "single",
			"operation":         []object{operation("resend", ours+"resend")},
		}
		if typ == "Subscription" {
			r["operation"] = []object{
				operation("resend", ours+"resend"),
				operation("trigger-subscription", ours+"trigger-subscription"),
				operation("explain", ours+"explain"),
				operation("validate", "http://hl7.org/fhir/OperationDefinition/Resource-validate"),
			}
		}
		resources = append(resources, r)
	}
	rest := object{
		"mode":        "server",
		"interaction": codes("transaction", "batch"),
		"operation":   []object{operation("ingest", ours+"ingest"), operation("feed", ours+"feed")},
		"security":    object{"description": "Bearer API tokens with roles; none is asked on a node that has no token yet, which serves its own machine alone."},
	}
	if len(resources) > 0 {
		rest["resource"] = resources
	}
	software := object{"name": "Carillon"}
	if s.version != "" {
		software["version"] = s.version
	}
	return object{
		"resourceType": "CapabilityStatement",
		"status":       "active",
		"date":         started.UTC().Format(time.RFC3339),
		"kind":         "instance",
		"software":     software,
		"fhirVersion":  s.fhirVersion,
		"format":       []string{mimeFHIR, mimeJSON, mimeFHIRXML, mimeXML},
		"patchFormat":  []string{mimeJSONPatch},
		"rest":         []object{rest},
	}
}

// withSearch adds what can be searched now to a copy of the statement: search parameters come and
// go with resources, the rest stands.
func (s *server) withSearch(st map[string]any) map[string]any {
	type object = map[string]any
	rest := maps.Clone(st["rest"].([]object)[0])
	list, _ := rest["resource"].([]object)
	reverse := map[string][]string{} // by target type; "" for those that refer to any
	params := make([][]SearchParameter, len(list))
	for i, r := range list {
		typ := r["type"].(string)
		params[i] = s.backend.Parameters(typ)
		for _, p := range params[i] {
			if !p.Include {
				continue
			}
			targets := p.Targets
			if len(targets) == 0 {
				targets = []string{""}
			}
			for _, t := range targets {
				reverse[t] = append(reverse[t], typ+":"+p.Name)
			}
		}
	}
	resources := make([]object, len(list))
	for i, r := range list {
		r = maps.Clone(r)
		typ := r["type"].(string)
		var search []object
		include := []string{}
		for _, p := range params[i] {
			search = append(search, object{"name": p.Name, "type": p.Type})
			if p.Include {
				include = append(include, typ+":"+p.Name)
			}
		}
		if len(search) > 0 {
			r["searchParam"] = search
		}
		if len(include) > 0 {
			r["searchInclude"] = append([]string{"*"}, include...)
		}
		if back := slices.Sorted(slices.Values(slices.Concat(reverse[typ], reverse[""]))); len(back) > 0 {
			r["searchRevInclude"] = back
		}
		resources[i] = r
	}
	if len(resources) > 0 {
		rest["resource"] = resources
	}
	st["rest"] = []object{rest}
	return st
}
