package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/carillon-fhir/carillon/match"
	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/json"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/carillon-fhir/carillon/match/search"
	"github.com/carillon-fhir/carillon/node/config"
)

// upstream shows resources as another FHIR server has them at the moment (match.Repository). It
// is what match.repository.source: upstream asks for, where resources that criteria ask for do
// not come through this cluster.
//
// Its answers are not those of the event's place in the log: the server may be behind or ahead.
// A change that is evaluated twice may be decided twice; what was written stands.
type upstream struct {
	client  *http.Client
	base    *url.URL
	secret  string        // file of the Authorization header; empty: none
	timeout time.Duration // for all that one evaluation asks
	body    int           // bytes of a resource
	bundle  int           // bytes of a page of a search
	version string        // of Carillon, for User-Agent
	cache   *answers
	now     func() time.Time

	mu    sync.Mutex
	until time.Time // the server is left alone until then
}

var _ match.Repository = (*upstream)(nil)

// Bounds of what the server is asked.
const (
	// upstreamRest is how long a server is left alone that did not answer in time. Without it
	// every change would wait for it, and all partitions would fall behind.
	upstreamRest = 5 * time.Second
	// upstreamRetry is the first wait before a request is repeated; each later one is twice as long.
	upstreamRetry = 100 * time.Millisecond
	// maxUpstream bounds the resources that are found to refer to one, and so the pages.
	maxUpstream = 10_000
	upstreamN   = 200 // resources of a page
	maxPages    = 2 * maxUpstream / upstreamN
)

// newUpstream makes the client of the configured server. The transport keeps the rules of
// delivery.egress.
func newUpstream(cfg config.Config, version string, transport http.RoundTripper) (*upstream, error) {
	r := cfg.Match.Repository
	base, err := url.Parse(strings.TrimRight(r.URL, "/"))
	if err != nil {
		return nil, cfg.Refuse("match.repository.url", "not a URL")
	}
	if r.AuthorizationFile != "" {
		if _, err := config.ReadSecret(r.AuthorizationFile); err != nil {
			return nil, cfg.Refuse("match.repository.authorization_file", "%v", err)
		}
	}
	return &upstream{
		client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		base: base, secret: r.AuthorizationFile, timeout: r.Timeout, version: version,
		body: int(cfg.Limits.ResourceSize), bundle: int(cfg.Limits.BundleSize),
		cache: newAnswers(int(r.Cache), r.CacheAge), now: time.Now,
	}, nil
}

func (u *upstream) At(ctx context.Context, _ record.Sequence) search.Repository {
	return &upstreamView{upstream: u, ctx: ctx, left: u.timeout, found: map[fhir.Key][]byte{}, lists: map[string][]fhir.ID{}}
}

// resting reports whether the server is left alone.
func (u *upstream) resting() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.now().Before(u.until)
}

func (u *upstream) rest() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.until = u.now().Add(upstreamRest)
}

// upstreamView is what one evaluation asks of the server. What a search brought with it is kept
// until the evaluation ends, whatever the cache is.
type upstreamView struct {
	*upstream
	ctx  context.Context // of the evaluation; the view does not outlive it
	left time.Duration   // of the time that the evaluation may wait for the server
	// answered: the server said something in this evaluation.
	answered bool
	found    map[fhir.Key][]byte
	bytes    int                  // of found
	lists    map[string][]fhir.ID // by search: what is asked for in pieces is one answer
}

func (v *upstreamView) Read(key fhir.Key) (search.State, error) {
	if body, ok := v.found[key]; ok {
		return search.State{Body: body}, nil
	}
	name := key.String()
	if a, ok := v.cache.get(name, v.now()); ok {
		return search.State{Body: a.body}, nil
	}
	body, err := v.get(v.base.JoinPath(key.Type, string(key.ID)).String(), v.body)
	if err != nil {
		return search.State{}, fmt.Errorf("%s from the upstream server: %w", name, err)
	}
	v.cache.put(name, answer{body: body}, v.now())
	return search.State{Body: body}, nil
}

