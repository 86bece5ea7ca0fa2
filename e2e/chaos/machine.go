package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Unavailable is a fault, or a part of the machine, that cannot be made here.
type Unavailable struct{ Why string }

// Error says what is missing.
func (u *Unavailable) Error() string { return u.Why }

// Machine is what the nodes run on: a folder, and where it can be had a bridge with one
// network namespace for each node. Everything it makes carries the process id in its name, and
// is removed by name.
type Machine struct {
	Dir     string     // of the run; removed by Close
	Gateway netip.Addr // where the nodes reach this process
	Network netip.Prefix

	id     string // prefix of all names
	bridge string // empty without namespaces
	why    string // why there are no namespaces
	base   int    // of the ports on loopback
	hosts  []*Host
	disks  []*Disk

	endNodes func() // kills what runs here, before it is removed
	close    sync.Once
	signals  chan os.Signal
}

// Host is the place of one node: a namespace with one link to the bridge, or loopback where
// there are no namespaces.
type Host struct {
	Index int
	Addr  netip.Addr
	mac   string
	m     *Machine
	ns    string   // name of the namespace; empty without
	fd    *os.File // of the namespace
	veth  string   // our end of the link
}

// machines numbers those of this process.
var machines atomic.Uint32

// NewMachine makes a machine for so many nodes. Where namespaces cannot be made, the nodes get
// loopback, and Namespaces says why.
func NewMachine(nodes int) (*Machine, error) {
	sweep()
	m := &Machine{endNodes: func() {}, id: fmt.Sprintf("cc%d%c", os.Getpid(), 'a'+rune(machines.Add(1)-1)%26)}
	var err error
	if m.Dir, err = os.MkdirTemp("", fmt.Sprintf("carillon-chaos-%d-", os.Getpid())); err != nil {
		return nil, err
	}
	if m.base, err = freePorts(); err != nil {
		return nil, err
	}
	m.cleanOnSignal()
	for i := range nodes {
		m.hosts = append(m.hosts, &Host{Index: i, Addr: netip.AddrFrom4([4]byte{127, 0, 0, 1}), m: m})
	}
	m.Gateway = m.hosts[0].Addr
	m.Network = netip.PrefixFrom(m.Gateway, 8).Masked()
	if err := m.network(); err != nil {
		m.why = err.Error()
		m.removeNetwork()
	}
	return m, nil
}

// Namespaces is nil, or why the nodes share this machine's network.
func (m *Machine) Namespaces() error {
	if m.bridge == "" {
		return &Unavailable{"no network namespaces: " + m.why}
	}
	return nil
}

// Hosts are the places of the nodes.
func (m *Machine) Hosts() []*Host { return m.hosts }

// cleanOnSignal removes what was made when the run is interrupted.
func (m *Machine) cleanOnSignal() {
	m.signals = make(chan os.Signal, 1)
	signal.Notify(m.signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		if s, ok := <-m.signals; ok {
			fmt.Fprintf(os.Stderr, "chaos: %v, removing what the run made\n", s)
			m.endNodes()
			m.remove()
			os.Exit(130)
		}
	}()
}

// Close removes everything the machine made. The nodes must have ended.
func (m *Machine) Close() {
	signal.Stop(m.signals)
	m.close.Do(func() {
		close(m.signals)
		m.remove()
	})
}

func (m *Machine) remove() {
	m.removeNetwork()
	for _, d := range m.disks {
		d.unmount()
	}
	os.RemoveAll(m.Dir)
}

