#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# test-units.sh UNIT-DIR PROGRAM: are the systemd units what systemd understands, without a complaint?
set -euo pipefail
if ! command -v systemd-analyze >/dev/null; then
	echo "skipped: no systemd-analyze"
	exit 77
fi
dir=$(mktemp -d)
trap 'rm -r "$dir"' EXIT
cp "$1"/dorm-pager@.* "$dir"
sed -i "s|/usr/bin/dorm-pager|$2|" "$dir/dorm-pager@.service" # which need not be installed
cp "$dir/dorm-pager@.service" "$dir/dorm-pager@test.service"
cp "$dir/dorm-pager@.socket" "$dir/dorm-pager@test.socket"
said=$(SYSTEMD_UNIT_PATH="$dir:" systemd-analyze verify --man=no "$dir/dorm-pager@test.service" \
	"$dir/dorm-pager@test.socket" 2>&1 | grep -F dorm-pager || true)
echo "$said"
[ -z "$said" ]