func (v *upstreamView) Referrers(typ, param string, target fhir.Key, after fhir.ID, limit int) ([]fhir.ID, error) {
	query := typ + "?" + url.Values{param: {target.String()}, "_count": {strconv.Itoa(upstreamN)}}.Encode()
	ids, ok := v.lists[query]
	if !ok {
		a, said := v.cache.get(query, v.now())
		if !said {
			var err error
			if a.ids, err = v.search(query, typ); err != nil {
				return nil, fmt.Errorf("%s that refer to %s, from the upstream server: %w", typ, target, err)
			}
			v.cache.put(query, a, v.now())
		}
		ids = a.ids
		v.lists[query] = ids
	}
	from, _ := slices.BinarySearchFunc(ids, after, func(id, after fhir.ID) int {
		if id <= after {
			return -1
		}
		return 1
	})
	rest := ids[from:]
	return rest[:min(limit, len(rest))], nil
}

// search reads all pages of a search and lists the resources of the type, in order of their ids.
func (v *upstreamView) search(query, typ string) ([]fhir.ID, error) {
	next := v.base.String() + "/" + query
	var ids []fhir.ID
	for page := 0; next != ""; page++ {
		if page == maxPages || len(ids) > maxUpstream {
			return nil, fmt.Errorf("%w: there are more than %d", search.ErrUnanswered, maxUpstream)
		}
		body, err := v.get(next, v.bundle)
		if err != nil {
			return nil, err
		}
		t, err := json.Parse(body, json.Limits{Bytes: max(1, len(body))})
		if err != nil || !t.Is(t.Get(t.Root(), "resourceType"), "Bundle") {
			return nil, fmt.Errorf("%w: the answer to a search is no Bundle", search.ErrUnanswered)
		}
		ids = append(ids, v.entries(t, typ)...)
		if next, err = v.next(t); err != nil {
			return nil, err
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// entries takes the matches out of a page, and keeps their bodies.
func (v *upstreamView) entries(t *json.Tree, typ string) (ids []fhir.ID) {
	for e := range t.Children(t.Get(t.Root(), "entry")) {
		r := t.Get(e, "resource")
		key := fhir.Key{Type: t.Str(t.Get(r, "resourceType")), ID: fhir.ID(t.Str(t.Get(r, "id")))}
		if key.Type != typ || !key.ID.Valid() {
			continue // an include, an OperationOutcome
		}
		ids = append(ids, key.ID)
		body := bytes.Clone(t.Raw(r)) // the page is let go
		v.cache.put(key.String(), answer{body: body}, v.now())
		if v.bytes += len(body); v.bytes <= v.bundle {
			v.found[key] = body
		}
	}
	return ids
}

// next is the address of the page that follows; empty at the last one. It must be of the same
// server: the Authorization header goes nowhere else.
func (v *upstreamView) next(t *json.Tree) (string, error) {
	for l := range t.Children(t.Get(t.Root(), "link")) {
		if !t.Is(t.Get(l, "relation"), "next") {
			continue
		}
		u, err := v.base.Parse(t.Str(t.Get(l, "url")))
		if err != nil || u.Scheme != v.base.Scheme || u.Host != v.base.Host || u.User != nil {
			return "", fmt.Errorf("%w: the next page of the answer is on another server", search.ErrUnanswered)
		}
		return u.String(), nil
	}
	return "", nil
}

// transient is a failure that another request may not meet.
type transient struct {
	error
	after time.Duration // what the server asked for; zero if nothing
}

// get asks for a resource; nil where there is none. While there is time it asks again after a
// failure that may pass. What remains is final (search.ErrUnanswered), unless the evaluation
// itself was stopped.
func (v *upstreamView) get(address string, limit int) ([]byte, error) {
	if v.resting() {
		return nil, fmt.Errorf("%w: the server did not answer a moment ago", search.ErrUnanswered)
	}
	began := v.now()
	ctx, cancel := context.WithTimeout(v.ctx, v.left)
	defer cancel()
	defer func() { v.left -= v.now().Sub(began) }()
	for wait := upstreamRetry; ; wait *= 2 {
		body, err := v.once(ctx, address, limit)
		var again *transient
		switch {
		case err == nil:
			v.answered = true
			return body, nil
		case v.ctx.Err() != nil:
			return nil, v.ctx.Err()
		case !errors.As(err, &again):
			return nil, fmt.Errorf("%w: %w", search.ErrUnanswered, err)
		}
		if delay := max(wait, again.after); v.now().Add(delay).Sub(began) >= v.left || pause(ctx, delay) != nil {
			if v.ctx.Err() != nil {
				return nil, v.ctx.Err()
			}
			if !v.answered { // else it is the evaluation that asked for much
				v.rest()
			}
			return nil, fmt.Errorf("%w within %s: %w", search.ErrUnanswered, v.timeout, again.error)
		}
	}
}

// once makes one request. Its errors say what went wrong and nothing of what came.
func (v *upstreamView) once(ctx context.Context, address string, limit int) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, errors.New("the address is not a URL")
	}
	req.Header.Set("Accept", "application/fhir+json")
	req.Header.Set("User-Agent", "carillon/"+v.version)
	if v.secret != "" {
		authorization, err := config.ReadSecret(v.secret)
		if err != nil {
			return nil, fmt.Errorf("match.repository.authorization_file: %w", err)
		}
		req.Header.Set("Authorization", authorization)
	}
	resp, err := v.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the address, which names a Patient
		}
		return nil, &transient{error: fmt.Errorf("no answer: %w", err)}
	}
	defer resp.Body.Close()
	return readAnswer(resp, limit)
}

