package agent

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/miekg/dns"

	"github.com/kerege/kerege/agent/capture"
	resolving "github.com/kerege/kerege/agent/dns"
)

const roleEnv = "KEREGE_AGENT_ROLE"

// TestRole is this binary as another process: an agent's resolver, or its stand-in.
func TestRole(t *testing.T) {
	dir := os.Getenv(roleEnv + "_DIR")
	switch os.Getenv(roleEnv) {
	case "agent":
		p, err := listenPair("", "127.0.0.1:0")
		for range 20 { // the port that is free for UDP may be taken for TCP
			if err == nil {
				break
			}
			p, err = listenPair("", "127.0.0.1:0")
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Setenv(roleEnv, "guard"); err != nil {
			t.Fatal(err)
		}
		o := resolving.Options{Domain: "mesh", Address: p.packets.LocalAddr().String(), Upstreams: []string{"127.0.0.1:1"}}
		s, err := startStandIn([]string{os.Args[0], "-test.run", "^TestRole$"}, will{filepath.Join(dir, "node.json"), o}, []pair{p})
		if err != nil {
			t.Fatal(err)
		}
		server := resolving.New(o)
		server.SetNames(dnsNames([]name{{Service: "api", V4: "240.0.0.9"}}))
		server.Serve(p.packets, p.streams)
		fmt.Println("up", p.packets.LocalAddr(), s.cmd.Process.Pid)
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // or killed
		server.Close()
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
	case "guard":
		if err := StandIn(t.Context(), filepath.Join(dir, "capture"), os.Stdin, hclog.New(&hclog.LoggerOptions{Output: os.Stderr})); err != nil {
			t.Fatal(err)
		}
	}
}

// bereaved is a directory of an agent that captures nobody, so that no table is
// touched, and the agent.
func bereaved(t *testing.T) (dir, address string, agent *exec.Cmd, in func()) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "capture"), 0o700); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		"capture/capture.json": `{"version":1,"config":{"workloads":[],"dns":true}}`,
		"node.json":            `{"version":1,"heard":"2026-01-02T03:04:05Z","names":[{"service":"api","v4":"240.0.0.9"}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	agent = exec.Command(os.Args[0], "-test.run", "^TestRole$")
	agent.Env = append(os.Environ(), roleEnv+"=agent", roleEnv+"_DIR="+dir)
	said, err := os.Create(filepath.Join(dir, "said")) // no pipe: the stand-in would keep it open
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	agent.Stderr = said
	stdin, err := agent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	guard := ""
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		eventually(t, "the stand-in's end", func() bool {
			// Nothing is captured: it ends, unless it was just writing the record.
			err := os.WriteFile(filepath.Join(dir, "capture/capture.json"), []byte(`{"version":1}`), 0o600)
			return err == nil && ended(guard)
		})
		if t.Failed() {
			text, _ := os.ReadFile(said.Name())
			t.Logf("%s", text)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	words := strings.Fields(line)
	if err != nil || len(words) != 3 || words[0] != "up" {
		t.Fatalf("the agent said %q, %v", line, err)
	}
	guard = words[2]
	return dir, words[1], agent, func() { stdin.Close() }
}

// ended tells whether a process runs no more.
func ended(pid string) bool {
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	return err != nil || strings.Contains(string(text), ") Z ")
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// ask is one question, once.
func ask(address, network string) error {
	q := new(dns.Msg).SetQuestion("api.mesh.", dns.TypeA)
	m, _, err := (&dns.Client{Net: network, Timeout: 3 * time.Second}).Exchange(q, address)
	if err != nil {
		return err
	}
	if len(m.Answer) != 1 || !strings.Contains(m.Answer[0].String(), "240.0.0.9") {
		return fmt.Errorf("answered %v", m)
	}
	return nil
}

// TestNamesOutliveTheAgent: from an agent to its stand-in, to the next agent,
// back when that one dies, and to one that stays, under load.
func TestNamesOutliveTheAgent(t *testing.T) {
	dir, address, agent, _ := bereaved(t)
	captureDir := filepath.Join(dir, "capture")
	stop := make(chan struct{})
	var load sync.WaitGroup
	var mu sync.Mutex
	asked, failed := 0, []error{}
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Millisecond):
				}
				err := ask(address, "udp")
				mu.Lock()
				asked++
				if err != nil {
					failed = append(failed, err)
				}
				mu.Unlock()
			}
		})
	}
	more := func() {
		mu.Lock()
		from := asked
		mu.Unlock()
		eventually(t, "answers", func() bool { mu.Lock(); defer mu.Unlock(); return asked > from+100 })
	}
	more()
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = agent.Wait()
	more()
	if err := ask(address, "tcp"); err != nil {
		t.Errorf("over TCP: %v", err)
	}
	next := func() (end func()) {
		var list []held
		var conn *net.UnixConn
		eventually(t, "the sockets", func() (ok bool) {
			var err error
			list, conn, err = takeOver(captureDir)
			return err == nil
		})
		if len(list) != 1 || !list[0].current() {
			t.Fatalf("handed over %v", list)
		}
		p, err := list[0].open()
		if err != nil {
			t.Fatal(err)
		}
		list[0].close()
		s := resolving.New(resolving.Options{})
		s.SetNames(dnsNames([]name{{Service: "api", V4: "240.0.0.9"}}))
		s.Serve(p.packets, p.streams)
		if err := send(conn, notice{Taken: true}, nil); err != nil {
			t.Fatal(err)
		}
		return func() {
			begin := time.Now()
			s.Close()
			if took := time.Since(begin); took > time.Second {
				t.Errorf("closing took %s", took)
			}
			conn.Close()
		}
	}
	end := next()
	more()
	end() // and the stand-in goes on
	more()
	end = next()
	if err := capture.New(capture.Options{StateDir: captureDir}).SetDNS(t.Context(), true); err != nil { // records this process
		t.Fatal(err)
	}
	eventually(t, "the stand-in to end", func() bool { return !offered(t, dir) })
	more()
	close(stop)
	load.Wait()
	end()
	// A question that the agent had read when it was killed has nobody to answer it.
	if len(failed) > 4 {
		t.Errorf("%d of %d questions failed: %v", len(failed), asked, failed[:4])
	}
	t.Logf("MEASURED %d questions, %d failed", asked, len(failed))
	if p, err := listenPair("", address); err != nil {
		t.Errorf("the port is still held: %v", err)
	} else if err := p.close(); err != nil {
		t.Error(err)
	}
}

// TestWithoutNamesTheJumpGoes: and the port is free.
func TestWithoutNamesTheJumpGoes(t *testing.T) {
	for _, text := range []string{"", "{", `{"version":7}`} {
		dir, address, agent, _ := bereaved(t)
		node := filepath.Join(dir, "node.json")
		err := os.WriteFile(node, []byte(text), 0o600)
		if text == "" {
			err = os.Remove(node)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := agent.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = agent.Wait()
		eventually(t, "the jump to go", func() bool { return !jump(t, dir) })
		p, err := listenPair("", address)
		if err != nil {
			t.Fatalf("%q: the port is held: %v", text, err)
		}
		_ = p.close()
		if left, _ := os.ReadFile(node); string(left) != text {
			t.Errorf("node.json is now %q", left)
		}
	}
}

// TestWhileItAnswersTheJumpStays: an agent that stops in order takes its stand-in along.
func TestWhileItAnswersTheJumpStays(t *testing.T) {
	dir, address, agent, _ := bereaved(t)
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = agent.Wait()
	eventually(t, "the stand-in", func() bool { return offered(t, dir) }) // and not taken: it goes on answering
	if err := ask(address, "udp"); err != nil || !jump(t, dir) {
		t.Errorf("it answers %v; the jump is there: %v", err, jump(t, dir))
	}

	dir, address, agent, stop := bereaved(t)
	stop()
	if err := agent.Wait(); err != nil {
		t.Errorf("stopped in order: %v", err)
	}
	if offered(t, dir) {
		t.Error("a stand-in stays after an agent that stopped in order")
	}
	if err := ask(address, "tcp"); err == nil {
		t.Error("somebody still answers")
	}
}

// offered tells whether a stand-in has sockets to hand over.
func offered(t *testing.T, dir string) bool {
	t.Helper()
	list, conn, err := takeOver(filepath.Join(dir, "capture"))
	if err != nil {
		return false
	}
	for _, h := range list {
		h.close()
	}
	conn.Close()
	return true
}

func jump(t *testing.T, dir string) bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "capture/capture.json"))
	var s struct{ Config struct{ DNS bool } }
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s.Config.DNS
}
