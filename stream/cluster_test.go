package stream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"github.com/nats-io/nats.go/jetstream"
)

// startCluster runs so many nodes in this process, declared, and stops them with the test.
func startCluster(t testing.TB, nodes int, change ...func(*Config)) []*Server {
	t.Helper()
	cfgs := clusterConfigs(t, nodes, change...)
	servers := make([]*Server, nodes)
	onAll(t, nodes, func(i int) error {
		s, err := Start(t.Context(), cfgs[i])
		servers[i] = s
		return err
	})
	t.Cleanup(func() { stopAll(t, servers) })
	onAll(t, nodes, func(i int) error { return servers[i].Declare(t.Context()) })
	return servers
}

// stopAll stops nodes side by side. One by one, the last would wait for a quorum that has gone.
func stopAll(t testing.TB, servers []*Server) {
	onAll(t, len(servers), func(i int) error {
		if servers[i] == nil {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		return servers[i].Close(ctx)
	})
}

func clusterConfigs(t testing.TB, nodes int, change ...func(*Config)) []Config {
	t.Helper()
	var routes []string
	for range nodes {
		routes = append(routes, freeAddr(t))
	}
	cfgs := make([]Config, nodes)
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		log := slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn})).With("node", name)
		cfgs[i] = Config{
			Name: name, Cluster: "test", Dir: t.TempDir(), Listen: "127.0.0.1:0",
			Route: routes[i], Routes: routes, Replicas: min(nodes, 3), Log: log,
		}
		for _, c := range change {
			c(&cfgs[i])
		}
	}
	return cfgs
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// onAll does something for each node side by side, and ends the test if one fails.
func onAll(t testing.TB, n int, do func(int) error) {
	t.Helper()
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = do(i) })
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("node %d: %v", i+1, err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// eventually asks again until it is told yes.
func eventually(t testing.TB, within time.Duration, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for !is() {
		if !wait(ctx, 20*time.Millisecond) {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}

func viewOf(m *Members) string {
	var names []string
	for _, v := range m.View() {
		names = append(names, v.Name)
	}
	return strings.Join(names, " ")
}

// join makes each node a member; leave ends the membership of one as a clean stop does.
func join(t *testing.T, nodes []*Server) (members []*Members, leave []func()) {
	t.Helper()
	for i, s := range nodes {
		m, err := s.Join(t.Context(), s.cfg.Name, fmt.Append(nil, "data of ", i+1))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { m.Run(ctx) })
		stop := func() { cancel(); running.Wait() }
		t.Cleanup(stop)
		members, leave = append(members, m), append(leave, stop)
	}
	return members, leave
}

// certificates gives each node one of its own, for 127.0.0.1, from one authority.
func certificates(t *testing.T) func(*Config) {
	t.Helper()
	dir := t.TempDir()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	key := newKey(t)
	ca := filepath.Join(dir, "ca.pem")
	writePEM(t, ca, "CERTIFICATE", sign(t, authority, authority, key, key))
	return func(c *Config) {
		own := newKey(t)
		der, err := x509.MarshalECPrivateKey(own)
		if err != nil {
			t.Fatal(err)
		}
		cert := &x509.Certificate{
			SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		c.TLS = &RouteTLS{CA: ca, Cert: filepath.Join(dir, c.Name+".pem"), Key: filepath.Join(dir, c.Name+"-key.pem")}
		writePEM(t, c.TLS.Cert, "CERTIFICATE", sign(t, cert, authority, own, key))
		writePEM(t, c.TLS.Key, "EC PRIVATE KEY", der)
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, cert, by *x509.Certificate, own, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, by, &own.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestThreeNodesAreOneLog runs what needs no election on one cluster, whose routes are encrypted.
func TestThreeNodesAreOneLog(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 3, certificates(t))
	for i, s := range nodes {
		if err := errors.Join(s.Healthy(), s.Available()); err != nil {
			t.Errorf("node %d: %v", i+1, err)
		}
		o, err := s.options()
		if err != nil {
			t.Fatal(err)
		}
		if c := o.Cluster.TLSConfig; c == nil || c.ClientAuth != tls.RequireAndVerifyClientCert || c.RootCAs == nil || c.ClientCAs == nil {
			t.Errorf("routes of node %d are not checked from both sides", i+1)
		}
	}
	members, leave := join(t, nodes)
	for _, m := range members {
		eventually(t, 10*time.Second, "all see all: "+viewOf(m), func() bool { return viewOf(m) == "n1 n2 n3" && m.Held() })
	}
	onAll(t, 3, func(i int) error { return nodes[i].DeclareLanes(t.Context(), 100) })

	t.Run("what is acknowledged can be read on every node at once", func(t *testing.T) { readEverywhere(t, nodes) })
	t.Run("of writers on several nodes one wins", func(t *testing.T) { oneWins(t, nodes) })
	t.Run("a condition of a group is refused alone", func(t *testing.T) { refusedAlone(t, nodes) })
	t.Run("a repeated id is answered with the first", func(t *testing.T) { knownID(t, nodes) })
	t.Run("a token goes to the node that pulls its lane", func(t *testing.T) { tokenCrosses(t, nodes) })
	t.Run("a timer set on one node fires on another", func(t *testing.T) { timerCrosses(t, nodes) })
	t.Run("operators see the whole", func(t *testing.T) { statusIsWhole(t, nodes) })
	t.Run("data of a member reaches the others", func(t *testing.T) {
		members[0].SetData([]byte("news"))
		eventually(t, 5*time.Second, "n2 has it", func() bool { return string(members[1].View()[0].Data) == "news" })
	})
	t.Run("a member that leaves is gone at once", func(t *testing.T) {
		changed := members[0].Changed()
		leave[2]()
		if members[2].Held() {
			t.Error("its lease goes on")
		}
		select {
		case <-changed:
		case <-time.After(lease - time.Second):
			t.Fatal("nobody was told")
		}
		eventually(t, lease-time.Second, "n3 has left", func() bool { return viewOf(members[0]) == "n1 n2" && viewOf(members[1]) == "n1 n2" })
	})
	t.Run("a reader loses nothing while leadership is handed over", func(t *testing.T) { handOvers(t, nodes) })
	t.Run("a node that is restarted in place comes back", func(t *testing.T) { restartInPlace(t, nodes) })
}

func readEverywhere(t *testing.T, nodes []*Server) {
	for i, s := range nodes {
		for n := range 20 {
			body := fmt.Appendf(nil, "r%d-%d", i, n)
			ack, err := s.Publish(t.Context(), Events, ingest("read", body))
			if err != nil {
				t.Fatal(err)
			}
			for _, other := range nodes {
				m, err := other.Get(t.Context(), Events, ack.Sequence)
				if err != nil || !bytes.Equal(m.Data, body) {
					t.Fatalf("%s reads %q at %d, %v", other.cfg.Name, m.Data, ack.Sequence, err)
				}
				last, err := other.LastFor(t.Context(), Events, StoredSubject(ingest("read", nil).Subject))
				if err != nil || last.Sequence != ack.Sequence {
					t.Fatalf("%s reads %d as last, want %d, %v", other.cfg.Name, last.Sequence, ack.Sequence, err)
				}
				run, err := other.GetRun(t.Context(), Events, ack.Sequence, 10)
				if err != nil || len(run) != 1 || run[0].Sequence != ack.Sequence {
					t.Fatalf("%s reads a run of %d, %v", other.cfg.Name, len(run), err)
				}
				if _, last, err := other.State(t.Context(), Events); err != nil || last != ack.Sequence {
					t.Fatalf("%s sees the end at %d, want %d, %v", other.cfg.Name, last, ack.Sequence, err)
				}
			}
			if _, err := s.Get(t.Context(), Events, ack.Sequence+1); !errors.Is(err, ErrNotFound) {
				t.Fatalf("what is not there: %v", err)
			}
		}
	}
}

func oneWins(t *testing.T, nodes []*Server) {
	var expect record.Sequence
	for round := range 50 {
		seqs, errs := make([]record.Sequence, len(nodes)), make([]error, len(nodes))
		onAll(t, len(nodes), func(i int) error {
			seqs[i], errs[i] = nodes[i].Append(t.Context(), Matches, MatchSubject("p"), fmt.Append(nil, i), expect)
			return nil
		})
		won := 0
		for i, err := range errs {
			switch {
			case err == nil:
				won, expect = won+1, seqs[i]
			case !errors.Is(err, ErrConflict) && !errors.Is(err, ErrBusy):
				t.Errorf("round %d: node %d: %v", round, i+1, err)
			}
		}
		if won != 1 {
			t.Fatalf("round %d: %d have won: %v", round, won, errs)
		}
	}
}

// refusedAlone has writers on two nodes update one resource with the version that both know, in
// the midst of writes of other resources.
func refusedAlone(t *testing.T, nodes []*Server) {
	var ps []*Publisher
	for _, s := range nodes[:2] {
		ps = append(ps, publisher(t, s, Events, Options{}))
	}
	var expect record.Sequence
	for round := range 20 {
		won := make([]record.Sequence, 2)
		onAll(t, 2, func(i int) error {
			var all sync.WaitGroup
			errs := make([]error, 30)
			for n := range errs {
				m := ingest(fhir.ID(fmt.Sprintf("c%d-%d-%d", round, i, n)), fmt.Appendf(nil, "c%d-%d-%d", round, i, n))
				if n == 15 {
					m = ingest("contested", fmt.Appendf(nil, "contested %d-%d", round, i))
					m.ExpectLast = Expect(expect)
				}
				all.Go(func() {
					a, err := ps[i].Publish(t.Context(), m)
					switch {
					case m.ExpectLast != nil && err == nil:
						won[i] = a.Sequence
					case m.ExpectLast == nil || !errors.Is(err, ErrConflict):
						errs[n] = err
					}
				})
			}
			all.Wait()
			return errors.Join(errs...)
		})
		if (won[0] == 0) == (won[1] == 0) {
			t.Fatalf("round %d: won %v", round, won)
		}
		expect = max(won[0], won[1])
	}
}

// knownID writes the same messages on every node, by itself and among others.
func knownID(t *testing.T, nodes []*Server) {
	first := map[string]record.Sequence{}
	for i, s := range nodes {
		p := publisher(t, s, Events, Options{})
		var all sync.WaitGroup
		var mu sync.Mutex
		for n := range 30 {
			m := ingest(fhir.ID(fmt.Sprintf("id%d-%d", i, n)), fmt.Appendf(nil, "id%d-%d", i, n))
			if n%3 == 0 {
				m = ingest(fhir.ID(fmt.Sprintf("id%d", n)), fmt.Appendf(nil, "id%d", n))
				m.MsgID = string(m.Data)
			}
			all.Go(func() {
				a, err := p.Publish(t.Context(), m)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				} else if m.MsgID != "" && i == 0 {
					first[m.MsgID] = a.Sequence
				} else if m.MsgID != "" && (a.Sequence != first[m.MsgID] || !a.Duplicate) {
					t.Errorf("node %d: %s is %+v, was written at %d", i+1, m.MsgID, a, first[m.MsgID])
				}
			})
		}
		all.Wait()
	}
}

func tokenCrosses(t *testing.T, nodes []*Server) {
	for i, lane := range []string{Lanes()[0].Name, Lanes()[5].Name, Lanes()[9].Name} {
		tokens, _ := pullLane(t, nodes[i], lane)
		if err := nodes[(i+1)%3].PublishToken(t.Context(), lane, "s1", []byte(lane)); err != nil {
			t.Fatal(err)
		}
		tok := <-tokens
		if string(tok.Data) != lane || tok.NumDelivered != 1 {
			t.Errorf("token is %q, delivery %d", tok.Data, tok.NumDelivered)
		}
		if err := tok.Ack(); err != nil {
			t.Error(err)
		}
	}
}

func timerCrosses(t *testing.T, nodes []*Server) {
	ctx, cancel := context.WithCancel(t.Context())
	fired := make(chan Timer, 10)
	var due sync.WaitGroup
	defer due.Wait()
	defer cancel()
	due.Go(func() { nodes[1].Due(ctx, func(tm Timer) error { fired <- tm; return nil }) })
	if err := nodes[0].Schedule(t.Context(), "gone", time.Now().Add(time.Hour), nil); err != nil {
		t.Fatal(err)
	}
	if err := nodes[2].Cancel(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	if err := nodes[0].Schedule(t.Context(), "soon", time.Now().Add(50*time.Millisecond), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if tm := <-fired; tm.Key != "soon" || string(tm.Data) != "x" {
		t.Errorf("fired %+v", tm)
	}
}

func statusIsWhole(t *testing.T, nodes []*Server) {
	for _, s := range nodes {
		st, err := s.Cluster(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if st.Leader == "" || len(st.Nodes) != 3 || len(st.Streams) != len(definitions(3)) || len(st.Lanes) != len(Lanes()) {
			t.Errorf("%s: leader %q, %d nodes, %d streams, %d lanes", s.cfg.Name, st.Leader, len(st.Nodes), len(st.Streams), len(st.Lanes))
		}
		for _, n := range st.Nodes {
			if !n.Online {
				t.Errorf("%s: %+v", s.cfg.Name, n)
			}
		}
		for _, d := range st.Streams {
			if d.Leader == "" || d.Lack != "" || len(d.Replicas) != 3 || d.Name == Events && d.Messages == 0 {
				t.Errorf("%s: %+v", s.cfg.Name, d)
			}
		}
		for _, l := range st.Lanes {
			if l.Leader == "" {
				t.Errorf("%s: %+v", s.cfg.Name, l)
			}
		}
	}
}

// handOvers makes each node give up what it leads, under load.
func handOvers(t *testing.T, nodes []*Server) {
	h, stop := read(t, nodes[1])
	p := publisher(t, nodes[0], Events, Options{})
	l := write(t, "handed", p)
	for i, s := range nodes {
		moveLeader(t, nodes[0], Events, s.cfg.Name)
		if err := s.StepDown(t.Context()); err != nil {
			t.Errorf("node %d: %v", i+1, err)
		}
		for what, leader := range leaderships(s.running()) {
			if leader == s.cfg.Name {
				t.Errorf("%s still leads %s", leader, what)
			}
		}
	}
	l.stop()
	for body, err := range l.refused {
		t.Errorf("%s was refused: %v", body, err)
	}
	_, last, err := nodes[1].State(t.Context(), Events)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "reader has all", func() bool { return h.last() >= last })
	h.check(t, "reader", l.acked)
	stop()
	t.Logf("%d acknowledged, longest %s", len(l.acked), l.longest)
}

func restartInPlace(t *testing.T, nodes []*Server) {
	if err := nodes[0].running().DisableJetStream(); err != nil { // as after a failure of the disk
		t.Fatal(err)
	}
	if err := nodes[0].Healthy(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("healthy without JetStream: %v", err)
	}
	if err := nodes[0].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := nodes[0].Healthy(); err != nil {
		t.Error(err)
	}
	eventually(t, 20*time.Second, "it is available", func() bool { return nodes[0].Available() == nil })
	if _, err := nodes[0].Publish(t.Context(), Events, ingest("after", []byte("after"))); err != nil {
		t.Error(err)
	}
}

// childNode is set in the environment of the copy of this test binary that is a node of a cluster
// until it is killed. Only a process can be lost as a machine is: the engine in this one says
// goodbye when it is stopped.
const childNode = "CARILLON_STREAM_TEST_NODE"

type nodeConfig struct {
	Name, Cluster, Dir, Listen, Route string
	Routes                            []string
	Replicas                          int
}

func runNode(text string) error {
	var c nodeConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	ctx := context.Background()
	s, err := Start(ctx, Config{Name: c.Name, Cluster: c.Cluster, Dir: c.Dir, Listen: c.Listen, Route: c.Route, Routes: c.Routes, Replicas: c.Replicas})
	if err != nil {
		return err
	}
	if err := s.Declare(ctx); err != nil {
		return err
	}
	m, err := s.Join(ctx, c.Name, nil)
	if err != nil {
		return err
	}
	go func() {
		for range time.Tick(10 * time.Millisecond) {
			fmt.Println(m.Held())
		}
	}()
	return m.Run(ctx)
}

// process is a node in a process of its own.
type process struct {
	cmd *exec.Cmd

	mu   sync.Mutex
	held []string // what it says about its lease, since it was last asked
}

func startProcess(t *testing.T, c Config) *process {
	t.Helper()
	text, err := json.Marshal(nodeConfig{c.Name, c.Cluster, c.Dir, c.Listen, c.Route, c.Routes, c.Replicas})
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(os.Args[0], "-test.run=^$")}
	p.cmd.Env = append(os.Environ(), childNode+"="+string(text))
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.mu.Lock()
			p.held = append(p.held, lines.Text())
			p.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
		<-read
	})
	return p
}

func (p *process) says() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	held := p.held
	p.held = nil
	return held
}

func (p *process) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// moveLeader makes a node the leader of a stream.
func moveLeader(t *testing.T, s *Server, stream, node string) {
	t.Helper()
	eventually(t, 20*time.Second, node+" leads "+stream, func() bool {
		info, err := s.info(t.Context(), stream)
		if err != nil {
			return false
		}
		if info.Cluster.Leader == node {
			return true
		}
		s.Conn().Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, []byte(`{"placement":{"preferred":"`+node+`"}}`), time.Second)
		return false
	})
}

