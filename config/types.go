package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/kerege/kerege/mesh"
)

// The types that arguments have.
var (
	text    = &typ{kind: kindText, name: "text", example: `"text"`}
	boolean = &typ{kind: kindBool, name: "true or false", example: "true"}
	texts   = &typ{kind: kindTexts, name: "list of texts", example: `["a", "b"]`}
	textMap = &typ{kind: kindMap, name: "object of texts", example: `{ key = "value" }`}
	filled  = &typ{kind: kindText, name: "text", example: `"text"`, check: checkFilled}

	duration       = &typ{kind: kindDuration, name: "duration", example: `"250ms"`}
	durationOrNone = &typ{kind: kindDuration, name: "duration or \"none\"", example: `"250ms"`, none: true}
	durationOrZero = &typ{kind: kindDuration, name: "duration", example: `"5s"`, zero: true}
	percent        = &typ{kind: kindPercent, name: "percent", example: `"5%"`, max: 100}
	size           = &typ{kind: kindSize, name: "size", example: `"64KiB"`}
	weight         = &typ{kind: kindNumber, name: "percent as a number, in 0.01 steps", example: "10", max: 100}
	count          = &typ{kind: kindInt, name: "number", example: "100", min: 1, max: 1<<32 - 1}
	port           = &typ{kind: kindInt, name: "port number", example: "8080", min: 1, max: 65535}
	ports          = &typ{kind: kindInts, name: "list of ports", example: "[8080]", min: 1, max: 65535}
	status         = &typ{kind: kindInt, name: "HTTP status", example: "503", min: 200, max: 599}
	weights        = &typ{kind: kindNumbers, name: "object of percents", example: `{ "api.v2" = 10 }`, max: 100}

	name     = &typ{kind: kindText, name: "name", example: `"web"`, check: checkName, code: codeName}
	portIDs  = &typ{kind: kindTexts, name: "list of names of ports", example: `["admin"]`, check: checkName, code: codeName}
	names    = &typ{kind: kindTexts, name: "list of services", example: `["web"]`, check: checkName, code: codeName}
	pattern  = &typ{kind: kindText, name: "service, \"prefix-*\" or \"*\"", example: `"batch-*"`, check: checkPattern, code: codeName}
	nodes    = &typ{kind: kindTexts, name: "list of nodes, \"prefix*\" or \"*\"", example: `["vm-1", "vm-2*"]`, check: checkNodes, code: codeName}
	jobs     = &typ{kind: kindTexts, name: "list of Nomad jobs, \"prefix*\" or \"*\"", example: `["api"]`, check: checkJobs, code: codeName}
	patterns = &typ{kind: kindTexts, name: "list of services, \"prefix-*\" or \"*\"", example: `["web"]`, check: checkPattern, code: codeName}
	target   = &typ{kind: kindText, name: "\"service\" or \"service.subset\"", example: `"api.v2"`, check: checkTarget, code: codeName}

	path      = &typ{kind: kindText, name: "path", example: `"/v1"`, check: checkPath}
	regex     = &typ{kind: kindText, name: "RE2 expression", example: `"/u/(\\d+)"`, check: checkRegex, code: codeRegex}
	regexSub  = &typ{kind: kindText, name: "substitution for path_regex", example: `"/users/\\1"`, check: checkFilled}
	filter    = &typ{kind: kindText, name: "bexpr filter", example: `"Service.Meta.version == v1"`, check: checkFilter, code: codeFilter}
	method    = &typ{kind: kindTexts, name: "list of HTTP methods", example: `["GET"]`, check: checkMethod, words: methodWords, lax: true}
	header    = &typ{kind: kindText, name: "header name", example: `"x-tenant"`, check: checkHeader}
	headers   = &typ{kind: kindTexts, name: "list of header names", example: `["x-debug"]`, check: checkHeader}
	opHeaders = &typ{kind: kindTexts, name: "list of header names", example: `["x-debug"]`, check: checkHeaderOp}
	opMap     = &typ{kind: kindMap, name: "object of headers", example: `{ "x-route" = "checkout" }`, check: checkHeaderOp}
	headerMap = &typ{kind: kindMap, name: "object of headers", example: `{ "x-route" = "checkout" }`, check: checkHeader}
	host      = &typ{kind: kindText, name: "host", example: `"api.example"`, check: checkHost}
	hosts     = &typ{kind: kindTexts, name: "list of hosts", example: `["shop.example"]`, check: checkHost}
	domain    = &typ{kind: kindText, name: "trust domain", example: `"prod.example"`, check: checkDomain, code: codeName}
	address   = &typ{kind: kindText, name: "IP address", example: `"10.0.0.7"`, check: checkAddress}
	dial      = &typ{kind: kindText, name: "host:port", example: `"otel-collector:4317"`, check: checkDial}
	dials     = &typ{kind: kindTexts, name: "list of host:port", example: `["10.0.0.5:7401"]`, check: checkDial}
	listen    = &typ{kind: kindText, name: "host:port, \":port\" or \"none\"", example: `":7401"`, check: checkListen}
	cidrs     = &typ{kind: kindTexts, name: "list of CIDR", example: `["10.0.0.0/8"]`, check: checkCIDR}
	file      = &typ{kind: kindText, name: "absolute path of a file", example: `"/etc/kerege.d/x.pem"`, check: checkFile}
	files     = &typ{kind: kindTexts, name: "list of absolute paths", example: `["/etc/kerege.d/mesh"]`, check: checkFile}
	link      = &typ{kind: kindText, name: "URL", example: `"https://id.example"`, check: checkURL}
)

