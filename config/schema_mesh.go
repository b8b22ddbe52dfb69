package config

// meshSchema is the language of mesh files: everything but settings.
func meshSchema() *block {
	return &block{name: "mesh file", blocks: []*block{
		meshBlock(), defaultsBlock(), serviceBlock(), routeBlock(), intentionBlock(),
		jwtBlock(), authorizerBlock(), quotaBlock(), gatewayBlock(), externalBlock(), telemetryBlock(), testBlock(),
	}}
}

var (
	protocols = word("tcp", "tls", "http", "http2", "grpc")
	mtlsModes = word("strict", "permissive", "disabled")
	actions   = word("deny", "allow")
	retryOn   = &typ{kind: kindTexts, name: "list of conditions or status codes", example: `["connect-failure"]`, check: checkRetryOn, words: retryWords, lax: true, code: codeWord}
)

func meshBlock() *block {
	return &block{name: "mesh", doc: "What holds for the whole mesh. At most one.", attrs: []*attr{
		{name: "trust_domain", typ: domain, def: `"kerege.local"`, doc: "The domain in every identity, `spiffe://<trust domain>/svc/<service>`. It cannot be changed on a running mesh."},
		{name: "mtls", typ: mtlsModes, def: `"strict"`, doc: "What instances accept: mTLS only; mTLS, and plaintext from outside the mesh; or plaintext. A service and a port may say otherwise."},
		{name: "default_intention", typ: actions, def: `"deny"`, doc: "What a call meets that no intention speaks of. A service may say otherwise."},
		{name: "outbound", typ: word("registered", "any"), def: `"registered"`, doc: "Whether a workload may reach what the mesh does not know."},
	}}
}

// tuning is what defaults and service both say.
func tuningAttrs() []*attr {
	return []*attr{
		{name: "protocol", typ: protocols, def: "registry metadata, then defaults, then detected", doc: "What the application speaks."},
		{name: "timeout", typ: durationOrNone, def: `"none"`, doc: "Longest time for a whole answer."},
		{name: "idle_timeout", typ: durationOrNone, def: `"5m"`, doc: "Longest time without a byte in either direction."},
		{name: "nodes", typ: nodes, def: "wherever a registry says", doc: "The hosts on which its instances may be. With nodes or jobs, what a registry places elsewhere is held back and its host is not given the service's identity."},
		{name: "jobs", typ: jobs, def: "none beside nodes", doc: "The Nomad jobs in which its instances may be, besides those on nodes. A job's name is its namespace's: name that in the source block where the server reads several."},
		{name: "dialed_directly", typ: boolean, def: "false", doc: "Whether callers whose traffic is captured may also dial an instance's own address, as programs do that balance by themselves: they get that instance, by mTLS where it is in the mesh. An instance is then one listener more in every caller's proxy."},
	}
}

func tuningBlocks() []*block {
	return []*block{retryBlock(), balanceBlock(), limitsBlock(), outlierBlock()}
}

func defaultsBlock() *block {
	return &block{name: "defaults", label: `a service, "prefix-*" or "*"`, check: pattern, many: true,
		doc:   "Settings of all services that the label covers. The longest label that matches wins, argument by argument; a nested block replaces the wider one whole.",
		attrs: tuningAttrs(), blocks: tuningBlocks()}
}

