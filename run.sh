#!/usr/bin/env bash
# Builds everything and shows the main job: two programs that exchange messages through a daemon.
#
#   ./run.sh          ping, pong and trace under one daemon, for some seconds
#   ./run.sh pair     ping under one daemon, pong under another
#   ./run.sh useless  an instance that stops itself, and one that may not
#   ./run.sh shell    leaves the daemon running and prints lines to paste
#   ./run.sh test     installs what the tests need, and runs all tests and checks
#   ./run.sh install  puts it in place, with units for systemd; uninstall takes it away; see --help
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] && [ -z "${NO_COLOR:-}" ] || say() { printf '\n%s\n' "$*"; }
fail() {
    printf 'run.sh: %s\n' "$*" >&2
    exit 1
}
# Shows a command of the command line, then runs it.
show() {
    printf '$ orchestrator-cli %s\n' "$*"
    "$cli" "$@"
}

need() {
    command -v cargo >/dev/null || fail "cargo is missing: install Rust 1.88 or newer, see https://rustup.rs"
    local version
    version=$(rustc --version | sed -E 's/^rustc 1\.([0-9]+).*/\1/')
    [ "$version" -ge 88 ] || fail "$(rustc --version) is too old: Rust 1.88 or newer is needed, try 'rustup update'"
    command -v cc >/dev/null || fail "a C compiler is missing: install the package gcc (Debian: apt-get install gcc libc6-dev)"
}

build() {
    say "Building"
    cargo build --workspace --bins
    # Wherever a configuration puts it.
    bin=$(cargo metadata --format-version 1 --no-deps |
        sed -E 's/.*"target_directory":"([^"]+)".*/\1/')/debug
    cli=$bin/orchestrator-cli
}

pids=()
dir=
clean_up() {
    trap - EXIT INT TERM
    local pid
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    for pid in "${pids[@]}"; do
        wait "$pid" 2>/dev/null || true
    done
    if [ -n "$dir" ]; then rm -rf "$dir"; fi
}

# Starts a daemon of its own below $dir/NAME, with further arguments.
start_daemon() {
    local name=$1 tries
    shift
    mkdir -p -m 700 "$dir/$name"
    "$bin/orchestrator" --socket "$dir/$name/socket" --state-dir "$dir/$name/state" \
        --log-format compact "$@" 2>"$dir/$name/log" &
    pids+=($!)
    for tries in $(seq 200); do
        if ORCHESTRATOR_SOCKET=$dir/$name/socket "$cli" version >/dev/null 2>&1; then return; fi
        kill -0 $! 2>/dev/null || break
        sleep 0.05
    done
    cat "$dir/$name/log" >&2
    fail "the daemon did not start"
}

begin() {
    need
    build
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    dir=$(mktemp -d --suffix=.orchestrator)
}

# Lines of an instance's standard output that match.
count() {
    "$cli" runtime stdout "$1" --no-follow | grep -c "$2" || true
}

# Ten seconds without the messages that are waited for are a failure, not a reason to wait.
watch_messages() {
    printf '$ orchestrator-cli link tap --count 20\n'
    timeout 10 "$cli" link tap --count 20 || fail "no messages passed within ten seconds"
}

main_job() {
    begin
    say "A daemon on its own socket"
    start_daemon demo
    export ORCHESTRATOR_SOCKET=$dir/demo/socket
    show version

    say "Three programs"
    show runtime add "$bin/ping" --name ping
    show runtime add "$bin/pong" --name pong
    show runtime add "$bin/trace" --name trace

    say "Who gets whose messages"
    show link add --from ping --type examples.ping.v1 --to pong
    show link add --from pong --type examples.pong.v1 --to ping
    show link add --type examples.ping.v1 --to trace
    show link add --type examples.pong.v1 --to trace

    say "Start them"
    show runtime start trace pong ping

    say "Messages as they pass"
    watch_messages

    say "What they print"
    show runtime stdout trace --tail 6 --no-follow
    show runtime list
    show link list

    local pings pongs
    pongs=$(count ping 'received pong')
    pings=$(count pong 'received ping')
    say "Stop everything"
    show runtime stop ping pong trace
    show clear
    seen "$pings" "$pongs"
}

seen() {
    if [ "$1" -gt 0 ] && [ "$2" -gt 0 ]; then
        say "Seen: pong received $1 pings, ping received $2 pongs."
    else
        fail "messages did not flow both ways: pong received $1 pings, ping received $2 pongs"
    fi
}

# The address where the daemon behind $ORCHESTRATOR_SOCKET listens for datagrams.
datagram_address() {
    "$cli" --json status | sed -nE 's/.*"ipc":\{"address":"([^"]+)".*/\1/p'
}

