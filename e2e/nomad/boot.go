package nomad

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/parts"
)

// process is one that runs, until done is closed.
type process struct {
	*exec.Cmd
	done chan struct{}
}

// agent starts a Nomad with one of the configurations.
func (a *Agent) agent(name string) (*process, error) {
	path, err := parts.Find("nomad")
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(a.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("starting nomad: %w", err)
	}
	defer log.Close()
	p := &process{exec.Command(path, "agent", "-config", filepath.Join(a.Dir, name+".hcl")), make(chan struct{})}
	p.Stdout, p.Stderr = log, log
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is not its end: Close is
	if err := p.Start(); err != nil {
		return nil, fmt.Errorf("starting nomad: %w", err)
	}
	a.runs = append(a.runs, p)
	go func() { p.Wait(); close(p.done) }()
	return p, nil
}

// until waits for what an agent brings about, as long as it runs.
func (a *Agent) until(p *process, what string, ok func() error) error {
	alive, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		select {
		case <-p.done:
			stop()
		case <-alive.Done():
		}
	}()
	if err := lab.Until(alive, time.Minute, what, ok); err != nil {
		return fmt.Errorf("%w\n%s", err, a.Log())
	}
	return nil
}

// Boot starts the server and then the client, again after Kill, and waits until
// its node is ready.
func (a *Agent) Boot() error {
	server, err := a.agent("server")
	if err != nil {
		return err
	}
	if err := a.until(server, "nomad's keyring", a.hasKeys); err != nil {
		return err
	}
	client, err := a.agent("client")
	if err != nil {
		return err
	}
	return a.until(client, "nomad's node", func() error {
		nodes, _, err := a.Nodes().List(nil)
		if err != nil {
			return err
		}
		if len(nodes) == 0 || nodes[0].Status != "ready" {
			return errors.New("it is not ready")
		}
		_, err = a.Nodes().Stats(nodes[0].ID, nil) // after a Kill it is ready on paper
		return err
	})
}

// hasKeys says why the server cannot take in a client yet.
func (a *Agent) hasKeys() error {
	if a.opt.ACL && a.Token == "" {
		token, _, err := a.ACLTokens().Bootstrap(nil)
		if err != nil {
			return err
		}
		a.Token = token.SecretID
		a.SetSecretID(a.Token)
	}
	var set struct{ Keys []any }
	if _, err := a.Raw().Query("/.well-known/jwks.json", &set, nil); err != nil {
		return err
	}
	if len(set.Keys) == 0 {
		return errors.New("it has no key")
	}
	return nil
}
