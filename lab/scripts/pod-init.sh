#!/bin/sh
# Init (pid 1) of a pod, one host of the lab: gives it files, /sys and a name of its own, then
# reaps whatever its processes leave behind until it is killed, which ends them all.
#   pod-init.sh NAME DIR UID [-v PATH | -b SOURCE TARGET]...
# UID is that of the user `musubi` inside, whom agents run as.
# DIR holds the pod's private files under their own paths (DIR/run is its /run).
# -v: PATH looks the same inside as outside although a directory above it is private.
# -b: SOURCE of the machine is TARGET inside.
# fd 3: gets one line, `ready`, when the pod can be used.
set -eu
umask 022
name=$1
dir=$2
uid=$3
shift 3

die () { echo "pod $name: $1" >&2; exit 1; }

# Hosts of different pods share the kernel, not the words.
hostname "$name" || die 'cannot set the host name'
ip link set lo up || die 'cannot raise lo'

# Keep a way to what must stay visible before it is covered.
keep=$dir/.visible
keep_visible () {
  n=0
  while [ $# -gt 0 ]; do
    case $1 in
      -v)
        n=$((n + 1))
        if [ -d "$2" ]; then
          mkdir -p "$keep/$n"
          mount --rbind "$2" "$keep/$n" || die "cannot keep $2"
        fi
        shift 2 ;;
      -b) shift 3 ;;
      *) die "unknown argument $1" ;;
    esac
  done
}
mkdir -p "$keep"
keep_visible "$@"

# Programs may write anywhere below these; the machine's own files stay as they are. In memory:
# an overlay on disk syncs the whole disk when it ends, and cannot lie on another overlay.
mkdir -p "$dir/.layers"
mount -t tmpfs -o mode=755,size=512m mzlab "$dir/.layers" || die 'cannot mount a tmpfs'
for path in /etc /var/lib /var/log /var/cache; do
  [ -d "$path" ] || continue
  layer=$dir/.layers$path
  mkdir -p "$layer/upper" "$layer/work"
  mount -t overlay -o "lowerdir=$path,upperdir=$layer/upper,workdir=$layer/work" mzlab "$path" ||
    die "cannot lay an overlay over $path (does the kernel have overlayfs?)"
done

private () {
  mkdir -p "$1" "$2"
  mount --bind "$1" "$2" || die "cannot show $1 as $2"
}
for path in /etc/musubi /var/lib/musubi /var/lib/musubi-helper /var/lib/nginx /var/log/nginx /run; do
  private "$dir$path" "$path"
done
bind_more () {
  while [ $# -gt 0 ]; do
    case $1 in
      -v) shift 2 ;;
      -b) private "$2" "$3"; shift 3 ;;
    esac
  done
}
bind_more "$@"
# The user that agents run as, and the folders that are its own; and the one that libvirtd looks up whatever
# its configuration says, which only libvirt-daemon-system makes: it would start libvirtd on the machine.
for file in passwd group; do
  grep -v -e '^musubi:' -e '^libvirt-qemu:' "/etc/$file" > "/etc/$file.lab" || :
  case $file in
    passwd)
      echo "musubi:x:$uid:$uid:Musubi agent:/var/lib/musubi:/usr/sbin/nologin"
      echo 'libvirt-qemu:x:64055:64055:Libvirt QEMU:/var/lib/libvirt:/usr/sbin/nologin' ;;
    group)
      echo "musubi:x:$uid:"
      echo 'libvirt-qemu:x:64055:' ;;
  esac >> "/etc/$file.lab"
  mv "/etc/$file.lab" "/etc/$file"
done
mkdir -p /run/lock /run/netns /run/musubi
chown -R -h "$uid:$uid" /var/lib/musubi /run/musubi || die 'cannot give the agent its folders'
chmod 700 /var/lib/musubi-helper
# `ip netns` names must reach the mount namespaces that `ip netns exec` makes.
mount --bind /run/netns /run/netns
mount --make-shared /run/netns

# /sys/class/net shows the network namespace that sysfs was mounted in.
umount -l /sys 2>/dev/null || :
mount -t sysfs sysfs /sys || die 'cannot mount /sys'

# Last, because DIR is usually below it: from here on DIR is out of sight.
mkdir -p "$dir/tmp"
chmod 1777 "$dir/tmp"
exec 4< "$keep" || die 'lost the pod folder'
mount --bind "$dir/tmp" /tmp || die 'cannot make /tmp private'
# A folder that only root may enter (/root) is no way for the user of the agent: it is covered by an
# empty one, in which what must be visible is shown.
open_way () {
  way=
  rest=${1#/}
  while [ "${rest#*/}" != "$rest" ]; do
    way=$way/${rest%%/*}
    rest=${rest#*/}
    case $(stat -c %A "$way" 2>/dev/null) in
      '') return 0 ;;
      *x | *t) ;;
      *) mount -t tmpfs -o mode=755,size=1m mzlab "$way" || die "cannot open the way to $1"; return 0 ;;
    esac
  done
}
# The same for a folder that is itself root's alone (git clone into what mktemp -d has made): what is in
# it is shown, one by one, in a folder that everybody may enter.
show_open () {
  mount -t tmpfs -o mode=755,size=1m mzlab "$2" || die "cannot open $2"
  for entry in "$1"/* "$1"/.[!.]*; do
    inside=$2/${entry##*/}
    if [ -L "$entry" ]; then
      cp -P "$entry" "$inside"
    elif [ -d "$entry" ]; then
      mkdir "$inside" && mount --rbind "$entry" "$inside" || die "cannot show $inside"
    elif [ -e "$entry" ]; then
      : > "$inside" && mount --bind "$entry" "$inside" || die "cannot show $inside"
    fi
  done
}
show_visible () {
  n=0
  while [ $# -gt 0 ]; do
    case $1 in
      -v)
        n=$((n + 1))
        kept=/proc/self/fd/4/$n
        if [ -d "$kept" ]; then
          open_way "$2"
          if [ ! "$2" -ef "$kept" ]; then
            mkdir -p "$2"
            case $(stat -c %A "$kept/") in
              *x | *t) mount --rbind "$kept" "$2" || die "cannot show $2" ;;
              *) show_open "$kept" "$2" ;;
            esac
          fi
          umount -l "$kept" || :
        fi
        shift 2 ;;
      -b) shift 3 ;;
    esac
  done
}
show_visible "$@"
exec 4<&-
cd /

echo ready >&3
exec 3>&-

# `wait` of a shell also collects orphans; the sleep is what it waits for.
while :; do
  sleep 2147483647 &
  wait $! || :
done