// history is what a reader was given.
type history struct {
	mu   sync.Mutex
	msgs []Message
	err  error
}

// read follows the events of a node until the test ends or stop is called.
func read(t *testing.T, s *Server) (h *history, stop func()) {
	h = &history{}
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() {
		err := s.Follow(ctx, Events, 1, nil, func(ms []Message) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.msgs = append(h.msgs, ms...)
			return nil
		})
		h.mu.Lock()
		defer h.mu.Unlock()
		h.err = err
	})
	stop = func() { cancel(); following.Wait() }
	t.Cleanup(stop)
	return h, stop
}

func (h *history) last() record.Sequence {
	h.mu.Lock()
	defer h.mu.Unlock()
	return record.Sequence(len(h.msgs))
}

// check compares what was read with what was acknowledged.
func (h *history) check(t *testing.T, who string, acked map[string]record.Sequence) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		t.Errorf("%s: reader ended: %v", who, h.err)
	}
	at := map[string]record.Sequence{}
	for i, m := range h.msgs {
		if m.Sequence != record.Sequence(i+1) {
			t.Fatalf("%s: message %d has sequence %d", who, i+1, m.Sequence)
		}
		if strings.HasPrefix(m.Subject, "fhir.control.") {
			continue
		}
		if before := at[string(m.Data)]; before != 0 {
			t.Errorf("%s: %s is there twice, at %d and %d", who, m.Data, before, m.Sequence)
		}
		at[string(m.Data)] = m.Sequence
	}
	for body, seq := range acked {
		if at[body] != seq {
			t.Errorf("%s: %s was acknowledged at %d and is at %d", who, body, seq, at[body])
		}
	}
}

