#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# test-units.sh UNIT-DIR DORMD DORM: are the units of dormd what systemd understands, without a
# complaint? Those of dorm-pager: src/pager/test-units.sh.
set -euo pipefail
if ! command -v systemd-analyze >/dev/null; then
	echo "skipped: no systemd-analyze"
	exit 77
fi
dir=$(mktemp -d)
trap 'rm -r "$dir"' EXIT
cp "$1"/dormd.* "$1"/dormouse.slice "$1"/dorm-template@.service "$dir"
sed -i -e "s|/usr/sbin/dormd|$2|" -e "s|/usr/bin/dorm |$3 |" "$dir"/*.service # need not be installed
cp "$dir/dorm-template@.service" "$dir/dorm-template@test.service"
said=$(SYSTEMD_UNIT_PATH="$dir:" systemd-analyze verify --man=no "$dir"/dormd.service \
	"$dir"/dormd.socket "$dir"/dormouse.slice "$dir"/dorm-template@test.service 2>&1 |
	grep -E 'dorm(d|-|ouse)' || true)
echo "$said"
[ -z "$said" ]
# With one of these no VM gets a jail, or none starts: the unit says why.
! grep -nE '^(NoNewPrivileges|RestrictNamespaces|ProtectHostname|ProtectClock|PrivateDevices|PrivateUsers|DeviceAllow|DevicePolicy|CapabilityBoundingSet|SystemCallFilter)=' \
	"$dir/dormd.service"
