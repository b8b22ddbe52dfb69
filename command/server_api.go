package command

import (
	"context"
	"errors"
	"flag"
	"os"
	"strings"
	"time"

	"github.com/kerege/kerege/api"
)

// serverFlags are the options of every command that asks a server.
type serverFlags struct {
	address, token, tokenFile, caFile string
}

const defaultServer = "unix:///run/kerege/server/api.sock"

func (s *serverFlags) register(f *flag.FlagSet) {
	f.StringVar(&s.address, "addr", env("KEREGE_ADDR", defaultServer), "The server's `address`: unix:///path or https://host:port. Also KEREGE_ADDR.")
	f.StringVar(&s.tokenFile, "token-file", os.Getenv("KEREGE_TOKEN_FILE"), "A `file` with the operator's token, for https. Also KEREGE_TOKEN, KEREGE_TOKEN_FILE.")
	f.StringVar(&s.caFile, "ca-file", os.Getenv("KEREGE_CACERT"), "A PEM `file` of roots that sign the server's certificate. Also KEREGE_CACERT.")
}

func (s *serverFlags) client() (*api.Client, error) {
	token := os.Getenv("KEREGE_TOKEN")
	if s.tokenFile != "" {
		text, err := os.ReadFile(s.tokenFile)
		if err != nil {
			return nil, err
		}
		token = strings.TrimSpace(string(text))
	}
	return api.NewClient(api.Options{Address: s.address, Token: token, CAFile: s.caFile})
}

// ask fetches one answer of the server, with a sentence for who cannot be reached.
func (s *serverFlags) ask(c *Call, path string, answer any) error {
	client, err := s.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.ctx, 30*time.Second)
	defer cancel()
	return s.explain(client.Get(ctx, path, answer))
}

func (s *serverFlags) post(c *Call, path string, body, answer any) error {
	client, err := s.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.ctx, 2*time.Minute)
	defer cancel()
	return s.explain(client.Post(ctx, path, body, answer))
}

func (s *serverFlags) explain(err error) error {
	if errors.Is(err, api.ErrUnreachable) {
		return degraded("%v\nIs the server running? systemctl status kerege-server. Elsewhere? -addr or KEREGE_ADDR.", err)
	}
	return err
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}
