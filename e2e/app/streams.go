package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// streams serves what stays open: TCP that speaks first and goes on speaking, a
// long download, and a gRPC stream, each of a piece every 50 ms.
func streams(args []string) error {
	flags := flag.NewFlagSet("streams", flag.ContinueOnError)
	tcp := flags.String("tcp", ":5432", "address of the TCP server")
	web := flags.String("http", ":8080", "address of the HTTP server: every path is an endless download, but /short")
	rpc := flags.String("grpc", ":9090", "address of the gRPC server: grpc.health.v1.Health/Watch")
	if err := flags.Parse(args); err != nil {
		return err
	}
	end := make(chan error, 3)
	go func() { end <- talk(*tcp) }()
	go func() { end <- http.ListenAndServe(*web, http.HandlerFunc(download)) }()
	go func() { end <- watched(*rpc) }()
	return <-end
}

const piece = 50 * time.Millisecond

func talk(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			for {
				if _, err := fmt.Fprintln(c, "hello from the server that speaks first"); err != nil {
					return
				}
				time.Sleep(piece)
			}
		}()
	}
}

func download(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	for r.URL.Path != "/short" && r.Context().Err() == nil {
		if _, err := fmt.Fprintln(w, "a piece"); err != nil || rc.Flush() != nil {
			return
		}
		time.Sleep(piece)
	}
}

func watched(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	h := health.NewServer()
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, h)
	go func() {
		for i := 0; ; i++ {
			h.SetServingStatus("", healthpb.HealthCheckResponse_ServingStatus(1+i%2))
			time.Sleep(piece)
		}
	}()
	return s.Serve(l)
}

// follow opens one stream and prints, for a reader to follow: "at <ms> <bytes>" as
// it goes on and "end <ms> <bytes> <why>"; times are Unix ones.
func follow(args []string) error {
	flags := flag.NewFlagSet("follow", flag.ContinueOnError)
	tcp := flags.String("tcp", "", "host:port of a TCP server")
	url := flags.String("url", "", "URL of a download")
	rpc := flags.String("grpc", "", "host:port of a gRPC server")
	if err := flags.Parse(args); err != nil {
		return err
	}
	total, said := 0, time.Time{}
	got := func(n int) {
		if total += n; n > 0 && time.Since(said) >= 2*piece {
			said = time.Now()
			fmt.Println("at", said.UnixMilli(), total)
		}
	}
	var err error
	switch {
	case *tcp != "":
		err = followTCP(*tcp, got)
	case *url != "":
		err = followURL(*url, got)
	default:
		err = followGRPC(*rpc, got)
	}
	fmt.Println("end", time.Now().UnixMilli(), total, err)
	return nil
}

func drain(r io.Reader, got func(int)) error {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		got(n)
		if err != nil {
			return err
		}
	}
}

func followTCP(addr string, got func(int)) error {
	c, err := net.DialTimeout("tcp", addr, 3*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	return drain(c, got)
}

func followURL(url string, got func(int)) error {
	client := &http.Client{Transport: &http.Transport{TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}}
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return drain(resp.Body, got)
}

func followGRPC(addr string, got func(int)) error {
	c, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := healthpb.NewHealthClient(c).Watch(context.Background(), &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	for {
		if _, err := s.Recv(); err != nil {
			return err
		}
		got(1)
	}
}
