package config

// Blocks whose text is checked in full and whose behaviour is not there yet.

func applyBlock() *block {
	return &block{name: "apply", doc: "Where it holds.", attrs: []*attr{
		{name: "destinations", typ: patterns, required: true, doc: "Services."},
		{name: "path_prefix", typ: path, doc: "Whole segments of the path."},
	}}
}

func jwtBlock() *block {
	return &block{name: "jwt", label: "the issuer's name", many: true, later: true, doc: "Who signs the tokens of end users. A bad token is refused; a missing one too, unless optional.", attrs: []*attr{
		{name: "issuer", typ: link, required: true, doc: "The iss claim."},
		{name: "audiences", typ: texts, doc: "One of them is the aud claim."},
		{name: "optional", typ: boolean, def: "false", doc: "A call without a token passes."},
	}, blocks: []*block{
		{name: "jwks", doc: "The issuer's keys.", attrs: []*attr{
			{name: "uri", typ: link, doc: "Fetched from here,"},
			{name: "file", typ: file, doc: "or read from here."},
			{name: "cache", typ: duration, def: `"10m"`, doc: "Time between two fetches."},
		}},
		applyBlock(),
	}}
}

func authorizerBlock() *block {
	return &block{name: "authorizer", label: "the authorizer's name", many: true, later: true, doc: "A service that is asked before a call is let through.", attrs: []*attr{
		{name: "service", typ: name, required: true, doc: "The service."},
		{name: "timeout", typ: duration, def: `"200ms"`, doc: "Longest time for its answer."},
		{name: "on_error", typ: actions, def: `"deny"`, doc: "What happens without an answer."},
	}, blocks: []*block{applyBlock()}}
}

func quotaBlock() *block {
	return &block{name: "quota", label: "the quota's name", many: true, later: true, doc: "A rate, counted over the whole mesh.", attrs: []*attr{
		{name: "requests", typ: count, required: true, doc: "Calls."},
		{name: "per", typ: duration, required: true, doc: "In this time."},
		{name: "by", typ: texts, required: true, doc: "Counted apart for each value."},
		{name: "on_missing", typ: word("deny", "share", "ignore"), def: `"deny"`, doc: "What happens to a call without that value: refused, counted in one bucket, or not counted."},
		{name: "on_error", typ: actions, def: `"allow"`, doc: "What happens when nobody counts."},
	}, blocks: []*block{
		{name: "limit", label: "the exception's name", many: true, doc: "A value that differs.", attrs: []*attr{
			{name: "when", typ: filled, required: true, doc: "CEL over the request."},
			{name: "requests", typ: count, required: true, doc: "Calls, in the quota's time."},
		}},
		applyBlock(),
		{name: "respond", doc: "The refusal.", attrs: []*attr{
			{name: "status", typ: status, def: "429", doc: "The status."},
			{name: "body", typ: text, doc: "The body."},
			{name: "headers", typ: headerMap, doc: "Headers of the answer."},
		}},
	}}
}

func gatewayBlock() *block {
	redirect := &block{name: "redirect", doc: "Answers every call with a redirect.", attrs: ruleBlock().blockNamed("redirect").attrs}
	return &block{name: "gateway", label: "the gateway's name", many: true, later: true,
		doc: "Proxies at the edge. Its rules choose a service, whose own route block is then obeyed.",
		blocks: []*block{
			{name: "listener", label: "the listener's name", many: true, doc: "A port; several may share one when their hosts differ.", attrs: []*attr{
				{name: "port", typ: port, required: true, doc: "Its number."},
				{name: "hosts", typ: hosts, doc: "Hosts it answers for."},
				{name: "trusted_hops", typ: whole(0, 16), def: "0", doc: "Proxies before it that append to x-forwarded-for."},
			}, blocks: []*block{
				{name: "tls", doc: "How TLS ends here.", attrs: []*attr{
					{name: "cert_file", typ: file, doc: "PEM, read again when it changes."},
					{name: "key_file", typ: file, doc: "PEM, read again when it changes."},
					{name: "min_version", typ: word("1.2", "1.3"), def: `"1.2"`, doc: "The oldest version spoken."},
					{name: "mode", typ: word("terminate", "passthrough"), def: `"terminate"`, doc: "passthrough looks at the name only."},
				}, blocks: []*block{
					{name: "acme", doc: "A certificate by ACME.", attrs: []*attr{
						{name: "email", typ: filled, required: true, doc: "Whom the authority writes to."},
						{name: "directory", typ: link, def: "Let's Encrypt", doc: "The authority."},
					}},
				}},
				redirect, ruleBlock(),
			}},
		}}
}

func externalBlock() *block {
	return &block{name: "external", label: "its name in the mesh", many: true, later: true, doc: "Something outside the mesh that workloads may reach.", attrs: []*attr{
		{name: "hosts", typ: hosts, required: true, doc: "Its names."},
		{name: "ports", typ: ports, required: true, doc: "Its ports."},
		{name: "protocol", typ: protocols, required: true, doc: "What is spoken."},
		{name: "resolve", typ: word("dns", "static", "original"), def: `"dns"`, doc: "How its addresses are found."},
		{name: "addresses", typ: texts, doc: "With resolve = \"static\"."},
		{name: "through", typ: name, def: "from the caller's proxy", doc: "A gateway of that name."},
	}, blocks: []*block{healthBlock(), limitsBlock()}}
}

func telemetryBlock() *block {
	return &block{name: "telemetry", later: true, doc: "What proxies report.", blocks: []*block{
		{name: "access_log", doc: "A line for each call.", attrs: []*attr{
			{name: "format", typ: word("json", "text"), def: `"json"`, doc: "How a line looks."},
			{name: "to", typ: filled, def: `"stdout"`, doc: "stdout, or a file."},
			{name: "when", typ: filled, doc: "CEL over the call."},
		}},
		{name: "tracing", doc: "OpenTelemetry.", attrs: []*attr{
			{name: "otlp", typ: dial, required: true, doc: "The collector, OTLP over gRPC."},
			{name: "sample", typ: percent, def: `"1%"`, doc: "Share of the calls."},
		}},
	}}
}

// testBlock is checked, and run by `kerege test`; apply passes over it.
func testBlock() *block {
	return &block{name: "test", label: "what it proves", check: filled, many: true, doc: "What a call should meet. It is checked as text; it changes nothing in the mesh.", blocks: []*block{
		{name: "request", need: true, doc: "The call.", attrs: []*attr{
			{name: "from", typ: name, required: true, doc: "Who calls."},
			{name: "to", typ: name, required: true, doc: "Who is called."},
			{name: "port", typ: name, doc: "The named port."},
			{name: "method", typ: &typ{kind: kindText, name: "HTTP method", example: `"GET"`, check: checkMethod}, def: `"GET"`, doc: "The method."},
			{name: "path", typ: path, def: `"/"`, doc: "The path."},
			{name: "headers", typ: headerMap, doc: "Request headers."},
		}},
		{name: "expect", need: true, doc: "What it meets.", attrs: []*attr{
			{name: "allowed", typ: boolean, doc: "Whether it is let through."},
			{name: "rule", typ: name, doc: "The rule that takes it."},
			{name: "to", typ: weights, doc: "Targets and their shares."},
			{name: "status", typ: status, doc: "The status, where a rule answers by itself."},
		}},
	}}
}
