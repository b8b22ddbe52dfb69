package mesh

// Snapshot is everything the mesh knows at one moment. It is built by Merge or
// With, read by its methods, never changed, and shares what did not change with
// the snapshot it was made from.
type Snapshot struct {
	_ struct{} // fields belong to merge.go
}