// word is an enumeration.
func word(words ...string) *typ {
	return &typ{kind: kindText, name: oneOf(words), example: quoted(words[0]), words: words}
}

// wordList is a list of words of an enumeration.
func wordList(words ...string) *typ {
	return &typ{kind: kindTexts, name: "list of " + oneOf(words), example: "[" + quoted(words[0]) + "]", words: words}
}

// whole is a whole number between two bounds.
func whole(min, max float64) *typ {
	return &typ{kind: kindInt, name: fmt.Sprintf("number, %g to %g", min, max), example: fmt.Sprint(min), min: min, max: max}
}

func oneOf(words []string) string {
	quotedWords := make([]string, len(words))
	for i, w := range words {
		quotedWords[i] = quoted(w)
	}
	if len(words) == 1 {
		return quotedWords[0]
	}
	return strings.Join(quotedWords[:len(words)-1], ", ") + " or " + quotedWords[len(words)-1]
}

func checkFilled(s string) (string, string) {
	if strings.TrimSpace(s) == "" {
		return "is empty", "Write a text, or leave the argument out."
	}
	return "", ""
}

func checkName(s string) (string, string) {
	if mesh.CheckName(s) != nil {
		return nameProblem(s), fmt.Sprintf("A name has lower-case letters, digits, '-' and '_', at most %d; it starts and ends with a letter or digit.", mesh.MaxName)
	}
	return "", ""
}

// nameProblem ends a sentence that begins with the name.
func nameProblem(s string) string {
	switch {
	case s == "":
		return "is empty"
	case len(s) > mesh.MaxName:
		return fmt.Sprintf("has %d bytes, more than %d", len(s), mesh.MaxName)
	case s != strings.ToLower(s):
		return "has an upper-case letter"
	case strings.Trim(s, "-_") != s:
		return fmt.Sprintf("starts or ends with %q or %q", "-", "_")
	case strings.Contains(s, "."):
		return "has a dot"
	}
	return "is not allowed"
}

func checkPattern(s string) (string, string) {
	if s == "*" {
		return "", ""
	}
	if prefix, ok := strings.CutSuffix(s, "*"); ok {
		if p, _ := checkName(strings.TrimRight(prefix, "-_")); p != "" || strings.Contains(prefix, "*") {
			return "is no pattern", `Write a service, "*" for all, or a prefix and "*", as in "batch-*".`
		}
		return "", ""
	}
	return checkName(s)
}

func checkNodes(s string) (string, string) {
	prefix, isPattern := strings.CutSuffix(s, "*")
	if isPattern {
		prefix = strings.TrimRight(prefix, "-_.")
	}
	if err := mesh.CheckNode(prefix); err != nil && (!isPattern || prefix != "") {
		return "is no node's name", `Write a node as it has joined, "*" for all, or a beginning and "*", as in "vm-2*".`
	}
	return "", ""
}

func checkJobs(s string) (string, string) {
	if strings.Contains(strings.TrimSuffix(s, "*"), "*") || s == "" {
		return "is no job's name", `Write a job's ID, "*" for all, or a beginning and "*", as in "batch/*".`
	}
	return "", ""
}

func checkTarget(s string) (string, string) {
	service, subset, has := strings.Cut(s, ".")
	if p, _ := checkName(service); p != "" {
		return p, `Write "service" or "service.subset".`
	}
	if has {
		if p, _ := checkName(subset); p != "" {
			return "names a subset that " + p, `Write "service" or "service.subset".`
		}
	}
	return "", ""
}

func checkPath(s string) (string, string) {
	switch {
	case !strings.HasPrefix(s, "/"):
		return `does not start with "/"`, fmt.Sprintf("Write %q.", "/"+s)
	case len(s) > 1024:
		return "has more than 1024 bytes", ""
	case strings.ContainsAny(s, "?#"):
		return `has a "?" or "#"`, `A path ends before them; match a query with query "name" { … }.`
	case hasControl(s) || strings.Contains(s, " "):
		return "has a space or control character", "Write it percent-encoded."
	}
	for segment := range strings.SplitSeq(strings.TrimSuffix(s[1:], "/"), "/") {
		if len(s) > 1 && (segment == "" || segment == "." || segment == "..") {
			return "has an empty, \".\" or \"..\" segment", "Proxies remove those before any rule is tried, so it would never match."
		}
	}
	return "", ""
}

