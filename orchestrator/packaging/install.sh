#!/usr/bin/env bash
# Puts the programs, the units of systemd, shell completions and manual pages in place, or takes
# away what was put there.
#
#   ./run.sh install   [--prefix DIR] [--root DIR] [--from DIR] [--debug]
#   ./run.sh uninstall [--prefix DIR] [--root DIR]
#
#   --prefix DIR  where to: /usr/local without it; ~/.local is for this user alone
#   --root DIR    below this directory, which is / for those who will run it, as for a package
#   --from DIR    programs that are there already, of this machine's kind; else they are built
#   --debug       programs that were built without optimizations
#
# What was installed is written down in PREFIX/share/orchestrator/installed. State, in
# /var/lib/orchestrator, is never touched; nor is a configuration that was changed.
set -euo pipefail
# Whoever runs it may read it.
umask 022

fail() {
    printf 'run.sh: %s\n' "$*" >&2
    exit 1
}

action=${1:-}
shift || true
prefix=/usr/local root='' from='' profile=release
while [ $# -gt 0 ]; do
    case $1 in
        --prefix | --root | --from)
            [ $# -ge 2 ] && [ -n "$2" ] || fail "$1 needs a directory"
            case $1 in
                --prefix) prefix=$2 ;;
                --root) root=$2 ;;
                --from) from=$2 ;;
            esac
            shift
            ;;
        --prefix=*) prefix=${1#*=} ;;
        --root=*) root=${1#*=} ;;
        --from=*) from=${1#*=} ;;
        --debug) profile=debug ;;
        -h | --help)
            sed -n '2,16s/^# \{0,1\}//p' "$0"
            exit
            ;;
        *) fail "there is no option '$1'; see ./run.sh $action --help" ;;
    esac
    shift
