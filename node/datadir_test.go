package node

import (
	"os"
	"strings"
	"testing"
)

func TestADataFolderKeepsItsNameAndItsCluster(t *testing.T) {
	d, err := openDataDir(t.TempDir() + "/new")
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	for _, c := range []struct{ given, want string }{{"", "n1"}, {"n1", "n1"}, {"", "n1"}} {
		if name, err := d.nodeName(c.given, "n1"); err != nil || name != c.want {
			t.Errorf("given %q: %q, %v", c.given, name, err)
		}
	}
	if _, err := d.nodeName("n2", "n1"); err == nil || !strings.Contains(err.Error(), `"n1"`) {
		t.Errorf("another name: %v", err)
	}
	if _, err := d.clusterName("a"); err != nil {
		t.Error(err)
	}
	if _, err := d.clusterName("b"); err == nil {
		t.Error("another cluster was taken")
	}
}

func TestADataFolderHasOneHolderAndIsClosedToOthers(t *testing.T) {
	path := t.TempDir() + "/data"
	d, err := openDataDir(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openDataDir(path); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second holder: %v", err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	again, err := openDataDir(path)
	if err != nil {
		t.Fatalf("after it was given back: %v", err)
	}
	again.close()
}
