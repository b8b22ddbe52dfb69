package config

// Settings of processes: server.hcl and agent.hcl.

func serverSchema() *block {
	b := &block{name: "server's settings", meant: map[string]string{"node": "name = …: a server has a name, an agent a node"}, attrs: []*attr{
		{name: "name", typ: nodeName, def: "the host's name", doc: "This server's name, in its identity."},
		{name: "data_dir", typ: file, def: `"/var/lib/kerege/server"`, doc: "State: CA, members, virtual addresses, and the token of operators on other machines (operator-token). 0700."},
		{name: "mesh", typ: files, def: `["/etc/kerege.d/mesh"]`, doc: "Files and directories of mesh configuration."},
		{name: "advertise", typ: host, def: "the host's first address that is not loopback", doc: "Address or name that agents dial."},
		{name: "first_grace", typ: durationOrZero, def: `"30s"`, doc: "Longest wait for a registry before the first answer to a proxy."},
	}, blocks: []*block{
		{name: "addresses", doc: "Where the server listens.", attrs: []*attr{
			{name: "grpc", typ: listen, def: `":7401"`, doc: "Join, sign, node and ADS."},
			{name: "https", typ: listen, def: `":7402"`, doc: "The API for operators on other machines, and /metrics: for whoever has the token in data_dir/operator-token."},
			{name: "metrics", typ: listen, def: `"none"`, doc: "Plain HTTP with /metrics and /healthz only."},
		}},
		{name: "tls", doc: "The API's certificate; left out: one of the mesh's own CA.", attrs: []*attr{
			{name: "ca_file", typ: file, doc: "PEM of the roots that operators' certificates are checked against."},
			{name: "cert_file", typ: file, required: true, doc: "PEM, read again when it changes."},
			{name: "key_file", typ: file, required: true, doc: "PEM, read again when it changes."},
		}},
		{name: "ca", doc: "How long certificates live.", attrs: []*attr{
			{name: "leaf_ttl", typ: duration, def: `"24h"`, doc: "A workload's; renewed between 40 % and 50 % of it."},
			{name: "intermediate_ttl", typ: duration, def: `"365d"`, doc: "The signing intermediate's."},
			{name: "root_ttl", typ: duration, def: `"3650d"`, doc: "The root's."},
		}},
		consulBlock(), nomadBlock(),
	}}
	b.attrs = append(b.attrs, commonAttrs()...)
	return b
}

var (
	nodeName  = &typ{kind: kindText, name: "name of a host", example: `"vm-12"`, check: checkNode, code: codeName}
	userName  = &typ{kind: kindText, name: "user", example: `"web"`, check: checkUser, code: codeName}
	proxyUser = &typ{kind: kindText, name: "user", example: `"kerege-envoy"`, check: checkProxyUser, code: codeName}
	unitName  = &typ{kind: kindText, name: "systemd unit", example: `"web.service"`, check: checkUnit(".service"), code: codeName}
	slice     = &typ{kind: kindText, name: "systemd slice", example: `"web.slice"`, check: checkUnit(".slice"), code: codeName}
	secret    = &typ{kind: kindText, name: "secret", example: `"…"`, check: checkFilled}
)

func commonAttrs() []*attr {
	return []*attr{
		{name: "run_dir", typ: file, def: `"/run/kerege"`, doc: "Sockets."},
		{name: "log_level", typ: word("info", "trace", "debug", "warn", "error"), def: `"info"`, doc: "SIGHUP reads it again."},
		{name: "log_json", typ: boolean, def: "false", doc: "One JSON object a line."},
	}
}

func reachAttrs(service string, port string) []*attr {
	return []*attr{
		{name: "address", typ: filled, def: service + "_ADDR, then " + port, doc: "host:port, URL, or unix:///path."},
		{name: "token", typ: secret, def: service + "_TOKEN", doc: "Better in a file."},
		{name: "token_file", typ: file, def: service + "_TOKEN_FILE", doc: "Read again when it changes; 0600."},
		{name: "ca_file", typ: file, def: service + "_CACERT", doc: "PEM of the roots that its certificate is checked against."},
		{name: "ca_path", typ: file, def: service + "_CAPATH", doc: "A directory of them."},
		{name: "cert_file", typ: file, def: service + "_CLIENT_CERT", doc: "Client certificate, PEM."},
		{name: "key_file", typ: file, def: service + "_CLIENT_KEY", doc: "Its key, PEM."},
		{name: "tls_server_name", typ: host, def: service + "_TLS_SERVER_NAME", doc: "Name in its certificate."},
		{name: "skip_verify", typ: boolean, def: "false", doc: "Its certificate is not checked. For tries only."},
		{name: "namespace", typ: filled, def: service + "_NAMESPACE", doc: "Namespace that is read."},
	}
}

func consulBlock() *block {
	b := &block{name: "consul", doc: "Consul is read when the block is there; what is left out comes from CONSUL_* in the environment, then from Consul's own defaults.",
		attrs: reachAttrs("CONSUL_HTTP", `"127.0.0.1:8500"`)}
	for _, a := range b.attrs {
		switch a.name {
		case "ca_file", "ca_path", "cert_file", "key_file", "tls_server_name", "namespace":
			a.def = "CONSUL_" + a.def[len("CONSUL_HTTP_"):]
		}
	}
	b.attrs = append(b.attrs,
		&attr{name: "scheme", typ: word("http", "https"), def: `"http", or "https" with CONSUL_HTTP_SSL`, doc: "How it is spoken to."},
		&attr{name: "datacenter", typ: filled, def: "the agent's own", doc: "Datacenter whose instances are local."},
		&attr{name: "datacenters", typ: texts, doc: "Datacenters that are read besides."},
		&attr{name: "partition", typ: filled, def: "CONSUL_PARTITION", doc: "Admin partition that is read."})
	return b
}

