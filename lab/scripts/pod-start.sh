#!/bin/sh
# Runs between the starter and `unshare` of a pod that must die with its starter.
#   pod-start.sh STARTER_PID PROGRAM ARGS...
# `setpriv --pdeathsig` took effect just before this: a starter that died even earlier left no
# signal, but a parent that is no longer the starter.
set -eu
starter=$1
shift
[ "$PPID" = "$starter" ] || exit 1
exec "$@"
