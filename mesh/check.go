package mesh

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Limits on what a registry may say of one instance. Registry entries come from
// less trusted teams; beyond these an instance is refused, not cut short.
const (
	MaxName     = 63   // bytes of a service's, port's or subset's name: a DNS label's
	MaxNodeName = 253  // bytes of a node's, workload's or instance's name
	MaxTags     = 256  // tags of one instance
	MaxMeta     = 256  // metadata pairs of one instance, its node's apart
	MaxText     = 4096 // bytes of one tag, metadata key or value
)

// CheckName says what is wrong with the name of a service, port or subset: it
// starts and ends with a lower-case letter or digit and has only those, '-' and
// '_' between, at most MaxName bytes. It becomes part of a SPIFFE ID, a DNS
// name, a file's name and a cluster's name, so nothing else passes. The error is
// one sentence's end ("has ..."), to be put after the name.
func CheckName(name string) error {
	if name == "" {
		return errors.New("is empty")
	}
	if len(name) > MaxName {
		return fmt.Errorf("has %d bytes, more than %d", len(name), MaxName)
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'A' && c <= 'Z':
			return errors.New("has an upper-case letter")
		case !lowerAlnum(c) && c != '-' && c != '_':
			return fmt.Errorf("has %q, which is no lower-case letter, digit, '-' or '_'", c)
		}
	}
	if !lowerAlnum(name[0]) || !lowerAlnum(name[len(name)-1]) {
		return errors.New("does not start and end with a letter or a digit")
	}
	return nil
}

// CheckNode says what is wrong with a node's or a workload's name: it is 1 to
// 253 bytes of letters, digits, '-', '_' and '.', has no "..", and starts and
// ends with a letter or a digit. Like CheckName's, the error is to be put after
// the name.
func CheckNode(name string) error {
	if name == "" {
		return errors.New("is empty")
	}
	if len(name) > MaxNodeName {
		return fmt.Errorf("has %d bytes, more than %d", len(name), MaxNodeName)
	}
	for i := range len(name) {
		if !alnum(name[i]) && !strings.ContainsRune("-_.", rune(name[i])) {
			return fmt.Errorf("has %q, which is no letter, digit, '-', '_' or '.'", name[i])
		}
	}
	if strings.Contains(name, "..") {
		return errors.New("has two dots in a row")
	}
	if !alnum(name[0]) || !alnum(name[len(name)-1]) {
		return errors.New("does not start and end with a letter or a digit")
	}
	return nil
}

// CheckInstance says why an instance that a source reported cannot be used. Its
// service's name may still be the registry's own, which a source block maps to a
// name of the mesh; CheckName is for after that.
func CheckInstance(in *Instance) error {
	if err := checkText(string(in.Service)); err != nil || in.Service == "" || len(in.Service) > MaxNodeName {
		return errors.New("its service's name is empty, too long, or has control characters in it")
	}
	if in.Registered != "" {
		if err := checkText(in.Registered); err != nil {
			return fmt.Errorf("its registered name %w", err)
		}
	}
	if err := checkAddr(in.Addr); err != nil {
		return err
	}
	for _, n := range []string{in.Node, in.Workload} {
		if n == "" {
			continue
		}
		if err := CheckNode(n); err != nil {
			return fmt.Errorf("the name of its node or workload %w", err)
		}
	}
	for what, text := range map[string]string{
		"id": in.ID, "datacenter": in.Datacenter, "namespace": in.Namespace, "port's name": in.PortName,
	} {
		if err := checkText(text); err != nil {
			return fmt.Errorf("its %s %w", what, err)
		}
	}
	return checkMetadata(in)
}

func checkMetadata(in *Instance) error {
	if len(in.Tags) > MaxTags {
		return fmt.Errorf("it has %d tags; %d may be", len(in.Tags), MaxTags)
	}
	for _, t := range in.Tags {
		if err := checkText(t); err != nil {
			return fmt.Errorf("one of its tags %w", err)
		}
	}
	for _, m := range []map[string]string{in.Meta, in.NodeMeta} {
		if len(m) > MaxMeta {
			return fmt.Errorf("it has %d pairs of metadata; %d may be", len(m), MaxMeta)
		}
		for k, v := range m {
			if checkText(k) != nil || checkText(v) != nil {
				return fmt.Errorf("its metadata is longer than %d bytes or has control characters in it", MaxText)
			}
		}
	}
	for _, a := range in.Tagged {
		if a.Addr().Zone() != "" {
			return errors.New("a tagged address has an IPv6 zone")
		}
	}
	return nil
}

func checkAddr(a netip.AddrPort) error {
	ip := a.Addr()
	switch {
	case !ip.IsValid():
		return errors.New("it has no IP address")
	case ip.Zone() != "":
		return fmt.Errorf("its address %s has an IPv6 zone, which means nothing on another host", Quote(ip.String()))
	case a.Port() == 0:
		return errors.New("it has no port")
	}
	return nil
}

func checkText(s string) error {
	if len(s) > MaxText {
		return fmt.Errorf("is longer than %d bytes", MaxText)
	}
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return fmt.Errorf("has the control character %q in it", s[i])
		}
	}
	return nil
}

// Quote makes hostile text safe and short enough for a sentence.
func Quote(s string) string {
	if len(s) > 64 {
		return fmt.Sprintf("%q…", s[:64])
	}
	return fmt.Sprintf("%q", s)
}

func lowerAlnum(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func alnum(c byte) bool { return lowerAlnum(c) || c >= 'A' && c <= 'Z' }
