package api

import (
	"maps"
	"net/http"
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
	st := maps.Clone(s.capabilities)
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
	search := []object{
		{"name": "_id", "type": "token"},
		{"name": "identifier", "type": "token"},
	}
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
			"conditionalUpdate": false,
			"conditionalDelete": "not-supported",
			"searchParam":       search,
			"operation":         []object{operation("resend", ours+"resend")},
		}
		if typ == "Subscription" {
			r["searchParam"] = []object{
				{"name": "_id", "type": "token"},
				{"name": "status", "type": "token"},
				{"name": "url", "type": "uri"},
				{"name": "criteria", "type": "string"},
			}
			r["operation"] = []object{
				operation("resend", ours+"resend"),
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
		"format":       []string{mimeFHIR, mimeJSON},
		"patchFormat":  []string{mimeJSONPatch},
		"rest":         []object{rest},
	}
}
