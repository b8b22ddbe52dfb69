package command

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"text/template"
	"time"
)

//go:embed dev_sample.hcl
var sampleText string

// devSample is three small programs that know nothing of a mesh: web, which
// calls api where it is told to, and api in two versions.
type devSample struct {
	ports   map[string]uint16
	servers []*http.Server
	serving sync.WaitGroup
	api     atomic.Value // string: where web calls api
}

func openSample(ports *devPorts) (*devSample, error) {
	s := &devSample{ports: map[string]uint16{}}
	for _, app := range []struct {
		name    string
		handler http.HandlerFunc
	}{{"web", s.web}, {"v1", hello("v1")}, {"v2", hello("v2")}} {
		port, err := ports.take("sample "+app.name, firstApp)
		if err == nil {
			err = s.serve(port, app.handler)
		}
		if err != nil {
			s.close()
			return nil, fmt.Errorf("starting the sample's %s: %w", app.name, err)
		}
		s.ports[app.name] = port
	}
	return s, nil
}

func (s *devSample) serve(port uint16, h http.Handler) error {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	s.servers = append(s.servers, srv)
	s.serving.Go(func() { _ = srv.Serve(l) }) // ends by close
	return nil
}

func (s *devSample) close() {
	for _, srv := range s.servers {
		srv.Close()
	}
	s.serving.Wait()
}

// text is the sample's mesh file.
func (s *devSample) text() ([]byte, error) {
	t, err := template.New("sample").Parse(sampleText)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, s.ports)
	return out.Bytes(), err
}

func (s *devSample) write(dir string) error {
	text, err := s.text()
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "sample.hcl"), text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing the sample: %w", err)
	}
	return nil
}

// hello answers with a version, and with who called as its Envoy has proved it.
func hello(version string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who := strings.TrimPrefix(r.Header.Get("x-forwarded-client-cert"), "URI=")
		fmt.Fprintf(w, "hello %s, this is api %s\n", dash(who), version)
	}
}

// web passes on what api says.
func (s *devSample) web(w http.ResponseWriter, r *http.Request) {
	at, _ := s.api.Load().(string)
	if at == "" {
		http.Error(w, "web: the mesh is starting", http.StatusServiceUnavailable)
		return
	}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, at+"/", nil)
	if err != nil {
		http.Error(w, "web: "+err.Error(), http.StatusInternalServerError)
		return
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		http.Error(w, "web: "+err.Error(), http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	if err = errors.Join(err, r.Context().Err()); err != nil {
		http.Error(w, "web: "+err.Error(), http.StatusBadGateway)
		return
	}
	w.WriteHeader(res.StatusCode)
	fmt.Fprintf(w, "web asked api, which said: %s", text)
}
