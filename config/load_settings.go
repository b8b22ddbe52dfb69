package config

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kerege/kerege/mesh"
)

func checkNode(s string) (string, string) {
	if mesh.CheckNode(s) != nil {
		return "is no name of a host", "It has letters, digits, '-', '_' and '.'."
	}
	return "", ""
}

var userPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$`)

func checkUser(s string) (string, string) {
	switch {
	case !userPattern.MatchString(s):
		return "is no user", "A name, or a number."
	case s == "root" || s == "0":
		return "would take all of root's traffic on this host", "Give the application a user, a unit or a slice of its own."
	}
	return "", ""
}

func checkProxyUser(s string) (string, string) {
	if s == "root" || s == "0" {
		return "would leave all of root's traffic out of the capture, the applications' too", "Give the proxies a user of their own."
	}
	return checkUser(s)
}

var unitPattern = regexp.MustCompile(`^[A-Za-z0-9:_.@\\-]{1,255}$`)

func checkUnit(suffix string) func(string) (string, string) {
	return func(s string) (string, string) {
		if !unitPattern.MatchString(s) || !strings.HasSuffix(s, suffix) || s == suffix {
			return "does not name a " + suffix[1:], "For example \"web" + suffix + "\"."
		}
		return "", ""
	}
}

// LoadServer reads a server's settings from files and directories, merged in
// lexical order: a later argument, or whole block, wins. In a directory, files
// whose names begin with "agent" are passed over.
func LoadServer(paths ...string) (*Server, Diagnostics) {
	p, root := loadSettings(paths, "agent", serverSchemaOnce())
	return server(p, root)
}

// LoadServerBytes is LoadServer of files that are already read.
func LoadServerBytes(files map[string][]byte) (*Server, Diagnostics) {
	p := &parser{sink: newSink(files), elsewhere: otherNames(serverSchemaOnce())}
	return server(p, p.settings(serverSchemaOnce()))
}

// LoadAgent reads an agent's settings as LoadServer does a server's. In a
// directory, files whose names begin with "server" are passed over.
func LoadAgent(paths ...string) (*Agent, Diagnostics) {
	p, root := loadSettings(paths, "server", agentSchemaOnce())
	return agent(p, root)
}

// LoadAgentBytes is LoadAgent of files that are already read.
func LoadAgentBytes(files map[string][]byte) (*Agent, Diagnostics) {
	p := &parser{sink: newSink(files), elsewhere: otherNames(agentSchemaOnce())}
	return agent(p, p.settings(agentSchemaOnce()))
}

func loadSettings(paths []string, notOurs string, schema *block) (*parser, *node) {
	s := newSink(nil)
	s.files = readFiles(s, paths, func(base string) bool { return !strings.HasPrefix(base, notOurs) })
	p := &parser{sink: s, elsewhere: otherNames(schema)}
	return p, p.settings(schema)
}

// settings merges the files in lexical order.
func (p *parser) settings(schema *block) *node {
	root := &node{schema: schema, args: map[string]*value{}}
	for _, name := range p.scan() {
		n := p.file(name, p.files[name], schema)
		if n == nil {
			continue
		}
		p.once(n)
		maps.Copy(root.args, n.args)
		for _, b := range n.blocks {
			if !b.schema.many {
				root.blocks = slices.DeleteFunc(root.blocks, func(x *node) bool { return x.schema == b.schema })
			}
			root.blocks = append(root.blocks, b)
		}
	}
	p.once(root)
	return root
}

// settingsNames are the names that belong into settings only.
func settingsNames() map[string]string {
	out := otherNames(meshSchemaOnce())
	delete(out, "mesh") // a server's argument, and a block of mesh files
	return out
}

// otherNames says of every name of the other kinds of file where it belongs.
func otherNames(mine *block) map[string]string {
	out := map[string]string{}
	for _, other := range []struct {
		schema *block
		home   string
	}{{meshSchemaOnce(), "a mesh file, below /etc/kerege.d/mesh"}, {agentSchemaOnce(), "agent.hcl"}, {serverSchemaOnce(), "server.hcl"}} {
		for _, name := range other.schema.names() {
			if mine.attrNamed(name) == nil && mine.blockNamed(name) == nil {
				if before := out[name]; before != "" { // both settings know it
					out[name] = before + " or " + other.home + ", where it is meant"
					continue
				}
				out[name] = other.home
			}
		}
	}
	return out
}

func server(p *parser, root *node) (*Server, Diagnostics) {
	out := &Server{
		Name: or(root.text("name"), hostName()), DataDir: or(root.text("data_dir"), "/var/lib/kerege/server"), RunDir: or(root.text("run_dir"), "/run/kerege"),
		MeshPaths: root.texts("mesh"), Advertise: root.text("advertise"), Log: logging(root),
		Addresses:  Addresses{GRPC: ":7401", HTTPS: ":7402", Metrics: "none"},
		CA:         CA{LeafTTL: 24 * time.Hour, IntermediateTTL: 365 * 24 * time.Hour, RootTTL: 3650 * 24 * time.Hour},
		FirstGrace: orTime(root.time("first_grace"), 30*time.Second),
		Consul:     consul(root.block("consul")), Nomad: nomad(root.block("nomad")),
	}
	if out.MeshPaths == nil {
		out.MeshPaths = []string{"/etc/kerege.d/mesh"}
	}
	if x := root.block("addresses"); x != nil {
		out.Addresses = Addresses{GRPC: or(x.text("grpc"), ":7401"), HTTPS: or(x.text("https"), ":7402"), Metrics: or(x.text("metrics"), "none")}
	}
	if x := root.block("tls"); x != nil {
		out.TLS = TLSFiles{CAFile: x.text("ca_file"), CertFile: x.text("cert_file"), KeyFile: x.text("key_file")}
	}
	if x := root.block("ca"); x != nil {
		ca := &out.CA
		ca.LeafTTL, ca.IntermediateTTL, ca.RootTTL = orTime(x.time("leaf_ttl"), ca.LeafTTL), orTime(x.time("intermediate_ttl"), ca.IntermediateTTL), orTime(x.time("root_ttl"), ca.RootTTL)
		if ca.LeafTTL > ca.IntermediateTTL || ca.IntermediateTTL > ca.RootTTL {
			p.errorf(codeRange, x.where(), "leaf_ttl ≤ intermediate_ttl ≤ root_ttl.", "a certificate would outlive its issuer")
		}
	}
	p.checkReaching(root)
	if d := p.done(); d.HasErrors() {
		return nil, d
	}
	return out, p.diags
}

func agent(p *parser, root *node) (*Agent, Diagnostics) {
	out := &Agent{
		Node: or(root.text("node"), hostName()), DataDir: or(root.text("data_dir"), "/var/lib/kerege/agent"), RunDir: or(root.text("run_dir"), "/run/kerege"),
		RetryJoin: root.texts("retry_join"), CacheKeyFile: root.text("cache_key_file"), Metrics: or(root.text("metrics"), "none"), Log: logging(root),
		Envoy:   Envoy{Path: "envoy", DrainDelay: 5 * time.Second, DrainTimeout: 30 * time.Second},
		DNS:     DNS{Enabled: true, Address: "127.0.0.1:15053", Domain: "mesh", Scope: "workloads"},
		Capture: captured(root.block("capture")), Consul: consul(root.block("consul")), Nomad: nomad(root.block("nomad")),
	}
	out.Capture.OnEnvoyDown = or(out.Capture.OnEnvoyDown, "closed")
	if x := root.block("join"); x != nil {
		out.Join.TokenFile = x.text("token_file")
	}
	if x := root.block("envoy"); x != nil {
		out.Envoy = Envoy{Path: or(x.text("path"), "envoy"), User: x.text("user"), Concurrency: x.int("concurrency"),
			DrainDelay: orTime(x.time("drain_delay"), 5*time.Second), DrainTimeout: orTime(x.time("drain_timeout"), 30*time.Second)}
	}
	if x := root.block("dns"); x != nil {
		out.DNS = DNS{Enabled: !x.has("enabled") || x.flag("enabled"), Address: or(x.text("address"), "127.0.0.1:15053"), Upstreams: x.texts("upstreams"),
			Domain: or(x.text("domain"), "mesh"), Scope: or(x.text("scope"), "workloads")}
	}
	for _, x := range root.all("workload") {
		out.Workloads = append(out.Workloads, p.workload(x))
	}
	p.checkReaching(root)
	if d := p.done(); d.HasErrors() {
		return nil, d
	}
	return out, p.diags
}

func (p *parser) workload(x *node) Workload {
	var first string
	for _, name := range []string{"user", "unit", "slice", "netns"} {
		if x.has(name) && first != "" {
			p.errorf(codeExclusive, place{x.nameOf(name), x.in}, "Keep one of them.", "%s and %s exclude each other", first, name)
		}
		if x.has(name) {
			first = name
		}
	}
	return Workload{Name: x.label, User: x.text("user"), Unit: x.text("unit"), Slice: x.text("slice"), Netns: x.text("netns"),
		Ports: x.ports("ports"), Capture: captured(x.block("capture")), Pos: at(x.rng)}
}

func captured(x *node) Capture {
	if x == nil {
		return Capture{}
	}
	return Capture{NeverPorts: x.ports("never_capture_ports"), ExcludeInbound: x.ports("exclude_inbound_ports"), ExcludeOutbound: x.ports("exclude_outbound_ports"),
		ExcludeAddresses: x.texts("exclude_addresses"), IncludeAddresses: x.texts("include_addresses"), ExcludeUsers: x.texts("exclude_users"), OnEnvoyDown: x.text("on_envoy_down")}
}

// checkReaching holds token against token_file, and certificate against key.
func (p *parser) checkReaching(root *node) {
	for _, x := range []*node{root.block("consul"), root.block("nomad")} {
		if x == nil {
			continue
		}
		if x.has("token") && x.has("token_file") {
			p.errorf(codeExclusive, place{x.nameOf("token_file"), x.in}, "Keep the file.", "token and token_file exclude each other")
		}
		if x.has("cert_file") != x.has("key_file") && !x.bad {
			p.errorf(codeMissing, x.where(), "Set both, or none.", "cert_file and key_file belong together")
		}
	}
}

func consul(x *node) *Consul {
	if x == nil {
		return nil
	}
	return &Consul{Address: x.text("address"), Scheme: x.text("scheme"), Token: Secret(x.text("token")), TokenFile: x.text("token_file"),
		Datacenter: x.text("datacenter"), Datacenters: x.texts("datacenters"), Namespace: x.text("namespace"), Partition: x.text("partition"),
		CAFile: x.text("ca_file"), CAPath: x.text("ca_path"), CertFile: x.text("cert_file"), KeyFile: x.text("key_file"),
		TLSServerName: x.text("tls_server_name"), SkipVerify: x.flag("skip_verify")}
}

func nomad(x *node) *Nomad {
	if x == nil {
		return nil
	}
	return &Nomad{Address: x.text("address"), Region: x.text("region"), Namespace: x.text("namespace"), Token: Secret(x.text("token")), TokenFile: x.text("token_file"),
		CAFile: x.text("ca_file"), CAPath: x.text("ca_path"), CertFile: x.text("cert_file"), KeyFile: x.text("key_file"),
		TLSServerName: x.text("tls_server_name"), SkipVerify: x.flag("skip_verify")}
}

func logging(root *node) Log {
	return Log{Level: or(root.text("log_level"), "info"), JSON: root.flag("log_json")}
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func orTime(d *time.Duration, def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	return *d
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "localhost"
	}
	return name
}