pair() {
    begin
    say "Two daemons that listen for each other's datagrams"
    start_daemon left --ipc-socket 127.0.0.1:0
    start_daemon right --ipc-socket 127.0.0.1:0
    local left=$dir/left/socket right=$dir/right/socket left_address right_address
    left_address=$(ORCHESTRATOR_SOCKET=$left datagram_address)
    right_address=$(ORCHESTRATOR_SOCKET=$right datagram_address)
    echo "left: $left_address, right: $right_address"

    say "On the left: ping"
    export ORCHESTRATOR_SOCKET=$left
    show runtime add "$bin/ping" --name ping
    show link add --from ping --type examples.ping.v1 --to "udp:$right_address"
    show link add --type examples.pong.v1 --to ping

    say "On the right: pong and trace"
    export ORCHESTRATOR_SOCKET=$right
    show runtime add "$bin/pong" --name pong
    show runtime add "$bin/trace" --name trace
    show link add --type examples.ping.v1 --to pong
    show link add --type examples.ping.v1 --to trace
    show link add --from pong --type examples.pong.v1 --to "udp:$left_address"
    show runtime start trace pong

    say "Start ping, and watch the messages pass on the right"
    ORCHESTRATOR_SOCKET=$left show runtime start ping
    watch_messages
    show link list
    local pings pongs
    pings=$(count pong 'received ping')
    export ORCHESTRATOR_SOCKET=$left
    show link list
    pongs=$(count ping 'received pong')
    seen "$pings" "$pongs"
}

useless() {
    begin
    start_daemon demo
    export ORCHESTRATOR_SOCKET=$dir/demo/socket
    say "A machine that may control instances, and one that may not"
    show runtime add "$bin/useless-machine" --name useless --privileged
    show runtime add "$bin/useless-machine" --name powerless
    show runtime start useless powerless
    say "Both try to turn themselves off"
    local tries
    for tries in $(seq 200); do
        if [ "$("$cli" --json runtime list | grep -o '"ready":{' | wc -l)" = 0 ]; then break; fi
        sleep 0.05
    done
    show runtime logs useless --no-follow
    show runtime logs powerless --no-follow
    show runtime list
    "$cli" runtime stdout powerless --no-follow | grep -q refused || fail "the powerless one was not refused"
    "$cli" --json runtime show useless | grep -q '"stopped"' || fail "the useless machine did not stop"
    say "Seen: one stopped itself, the other was refused."
}

leave_running() {
    begin
    start_daemon demo
    say "A daemon is running. In another terminal, paste:"
    cat <<TXT
export ORCHESTRATOR_SOCKET=$dir/demo/socket
export PATH=$bin:\$PATH
orchestrator-cli runtime add $bin/ping --name ping
orchestrator-cli runtime add $bin/pong --name pong
orchestrator-cli link add --from ping --type examples.ping.v1 --to pong
orchestrator-cli link add --from pong --type examples.pong.v1 --to ping
orchestrator-cli runtime start pong ping
orchestrator-cli runtime stdout ping
orchestrator-cli link list
TXT
    say "Its log; Ctrl-C ends it:"
    tail -f -n +1 --pid "${pids[0]}" "$dir/demo/log"
}

# Debian's name of a package, installed if its command is missing and that is possible.
install() {
    command -v "$1" >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "Installing $2"
        apt-get update -q && apt-get install -q -y --no-install-recommends "$2"
    else
        fail "$1 is missing: install the package $2"
    fi
}

run_tests() {
    command -v cc >/dev/null || install cc gcc
    need
    install python3 python3
    install mount mount
    install tmux tmux
    # For the guest in which limits are tested; where they can't be had, that test says so.
    (install qemu-system-x86_64 qemu-system-x86 && install busybox busybox-static &&
        install cpio cpio) || true
    say "Format"
    cargo fmt --all --check
    say "Lints"
    cargo clippy --workspace --all-targets -- -D warnings
    say "Documents"
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
    say "Programs"
    cargo build --workspace --bins
    say "Tests"
    cargo test --workspace --no-run
    # What was built is gigabytes that the disk has yet to take, and tests wait for the disk.
    sync
    # A test that hangs is told of, and not waited for until nobody looks any more.
    timeout 60m cargo test --workspace --no-fail-fast
}

case ${1:-} in
    '') main_job ;;
    pair) pair ;;
    useless) useless ;;
    shell) leave_running ;;
    test) run_tests ;;
    install | uninstall) exec orchestrator/packaging/install.sh "$@" ;;
    -h | --help | help) sed -n '2,10s/^# \{0,1\}//p' "$0" ;;
    *) fail "there is no '$1'; use one of: pair, useless, shell, test, install, uninstall, or nothing" ;;
esac
