package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	jsonpatch "github.com/evanphx/json-patch/v5"

	"github.com/carillon-fhir/carillon/match/fhir"
	fhirjson "github.com/carillon-fhir/carillon/match/fhir/json"
)

// A patch is bounded by what it costs. An operation reads and writes the whole resource, so the
// work is the operations times the bytes of the resource.
const (
	patchOperations = 1000
	patchWork       = 256 << 20
)

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
	// Its If-Match is compared where the current version is read.
	if _, err := c.writePrecondition(false); err != nil {
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
	patched, err := applyPatch(ctx, current.Body, patch, s.limits.Resource)
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
	if w.Feed {
		if err := res.feedMeta(); err != nil {
			return Write{}, err
		}
	}
	w.MessageID, w.Correlated, err = c.messageID(func() string { return "PATCH " + key.String() + " " + place }, patch)
	return w, err
}

var patchNames = []string{"add", "remove", "replace", "move", "copy", "test"}

// applyPatch applies a JSON Patch. What it does not touch keeps its text, that of numbers
// included; white space may change. It goes operation by operation, so that one that fails is
// known by its index, and that it stops when ctx ends.
func applyPatch(ctx context.Context, body, patch []byte, limit int) ([]byte, error) {
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
	out, work := body, len(ops)*len(body)
	for i := range ops {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if work > patchWork {
			return nil, costlyPatch(len(ops), len(out))
		}
		before := len(out)
		if out, err = ops[i:i+1].ApplyWithOptions(out, options); err != nil {
			return nil, failedPatch(ops[i], i, err)
		}
		if len(out) > limit {
			return nil, tooLong("patched resource", limit)
		}
		// What was added, the operations that are left have to carry as well.
		work += (len(out) - before) * (len(ops) - i - 1)
	}
	return bytes.Clone(out), nil
}

func costlyPatch(operations, size int) error {
	return fhir.Refuse(fhir.IssueProcessing, "", fmt.Sprintf(
		"the patch is too costly: %d operations on a resource of %d bytes, their product is at most %d; send fewer operations at a time, or the whole resource with PUT",
		operations, size, patchWork))
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
		return fhir.Refuse(fhir.IssueProcessing, "", fmt.Sprintf(
			"the patch is too costly: it has %d operations, at most %d are taken; send them in several patches, or the whole resource with PUT", i, patchOperations))
	}
	return nil
}

// failedPatch says which operation does not apply. The library's own text may hold values of
// the resource, so ours is made anew.
func failedPatch(op jsonpatch.Operation, i int, err error) error {
	path, _ := op.Path()
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
		fmt.Sprintf("patch operation %d (%s %s) failed: %s", i, op.Kind(), printable(path), why))
}
