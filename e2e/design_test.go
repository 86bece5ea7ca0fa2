package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What DESIGN.md claims of a test is worth no more than the test.
func TestTheTestsThatDESIGNNamesAreThere(t *testing.T) {
	text, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string]string{} // of a folder's tests
	named := regexp.MustCompile("`([a-z0-9/]+)\\.(Test[A-Za-z0-9_]+)`").FindAllStringSubmatch(string(text), -1)
	for _, m := range named {
		folder, name := m[1], m[2]
		if _, read := sources[folder]; !read {
			files, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(folder), "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				source, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				sources[folder] += string(source)
			}
		}
		if !strings.Contains(sources[folder], "\nfunc "+name+"(") {
			t.Errorf("%s.%s is not there", folder, name)
		}
	}
	if len(named) < 50 {
		t.Errorf("%d tests are named", len(named))
	}
}
