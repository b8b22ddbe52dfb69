// Package policy decides who may call whom: the reference answer, against which
// what Envoy enforces is tested.
//
// Promises: it is pure; any deny that matches wins over every allow, wherever
// either stands; what no block speaks of meets the default; what it cannot judge
// (a regex that does not compile, HTTP conditions on a connection that is not
// HTTP) it judges against the caller.
//
// How a path is judged: its query and fragment are cut off; path is equality;
// path_prefix means whole segments and its own trailing slash is ignored, so
// "/v1/" is "/v1", which matches "/v1", "/v1/" and "/v1/x" and not "/v1x";
// path_regex must match the whole path. Paths come normalised, as Envoy
// forwards them.
package policy