// readAnswer reads an answer.
func readAnswer(resp *http.Response, limit int) ([]byte, error) {
	switch s := resp.StatusCode; {
	case s == http.StatusNotFound, s == http.StatusGone:
		return nil, nil
	case s == http.StatusTooManyRequests, s >= 500:
		after, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return nil, &transient{fmt.Errorf("HTTP status %d", s), time.Duration(max(0, min(after, 3600))) * time.Second}
	case s != http.StatusOK:
		return nil, fmt.Errorf("HTTP status %d", s)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	switch {
	case err != nil:
		return nil, &transient{error: errors.New("the answer broke off")}
	case len(body) > limit:
		return nil, fmt.Errorf("the answer is larger than %s", config.Size(limit))
	case len(body) == 0:
		return nil, errors.New("the answer is empty")
	}
	return body, nil
}

// answer is what the server said: a resource, nil if it has none, or the ids of a search.
type answer struct {
	body []byte
	ids  []fhir.ID
	at   time.Time
}

// answers keeps what the server said for a short while, bounded in bytes; the oldest goes first.
type answers struct {
	max int
	age time.Duration

	mu    sync.Mutex
	said  map[string]answer
	order []string // as they came
	bytes int
}

// answerOverhead is about what an answer costs beside its body.
const answerOverhead = 256

func newAnswers(max int, age time.Duration) *answers {
	return &answers{max: max, age: age, said: map[string]answer{}}
}

func (a *answer) size(name string) int {
	return len(a.body) + 64*len(a.ids) + len(name) + answerOverhead
}

func (c *answers) get(name string, now time.Time) (answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.said[name]
	return a, ok && now.Sub(a.at) < c.age
}

func (c *answers) put(name string, a answer, now time.Time) {
	if c.age <= 0 || a.size(name) > c.max/4 {
		return
	}
	a.at = now
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, again := c.said[name]; again {
		c.bytes -= old.size(name)
	} else {
		c.order = append(c.order, name)
	}
	c.said[name] = a
	c.bytes += a.size(name)
	for len(c.order) > 0 {
		first := c.order[0]
		old := c.said[first]
		if c.bytes <= c.max && now.Sub(old.at) < c.age {
			break
		}
		c.bytes -= old.size(first)
		delete(c.said, first)
		c.order = c.order[1:]
	}
}
