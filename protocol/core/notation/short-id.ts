const UUID = /^([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(.*)$/
const SHORT = 13

/**
 * An id as tables show it. Ids of leases are a UUID and numbers: the first block and the numbers tell
 * them apart on one host.
 */
export function shortId (id: string): string {
  const [, head, rest] = UUID.exec(id) ?? []
  return head === undefined ? id.slice(0, SHORT) : head + (rest ?? '')
}
