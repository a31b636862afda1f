/**
 * Frontends that hand out addresses by themselves: what their DHCP server says is learnt where it comes in, by a
 * keeper (`keeper.pl`), into an nft set of pairs of MAC and address, and that set is what may be sent from.
 */
import { SNOOP_ANSWERS_BURST, SNOOP_ANSWERS_PER_SECOND } from '../../../../protocol/core/limits.ts'
import type { SegmentMember, SegmentSpec } from '../../../../protocol/core/desired.ts'

/** Group of the kernel's log that answers go to, in each namespace: no other program's, as those count from 0. */
export const SNOOP_GROUP = 28_026
/** What the names of the sets begin with, before the VNI. */
export const LEARNED_PREFIX = 'learned_'
const hex6 = (vni: number): string => vni.toString(16).padStart(6, '0')
/** nftables set of a segment in one namespace: who has which address, for how long. */
export const learnedSet = (vni: number): string => `${LEARNED_PREFIX}${hex6(vni)}`
/** The set of the chain that guards a segment's ports; null of other chains. */
export const learnedOfPorts = (chain: string): string | null => chain.startsWith('ports_') ? `${LEARNED_PREFIX}${chain.slice('ports_'.length)}` : null
/** By what the keeper knows whose answer it got. */
const logPrefix = (vni: number): string => `mz${hex6(vni)}`

/** A node whose address nobody knows before its frontend has given it one. */
export const isSnooped = ({ address }: Pick<SegmentMember, 'address'>): boolean => address === null
/** Whether there is anything to learn in this segment. */
export const snoops = ({ known }: Pick<SegmentSpec, 'known'>): boolean => known?.members.some(isSnooped) === true

const answer = (from: string, mac: string): string => `${from} ether saddr ${mac} ether type ip udp sport 67`

/**
 * Answers of the frontend's server go to the keeper, which reads them: `@th,64,8` is the operation of BOOTP, 2 for
 * answers (RFC 951), after 8 bytes of UDP. They have passed the rules for who may answer before.
 *
 * @param mustLearn whether a node here may use only what was learnt: then answers pass only while the keeper has the
 *   frontend's own MAC and address in the set, and no more of them than it reads, and clients ask again (RFC 2131, section 4.1)
 */
export function snoopRules (vni: number, from: string, frontend: { mac: string, address: string }, mustLearn: boolean): string[] {
  const answers = answer(from, frontend.mac)
  const rate = `${SNOOP_ANSWERS_PER_SECOND}/second burst ${SNOOP_ANSWERS_BURST} packets`
  return [
    ...(mustLearn ? [`${answers} ether saddr . ip saddr != @${learnedSet(vni)} drop`, `${answers} limit rate over ${rate} drop`] : []),
    `${answers} @th,64,8 2 ${mustLearn ? '' : `limit rate ${rate} `}log prefix "${logPrefix(vni)}" group ${SNOOP_GROUP}`
  ]
}

/**
 * Who asks names itself: `@th,288,48` is the MAC that an answer will be for (`chaddr`, RFC 2131, after 8 bytes of UDP). Else
 * whoever asks in the name of another has the frontend give that one another address, and its own is not let through any
 * more, so that it cannot even renew. Requests are too small for fragments, in which that field could not be read.
 *
 * @param ports match of the ports that they come in by
 * @param ways what stands for a port and the MAC of a member behind it
 * @param members MACs that are meant; null: all
 */
export function askRules (ports: string, ways: string, members: string | null): string[] {
  return [
    `${ports} udp dport 67 ip frag-off & 0x3fff != 0 drop`,
    `${ports} udp dport 67 ${members === null ? '' : `@th,288,48 ${members} `}iifname . @th,288,48 != ${ways} drop`
  ]
}

/** A MAC as nft takes it where it knows no type. */
export const rawMac = (mac: string): string => `0x${mac.replaceAll(':', '')}`

/** A node sends from its own tap with its own MAC, and from 0.0.0.0, asking for an address, or the one it was given. */
export function learnedOnly (vni: number, taps: string, ways: string): string[] {
  const learned = `@${learnedSet(vni)}`
  return [
    `${taps} ether type arp iifname . arp saddr ether != ${ways} drop`,
    `${taps} ether type arp arp saddr ip != 0.0.0.0 arp saddr ether . arp saddr ip != ${learned} drop`,
    `${taps} ether type ip ip saddr != 0.0.0.0 ether saddr . ip saddr != ${learned} drop`
  ]
}
