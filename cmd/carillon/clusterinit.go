package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/carillon-fhir/carillon/node/config"
)

// The ports of a node: these on a machine of its own, those above them for nodes that share one.
const (
	portHTTP  = 8080
	portNATS  = 4222
	portRoute = 6222
)

// mostLocal keeps --local within what one machine can run.
const mostLocal = 9

// certDays bounds --days: a hundred years are more than a certificate can be trusted for.
const certDays = 36500

func clusterInitCommand() *cli.Command {
	return &cli.Command{
		Name: "init", Usage: "write configuration and certificates of a new cluster",
		Description: help(`Writes cluster.yaml, a private CA (certs/ca.pem and ca-key.pem), and for each node a certificate
and a key (certs/NAME.pem and certs/NAME-key.pem), for the routes between the nodes. Nothing that
exists is overwritten.

A node's certificate is for servers and clients and names the host and the node. ca-key.pem signs
certificates of further nodes: keep it, but not on the nodes.`,
			"carillon cluster init --nodes n1=10.0.0.1,n2=10.0.0.2,n3=10.0.0.3",
			"carillon cluster init --local 3 --dir ./carillon-local"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "dir", Usage: "`DIR` to write to", Value: "./carillon-cluster"},
			&cli.StringFlag{Name: "name", Usage: "`NAME` of the cluster", Value: "carillon"},
			&cli.StringFlag{Name: "nodes", Usage: "names of the nodes and where they reach each other: `n1=HOST,n2=HOST,n3=HOST`"},
			&cli.IntFlag{Name: "local", Usage: "`N` nodes on this machine, with different ports and data below DIR"},
			&cli.IntFlag{Name: "days", Usage: "`DAYS` that the certificates are valid", Value: 3650},
		},
		Action: action(0, 0, clusterInit),
	}
}

// plannedNode is a node of a cluster that is being written.
type plannedNode struct {
	name  string
	host  string
	data  string // empty: that of all nodes
	ports [3]int // HTTP, NATS, route
	sans  []string
}

func (n plannedNode) address(i int) string { return net.JoinHostPort(n.host, strconv.Itoa(n.ports[i])) }

func clusterInit(c *call) error {
	nodes, err := plannedNodes(c)
	if err != nil {
		return err
	}
	days := c.Int("days")
	if days < 1 || days > certDays {
		return usage("--days %d is not between 1 and %d", days, certDays)
	}
	files, err := clusterFiles(c.String("name"), nodes, time.Duration(days)*24*time.Hour)
	if err != nil {
		return err
	}
	dir := c.String("dir")
	if err := writeNew(dir, files); err != nil {
		return err
	}
	// The file is read as serve will read it. What is wrong now is this command's mistake, or
	// what was asked for is no cluster: two nodes, or a host that is none.
	if err := checkWritten(filepath.Join(dir, clusterFile)); err != nil {
		removeWritten(dir, files)
		return err
	}
	if err := c.initialised(dir, nodes, days); err != nil {
		return err
	}
	c.nextSteps(dir, nodes)
	return nil
}

func plannedNodes(c *call) ([]plannedNode, error) {
	switch {
	case c.IsSet("nodes") == c.IsSet("local"):
		return nil, usage("carillon cluster init needs --nodes n1=HOST,n2=HOST,n3=HOST, or --local N for nodes on this machine")
	case c.IsSet("local"):
		return localNodes(c.Int("local"), c.String("dir"))
	}
	return namedNodes(c.String("nodes"))
}

func localNodes(n int, dir string) ([]plannedNode, error) {
	if n < 1 || n > mostLocal || n == 2 {
		return nil, usage("--local %d: use 1, 3 or 5 nodes, at most %d; two have no quorum when one is lost", n, mostLocal)
	}
	// Absolute, since a data folder is looked for from wherever a node is started.
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	var nodes []plannedNode
	for i := 1; i <= n; i++ {
		name := "n" + strconv.Itoa(i)
		nodes = append(nodes, plannedNode{
			name: name, host: "127.0.0.1", data: filepath.Join(dir, "data", name),
			ports: [3]int{portHTTP + i, portNATS + i, portRoute + i},
			sans:  []string{"127.0.0.1", "::1", "localhost", name},
		})
	}
	return nodes, nil
}

