package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/carillon-fhir/carillon/match"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/config"
	"github.com/carillon-fhir/carillon/store"
	"github.com/carillon-fhir/carillon/stream"
)

// projected shows resources as this node's projection has them (match.Repository): of each the
// newest version at or before a place of EVENTS. Versions are never changed and lead back to the
// ones before them, so the answer for a place that is folded is the same at any later time, and
// on every node. A place that is not folded yet means the newest that there is.
type projected struct {
	store    *store.Store
	versions *versions
}

var _ match.Repository = projected{}

func (p projected) At(ctx context.Context, at record.Sequence) search.Repository {
	return projectedAt{p, ctx, at}
}

// projectedAt is the projection as seen from one place.
type projectedAt struct {
	projected
	ctx context.Context // of the evaluation that asks; the view does not outlive it
	at  record.Sequence
}

func (p projectedAt) Read(key fhir.Key) (search.State, error) {
	seq, err := p.version(key)
	if err != nil || seq == 0 {
		return search.State{}, err
	}
	e, err := p.versions.Event(p.ctx, seq)
	if errors.Is(err, stream.ErrNotFound) {
		return search.State{}, fmt.Errorf("%w: version %d of %s is gone", search.ErrUnanswered, seq, key)
	}
	if err != nil {
		return search.State{}, fmt.Errorf("read version %d of %s: %w", seq, key, err)
	}
	return search.State{Body: e.Body, LastUpdated: e.Time, Feed: e.Feed}, nil
}

// version is the version of a resource that was current at the place; 0 where there was none.
func (p projectedAt) version(key fhir.Key) (record.Sequence, error) {
	res, known, err := p.store.Resource(key)
	if err != nil || !known {
		return 0, err
	}
	if res.Version <= p.at {
		if res.Deleted {
			return 0, nil
		}
		return res.Version, nil
	}
	for v, err := range p.store.History(key) {
		switch {
		case err != nil:
			return 0, err
		case p.ctx.Err() != nil:
			return 0, p.ctx.Err()
		case v.Sequence > p.at:
		case v.Interaction == fhir.Delete:
			return 0, nil
		default:
			return v.Sequence, nil
		}
	}
	return 0, nil // it came later
}

func (p projectedAt) Referrers(typ, _ string, target fhir.Key, after fhir.ID, limit int) ([]fhir.ID, error) {
	return p.store.Referrers(target, typ, after, limit)
}

// repository is who tells criteria of other resources: this node's projection, or the server that is
// configured.
func (n *Node) repository() (match.Repository, error) {
	if n.cfg.Match.Repository.Source == config.Upstream {
		if err := n.resthook.CheckURL(n.cfg.Match.Repository.URL); err != nil {
			return nil, n.cfg.Refuse("match.repository.url", "%s (the keys are those of delivery.egress)", err.Issues[0].Diagnostics)
		}
		return newUpstream(n.cfg, n.version, n.resthook.Transport())
	}
	return projected{n.store, n.versions}, nil
}

// beside lets criteria that are asked about a resource see others as they were at a place of
// the log; of a delete, by the state before it, as they were before.
func (g *gate) beside(ctx context.Context, r *search.Resource, at record.Sequence, did fhir.Interaction) {
	if did == fhir.Delete {
		at--
	}
	r.SetRepository(g.others.At(ctx, at))
}
