package server

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/api"
)

// maxBody bounds a request's body before anything of it is read.
const maxBody = 1 << 20

// handler answers one request of the API with a value to be sent as JSON.
type handler func(*http.Request) (any, error)

// fail is an error for the user: what, what next, and the status.
func fail(status int, title, detail string) error {
	return &api.Error{Status: status, Title: title, Detail: detail}
}

// read decodes a request's body, one value and nothing behind it, into v.
func read(r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err == nil {
			err = errors.New("something follows its value")
		}
	}
	if big := (*http.MaxBytesError)(nil); errors.As(err, &big) {
		return fail(http.StatusRequestEntityTooLarge, "reading the request: it is bigger than 1 MiB", "")
	}
	return fail(http.StatusBadRequest, "reading the request: "+err.Error(), "")
}

// readAny is read of a body that may be empty.
func readAny(r *http.Request, v any) error {
	if r.ContentLength == 0 {
		return nil
	}
	return read(r, v)
}

// serveJSON makes a handler an http.Handler and audits what writes.
func serveJSON(log hclog.Logger, h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		answer, err := h(r)
		status := http.StatusOK
		if err != nil {
			e := &api.Error{}
			if !errors.As(err, &e) {
				e = &api.Error{Status: http.StatusInternalServerError, Title: err.Error()}
				log.Error("request failed", "path", r.URL.Path, "error", err)
			}
			status, answer = e.Status, e
		}
		if r.Method != http.MethodGet {
			log.Info("audit", "who", who(r), "method", r.Method, "path", r.URL.Path, "status", status, "took", time.Since(begin))
		}
		w.Header().Set("content-type", "application/json")
		w.Header().Set("x-content-type-options", "nosniff")
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			log.Debug("answering", "path", r.URL.Path, "error", err)
		}
	})
}

func who(r *http.Request) string {
	if r.TLS == nil {
		return "local socket"
	}
	return "operator token from " + r.RemoteAddr
}

// requireToken lets a request pass that carries the operator's token.
func requireToken(token func() string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		want, shown := token(), r.Header.Get("x-kerege-token")
		if bearer, is := strings.CutPrefix(r.Header.Get("authorization"), "Bearer "); is && shown == "" {
			shown = bearer // what Prometheus and curl can send without being taught
		}
		if want == "" || subtle.ConstantTimeCompare([]byte(shown), []byte(want)) != 1 {
			w.Header().Set("content-type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintln(w, `{"title":"the operator's token is missing or wrong","detail":"It is in data_dir/operator-token on the server; give it with -token-file or KEREGE_TOKEN.","status":403}`)
			return
		}
		next.ServeHTTP(w, r)
	})
}
