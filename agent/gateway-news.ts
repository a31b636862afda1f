import type { TrackBook } from './tunnel/book.ts'
import type { GatewayFacts } from '../protocol/core/messages.ts'
import type { GatewayNews } from '../protocol/core/plan.ts'
import { chainFromText } from '../protocol/mesh/trust/base64.ts'
import { readChain } from '../protocol/mesh/trust/certificate.ts'
import type { Trust } from '../protocol/mesh/trust/trust.ts'

/**
 * What is known of another gateway. Certificates that have merely ended shut nobody out: a cluster
 * lives on while its members' certificates are renewed. Who was revoked and has joined again since
 * is a member.
 *
 * @param gateway as a document says, with the certificates that it was accepted with
 * @param book what gateways say of their keys; a record speaks for the gateway that signed it, and for no other
 */
export function newsOf (trust: Pick<Trust, 'roleOf' | 'revocations' | 'federation'>, { peer, chain, host }: Pick<GatewayFacts, 'peer' | 'chain' | 'host'>, site: string, book: Pick<TrackBook, 'tracksOf'> | null): GatewayNews {
  const tracks = book?.tracksOf({ peer, host, site }) ?? null
  if (trust.roleOf(peer) !== null) return { revoked: false, tracks }
  try {
    const member = readChain(chainFromText(chain), trust.federation)
    return { revoked: member.peerId === peer && trust.revocations.covering(member) !== null, tracks }
  } catch {
    return { revoked: false, tracks } // no certificates that can be read: nothing says that they are revoked
  }
}