// checkHeaderOp refuses what Envoy does not let a route change, which would
// be a refused update, and what frames the message.
func checkHeaderOp(s string) (string, string) {
	switch s {
	case "host":
		return "cannot be changed as a header", "Write rewrite { host = … }."
	case "connection", "content-length", "transfer-encoding", "upgrade", "te", "keep-alive":
		return "frames the message and cannot be changed", ""
	}
	return checkHeader(s)
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

var methodWords = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"}

func checkMethod(s string) (string, string) {
	if s != strings.ToUpper(s) {
		return "is not in upper case", fmt.Sprintf("Write %q.", strings.ToUpper(s))
	}
	if s == "" || len(s) > 32 || strings.ContainsFunc(s, func(r rune) bool { return !tokenRune(r) }) {
		return "is no HTTP method", "For example GET or POST."
	}
	return "", ""
}

// tokenRune is RFC 9110's tchar.
func tokenRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r < 0x7f && strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

func checkHeader(s string) (string, string) {
	plain := strings.TrimPrefix(s, ":")
	switch {
	case plain == "" || len(s) > 256 || strings.ContainsFunc(plain, func(r rune) bool { return !tokenRune(r) }):
		return "is no header name", "A header name has letters, digits and '-'."
	case plain != s:
		return "is a pseudo header", "Match the path with path, the method with methods, the host at a gateway's listener."
	case s != strings.ToLower(s):
		return "has upper-case letters", fmt.Sprintf("Header names are compared without case; write %q.", strings.ToLower(s))
	case strings.HasPrefix(s, "x-kerege-") || strings.HasPrefix(s, "x-envoy-"):
		return "is a header of the mesh's own", "Names that start with x-kerege- and x-envoy- are kept for the proxies."
	}
	return "", ""
}

func checkHost(s string) (string, string) {
	plain := strings.TrimPrefix(s, "*.")
	if s == "*" {
		return "", ""
	}
	if plain == "" || len(plain) > 253 || plain != strings.ToLower(plain) {
		return "is no host name", `Write a name in lower case, as "shop.example" or "*.shop.example".`
	}
	if _, err := netip.ParseAddr(plain); err == nil {
		return "", ""
	}
	for label := range strings.SplitSeq(plain, ".") {
		if p, _ := checkName(label); p != "" {
			return "is no host name", `Write a name in lower case, as "shop.example" or "*.shop.example".`
		}
	}
	return "", ""
}

func checkDomain(s string) (string, string) {
	if len(s) == 0 || len(s) > 255 {
		return "has not 1 to 255 bytes", ""
	}
	for label := range strings.SplitSeq(s, ".") {
		if p, _ := checkName(label); p != "" {
			return "has a part that " + p, `A trust domain is lower-case ASCII, as "prod.example"; it has no scheme, port or path.`
		}
	}
	return "", ""
}

func checkAddress(s string) (string, string) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return "is no IP address", `Write the address itself, as "10.0.0.7"; a name is not looked up here.`
	}
	if a.IsUnspecified() || a.IsMulticast() {
		return "is no address of a host", ""
	}
	return "", ""
}

func checkDial(s string) (string, string) {
	i := strings.LastIndexByte(s, ':')
	if i <= 0 || !isPort(s[i+1:]) || hasControl(s) || strings.ContainsAny(s, " /@") {
		return "is no host:port", `For example "10.0.0.5:7401" or "kerege.service.consul:7401".`
	}
	return "", ""
}

func checkListen(s string) (string, string) {
	if s == "none" || strings.HasPrefix(s, ":") && isPort(s[1:]) {
		return "", ""
	}
	if _, err := netip.ParseAddrPort(s); err != nil {
		return "is no address to listen on", `For example ":7401", "10.0.0.5:7401", or "none".`
	}
	return "", ""
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

func checkCIDR(s string) (string, string) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			return "", ""
		}
		return "is no CIDR", `For example "10.0.0.0/8" or "fd00::/8".`
	}
	if p.Masked() != p {
		return "has bits beyond its mask", fmt.Sprintf("Write %q.", p.Masked())
	}
	return "", ""
}

func checkFile(s string) (string, string) {
	if !strings.HasPrefix(s, "/") || hasControl(s) {
		return "is no absolute path", "A path starts with \"/\"."
	}
	return "", ""
}

func checkURL(s string) (string, string) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return "is no URL", `For example "https://id.example/jwks.json".`
	}
	if u.User != nil {
		return "has a password in it", "Secrets go into files, never into URLs."
	}
	return "", ""
}

// parseDuration is time.ParseDuration with days, and with bounds.
func parseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, err
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	return time.ParseDuration(s)
}