// load writes from several goroutines until stop is called, and tells what became of it.
type load struct {
	mu      sync.Mutex
	acked   map[string]record.Sequence
	refused map[string]error
	longest time.Duration
	stop    func()
}

func write(t *testing.T, name string, p *Publisher) *load {
	l := &load{acked: map[string]record.Sequence{}, refused: map[string]error{}}
	ctx, cancel := context.WithCancel(context.Background())
	var writing sync.WaitGroup
	for w := range 8 {
		writing.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				body := fmt.Sprintf("%s-%d-%d", name, w, n)
				began := time.Now()
				a, err := p.Publish(context.Background(), ingest(fhir.ID(fmt.Sprintf("%s-%d", name, w)), []byte(body)))
				l.mu.Lock()
				if err != nil {
					l.refused[body] = err
				} else {
					l.acked[body] = a.Sequence
				}
				l.longest = max(l.longest, time.Since(began))
				l.mu.Unlock()
				wait(ctx, time.Millisecond)
			}
		})
	}
	l.stop = func() { cancel(); writing.Wait() }
	t.Cleanup(l.stop)
	return l
}

func (l *load) count() (acked, refused int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked), len(l.refused)
}

// trio is a cluster of which one node is a process of its own, with readers on the others and a
// writer on the first.
type trio struct {
	cfgs        []Config
	nodes       []*Server // two
	third       *process
	members     []*Members
	leave       []func()
	readers     []*history
	stopReading []func()
	p           *Publisher
	load        *load
}