done
case $prefix in
    / | '' | *[!a-zA-Z0-9/._+-]*) fail "the prefix '$prefix' is no directory that units can name" ;;
    /*) prefix=${prefix%/} ;;
    *) fail "the prefix '$prefix' is not absolute" ;;
esac
if [ -n "$root" ]; then
    mkdir -p "$root"
    root=$(cd "$root" && pwd)
    root=${root%/}
fi
if [ -n "$from" ]; then
    [ -x "$from/orchestrator" ] && [ -x "$from/orchestrator-cli" ] ||
        fail "there are no programs orchestrator and orchestrator-cli in '$from'"
    from=$(cd "$from" && pwd)
fi
cd "$(dirname "$0")/../.."

list=$prefix/share/orchestrator/installed
case $prefix in
    /usr | /usr/local) sysconf=/etc ;;
    *) sysconf=$prefix/etc ;;
esac
is_for_user=false
[ "$prefix" != "${HOME:-/nonexistent}/.local" ] || is_for_user=true

sum() { sha256sum <"$1" | cut -d' ' -f1; }

# What was written down for a path: kind and sum, or nothing.
written_down() {
    [ ! -f "$root$list" ] || awk -F'\t' -v path="$1" '$3 == path { print $1, $2 }' "$root$list"
}

write_down() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$stage/list"; }

stage=
scratch() {
    stage=$(mktemp -d)
    trap 'rm -rf "$stage"' EXIT
    mkdir -p "$stage/files"
}

# Makes room for a file of the stage: `put MODE PATH`.
put() {
    mkdir -p "$stage/files$(dirname "$2")"
    cat >"$stage/files$2"
    chmod "$1" "$stage/files$2"
}

unit() {
    sed -e "s|@bindir@|$prefix/bin|g" -e "s|@sysconfdir@|$sysconf|g" "orchestrator/packaging/systemd/$1" | put 644 "$2"
}

build() {
    local bin=$from
    if [ -z "$bin" ]; then
        if [ $profile = release ]; then
            cargo build --release -p orchestrator -p orchestrator-cli
        else
            cargo build --workspace --bins
        fi
        bin=$(cargo metadata --format-version 1 --no-deps |
            sed -E 's/.*"target_directory":"([^"]+)".*/\1/')/$profile
    fi
    put 755 "$prefix/bin/orchestrator" <"$bin/orchestrator"
    put 755 "$prefix/bin/orchestrator-cli" <"$bin/orchestrator-cli"
    local cli=$bin/orchestrator-cli page
    "$cli" completions bash | put 644 "$prefix/share/bash-completion/completions/orchestrator-cli"
    "$cli" completions zsh | put 644 "$prefix/share/zsh/site-functions/_orchestrator-cli"
    "$cli" completions fish | put 644 "$prefix/share/fish/vendor_completions.d/orchestrator-cli.fish"
    "$cli" man "$stage/man"
    for page in "$stage"/man/*.1; do
        put 644 "$prefix/share/man/man1/$(basename "$page")" <"$page"
    done
    "$bin/orchestrator" --man | put 644 "$prefix/share/man/man8/orchestrator.8"
    if $is_for_user; then
        unit user/orchestrator.service "$prefix/share/systemd/user/orchestrator.service"
        unit user/orchestrator.socket "$prefix/share/systemd/user/orchestrator.socket"
    else
        local scope
        for scope in system user; do
            unit $scope/orchestrator.service "$prefix/lib/systemd/$scope/orchestrator.service"
            unit $scope/orchestrator.socket "$prefix/lib/systemd/$scope/orchestrator.socket"
        done
        put 644 "$sysconf/default/orchestrator" <orchestrator/packaging/default
    fi
}

# The kind of a file of the stage: a configuration belongs to the operator once it is changed.
kind() {
    case $1 in
        "$sysconf"/default/*) echo config ;;
        *) echo file ;;
    esac
}

# Nothing of somebody else's is replaced.
check() {
    local path before
    while read -r path; do
        [ -e "$root$path" ] || [ -L "$root$path" ] || continue
        [ "$(kind "$path")" = file ] || continue
        before=$(written_down "$path")
        [ -z "$before" ] || continue
        [ -f "$root$path" ] && cmp -s "$stage/files$path" "$root$path" ||
            fail "$root$path is there, and was not installed by this; move it away first"
    done <"$stage/paths"
}

# Makes a directory with its parents, and writes down which of them were not there.
make_directory() {
    [ ! -d "$root$1" ] || return 0
    make_directory "$(dirname "$1")"
    mkdir "$root$1"
    write_down directory - "$1"
}

install_files() {
    scratch
    build
    (cd "$stage/files" && find . -type f | sed 's/^\.//' | sort) >"$stage/paths"
    check
    # Directories that were made before are still ours.
    if [ -f "$root$list" ]; then
        awk -F'\t' '$1 == "directory"' "$root$list" >"$stage/list"
    fi
    local path before
    make_directory "$(dirname "$list")"
    while read -r path; do
        before=$(written_down "$path")
        make_directory "$(dirname "$path")"
        if [ "$(kind "$path")" = config ] && [ -e "$root$path" ] &&
            [ "$before" != "config $(sum "$root$path")" ]; then
            echo "left as it is: $root$path"
            [ -z "$before" ] || write_down "${before% *}" "${before#* }" "$path"
            continue
        fi
        echo "$path" >>"$stage/todo"
        write_down "$(kind "$path")" "$(sum "$stage/files$path")" "$path"
    done <"$stage/paths"
    # What this version does not have any more.
    if [ -f "$root$list" ]; then
        awk -F'\t' 'NR == FNR { now[$3]; next } $1 != "directory" && !($3 in now)' \
            "$stage/list" "$root$list" >"$stage/gone"
        remove_files <"$stage/gone"
    fi
    # Before the files, so that one that is interrupted can be repeated, or undone.
    cp "$stage/list" "$root$list.new"
    mv -f "$root$list.new" "$root$list"
    while read -r path; do
        # In one step: whoever executes or reads it has the one or the other.
        cp "$stage/files$path" "$root$path.new"
        mv -f "$root$path.new" "$root$path"
    done <"$stage/todo"
    echo "installed below $root$prefix: $(grep -vc '^directory' "$stage/list") files"
    [ -n "$root" ] || say_next
}

say_next() {
    if $is_for_user; then
        echo "next: systemctl --user daemon-reload && systemctl --user enable --now orchestrator"
    elif [ "$sysconf" = /etc ]; then
        echo "next: systemctl daemon-reload && systemctl enable --now orchestrator"
        echo "      or, if it runs already: systemctl daemon-reload && systemctl reload orchestrator"
    else
        echo "next: systemctl enable --now $prefix/lib/systemd/system/orchestrator.{socket,service}"
    fi
}

# Removes what is written down on standard input, unless it was changed.
remove_files() {
    local kind sum path
    while IFS=$'\t' read -r kind sum path; do
        [ "$kind" != directory ] || continue
        [ -f "$root$path" ] || continue
        if [ "$(sum "$root$path")" = "$sum" ]; then
            rm -f "$root$path"
        else
            echo "changed since, and left as it is: $root$path"
        fi
    done
}

uninstall_files() {
    [ -f "$root$list" ] || fail "nothing is installed below $root$prefix: there is no $root$list"
    if [ -z "$root" ] && command -v systemctl >/dev/null && ! $is_for_user; then
        if systemctl is-active --quiet orchestrator.service 2>/dev/null; then
            fail "it runs; first: systemctl disable --now orchestrator.service orchestrator.socket"
        fi
    fi
    scratch
    cp "$root$list" "$stage/list"
    remove_files <"$stage/list"
    rm -f "$root$list"
    # The deepest first; what somebody else has put there stays.
    awk -F'\t' '$1 == "directory" { print $3 }' "$stage/list" | sort -r |
        while read -r path; do
            rmdir "$root$path" 2>/dev/null || true
        done
    echo "uninstalled below $root$prefix; state is left as it is"
}

case $action in
    install) install_files ;;
    uninstall) uninstall_files ;;
    *) fail "use install or uninstall" ;;
esac
