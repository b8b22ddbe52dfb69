package config

import "strconv"

var retryWords = []string{"connect-failure", "refused-stream", "reset", "gateway-error", "5xx"}

func checkRetryOn(s string) (string, string) {
	for _, w := range retryWords {
		if s == w {
			return "", ""
		}
	}
	if n, err := strconv.Atoi(s); err == nil && len(s) == 3 && n >= 400 && n <= 599 {
		return "", ""
	}
	return "is no condition to retry on", didYouMean(s, append([]string{"503"}, retryWords...))
}

func routeBlock() *block {
	return &block{name: "route", label: "the service's name", many: true,
		doc:    "What is asked of a service, by whomever. Rules are tried as written, the first that matches wins; what no rule matches goes to the service as if there were no route block.",
		blocks: []*block{ruleBlock(), corsBlock(), rateLimitBlock()}}
}

func ruleBlock() *block {
	return &block{name: "rule", label: "the rule's name", many: true, doc: "One rule. Without match it takes every call; without to it goes to all of the service.",
		attrs: []*attr{
			{name: "port", typ: name, def: "any", doc: "Only calls to this named port."},
			{name: "timeout", typ: durationOrNone, def: "the service's", doc: "Longest time for a whole answer."},
			{name: "idle_timeout", typ: durationOrNone, def: "the service's", doc: "Longest time without a byte in either direction."},
		},
		blocks: []*block{
			matchBlock(), retryBlock(),
			{name: "to", label: "service or service.subset", check: target, many: true, doc: "A target, each once. It never re-enters routes.", attrs: []*attr{
				{name: "weight", typ: weight, def: "the rest", doc: "Percent in 0.01 steps. The weights add up to 100; one target may leave its own out and takes the rest."},
				{name: "if_empty", typ: word("rest", "fail"), def: `"rest"`, doc: "Where the share goes when there is no instance: to the rule's other targets, or 503."},
			}},
			headerOpsBlock("request_headers", "Changes to the request's headers."),
			headerOpsBlock("response_headers", "Changes to the answer's headers."),
			{name: "rewrite", doc: "Changes what the target is asked for. At most one of the paths.", attrs: []*attr{
				{name: "path", typ: path, doc: "The whole path."},
				{name: "path_prefix", typ: path, doc: "In place of the match's path_prefix."},
				{name: "path_regex", typ: regexSub, doc: "In place of what the match's path_regex found; \\\\1 is its first group."},
				{name: "host", typ: host, doc: "The host."},
			}},
			{name: "redirect", doc: "Answers with a redirect.", attrs: []*attr{
				{name: "scheme", typ: word("https", "http"), doc: "The new scheme."},
				{name: "host", typ: host, doc: "The new host."},
				{name: "port", typ: port, doc: "The new port."},
				{name: "path", typ: path, doc: "The whole new path."},
				{name: "path_prefix", typ: path, doc: "In place of the match's path_prefix."},
				{name: "code", typ: &typ{kind: kindInt, name: "301, 302, 303, 307 or 308", example: "308", min: 301, max: 308}, def: "308", doc: "The status."},
			}},
			{name: "respond", doc: "Answers by itself.", attrs: []*attr{
				{name: "status", typ: status, required: true, doc: "The status."},
				{name: "body", typ: &typ{kind: kindText, name: "text, at most 4096 bytes", example: `"text"`, check: checkBody}, doc: "The body."},
				{name: "headers", typ: headerMap, later: true, doc: "Headers of the answer."},
			}},
			{name: "reject", later: true, doc: "Closes the connection."},
			{name: "mirror", label: "service or service.subset", check: target, many: true, later: true, doc: "A second target, whose answers are thrown away.", attrs: []*attr{
				{name: "share", typ: percent, def: `"100%"`, doc: "Share of the calls."},
			}},
			{name: "fault", later: true, doc: "Faults on purpose; delay and abort are drawn independently.", blocks: []*block{
				{name: "delay", doc: "Waits.", attrs: []*attr{
					{name: "time", typ: duration, required: true, doc: "How long."},
					{name: "share", typ: percent, required: true, doc: "Share of the calls."},
				}},
				{name: "abort", doc: "Answers by itself.", attrs: []*attr{
					{name: "status", typ: status, required: true, doc: "The status."},
					{name: "share", typ: percent, required: true, doc: "Share of the calls."},
				}},
			}},
		}}
}