func startTrio(t *testing.T) *trio {
	t.Helper()
	c := &trio{cfgs: clusterConfigs(t, 3), nodes: make([]*Server, 2)}
	c.third = startProcess(t, c.cfgs[2])
	onAll(t, 2, func(i int) (err error) {
		c.nodes[i], err = Start(t.Context(), c.cfgs[i])
		return err
	})
	t.Cleanup(func() { stopAll(t, c.nodes) })
	onAll(t, 2, func(i int) error { return c.nodes[i].Declare(t.Context()) })
	c.members, c.leave = join(t, c.nodes)
	c.sees(t, "n1 n2 n3")
	moveLeader(t, c.nodes[0], Events, "n3")
	for _, s := range c.nodes {
		h, stop := read(t, s)
		c.readers, c.stopReading = append(c.readers, h), append(c.stopReading, stop)
	}
	// One of the readers is served by the node that is lost.
	for n := 0; !servedBy(t, c.nodes[0], "n3"); n++ {
		if n == 30 {
			t.Fatal("no reader is served by n3")
		}
		h, _ := read(t, c.nodes[0])
		c.readers = append(c.readers, h)
		eventually(t, 5*time.Second, "reader has its consumer", func() bool { return consumers(t, c.nodes[0]) >= len(c.readers) })
	}
	c.p = publisher(t, c.nodes[0], Events, Options{Wait: 30 * time.Second}) // two elections, when the first has no winner
	c.load = write(t, "first", c.p)
	c.goesOn(t, 100)
	return c
}

