#!/usr/bin/env bash
# Regenerates what is generated: protobuf code and the references in docs.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/versions.env
command -v protoc >/dev/null || { echo 'generate: protoc is missing; as root: apt-get install protobuf-compiler libprotobuf-dev' >&2; exit 1; }
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
GOBIN=$bin go install "google.golang.org/protobuf/cmd/protoc-gen-go@$PROTOC_GEN_GO"
GOBIN=$bin go install "google.golang.org/grpc/cmd/protoc-gen-go-grpc@$PROTOC_GEN_GO_GRPC"
PATH=$bin:$PATH protoc -I api -I /usr/include --go_out=. --go_opt=module=github.com/kerege/kerege \
  --go-grpc_out=. --go-grpc_opt=module=github.com/kerege/kerege api/kerege/v1/kerege.proto
go test ./config ./command ./server -run 'Reference' -update >/dev/null
