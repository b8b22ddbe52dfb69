package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Report is what load prints at its end.
type Report struct {
	Calls    int             `json:"calls"`
	Failed   int             `json:"failed"` // no answer, or one ≥ 500
	ByCode   map[int]int     `json:"by_code"`
	ByServer map[string]int  `json:"by_version"`
	Errors   map[string]int  `json:"errors,omitempty"`
	FirstBad string          `json:"first_failure,omitempty"` // when it was begun, since the start
	LastBad  string          `json:"last_failure,omitempty"`
	Seen     map[string]Span `json:"seen,omitempty"` // by version: calls that it answered
	P50      string          `json:"p50"`
	P99      string          `json:"p99"`
	Max      string          `json:"max"`
}

// Span is when the first and the last of some calls were begun.
type Span struct {
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

type loader struct {
	mu     sync.Mutex
	report Report

	firstBad, lastBad time.Duration // when they were begun
	took              []time.Duration
	started           time.Time
}

func load(args []string) error {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	url := flags.String("url", "", "what to call")
	rate := flags.Int("rate", 100, "calls a second, at most 2000")
	duration := flags.Duration("for", 5*time.Second, "how long, at most 10m; SIGTERM ends it sooner")
	timeout := flags.Duration("timeout", 5*time.Second, "of one call")
	fresh := flags.Bool("fresh", false, "a new connection for each call")
	method := flags.String("method", "GET", "method")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *rate < 1 || *rate > 2000 || *duration > 10*time.Minute {
		return fmt.Errorf("load: rate 1 to 2000, at most 10m")
	}
	client := &http.Client{Timeout: *timeout, Transport: &http.Transport{
		DisableKeepAlives: *fresh, MaxIdleConnsPerHost: 64, MaxConnsPerHost: 256,
	}}
	l := &loader{started: time.Now(), report: Report{ByCode: map[int]int{}, ByServer: map[string]int{}, Errors: map[string]int{}, Seen: map[string]Span{}}}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	tick := time.NewTicker(time.Second / time.Duration(*rate))
	defer tick.Stop()
	end := time.After(*duration)
	var calls sync.WaitGroup
	for running := true; running; {
		select {
		case <-end:
			running = false
		case <-stop:
			running = false
		case <-tick.C:
			calls.Go(func() { l.call(client, *method, *url) })
		}
	}
	calls.Wait()
	return l.print()
}

func (l *loader) call(client *http.Client, method, url string) {
	begin := time.Now()
	code, version, said, err := call(client, method, url)
	took := time.Since(begin)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.Calls++
	l.took = append(l.took, took)
	if err == nil {
		l.report.ByCode[code]++
		if version != "" {
			l.report.ByServer[version]++
			s, known := l.report.Seen[version]
			if !known || begin.Before(s.First) {
				s.First = begin
			}
			if begin.After(s.Last) {
				s.Last = begin
			}
			l.report.Seen[version] = s
		}
	}
	if err != nil || code >= 500 {
		l.report.Failed++
		at := begin.Sub(l.started).Round(time.Millisecond)
		if l.report.Failed == 1 || at < l.firstBad {
			l.firstBad, l.report.FirstBad = at, at.String()
		}
		if at >= l.lastBad {
			l.lastBad, l.report.LastBad = at, at.String()
		}
	}
	switch {
	case err != nil:
		l.report.Errors[err.Error()]++
	case code >= 500:
		l.report.Errors[fmt.Sprintf("%d %s", code, said)]++
	}
}

// call is one call: its status, the version that answered, and the answer's beginning.
func call(client *http.Client, method, url string) (code int, version, said string, err error) {
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return 0, "", "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, "", "", err
	}
	var a Answer
	if json.Unmarshal(body, &a) == nil {
		version = a.Version
	}
	return resp.StatusCode, version, string(body[:min(len(body), 200)]), nil
}

func (l *loader) print() error {
	slices.Sort(l.took)
	if n := len(l.took); n > 0 {
		l.report.P50 = l.took[n/2].Round(time.Microsecond).String()
		l.report.P99 = l.took[n*99/100].Round(time.Microsecond).String()
		l.report.Max = l.took[n-1].Round(time.Microsecond).String()
	}
	return json.NewEncoder(os.Stdout).Encode(l.report)
}

// hold makes one call on one connection for each line of stdin and prints
// "<status> <reused|new> <body>".
func hold(args []string) error {
	flags := flag.NewFlagSet("hold", flag.ContinueOnError)
	url := flags.String("url", "", "what to call")
	if err := flags.Parse(args); err != nil {
		return err
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxConnsPerHost: 1}}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		req, err := http.NewRequest("GET", *url+lines.Text(), nil)
		if err != nil {
			return err
		}
		used := "new"
		trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
			if i.Reused {
				used = "reused"
			}
		}}
		resp, err := client.Do(req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
		if err != nil {
			fmt.Println("error", used, err)
			continue
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
		if err != nil {
			fmt.Println("error", used, err)
			continue
		}
		fmt.Printf("%d %s %q\n", resp.StatusCode, used, body)
	}
	return lines.Err()
}

// dial connects, prints what the server says within the time, and the end.
func dial(args []string) error {
	flags := flag.NewFlagSet("dial", flag.ContinueOnError)
	addr := flags.String("addr", "", "host:port")
	wait := flags.Duration("wait", time.Second, "how long to listen")
	if err := flags.Parse(args); err != nil {
		return err
	}
	c, err := net.DialTimeout("tcp", *addr, 3*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(*wait)); err != nil {
		return err
	}
	got, err := io.ReadAll(io.LimitReader(c, 1<<20))
	fmt.Printf("%d bytes %q", len(got), got)
	if err != nil {
		fmt.Printf(" then %v", err)
	} else {
		fmt.Print(" then closed")
	}
	fmt.Println()
	return nil
}
