package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	jsonpatch "github.com/evanphx/json-patch/v5"

	"github.com/carillon-fhir/carillon/match/fhir"
	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
)

// patchOperations bounds a patch: some operations cost as much as the resource is long.
const patchOperations = 10_000

// patch is PATCH /fhir/{Type}/{id} with a JSON Patch (RFC 6902).
func (s *server) patch(c *call) error {
	key, err := s.key(c)
	if err != nil {
		return err
	}
	if err := c.onlyQuery(); err != nil {
		return err
	}
	if err := c.bodyIs(patchTypes); err != nil {
		return err
	}
	body, err := c.readBody(s.limits.Resource)
	if err != nil {
		return err
	}
	done, err := s.patchResource(c.r.Context(), c, key, body, c.r.Header.Get("If-Match"), "")
	if err != nil {
		return err
	}
	return c.written(done)
}

// patchResource reads, patches and writes. The write demands the version that was read; where
// another writer was faster, all three are done again, unless the client named the version.
func (s *server) patchResource(ctx context.Context, c *call, key fhir.Key, patch []byte, match, place string) (Written, error) {
	if err := c.permitWrite(key.Type); err != nil {
		return Written{}, err
	}
	for try := 0; ; try++ {
		w, err := s.preparePatch(ctx, c, key, patch, match, place)
		if err != nil {
			return Written{}, err
		}
		done, err := s.write(ctx, c, w)
		if isIssue(err, fhir.IssueConflict) && match == "" && try < retries {
			continue
		}
		return done, err
	}
}

// preparePatch makes the write of a patch on the current version.
func (s *server) preparePatch(ctx context.Context, c *call, key fhir.Key, patch []byte, match, place string) (Write, error) {
	demanded, err := ifMatch(match)
	if err != nil {
		return Write{}, err
	}
	current, err := s.backend.Read(ctx, key)
	switch {
	case err != nil:
		return Write{}, err
	case current.Deleted:
		return Write{}, gone(current)
	case demanded != nil && *demanded != current.Version:
		return Write{}, fhir.Refuse(fhir.IssueConflict, "",
			fmt.Sprintf("If-Match names version %d of %s, the current one is %d", *demanded, key, current.Version))
	}
	patched, err := applyPatch(current.Body, patch, s.limits.Resource)
	if err != nil {
		return Write{}, err
	}
	res, err := s.parseResource(patched)
	if err != nil {
		return Write{}, err
	}
	if res.key != key {
		return Write{}, fhir.Refuse(fhir.IssueInvariant, "", "a patch changes neither resourceType nor id")
	}
	w, err := c.newWrite(key)
	if err != nil {
		return Write{}, err
	}
	w.Interaction, w.Body, w.IfMatch = fhir.Update, patched, &current.Version
	w.MessageID, err = c.messageID("PATCH "+key.String()+" "+place, patch)
	return w, err
}

var patchNames = []string{"add", "remove", "replace", "move", "copy", "test"}

// applyPatch applies a JSON Patch. What it does not touch keeps its text, that of numbers
// included; white space may change.
func applyPatch(body, patch []byte, limit int) ([]byte, error) {
	t, err := parseStrict(patch, limit, 0)
	if err != nil {
		return nil, err
	}
	if err := checkPatch(t); err != nil {
		return nil, err
	}
	ops, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		return nil, malformedPatch("it cannot be read")
	}
	options := jsonpatch.NewApplyOptions()
	options.SupportNegativeIndices = false // RFC 6901 has none
	options.EscapeHTML = false
	options.AccumulatedCopySizeLimit = int64(limit)
	out, err := ops.ApplyWithOptions(body, options)
	if err != nil {
		return nil, failedPatch(body, ops, options, err)
	}
	if len(out) > limit {
		return nil, tooLong("patched resource", limit)
	}
	return bytes.Clone(out), nil
}

func malformedPatch(why string) error {
	return fhir.Refuse(fhir.IssueStructure, "", "this is no JSON Patch (RFC 6902): "+why)
}

// checkPatch checks the form of a patch, so that what fails later fails for the resource's sake.
func checkPatch(t *fhirjson.Tree) error {
	root := t.Root()
	if t.Kind(root) != fhirjson.Array {
		return malformedPatch("it must be an array of operations")
	}
	i := 0
	for op := range t.Children(root) {
		name := t.Str(t.Get(op, "op"))
		path, from := t.Get(op, "path"), t.Get(op, "from")
		switch {
		case !slices.Contains(patchNames, name):
			return malformedPatch(fmt.Sprintf("operation %d has no known op", i))
		case t.Kind(path) != fhirjson.String:
			return malformedPatch(fmt.Sprintf("operation %d has no path", i))
		case (name == "move" || name == "copy") && t.Kind(from) != fhirjson.String:
			return malformedPatch(fmt.Sprintf("operation %d has no from", i))
		case (name == "add" || name == "replace" || name == "test") && t.Get(op, "value") == 0:
			return malformedPatch(fmt.Sprintf("operation %d has no value", i))
		}
		i++
	}
	if i > patchOperations {
		return fhir.Refuse(fhir.IssueTooLong, "", fmt.Sprintf("a patch has at most %d operations", patchOperations))
	}
	return nil
}

// failedPatch says which operation does not apply. The library's own text may hold values of
// the resource, so ours is made anew: the first prefix of the patch that fails is looked for.
func failedPatch(body []byte, ops jsonpatch.Patch, options *jsonpatch.ApplyOptions, err error) error {
	n := sort.Search(len(ops)-1, func(i int) bool {
		_, err := ops[:i+1].ApplyWithOptions(body, options)
		return err != nil
	})
	path, _ := ops[n].Path()
	why := "it does not apply to the resource"
	switch {
	case errors.Is(err, jsonpatch.ErrTestFailed):
		why = "the value there is another"
	case errors.Is(err, jsonpatch.ErrMissing):
		why = "there is no such place in the resource"
	case errors.Is(err, jsonpatch.ErrInvalidIndex):
		why = "there is no such index in the array"
	}
	return fhir.Refuse(fhir.IssueProcessing, "",
		fmt.Sprintf("patch operation %d (%s %s) failed: %s", n, ops[n].Kind(), printable(path), why))
}
