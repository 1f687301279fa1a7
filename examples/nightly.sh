#!/bin/sh
# One day of a recommender: fit a model, serve it, observe events, export these events while the server runs, fit on the
# old log and the export, reload the model, and restart the server. Every event counts once, even if both the fitted log
# and the server's event log hold it.
#
#   sh examples/nightly.sh FOLDER LOG.csv     LOG.csv has the columns user_id,item_id,timestamp
#
# COREREC (the command), PORT and FIT (options of `corerec fit`) may be set.
set -eu
folder=$1 log=$2
corerec=${COREREC:-corerec} port=${PORT:-8123} fit=${FIT:-}
model=$folder/shop.model events=$folder/shop.events.sqlite url=http://127.0.0.1:$port

start() {
    $corerec serve "$model" --port "$port" --events "$events" 2>>"$folder/server.log" &
    server=$!
    trap 'kill $server 2>/dev/null || true' EXIT
    until curl -sf "$url/readyz" >/dev/null; do
        kill -0 $server || { cat "$folder/server.log" >&2; exit 1; }
        sleep 0.2
    done
}

stop() {
    kill -TERM $server
    wait $server
}

post() {
    curl -sf -H "Content-Type: application/json" -d "$2" "$url$1" >/dev/null
}

$corerec fit "$log" -o "$model" --quiet $fit
start

# The day: 1,000 events of 100 users, ten at a time. An event_id makes a retry safe.
users=$(cut -d, -f1 "$log" | tail -n +2 | sort -un | head -100 | tr '\n' ' ')
item=$(cut -d, -f2 "$log" | sed -n 2p)
newest=$(cut -d, -f3 "$log" | tail -n +2 | sort -n | tail -1)
for user in $users; do
    body=""
    for n in 1 2 3 4 5 6 7 8 9 10; do
        newest=$((newest + 1))
        body="$body{\"user_id\":$user,\"item_id\":$item,\"timestamp\":$newest,\"event_id\":\"$user-$n\"},"
    done
    post /v1/events "{\"events\":[${body%,}]}"
done

# The night: fit the next model on the log and the day's events. Meanwhile, the server continues to accept events.
$corerec events export "$events" -o "$folder/day.csv"
{ cut -d, -f1-3 "$log"; cut -d, -f1-3 "$folder/day.csv" | tail -n +2; } >"$folder/both.csv"
$corerec fit "$folder/both.csv" -o "$model" --quiet $fit
post /v1/reload ""
for user in $users; do curl -sf "$url/v1/users/$user?limit=10000"; echo; done >"$folder/after-reload.jsonl"
stop
start
for user in $users; do curl -sf "$url/v1/users/$user?limit=10000"; echo; done >"$folder/after-restart.jsonl"
stop
trap - EXIT
