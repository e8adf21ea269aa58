#!/usr/bin/env bash
# A Ray head on this machine that only this machine reaches: to try out how a cluster goes, or to share one large machine.
#   clusters/local.sh start     the first time it makes a token, ~/.ray/auth_token
#   clusters/local.sh stop
# Run it in the environment that has tta-grid[cluster]. Jobs: http://127.0.0.1:8265, drivers: 127.0.0.1:6379.
set -euo pipefail

STATE=${TTA_GRID_HEAD:-$HOME/.tta-grid-head}
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

start() {
    umask 077
    mkdir -p "$STATE"
    if running; then
        echo "it runs already, process $(cat "$STATE/pid")"
        return
    fi
    [ -e "$HOME/.ray/auth_token" ] || [ -n "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ] || ray get-auth-token --generate > /dev/null
    # On a busy machine Ray gives up after 30 s, and no setting moves that.
    for _ in 1 2 3; do
        launch && return
        stop
    done
    echo "it did not start; its log is $STATE/log. Without a dashboard there: pip install 'tta-grid[cluster]'" >&2
    exit 1
}

launch() {
    # The path of a socket has 107 characters at most, so Ray's files go to a short one of their own.
    mktemp -d /tmp/tta-ray-XXXXXX > "$STATE/folder"
    setsid ray start --head --block --node-ip-address 127.0.0.1 --port 6379 --dashboard-host 127.0.0.1 \
        --dashboard-port 8265 --temp-dir "$(cat "$STATE/folder")" > "$STATE/log" 2>&1 < /dev/null &
    echo $! > "$STATE/pid"
    for _ in $(seq 90); do
        if (: < /dev/tcp/127.0.0.1/8265) 2> /dev/null; then
            echo "head 127.0.0.1:6379, jobs http://127.0.0.1:8265"
            return 0
        fi
        running || return 1
        sleep 1
    done
    return 1
}

running() { [ -e "$STATE/pid" ] && kill -0 "$(cat "$STATE/pid")" 2> /dev/null; }

# By its own process, never by `ray stop`: that ends every Ray on this machine.
stop() {
    if running; then
        kill -TERM "$(cat "$STATE/pid")"
        for _ in $(seq 60); do
            running || break
            sleep 1
        done
    fi
    [ ! -e "$STATE/folder" ] || rm -rf "$(cat "$STATE/folder")"
    rm -f "$STATE/pid" "$STATE/folder"
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    *) echo "usage: $0 start|stop" >&2; exit 2 ;;
esac