// servedBy tells whether a reader's consumer is on a node.
func servedBy(t *testing.T, s *Server, node string) (is bool) {
	for c := range listed(t, s) {
		is = is || c.Cluster.Leader == node
	}
	return is
}

func consumers(t *testing.T, s *Server) (n int) {
	for range listed(t, s) {
		n++
	}
	return n
}

func listed(t *testing.T, s *Server) <-chan *jetstream.ConsumerInfo {
	t.Helper()
	st, err := s.JetStream().Stream(t.Context(), Events)
	if err != nil {
		t.Fatal(err)
	}
	return st.ListConsumers(t.Context()).Info()
}

// sees waits until both nodes of this process see these members.
func (c *trio) sees(t *testing.T, names string) {
	t.Helper()
	eventually(t, 30*time.Second, "members are "+names, func() bool {
		return viewOf(c.members[0]) == names && viewOf(c.members[1]) == names
	})
}

// goesOn waits for so many more acknowledgements.
func (c *trio) goesOn(t *testing.T, n int) {
	t.Helper()
	before, _ := c.load.count()
	eventually(t, 40*time.Second, "writes go on", func() bool { now, _ := c.load.count(); return now >= before+n })
}

// settle ends the load and compares what every reader has with what was acknowledged.
func (c *trio) settle(t *testing.T) {
	t.Helper()
	c.load.stop()
	for body, err := range c.load.refused {
		t.Fatalf("%s was refused: %v", body, err)
	}
	_, last, err := c.nodes[0].State(t.Context(), Events)
	if err != nil {
		t.Fatal(err)
	}
	for i, h := range c.readers {
		eventually(t, 10*time.Second, "readers have all", func() bool { return h.last() >= last })
		h.check(t, fmt.Sprint("reader ", i+1), c.load.acked)
	}
	t.Logf("%d acknowledged, the longest after %s", len(c.load.acked), c.load.longest)
}