func retryBlock() *block {
	return &block{name: "retry", doc: "When a call is tried again, on another instance where there is one. A call that never reached the application is tried again whatever its method; one that may have reached it is not, when its answer has begun.", attrs: []*attr{
		{name: "times", typ: whole(0, 10), def: "2", doc: "Tries after the first; 0 is never."},
		{name: "on", typ: retryOn, def: `["connect-failure", "refused-stream", "reset"]`, doc: "connect-failure, refused-stream, reset, gateway-error, 5xx, or a status such as \"503\". The first two never reached the application; a reset is a call that got no answer, for its program, proxy or host died. Where `on` is left out, reset is for GET, HEAD and OPTIONS alone."},
		{name: "any_method", typ: boolean, def: "false", doc: "What may have reached the application is otherwise tried again only for GET, HEAD, OPTIONS, PUT and DELETE; where `on` is left out, for GET, HEAD and OPTIONS."},
		{name: "per_try", typ: duration, def: "none", doc: "Longest time for one try."},
		{name: "backoff", typ: duration, def: `"25ms"`, doc: "First wait between tries; it doubles, with jitter."},
		{name: "backoff_max", typ: duration, def: `"250ms", or backoff where that is longer`, doc: "Longest wait between tries."},
		{name: "budget", typ: percent, def: `"20%"`, doc: "Share of the calls in flight that may be retries."},
	}}
}

func balanceBlock() *block {
	return &block{name: "balance", doc: "Which instance a call goes to.", attrs: []*attr{
		{name: "policy", typ: word("least_request", "round_robin", "random", "ring_hash", "maglev"), def: `"least_request"`, doc: "ring_hash and maglev need a hash block."},
		{name: "slow_start", typ: duration, def: "none", doc: "Time in which a new instance is brought to its full share. Not with a hash."},
	}, blocks: []*block{
		{name: "hash", doc: "What ring_hash and maglev hash on: exactly one of these.", attrs: []*attr{
			{name: "header", typ: header, doc: "A request header."},
			{name: "cookie", typ: filled, doc: "A cookie; the proxy sets one where the caller has none."},
			{name: "query", typ: filled, doc: "A query parameter."},
			{name: "source_ip", typ: boolean, doc: "The caller's address."},
		}},
	}}
}

func limitsBlock() *block {
	return &block{name: "limits", doc: "Circuit breakers of each calling proxy, towards all of the service.", attrs: []*attr{
		{name: "max_connections", typ: count, def: "no limit", doc: "Open connections."},
		{name: "max_pending_requests", typ: count, def: "no limit", doc: "Requests that wait for a connection."},
		{name: "max_concurrent_requests", typ: count, def: "no limit", doc: "Requests in flight."},
	}}
}

func outlierBlock() *block {
	return &block{name: "outlier", doc: "When an instance that answers badly is left out for a while, by each calling proxy.", attrs: []*attr{
		{name: "consecutive_5xx", typ: count, def: "5", doc: "Answers 5xx, or failed connections, in a row."},
		{name: "interval", typ: duration, def: `"10s"`, doc: "How often ejected instances are looked at."},
		{name: "eject", typ: duration, def: `"30s"`, doc: "First time out; it grows with each ejection."},
		{name: "at_most", typ: percent, def: `"50%"`, doc: "Share of the instances that may be out at once."},
		{name: "off", typ: boolean, def: "false", doc: "No instance is ever left out."},
	}}
}

