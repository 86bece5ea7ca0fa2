package stream

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/carillon-fhir/carillon/match/fhir"
	"github.com/carillon-fhir/carillon/match/fhir/record"
	"go.uber.org/goleak"
)

// childDir is set in the environment of the copy of this test binary that writes until killed.
const childDir = "CARILLON_STREAM_TEST_CHILD"

func testMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := writeUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if cfg := os.Getenv(childNode); cfg != "" {
		if err := runNode(cfg); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	// Clusters mostly wait for elections: two cores serve four of them.
	flag.Parse()
	if n := runtime.GOMAXPROCS(0); n < 4 && flag.Lookup("test.parallel").Value.String() == strconv.Itoa(n) {
		flag.Set("test.parallel", "4")
	}
	code := m.Run()
	// Tests that run side by side cannot look for what each of them left behind.
	if err := goleak.Find(engineLeaks...); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// writeUntilKilled publishes from many goroutines, singly and in transactions, and prints each
// acknowledgement once it has it.
func writeUntilKilled(dir string) error {
	ctx := context.Background()
	s, err := Start(ctx, Config{Name: "n1", Dir: dir})
	if err != nil {
		return err
	}
	if err := s.Declare(ctx); err != nil {
		return err
	}
	if _, err := s.Seal(ctx); err != nil {
		return err
	}
	p, err := NewPublisher(ctx, s, Events, Options{})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	acked := func(m Msg, a Ack) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf("%d %s\n", a.Sequence, m.Data)
	}
	for w := range 40 {
		go func() {
			for n := 0; ; n++ {
				body := fmt.Sprintf("w%d-%d", w, n)
				if w%4 == 0 {
					ms := []Msg{ingest(fhir.ID(body+"a"), []byte(body+"a")), ingest(fhir.ID(body+"b"), []byte(body+"b"))}
					if acks, err := p.PublishAtomic(ctx, ms); err == nil {
						acked(ms[0], acks[0])
						acked(ms[1], acks[1])
					}
					continue
				}
				m := ingest(fhir.ID(body), []byte(body))
				if a, err := p.Publish(ctx, m); err == nil {
					acked(m, a)
				}
			}
		}()
	}
	select {}
}

// TestInvariant01AcknowledgedWritesSurviveKill is the first promise of the package: what was acknowledged is
// in the log after SIGKILL, at the sequence that the acknowledgement named.
func TestInvariant01AcknowledgedWritesSurviveKill(t *testing.T) {
	dir := t.TempDir()
	acked := map[record.Sequence]string{}
	for round := range 2 {
		killAfter(t, dir, 400*(round+1), acked)
		verifyAcked(t, dir, acked)
	}
}

// killAfter runs a child until it has printed so many acknowledgements, and kills it.
func killAfter(t *testing.T, dir string, n int, acked map[record.Sequence]string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for i := 0; lines.Scan(); i++ {
		seq, body, ok := strings.Cut(lines.Text(), " ")
		num, err := strconv.ParseUint(seq, 10, 64)
		if !ok || err != nil || !strings.HasPrefix(body, "w") {
			continue // the last line may be cut by the kill
		}
		acked[record.Sequence(num)] = body
		if i == n {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("child ended by itself: %v", err)
	}
}

func verifyAcked(t *testing.T, dir string, acked map[record.Sequence]string) {
	t.Helper()
	s, err := Start(t.Context(), Config{Name: "n1", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	if err := s.Declare(t.Context()); err != nil {
		t.Fatal(err)
	}
	end, err := s.Seal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	missing := len(acked)
	halves := map[string]bool{}
	var next record.Sequence = 1
	err = s.Follow(t.Context(), Events, 1, nil, func(ms []Message) error {
		for _, m := range ms {
			if m.Sequence != next {
				t.Errorf("sequence %d follows %d", m.Sequence, next-1)
			}
			next++
			if body, ok := acked[m.Sequence]; ok {
				missing--
				if body != string(m.Data) {
					t.Errorf("sequence %d holds %q, acknowledged was %q", m.Sequence, m.Data, body)
				}
			}
			if body := string(m.Data); strings.HasSuffix(body, "a") || strings.HasSuffix(body, "b") {
				halves[body] = true
			}
			if m.Sequence == end {
				return errEnough
			}
		}
		return nil
	})
	if err != errEnough {
		t.Fatal(err)
	}
	if missing != 0 {
		t.Errorf("%d of %d acknowledged messages are missing", missing, len(acked))
	}
	for body := range halves {
		other := body[:len(body)-1] + map[byte]string{'a': "b", 'b': "a"}[body[len(body)-1]]
		if !halves[other] {
			t.Errorf("transaction is in the log in part: %s without %s", body, other)
		}
	}
	t.Logf("%d acknowledged, %d in the log", len(acked), end)
}
