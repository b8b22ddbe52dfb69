package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// Answer is what serve says of a request: enough to see who called whom.
type Answer struct {
	Service string              `json:"service"`
	Version string              `json:"version"`
	Method  string              `json:"method"`
	Path    string              `json:"path"`
	Caller  string              `json:"caller,omitempty"` // x-forwarded-client-cert as the application sees it
	Remote  string              `json:"remote"`
	Headers map[string][]string `json:"headers,omitempty"` // on /headers
}

func serve(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	name := flags.String("name", "app", "service name in answers")
	version := flags.String("version", "v1", "version in answers")
	listen := flags.String("listen", ":8080", "address")
	h2c := flags.Bool("h2c", false, "also speak HTTP/2 without TLS")
	if err := flags.Parse(args); err != nil {
		return err
	}
	answer := func(r *http.Request) Answer {
		return Answer{Service: *name, Version: *version, Method: r.Method, Path: r.URL.RequestURI(),
			Caller: r.Header.Get("x-forwarded-client-cert"), Remote: r.RemoteAddr}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { writeJSON(w, answer(r)) })
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) {
		a := answer(r)
		a.Headers = r.Header
		writeJSON(w, a)
	})
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.PathValue("code"))
		if err != nil || code < 200 || code > 599 {
			code = http.StatusBadRequest
		}
		w.WriteHeader(code)
	})
	mux.HandleFunc("/slow/{wait}", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(r.PathValue("wait"))
		if err != nil || d > time.Minute {
			http.Error(w, "slow: a duration up to 1m", http.StatusBadRequest)
			return
		}
		time.Sleep(d)
		writeJSON(w, answer(r))
	})
	mux.HandleFunc("/stream/{count}", stream)
	server := &http.Server{Addr: *listen, Handler: mux}
	if *h2c {
		server.Protocols = new(http.Protocols)
		server.Protocols.SetHTTP1(true)
		server.Protocols.SetUnencryptedHTTP2(true)
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Printf("serving %s %s on %s\n", *name, *version, l.Addr())
	return server.Serve(l)
}

// stream sends a line every 100 ms: a long answer.
func stream(w http.ResponseWriter, r *http.Request) {
	count, err := strconv.Atoi(r.PathValue("count"))
	if err != nil || count > 3000 {
		http.Error(w, "stream: up to 3000 lines", http.StatusBadRequest)
		return
	}
	rc := http.NewResponseController(w)
	for i := range count {
		if _, err := fmt.Fprintf(w, "line %d\n", i); err != nil {
			return
		}
		if rc.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func writeJSON(w http.ResponseWriter, a Answer) {
	w.Header().Set("content-type", "application/json")
	if err := json.NewEncoder(w).Encode(a); err != nil {
		fmt.Fprintln(os.Stderr, "app: writing an answer:", err)
	}
}

// banner is a TCP server that speaks first, as a database does, then echoes.
func banner(args []string) error {
	flags := flag.NewFlagSet("banner", flag.ContinueOnError)
	listen := flags.String("listen", ":5432", "address")
	if err := flags.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	go func() { <-stop; l.Close() }()
	fmt.Printf("serving a banner on %s\n", l.Addr())
	for n := 1; ; n++ {
		c, err := l.Accept()
		if err != nil {
			return nil
		}
		fmt.Printf("connection %d\n", n)
		go func() {
			defer c.Close()
			fmt.Fprintln(c, "hello from the banner")
			buf := make([]byte, 4096)
			for {
				k, err := c.Read(buf)
				if err != nil {
					return
				}
				if _, err := c.Write(buf[:k]); err != nil {
					return
				}
			}
		}()
	}
}
