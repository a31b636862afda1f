#!/bin/sh
# Starts a program inside a pod and leaves it to the pod's init; prints its pid there.
#   pod-spawn.sh PROGRAM ARGS...    stderr goes to the program's log, stdout is for the pid
set -eu
setsid "$@" </dev/null >&2 &
echo $!