// network makes the bridge and the namespaces. The addresses are out of the range that is set
// aside for measurements (RFC 2544), so that they hide nothing this machine talks to.
func (m *Machine) network() error {
	if os.Geteuid() != 0 {
		return errors.New("this is not root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return errors.New("ip is missing (apt-get install iproute2)")
	}
	var err error
	if m.Network, err = freeNetwork(); err != nil {
		return err
	}
	m.Gateway = nth(m.Network, 1)
	bridge := m.id + "b"
	if err := run("ip", "link", "add", bridge, "type", "bridge"); err != nil {
		return err
	}
	m.bridge = bridge
	gatewayMAC := mac(m.Network, 1)
	for _, c := range [][]string{
		{"link", "set", bridge, "address", gatewayMAC, "up"},
		{"addr", "add", fmt.Sprintf("%s/24", m.Gateway), "dev", bridge},
	} {
		if err := run("ip", c...); err != nil {
			return err
		}
	}
	for i, h := range m.hosts {
		h.Addr, h.mac = nth(m.Network, 11+i), mac(m.Network, 11+i)
		if err := h.link(bridge); err != nil {
			return err
		}
	}
	// Every neighbour is written down, so that cutting a direction needs no firewall: packets to
	// a wrong hardware address go nowhere, without an error for the sender.
	for _, h := range m.hosts {
		if err := run("ip", "neigh", "replace", h.Addr.String(), "lladdr", h.mac, "dev", bridge, "nud", "permanent"); err != nil {
			return err
		}
		if err := h.neighbour(m.Gateway, gatewayMAC); err != nil {
			return err
		}
		for _, p := range m.hosts {
			if p != h {
				if err := h.neighbour(p.Addr, p.mac); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (m *Machine) removeNetwork() {
	for _, h := range m.hosts {
		if h.ns == "" {
			continue
		}
		if h.fd != nil {
			h.fd.Close()
		}
		_ = run("ip", "link", "del", h.veth)
		_ = run("ip", "netns", "del", h.ns)
		h.ns, h.Addr = "", netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if m.bridge != "" {
		_ = run("ip", "link", "del", m.bridge)
		m.bridge = ""
	}
	m.Gateway = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	m.Network = netip.PrefixFrom(m.Gateway, 8).Masked()
}

// link makes the namespace with its one link.
func (h *Host) link(bridge string) error {
	ns := fmt.Sprintf("%sn%d", h.m.id, h.Index+1)
	if err := run("ip", "netns", "add", ns); err != nil {
		return err
	}
	h.ns, h.veth = ns, fmt.Sprintf("%sv%d", h.m.id, h.Index+1)
	var err error
	if h.fd, err = os.Open(filepath.Join("/run/netns", ns)); err != nil {
		return err
	}
	for _, c := range [][]string{
		{"link", "add", h.veth, "type", "veth", "peer", "name", "eth0", "netns", ns},
		{"link", "set", h.veth, "master", bridge, "up"},
		{"-n", ns, "link", "set", "lo", "up"},
		{"-n", ns, "link", "set", "eth0", "address", h.mac, "up"},
		{"-n", ns, "addr", "add", h.Addr.String() + "/24", "dev", "eth0"},
	} {
		if err := run("ip", c...); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) neighbour(to netip.Addr, mac string) error {
	return run("ip", "-n", h.ns, "neigh", "replace", to.String(), "lladdr", mac, "dev", "eth0", "nud", "permanent")
}

// Cut makes packets from here to a peer vanish; Join lets them through again. Each is one way.
func (h *Host) Cut(to *Host) error {
	if err := h.m.Namespaces(); err != nil {
		return err
	}
	return h.neighbour(to.Addr, "02:cc:00:00:00:00")
}

// Join undoes Cut.
func (h *Host) Join(to *Host) error {
	if err := h.m.Namespaces(); err != nil {
		return err
	}
	return h.neighbour(to.Addr, to.mac)
}

// CutOutside keeps this host from the endpoints; JoinOutside undoes it.
func (h *Host) CutOutside() error {
	if err := h.m.Namespaces(); err != nil {
		return err
	}
	return h.neighbour(h.m.Gateway, "02:cc:00:00:00:00")
}

// JoinOutside undoes CutOutside.
func (h *Host) JoinOutside() error {
	if err := h.m.Namespaces(); err != nil {
		return err
	}
	return h.neighbour(h.m.Gateway, mac(h.m.Network, 1))
}

// Slow bounds what leaves this host to so many kilobits a second: packets queue, then drop.
func (h *Host) Slow(kbit int) error {
	if err := h.m.Namespaces(); err != nil {
		return err
	}
	if err := need("tc", "iproute2"); err != nil {
		return err
	}
	return unavailable(h.run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf",
		"rate", fmt.Sprintf("%dkbit", kbit), "burst", "16kb", "latency", "300ms"))
}

// Fast undoes Slow.
func (h *Host) Fast() error { return h.run("tc", "qdisc", "del", "dev", "eth0", "root") }

// Lose drops a share of what arrives at this host.
func (h *Host) Lose(share float64) error {
	if err := h.m.Namespaces(); err != nil {
		return err
	}
	if err := need("iptables", "iptables"); err != nil {
		return err
	}
	return unavailable(h.run("iptables", loss("-A", share)...))
}

// LoseNothing undoes Lose.
func (h *Host) LoseNothing(share float64) error { return h.run("iptables", loss("-D", share)...) }

func loss(op string, share float64) []string {
	return []string{op, "INPUT", "-i", "eth0", "-m", "statistic", "--mode", "random",
		"--probability", strconv.FormatFloat(share, 'f', 3, 64), "-j", "DROP"}
}

// unavailable makes an error of a tool one that lets the run go on.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return &Unavailable{err.Error()}
}

// need reports a tool that is not installed.
func need(tool, pkg string) error {
	if _, err := exec.LookPath(tool); err != nil {
		return &Unavailable{fmt.Sprintf("%s is missing (apt-get install %s)", tool, pkg)}
	}
	return nil
}

// within runs f on a thread that is in the host's namespace. Processes that f starts and
// sockets that it opens belong there. `ip netns exec` would do for processes, but it makes a
// mount namespace too, and that would hold the other nodes' disks mounted through a power cut.
func (h *Host) within(f func() error) error {
	if h.fd == nil || h.ns == "" {
		return f()
	}
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(h.fd.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace %s: %w", h.ns, err)
	}
	defer func() {
		// A thread that cannot go back stays locked, and ends with its goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}

// Dial connects to an address as seen from inside the host, its loopback included: a writer is
// a client on the node's own machine, which no partition takes away from it.
func (h *Host) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = h.within(func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// run runs a tool inside the host.
func (h *Host) run(name string, args ...string) error {
	return h.within(func() error { return run(name, args...) })
}

// run runs a tool and makes an error of what it says.
func run(name string, args ...string) error {
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(out.String()))
	}
	return nil
}

// freeNetwork finds a /24 of 198.18.0.0/15 that no link of this machine has.
func freeNetwork() (netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Prefix{}, err
	}
	for i := range 512 {
		k := (os.Getpid() + i) % 512
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, byte(18 + k/256), byte(k % 256), 0}), 24)
		if !slices.ContainsFunc(addrs, func(a net.Addr) bool {
			q, err := netip.ParsePrefix(a.String())
			return err == nil && q.Overlaps(p)
		}) {
			return p, nil
		}
	}
	return netip.Prefix{}, errors.New("no network of 198.18.0.0/15 is free")
}

func nth(p netip.Prefix, n int) netip.Addr {
	b := p.Addr().As4()
	b[3] = byte(n)
	return netip.AddrFrom4(b)
}

func mac(p netip.Prefix, n int) string {
	b := p.Addr().As4()
	return fmt.Sprintf("02:cc:%02x:%02x:01:%02x", b[1], b[2], n)
}

var ours = regexp.MustCompile(`^cc(\d+)[a-z](n\d+|v\d+|b)$`)

// sweep removes what runs left behind that were killed before they could clean up: names that
// carry the id of a process that is no more.
func sweep() {
	if os.Geteuid() != 0 {
		return
	}
	dead := func(pid string) bool {
		_, err := os.Stat("/proc/" + pid)
		return errors.Is(err, os.ErrNotExist)
	}
	spaces, _ := os.ReadDir("/run/netns")
	for _, e := range spaces {
		if g := ours.FindStringSubmatch(e.Name()); g != nil && dead(g[1]) {
			out, _ := exec.Command("ip", "netns", "pids", e.Name()).Output()
			for _, pid := range strings.Fields(string(out)) {
				if n, err := strconv.Atoi(pid); err == nil {
					_ = syscall.Kill(n, syscall.SIGKILL)
				}
			}
			_ = run("ip", "netns", "del", e.Name())
		}
	}
	links, _ := net.Interfaces()
	for _, l := range links {
		if g := ours.FindStringSubmatch(l.Name); g != nil && dead(g[1]) {
			_ = run("ip", "link", "del", l.Name)
		}
	}
	folders, _ := filepath.Glob(filepath.Join(os.TempDir(), "carillon-chaos-*-*"))
	for _, dir := range folders {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), "carillon-chaos-"), "-")
		if _, err := strconv.Atoi(pid); err != nil || !dead(pid) {
			continue
		}
		mounts, _ := filepath.Glob(filepath.Join(dir, "*", "disk"))
		for _, mnt := range mounts {
			_ = run("umount", "-l", mnt)
		}
		os.RemoveAll(dir)
	}
}
