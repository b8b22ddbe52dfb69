package town

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/kerege/kerege/e2e/lab"
)

// Hold opens one connection on which calls are made one after the other:
// each answer is "<status> <new|reused> <quoted body>".
func (h *Host) Hold(url string) (*lab.Talk, error) {
	return h.Talk(lab.Spec{Name: "hold", UID: UIDApp, Args: []string{h.town.App, "hold", "-url", url}})
}

// Stream opens a long answer and reads it to its end.
func (h *Host) Stream(url string) (*lab.Proc, error) {
	return h.Start(lab.Spec{Name: "stream", UID: UIDApp, Args: []string{"curl", "-sN", "--fail", url}})
}

// EnvoyAdmin asks the host's Envoy over its admin socket.
func (h *Host) EnvoyAdmin(ctx context.Context, path string) (string, error) {
	return h.Output(ctx, lab.Spec{UID: UIDEnvoy, Args: []string{"curl", "-sf", "--max-time", "5", "--unix-socket",
		h.Dir + "/run/proxy/" + h.Service + "/admin.sock", "http://envoy" + path}})
}

// Serial is the serial number of the certificate that the host's Envoy shows.
func (h *Host) Serial(ctx context.Context) (string, error) {
	text, err := h.EnvoyAdmin(ctx, "/certs")
	if err != nil {
		return "", err
	}
	var certs struct {
		Certificates []struct {
			Chain []struct {
				Serial string `json:"serial_number"`
			} `json:"cert_chain"`
		} `json:"certificates"`
	}
	if err := json.Unmarshal([]byte(text), &certs); err != nil {
		return "", fmt.Errorf("reading Envoy's certificates: %w", err)
	}
	for _, c := range certs.Certificates {
		if len(c.Chain) > 0 {
			return c.Chain[0].Serial, nil
		}
	}
	return "", fmt.Errorf("Envoy on %s shows no certificate", h.Name)
}
