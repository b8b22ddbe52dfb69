package mesh

import (
	"errors"
	"fmt"
	"strings"
)

// Identity is a workload's name in the mesh: spiffe://<TrustDomain>/svc/<Service>,
// or spiffe://<TrustDomain>/ns/<Namespace>/svc/<Service> where there are
// namespaces. Servers and nodes have identities of their own:
// spiffe://<TrustDomain>/server/<name> and /node/<name>.
type Identity struct {
	TrustDomain string
	Namespace   string // "" where there are none
	Kind        IdentityKind
	Name        string // the service's, node's or server's name
}

// IdentityKind is the role in an identity's path.
type IdentityKind string

const (
	KindSvcIdentity    IdentityKind = "svc"
	KindNodeIdentity   IdentityKind = "node"
	KindServerIdentity IdentityKind = "server"
)

// String is the SPIFFE ID. The zero Identity is "".
func (id Identity) String() string {
	if id == (Identity{}) {
		return ""
	}
	ns := ""
	if id.Namespace != "" {
		ns = "/ns/" + id.Namespace
	}
	return "spiffe://" + id.TrustDomain + ns + "/" + string(id.Kind) + "/" + id.Name
}

// ServiceIdentity is what the instances of a service show.
func ServiceIdentity(trustDomain string, name ServiceName) Identity {
	return Identity{TrustDomain: trustDomain, Kind: KindSvcIdentity, Name: string(name)}
}

// ParseIdentity reads a SPIFFE ID. It takes exactly what String writes and
// nothing that merely resembles it, so that an ID has one spelling and text
// comparison is identity comparison.
func ParseIdentity(s string) (Identity, error) {
	rest, ok := strings.CutPrefix(s, "spiffe://")
	if !ok || len(s) > 2048 {
		return Identity{}, fmt.Errorf("the identity %s does not start with spiffe://, or is longer than 2048 bytes", Quote(s))
	}
	steps := strings.Split(rest, "/")
	id := Identity{TrustDomain: steps[0]}
	if err := CheckTrustDomain(id.TrustDomain); err != nil {
		return Identity{}, err
	}
	steps = steps[1:]
	if len(steps) == 4 && steps[0] == "ns" {
		id.Namespace = steps[1]
		if err := CheckName(id.Namespace); err != nil {
			return Identity{}, fmt.Errorf("the namespace in %s %w", Quote(s), err)
		}
		steps = steps[2:]
	}
	if len(steps) != 2 {
		return Identity{}, fmt.Errorf("the path of the identity %s is not /svc/NAME, /node/NAME or /server/NAME", Quote(s))
	}
	id.Kind, id.Name = IdentityKind(steps[0]), steps[1]
	var err error
	switch {
	case id.Kind == KindSvcIdentity:
		err = CheckName(id.Name)
	case id.Namespace == "" && (id.Kind == KindNodeIdentity || id.Kind == KindServerIdentity):
		err = CheckNode(id.Name)
	default:
		return Identity{}, fmt.Errorf("the identity %s is of no known kind", Quote(s))
	}
	if err != nil {
		return Identity{}, fmt.Errorf("the name in the identity %s %w", Quote(s), err)
	}
	return id, nil
}

// CheckTrustDomain says what is wrong with a trust domain: it is 1 to 253 bytes
// of a-z, 0-9, '-' and '_' in parts separated by single dots.
func CheckTrustDomain(td string) error {
	if td == "" || len(td) > 253 {
		return errors.New("a trust domain has 1 to 253 bytes")
	}
	for part := range strings.SplitSeq(td, ".") {
		if part == "" {
			return fmt.Errorf("the trust domain %s starts or ends with a dot, or has two in a row", Quote(td))
		}
		for i := 0; i < len(part); i++ {
			if !lowerAlnum(part[i]) && part[i] != '-' && part[i] != '_' {
				return fmt.Errorf("the trust domain %s has %q in it; a-z, 0-9, '.', '-' and '_' may be", Quote(td), part[i])
			}
		}
	}
	return nil
}
