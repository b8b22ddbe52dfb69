#!/usr/bin/env bash
# Runs every fuzz target for the given time each: tools/fuzz.sh 3s
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-3s}
count=0
while IFS=: read -r file target; do
  go test "./$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$time" >/tmp/kerege-fuzz.$$ 2>&1 || { cat /tmp/kerege-fuzz.$$; rm -f /tmp/kerege-fuzz.$$; echo "fuzz: $target failed"; exit 1; }
  count=$((count + 1))
done < <(git ls-files -co --exclude-standard '*_test.go' | xargs grep -HoE '^func Fuzz[A-Za-z0-9_]+' | sed 's/func //')
rm -f /tmp/kerege-fuzz.$$
echo "fuzz: $count targets, $time each, no failure"