func TestInvariant01NothingIsLostWithALeaderThatDies(t *testing.T) {
	t.Parallel()
	c := startTrio(t)
	began := time.Now()
	c.third.signal(t, syscall.SIGKILL)
	eventually(t, 2*time.Second, "the loss is noticed", func() bool { return c.nodes[0].Available() != nil })
	c.goesOn(t, 200)
	t.Logf("writes go on after %s", time.Since(began))
	c.sees(t, "n1 n2")
	c.settle(t)

	// Without a majority nothing is taken.
	c.stopReading[1]()
	c.leave[1]()
	if err := c.nodes[1].Close(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, 2*time.Second, "the loss is noticed", func() bool { return c.nodes[0].Available() != nil })
	quick := publisher(t, c.nodes[0], Events, Options{Wait: 2 * time.Second})
	began = time.Now()
	_, err := quick.Publish(t.Context(), ingest("refused", []byte("refused")))
	if !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrUnknown) {
		t.Errorf("write without a majority: %v", err)
	}
	_, err = quick.Publish(t.Context(), ingest("refused", []byte("refused")))
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("write long after the loss of the majority: %v", err)
	}
	t.Logf("answered after %s: %v", time.Since(began), err)
	if err := c.nodes[0].Healthy(); err != nil {
		t.Errorf("what others lack is no reason to restart: %v", err)
	}

	// Everything is there when it is back, on a node that has read nothing yet too. The third has
	// lost its data folder.
	c.cfgs[2].Dir = t.TempDir()
	startProcess(t, c.cfgs[2])
	if c.nodes[1], err = Start(t.Context(), c.cfgs[1]); err != nil {
		t.Fatal(err)
	}
	if err := c.nodes[1].Declare(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "it is available", func() bool { return c.nodes[0].Available() == nil })
	c.readers[1], _ = read(t, c.nodes[1])
	c.load = write(t, "second", c.p)
	c.goesOn(t, 100)
	c.settle(t)
	eventually(t, 30*time.Second, "n3 has caught up and is a member", func() bool { return viewOf(c.members[0]) == "n1 n3" })
	st, err := c.nodes[0].Cluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range st.Streams {
		for _, r := range d.Replicas {
			if r.Offline || !r.Current {
				t.Errorf("%s: %+v", d.Name, r)
			}
		}
	}
}

