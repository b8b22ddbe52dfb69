package telemetry

import (
	"io"

	"github.com/hashicorp/go-hclog"
)

// LogOptions are the settings log_level and log_json.
type LogOptions struct {
	Level  string // trace debug info warn error; "" is info
	JSON   bool
	Output io.Writer
}

// Logger returns the root logger of a process; each package takes a named one of it.
func Logger(name string, o LogOptions) hclog.Logger {
	level := hclog.LevelFromString(o.Level)
	if level == hclog.NoLevel {
		level = hclog.Info
	}
	return hclog.New(&hclog.LoggerOptions{Name: name, Level: level, JSONFormat: o.JSON, Output: o.Output, TimeFormat: "2006-01-02T15:04:05.000Z07:00"})
}
