/** Every program that drivers and services start, by name; the helper starts nothing else. */
export const HELPER_PROGRAMS: readonly string[] = [
  // links, namespaces, filters, tunnels
  'ip', 'bridge', 'nft', 'wg', 'wireguard-go', 'sysctl', 'unshare', 'ping', 'tcpdump',
  // nodes
  'virsh', 'qemu-img', 'qemu-system-x86_64', 'timeout',
  // volumes
  'tgtd', 'tgtadm', 'vgs',
  // frontends and caches
  'nginx', 'dnsmasq', 'perl', 'setpriv', 'id', 'chown',
  // services
  'systemctl', 'systemd-run', 'systemd-notify'
]