// A leader that is stopped keeps its routes open and answers nothing. When it goes on it must not
// believe that it leads, nor that its lease is good.
func TestInvariant01NothingIsLostWithALeaderThatPauses(t *testing.T) {
	t.Parallel()
	c := startTrio(t)
	began := time.Now()
	c.third.signal(t, syscall.SIGSTOP)
	eventually(t, 6*time.Second, "the silence is noticed", func() bool { return c.nodes[0].Available() != nil })
	c.goesOn(t, 200)
	t.Logf("writes go on after %s", time.Since(began))
	c.sees(t, "n1 n2")
	wait(t.Context(), time.Until(began.Add(lease+time.Second))) // a renewal that is asked at the moment of the stop
	c.third.says()
	c.third.signal(t, syscall.SIGCONT)
	eventually(t, 5*time.Second, "n3 finds its lease run out", func() bool { return slices.Contains(c.third.says(), "false") })
	c.sees(t, "n1 n2 n3")
	c.settle(t)
}

// With five nodes every stream has three copies, so that each node is without some of them.
func TestFiveNodesWriteAndReadWhatTheyHaveNoCopyOf(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 5)
	acked := map[string]record.Sequence{}
	copies := map[string]int{}
	for i, s := range nodes {
		if err := errors.Join(s.Healthy(), s.Available()); err != nil {
			t.Errorf("node %d: %v", i+1, err)
		}
		for name := range s.localStreams() {
			copies[name]++
		}
		p := publisher(t, s, Events, Options{})
		for n := range 20 {
			body := fmt.Sprintf("five-%d-%d", i, n)
			a, err := p.Publish(t.Context(), ingest("five", []byte(body)))
			if err != nil {
				t.Fatal(err)
			}
			acked[body] = a.Sequence
		}
	}
	if copies[Events] != 3 {
		t.Errorf("%s has %d copies", Events, copies[Events])
	}
	for _, s := range nodes {
		h, _ := read(t, s)
		eventually(t, 10*time.Second, "reader has all", func() bool { return h.last() >= 100 })
		h.check(t, s.cfg.Name, acked)
	}
}

func isSaid(t *testing.T, err error, says string) {
	t.Helper()
	if !strings.Contains(err.Error(), says) {
		t.Errorf("error %q does not say %q", err, says)
	}
}
