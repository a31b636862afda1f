#!/bin/sh
# Restarts a program that ends, as systemd would, unless told to hold.
#   supervise.sh DIR PROGRAM ARGS...
# DIR/pid: the running program (pid in the pod). DIR/hold: while it exists, nothing is started.
# DIR/exits: one line per end, the exit status.
set -u
dir=$1
shift
child=
trap 'trap - TERM; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null; wait; exit 0' TERM
while :; do
  if [ -e "$dir/hold" ]; then
    sleep 0.1
    continue
  fi
  "$@" </dev/null &
  child=$!
  echo "$child" > "$dir/pid.new" && mv "$dir/pid.new" "$dir/pid"
  wait "$child"
  status=$?
  rm -f "$dir/pid"
  child=
  echo "$status" >> "$dir/exits"
  sleep 0.5
done
