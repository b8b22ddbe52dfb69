package mesh

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