// hostGrammar is a host name; addresses are understood by package net.
var (
	hostGrammar = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?$`)
	nodeGrammar = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

func namedNodes(list string) ([]plannedNode, error) {
	var nodes []plannedNode
	names, hosts := map[string]bool{}, map[string]bool{}
	for item := range strings.SplitSeq(list, ",") {
		name, host, ok := strings.Cut(strings.TrimSpace(item), "=")
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		ip := net.ParseIP(host)
		switch {
		case !ok || name == "" || host == "":
			return nil, usage("--nodes: %q is not of the form NAME=HOST", item)
		case !nodeGrammar.MatchString(name):
			return nil, usage("--nodes: %q is not a name of 1 to 64 letters, digits, - and _", name)
		case ip == nil && (!hostGrammar.MatchString(host) || strings.Contains(host, "..")):
			return nil, usage("--nodes: %q is not the name or address of a host; ports are set in %s later", host, clusterFile)
		case ip != nil && ip.IsUnspecified():
			return nil, usage("--nodes: other nodes cannot reach %s; give the machine's own address", host)
		case names[name]:
			return nil, usage("--nodes: %s is there twice", name)
		case hosts[host]:
			return nil, usage("--nodes: %s is the host of two nodes; for nodes on one machine use --local", host)
		case name == "ca" || strings.HasSuffix(name, "-key"):
			return nil, usage("--nodes: certs/%s.pem is the file of something else; give the node another name", name)
		}
		names[name], hosts[host] = true, true
		nodes = append(nodes, plannedNode{
			name: name, host: host, ports: [3]int{portHTTP, portNATS, portRoute}, sans: []string{host, name},
		})
	}
	if len(nodes) == 2 {
		return nil, usage("--nodes: two nodes have no quorum when one is lost; use 1, 3 or 5")
	}
	return nodes, nil
}

// Where the files are below the folder.
const (
	clusterFile = "cluster.yaml"
	caKeyFile   = "ca-key.pem"
	certFolder  = "certs"

	secretsKeyFile = "secrets.key"
)

// newFile is a file that is to be written.
type newFile struct {
	path string // below the folder
	text []byte
	mode fs.FileMode
}

func clusterFiles(cluster string, nodes []plannedNode, valid time.Duration) ([]newFile, error) {
	if !nodeGrammar.MatchString(cluster) {
		return nil, usage("--name %q is not 1 to 64 letters, digits, - and _", cluster)
	}
	ca, err := newAuthority(cluster, time.Now(), valid)
	if err != nil {
		return nil, fmt.Errorf("make the CA: %w", err)
	}
	key := make([]byte, 32)
	rand.Read(key)
	files := []newFile{
		{clusterFile, []byte(clusterText(cluster, nodes)), 0o644},
		{filepath.Join(certFolder, secretsKeyFile), []byte("# Seals the secrets of Subscriptions; the same on every node. Without it they are lost.\n" + base64.StdEncoding.EncodeToString(key) + "\n"), 0o600},
		{filepath.Join(certFolder, "ca.pem"), ca.certPEM(), 0o644},
		{caKeyFile, ca.keyPEM, 0o600}, // apart from the certificates, which are copied to the nodes
	}
	for _, n := range nodes {
		cert, key, err := ca.issue(n.name, n.sans)
		if err != nil {
			return nil, fmt.Errorf("make the certificate of %s: %w", n.name, err)
		}
		files = append(files,
			newFile{filepath.Join(certFolder, n.name+".pem"), cert, 0o644},
			newFile{filepath.Join(certFolder, n.name+"-key.pem"), key, 0o600})
	}
	return files, nil
}

// writeNew writes files that are not there yet: all of them or, at the first that is there or
// cannot be written, none.
func writeNew(dir string, files []newFile) error {
	for _, f := range files {
		if _, err := os.Lstat(filepath.Join(dir, f.path)); err == nil {
			return usage("%s exists, and nothing is overwritten; give another folder with --dir", filepath.Join(dir, f.path))
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, certFolder), 0o755); err != nil {
		return err
	}
	for i, f := range files {
		if err := createFile(filepath.Join(dir, f.path), f.text, f.mode); err != nil {
			removeWritten(dir, files[:i])
			return err
		}
	}
	return nil
}

// createFile refuses what exists once more, for what came to be there in between.
func createFile(path string, text []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(path)
	}
	return err
}

// removeWritten takes back files of this run, and the folders if nothing else is in them.
func removeWritten(dir string, files []newFile) {
	for _, f := range files {
		_ = os.Remove(filepath.Join(dir, f.path))
	}
	_ = os.Remove(filepath.Join(dir, certFolder))
	_ = os.Remove(dir)
}

func checkWritten(path string) error {
	cfg, err := config.Load(path, nil)
	if err != nil {
		return err
	}
	if err := cfg.CheckListeners(); err != nil {
		return err
	}
	return cfg.CheckFiles()
}

// initialised prints what was made.
func (c *call) initialised(dir string, nodes []plannedNode, days int) error {
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.name
	}
	b, err := json.Marshal(map[string]any{
		"config": filepath.Join(dir, clusterFile), "ca": filepath.Join(dir, certFolder, "ca.pem"),
		"caKey": filepath.Join(dir, caKeyFile), "nodes": names, "validDays": days,
	})
	if err != nil {
		return err
	}
	return c.out.object(b, columns("CONFIG=config CA=ca CA_KEY=caKey NODES=nodes VALID_DAYS=validDays"))
}

// nextSteps says what to do with the files.
func (c *call) nextSteps(dir string, nodes []plannedNode) {
	file := filepath.Join(dir, clusterFile)
	if nodes[0].data != "" {
		c.note("\nStart each node in a terminal of its own:\n")
		for _, n := range nodes {
			c.note("  carillon serve --config %s --node %s --dev", file, n.name)
		}
		c.note("\nThen ask any of them:\n\n  carillon cluster status --server http://%s\n", nodes[0].address(0))
		return
	}
	c.note("\nCopy to each machine, below one folder such as /etc/carillon, %s, certs/ca.pem,\ncerts/secrets.key and the node's own two files in certs/, keys readable to its user alone. Then:\n", clusterFile)
	for _, n := range nodes {
		c.note("  on %s:  carillon serve --config /etc/carillon/%s --node %s", n.host, clusterFile, n.name)
	}
	c.note(`
Keep %s where no node is: it signs certificates of further nodes.
HTTP and NATS listen on loopback. Before they serve other machines, make a token on one of the
nodes (carillon token create), and uncomment in %s what is there for it.
`, filepath.Join(dir, caKeyFile), clusterFile)
}

// clusterText is the configuration of the new cluster, with what its user is likely to change.
func clusterText(cluster string, nodes []plannedNode) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# The Carillon cluster %[1]s, made by carillon cluster init. The same file serves every node:
#
#   carillon serve --config cluster.yaml --node NAME
#
# Keys that are left out have their defaults; `+"`carillon config show`"+` prints them all. A line that
# begins with # and no blank is there to be uncommented. After a change, on every machine:
#
#   carillon config check cluster.yaml

cluster:
  # A data folder belongs to one cluster for good.
  name: %[2]s
  # Certificates of the routes between nodes, from the folder of this file; {node} is the node's
  # name. A node needs ca.pem, secrets.key and its own two files, and never ca-key.pem.
  tls:
    ca: certs/ca.pem
    cert: certs/{node}.pem
    key: certs/{node}-key.pem

`, cluster, strconv.Quote(cluster))
	if nodes[0].data == "" {
		b.WriteString(`# What all nodes have in common; an entry of nodes wins.
node:
  data: /var/lib/carillon
  http: 127.0.0.1:8080
  nats: 127.0.0.1:4222

`)
	}
	b.WriteString("# route is where a node listens for the others, and they reach it.\nnodes:\n")
	for _, n := range nodes {
		n.write(&b)
	}
	b.WriteString(`
security:
  # The key that seals secrets of Subscriptions in the logs, the same on every node. Keep a copy of it
  # apart from backups: without it the secrets are lost.
  secrets_key_file: certs/secrets.key
`)
	if nodes[0].data == "" {
		b.WriteString(securityText)
	}
	return b.String()
}

func (n plannedNode) write(b *strings.Builder) {
	q := strconv.Quote
	fmt.Fprintf(b, "  %s:\n    route: %s\n", q(n.name), q(n.address(2)))
	if n.data != "" {
		fmt.Fprintf(b, "    data: %s\n    http: %s\n    nats: %s\n", q(n.data), q(n.address(0)), q(n.address(1)))
		return
	}
	fmt.Fprintf(b, "    # For other machines, with security.tls below and once there is a token:\n    #http: %s\n", q(n.address(0)))
	fmt.Fprintf(b, "    # For NATS clients on other machines, with security.nats below:\n    #nats: %s\n", q(n.address(1)))
}

const securityText = `  # For listeners that other machines reach. The nodes' own certificates will do where clients
  # trust certs/ca.pem.
  #tls: {cert: "certs/{node}.pem", key: "certs/{node}-key.pem"}
  #nats:
    #tls: {cert: "certs/{node}.pem", key: "certs/{node}-key.pem"}
    # Once there is a login nobody enters without one. A password is plain or a bcrypt hash.
    #users:
      #- name: lab
        #password: ""
        #subscribe: ["fhir.dead.>"]
`
