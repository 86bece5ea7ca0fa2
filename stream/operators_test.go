package stream

import (
	"crypto/tls"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// attend answers what operators ask, as a node does.
func attend(t *testing.T, s *Server) {
	t.Helper()
	for _, subject := range []string{"$SRV.PING", "carillon.admin.cluster.status"} {
		if _, err := s.Service().Subscribe(subject, func(m *nats.Msg) { m.Respond([]byte("answer")) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Service().Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestOperatorsAskHowTheClusterIsAndNobodyElseDoes(t *testing.T) {
	ops := Login{Name: "ops", Password: "x", Operator: true}
	s := start(t, withLogins(lab, ops))
	attend(t, s)
	for _, subject := range []string{"$SRV.PING", "carillon.admin.cluster.status"} {
		if m, err := loginAs(t, s, ops).Request(subject, nil, 5*time.Second); err != nil || string(m.Data) != "answer" {
			t.Errorf("%s is not answered: %v", subject, err)
		}
		nc := loginAs(t, s, lab)
		if _, err := nc.Request(subject, nil, 200*time.Millisecond); err == nil {
			t.Errorf("%s is answered to a login that is no operator", subject)
		}
		if err := nc.LastError(); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("%s: %v", subject, err)
		}
	}
	// An operator may do no more than that.
	for _, subject := range []string{"$JS.API.INFO", "$SYS.REQ.SERVER.PING", "carillon.node.n1.state", "fhir.ingest.Patient.a"} {
		nc := loginAs(t, s, ops)
		if err := errors.Join(nc.Publish(subject, nil), nc.Flush()); err != nil {
			t.Fatal(err)
		}
		if err := nc.LastError(); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("an operator may publish on %s: %v", subject, err)
		}
	}
}

func TestWithoutLoginsTheGuestIsTheOperator(t *testing.T) {
	s := start(t, listening)
	attend(t, s)
	if m, err := client(t, s).Request("$SRV.PING", nil, 5*time.Second); err != nil || string(m.Data) != "answer" {
		t.Errorf("not answered: %v", err)
	}
}

// A certificate that was replaced on disk is shown to whoever connects after ReloadCertificates,
// over a Restart too; files that cannot be read change nothing.
func TestCertificatesAreReplacedWithoutARestart(t *testing.T) {
	dir := t.TempDir()
	files, before := certificate(t, dir)
	s := start(t, withLogins(lab), func(c *Config) { c.ClientTLS = files })
	connects := func(with *tls.Config) bool {
		nc, err := nats.Connect("tls://"+s.Addr(), nats.UserInfo(lab.Name, lab.Password), nats.Secure(with))
		if err == nil {
			nc.Close()
		}
		return err == nil
	}
	_, after := certificate(t, dir)
	if !connects(before) || connects(after) {
		t.Error("what is on disk is shown before it was asked for")
	}
	if _, err := s.ReloadCertificates(Certificates{Client: TLS{Cert: files.Key, Key: files.Key}}); err == nil {
		t.Error("a key is taken for a certificate")
	}
	if !connects(before) {
		t.Error("files that cannot be read changed what is shown")
	}
	changed, err := s.ReloadCertificates(Certificates{Client: *files})
	if err != nil || !slices.Equal(changed, []string{"security.nats.tls"}) {
		t.Errorf("changed: %v, %v", changed, err)
	}
	if connects(before) || !connects(after) {
		t.Error("the certificate was not replaced")
	}
	if changed, err = s.ReloadCertificates(Certificates{Client: *files}); err != nil || changed != nil {
		t.Errorf("the same again: %v, %v", changed, err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !connects(after) {
		t.Error("a restart of the engine brought the old certificate back")
	}
}

// What a member tells of itself reaches the others at once, and they notice.
func TestWhatAMemberTellsReachesTheOthers(t *testing.T) {
	alone := start(t)
	m, err := alone.Join(t.Context(), "n1", []byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	changed := m.Changed()
	m.SetData([]byte("a"))
	select {
	case <-changed:
		t.Error("the same again is a change")
	default:
	}
	m.SetData([]byte("b"))
	<-changed
	if view := m.View(); len(view) != 1 || string(view[0].Data) != "b" {
		t.Errorf("view %+v", view)
	}
}
