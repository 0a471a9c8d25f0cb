#!/usr/bin/env bash
# Installs what the benchmarks compare with, from Debian's packages: s6, runit, supervisor, and for
# links nats-server. Says which of them is missing afterwards; the benchmarks then leave its rows out,
# or say in each that it is missing. Starts none of them, neither now nor at the next boot.
set -euo pipefail

declare -A program=([s6]=s6-svscan [runit]=runsvdir [supervisor]=supervisord [nats-server]=nats-server)
packages=(s6 runit supervisor nats-server)

absent() {
  for package in "${packages[@]}"; do
    command -v "${program[$package]}" >/dev/null || echo "$package"
  done
}

mapfile -t wanted < <(absent)
if ((${#wanted[@]} > 0)) && ((EUID == 0)) && command -v apt-get >/dev/null; then
  # Debian's way to say that nothing is to be started, see invoke-rc.d(8).
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -qq --yes --no-install-recommends "${wanted[@]}"; } >&2 ||
    echo "apt-get has failed, see above" >&2
  for service in supervisor nats-server; do
    if [[ " ${wanted[*]} " == *" $service "* ]] && command -v systemctl >/dev/null; then
      systemctl --no-reload disable "$service.service" >&2 || true
    fi
  done
fi

mapfile -t missing < <(absent)
for package in "${missing[@]}"; do
  echo "MISSING RIVAL: the package $package is not installed; as root on Debian, this script installs it" >&2
done
exit $((${#missing[@]} > 0))