func checkBody(s string) (string, string) {
	if len(s) > 4096 {
		return "has more than 4096 bytes", "The body is sent to every caller's proxy: keep it short."
	}
	return "", ""
}

func headerOpsBlock(name, doc string) *block {
	return &block{name: name, doc: doc, attrs: []*attr{
		{name: "set", typ: opMap, doc: "Put in place of what is there."},
		{name: "add", typ: opMap, doc: "Added to what is there."},
		{name: "remove", typ: opHeaders, doc: "Taken away."},
	}}
}

func matchBlock() *block {
	value := func(name, label, doc string, check *typ) *block {
		return &block{name: name, label: label, check: check, many: true, free: true, doc: doc, attrs: []*attr{
			{name: "exact", typ: text, doc: "The whole value."},
			{name: "prefix", typ: filled, doc: "Its beginning."},
			{name: "suffix", typ: filled, doc: "Its end."},
			{name: "contains", typ: filled, doc: "A part of it."},
			{name: "regex", typ: regex, doc: "RE2 over the whole value."},
			{name: "in", typ: texts, doc: "One of these, exactly."},
			{name: "present", typ: boolean, doc: "Whether it is there at all."},
			{name: "invert", typ: boolean, def: "false", doc: "The condition must not hold."},
			{name: "ignore_case", typ: boolean, def: "false", doc: "For exact, prefix, suffix, contains and in."},
		}}
	}
	return &block{name: "match", many: true, doc: "Which calls the rule takes: all of a block must hold, any of several blocks.", attrs: []*attr{
		{name: "path", typ: path, doc: "The whole path."},
		{name: "path_prefix", typ: path, doc: "Whole segments of the path, a trailing slash ignored: \"/v1\" takes /v1 and /v1/x, never /v1x."},
		{name: "path_regex", typ: regex, doc: "RE2 over the whole path."},
		{name: "methods", typ: method, doc: "HTTP methods."},
		{name: "from", typ: names, doc: "Calling services."},
		{name: "grpc_service", typ: &typ{kind: kindText, name: "gRPC service", example: `"search.v1.Search"`, check: checkGRPC}, doc: "A gRPC service's full name."},
		{name: "sni", typ: hosts, later: true, doc: "Names asked for in the TLS handshake."},
	}, blocks: []*block{
		value("header", "the header's name", "A condition on a request header: exactly one of exact, prefix, suffix, contains, regex, in and present.", header),
		value("query", "the parameter's name", "A condition on a query parameter: exactly one of exact, prefix, suffix, contains, regex, in and present.", filled),
	}}
}

func checkGRPC(s string) (string, string) {
	for i, r := range s {
		if !(r == '.' || r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' && i > 0) {
			return "is no gRPC service", `Write package and service, as "search.v1.Search"; a method is matched with path.`
		}
	}
	return checkFilled(s)
}

func corsBlock() *block {
	return &block{name: "cors", later: true, doc: "Which web pages of other origins may call.", attrs: []*attr{
		{name: "origins", typ: texts, required: true, doc: "Origins, exactly."},
		{name: "methods", typ: method, doc: "Methods they may use."},
		{name: "headers", typ: headers, doc: "Headers they may send."},
		{name: "expose", typ: headers, doc: "Headers they may read."},
		{name: "credentials", typ: boolean, def: "false", doc: "Whether cookies are sent."},
		{name: "max_age", typ: duration, doc: "How long a browser remembers."},
	}}
}

func rateLimitBlock() *block {
	return &block{name: "rate_limit", later: true, doc: "A token bucket in each instance's proxy.", attrs: []*attr{
		{name: "requests", typ: count, required: true, doc: "Tokens that come."},
		{name: "per", typ: duration, required: true, doc: "In this time."},
		{name: "burst", typ: count, def: "requests", doc: "Tokens that are kept."},
		{name: "by", typ: texts, doc: "One bucket for each value."},
	}}
}