func serviceBlock() *block {
	b := &block{name: "service", label: "the service's name", many: true,
		doc: "A service, where its registry does not say enough. One that is registered needs no block."}
	b.attrs = append(tuningAttrs(),
		&attr{name: "mtls", typ: mtlsModes, def: "the mesh's", doc: "What the service's instances accept."},
		&attr{name: "default_intention", typ: actions, def: "the mesh's", doc: "What a call meets that no intention speaks of."})
	b.blocks = append([]*block{
		{name: "source", label: "consul or nomad", check: word("consul", "nomad"), many: true, doc: "Where its instances are found when not under its own name.", attrs: []*attr{
			{name: "service", typ: filled, def: "the block's name", doc: "Its name in that registry."},
			{name: "datacenters", typ: texts, def: "the registry's own", doc: "Consul datacenters that are read."},
			{name: "namespace", typ: filled, doc: "Its namespace in that registry."},
			{name: "filter", typ: filter, doc: "Instances that count."},
		}},
		{name: "instance", label: "the instance's name", many: true, doc: "A host that no registry knows.", attrs: []*attr{
			{name: "address", typ: address, required: true, doc: "Its address."},
			{name: "port", typ: port, required: true, doc: "Its port."},
			{name: "node", typ: filled, doc: "The node whose agent answers for it."},
			{name: "meta", typ: textMap, doc: "Metadata that filters see as Service.Meta."},
			{name: "tags", typ: texts, doc: "Tags that filters see as Service.Tags."},
			{name: "weight", typ: whole(1, 65535), def: "1", doc: "Its share against the other instances."},
		}},
		{name: "port", label: "the port's name", many: true, doc: "A port of the service, as its callers see it. Left out: the one that all instances in the mesh share, and once it is served it stays until they all share another; else 80, also for ports that Nomad draws.", attrs: []*attr{
			{name: "port", typ: port, required: true, doc: "Its number."},
			{name: "protocol", typ: protocols, def: "the service's", doc: "What is spoken there."},
			{name: "mtls", typ: mtlsModes, def: "the service's", doc: "What is accepted there."},
		}},
		{name: "subset", label: "the subset's name", many: true, doc: "A part of the service's instances, for `to \"service.subset\"`.", attrs: []*attr{
			{name: "filter", typ: filter, required: true, doc: "Instances that belong to it."},
		}},
		healthBlock(),
		{name: "locality", later: true, doc: "Which instances are preferred.", attrs: []*attr{
			{name: "prefer", typ: wordList("zone", "region", "datacenter"), required: true, doc: "In this order."},
		}},
		{name: "failover", later: true, doc: "Where calls go when too few instances are healthy nearer by.", attrs: []*attr{
			{name: "datacenters", typ: texts, required: true, doc: "In this order; each is one that a source reads."},
			{name: "healthy_below", typ: percent, def: "as Envoy: below 72 % the surplus moves", doc: "Share of healthy instances below which all calls move."},
			{name: "through", typ: name, def: "directly", doc: "A gateway of that name."},
		}},
	}, tuningBlocks()...)
	return b
}

func healthBlock() *block {
	return &block{name: "health", later: true, doc: "Checks by the proxies, besides the registry's; both must pass.", attrs: []*attr{
		{name: "path", typ: path, doc: "Asked by HTTP."},
		{name: "tcp", typ: boolean, doc: "Only opened."},
		{name: "interval", typ: duration, def: `"5s"`, doc: "Between two checks."},
		{name: "timeout", typ: duration, def: `"1s"`, doc: "Longest time for one."},
	}}
}

func intentionBlock() *block {
	rule := func(verb, doc string) *block {
		return &block{name: verb, many: true, doc: doc, attrs: []*attr{
			{name: "name", typ: name, doc: "In logs and refusals."},
			{name: "from", typ: patterns, required: true, doc: "Callers."},
			{name: "except", typ: patterns, doc: "Callers that this block does not speak of."},
			{name: "methods", typ: method, def: "all", doc: "HTTP methods."},
			{name: "path", typ: path, doc: "The whole path."},
			{name: "path_prefix", typ: path, doc: "Whole segments of the path, a trailing slash ignored."},
			{name: "path_regex", typ: regex, doc: "RE2 over the whole path."},
			{name: "ports", typ: portIDs, def: "all", doc: "Named ports of the destination."},
			{name: "when", typ: filled, later: true, doc: "CEL over the request."},
			{name: "shadow", typ: boolean, later: true, doc: "Count and log what this rule would do; change nothing."},
		}}
	}
	return &block{name: "intention", label: `a service, "prefix-*" or "*"`, check: pattern, many: true,
		doc: "Who may call a destination. Nothing is allowed but by an allow block; a deny that matches wins over every allow, in whatever file. An empty block is an error.",
		attrs: []*attr{
			{name: "open", typ: word("cut", "finish"), def: `"cut"`, doc: "What happens to what a caller has open when it loses its right: its TCP connections and running HTTP calls are cut within a second, or may finish. Where several intentions deny it, one that cuts decides; where none does, the one with the most exact label."},
		}, blocks: []*block{rule("allow", "Callers that may call."), rule("deny", "Callers that may not, whatever allows them.")}}
}