func nomadBlock() *block {
	b := &block{name: "nomad", doc: "Nomad is read when the block is there; what is left out comes from NOMAD_* in the environment, then from Nomad's own defaults.",
		attrs: reachAttrs("NOMAD", `"127.0.0.1:4646"`)}
	b.attrs = append(b.attrs, &attr{name: "region", typ: filled, def: "NOMAD_REGION", doc: "Region that is read."})
	return b
}

func agentSchema() *block {
	b := &block{name: "agent's settings", meant: map[string]string{
		"name":    "node = …: an agent stands for its host",
		"servers": `retry_join = ["host:7401"]`,
		"server":  `retry_join = ["host:7401"]`,
	}, attrs: []*attr{
		{name: "node", typ: nodeName, def: "the host's name", doc: "This host, as the registries know it."},
		{name: "data_dir", typ: file, def: `"/var/lib/kerege/agent"`, doc: "Last accepted resources and certificates, sealed. 0700."},
		{name: "retry_join", typ: dials, doc: "Servers. They are tried for ever."},
		{name: "cache_key_file", typ: file, def: "a key made in data_dir", doc: "Key that seals the cache, 32 bytes; put it where a copy of the disk does not take it along."},
		{name: "metrics", typ: listen, def: `"none"`, doc: "Plain HTTP with /metrics and /healthz only."},
	}, blocks: []*block{
		{name: "join", doc: "How this node proves, once, that it may join.", attrs: []*attr{
			{name: "token_file", typ: file, required: true, doc: "A join token; removed once it is spent."},
		}},
		{name: "envoy", doc: "How this node's proxies run.", attrs: []*attr{
			{name: "path", typ: filled, def: `"envoy"`, doc: "The binary; a bare name is looked up in PATH."},
			{name: "user", typ: proxyUser, def: `"kerege-envoy"`, doc: "User that the proxies run as, and whose traffic is never captured; a service's own user, kerege-envoy-SERVICE, goes before it where that exists."},
			{name: "concurrency", typ: whole(1, 256), def: "one a CPU", doc: "Worker threads of a proxy."},
			{name: "drain_delay", typ: durationOrZero, def: `"5s"`, doc: "Between leaving the registry and draining."},
			{name: "drain_timeout", typ: durationOrZero, def: `"30s"`, doc: "Longest wait for calls in flight."},
		}},
		workloadBlock(), captureBlock(),
		{name: "dns", doc: "Names of the mesh, answered on this node.", attrs: []*attr{
			{name: "enabled", typ: boolean, def: "true", doc: "Whether it runs."},
			{name: "address", typ: listen, def: `"127.0.0.1:15053"`, doc: "Where it listens."},
			{name: "upstreams", typ: dials, def: "those of /etc/resolv.conf", doc: "Who is asked for all other names."},
			{name: "domain", typ: host, def: `"mesh"`, doc: "NAME.mesh is a service of the mesh."},
			{name: "scope", typ: word("workloads", "host"), def: `"workloads"`, doc: "Whose queries are captured."},
		}},
		consulBlock(), nomadBlock(),
	}}
	b.attrs = append(b.attrs, commonAttrs()...)
	return b
}

func workloadBlock() *block {
	return &block{name: "workload", label: "the service's name", many: true,
		doc: "An application of this node, where the registry does not say enough: it is captured by one of user, unit, slice and netns.",
		attrs: []*attr{
			{name: "user", typ: userName, doc: "The user it runs as; never root."},
			{name: "unit", typ: unitName, doc: "The systemd unit it runs in."},
			{name: "slice", typ: slice, doc: "The systemd slice it runs in."},
			{name: "netns", typ: nodeName, doc: "The network namespace it runs in."},
			{name: "ports", typ: ports, def: "those that are registered", doc: "Captured inbound; all else of this user stays as it is."},
		}, blocks: []*block{captureBlock()}}
}

func captureBlock() *block {
	return &block{name: "capture", doc: "What is taken and what is not. Exclusions add up: nothing takes away what a wider block, or the agent itself, leaves alone (SSH, the ports of Consul, Nomad, Serf and kerege).", attrs: []*attr{
		{name: "never_capture_ports", typ: ports, doc: "In either direction."},
		{name: "exclude_inbound_ports", typ: ports, doc: "Of this node."},
		{name: "exclude_outbound_ports", typ: ports, doc: "Of others."},
		{name: "exclude_addresses", typ: cidrs, doc: "Destinations that are dialled directly."},
		{name: "include_addresses", typ: cidrs, def: "all", doc: "Destinations that are captured."},
		{name: "exclude_users", typ: &typ{kind: kindTexts, name: "list of users", example: `["backup"]`, check: checkUser, code: codeName}, doc: "Users whose calls are never captured."},
		{name: "on_envoy_down", typ: word("closed", "bypass"), def: `"closed"`, doc: "Whether traffic waits for Envoy or goes around it."},
	}}
}
