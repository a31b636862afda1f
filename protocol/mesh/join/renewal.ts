import { errorCode, InvalidInputError, MusubiError } from '../../core/errors.ts'
import type { wire } from '../../wire/codec.ts'
import type { CallContext } from '../rpc/handlers.ts'
import { describeRole, isGateway } from '../roles.ts'
import { checkDates, NotAdmittedError, readChain, renewAtMs, type Chain, type Member } from '../trust/certificate.ts'
import type { Trust } from '../trust/trust.ts'
import type { CoordinatorAuthority, Renewal, SiteAuthority } from './types.ts'

export interface RenewalOptions {
  readonly trust: Trust
  /** wall clock, Unix ms */
  readonly now: () => number
  /** Gets a chain for the same with later dates: by the RPC `renew`, or by the own authority. */
  readonly renew: (chain: Chain) => Promise<Chain>
  /** Keeps it; on the disk when it resolves. */
  readonly save: (chain: Chain) => Promise<void>
  readonly log?: (level: 'debug' | 'info' | 'warn' | 'error', text: string, data: Readonly<Record<string, unknown>>) => void
  /** of a site or issuer key; default: the member's own chain, which `trust` then takes over */
  readonly chain?: () => Chain
  /** for the log, e.g. `the certificate of site tokyo` */
  readonly what?: string
  /** 0 to 1; default Math.random */
  readonly random?: () => number
}

const RETRY_MIN_MS = 1_000
const RETRY_MAX_MS = 3_600_000
/** Timers hold 24 days at most. */
const TIMER_MAX_MS = 24 * 3_600_000
/** Warnings begin when so much of the life is left, and come again at each half of what is left. */
const WARN_PART = 1 / 6

/**
 * Renews certificates before they end, by itself: at two thirds of their life, then again and again
 * with pauses that shrink with the time that is left.
 */
export function createRenewal (options: RenewalOptions): Renewal {
  const { trust, now, log = () => undefined, random = Math.random } = options
  const chainOf = options.chain ?? (() => trust.own().chain)
  const memberOf = (): Member => readChain(chainOf(), trust.federation)
  const what = options.what ?? `the certificate of ${describeRole(trust.own().role)}`
  let timer: NodeJS.Timeout | undefined
  let running = false
  let failures = 0
  let lastError: { code: string, message: string } | null = null
  let nextMs = 0
  let warnBelowMs = Infinity
  let underWay: Promise<Chain> | null = null

  const leftMs = (): number => memberOf().notAfterMs - now()
  /** A tenth of what is left, so that ten tries fit however short the life is; not all hosts at once. */
  const pauseMs = (): number => {
    const fraction = Math.min(0.1, 0.01 * 2 ** Math.min(failures, 4))
    return Math.min(RETRY_MAX_MS, Math.max(RETRY_MIN_MS, leftMs() * fraction)) * (0.75 + random() / 2)
  }
  const jittered = (member: Member): number => renewAtMs(member) + random() * 0.05 * (member.notAfterMs - member.notBeforeMs)

  const warn = (): void => {
    const member = memberOf()
    const left = member.notAfterMs - now()
    if (left > Math.min(warnBelowMs, (member.notAfterMs - member.notBeforeMs) * WARN_PART)) return
    warnBelowMs = left / 2
    const ending = member.certificates.find(({ notAfterMs }) => notAfterMs === member.notAfterMs)
    const next = ending?.kind === 'host'
      ? `if it ends: musubi site invite on a gateway of ${ending.site}, then musubi agent join TOKEN on ${ending.name}; leases stay`
      : ending?.kind === 'coordinator' ? 'start it with the coordinator key, which renews it' : `if it ends: musubi coordinator invite ${ending?.site ?? ''}, then musubi site init --join TOKEN where the site key is`
    log(left <= 0 ? 'error' : 'warn', left <= 0 ? 'a certificate has ended' : 'a certificate ends soon and could not be renewed', { what, ends: new Date(member.notAfterMs).toISOString(), ending: ending?.kind ?? '', err: lastError?.message ?? '', next })
  }

  const once = async (): Promise<Chain> => {
    const before = memberOf()
    const chain = await options.renew(chainOf())
    const after = readChain(chain, trust.federation)
    const [was, is] = [before.certificates[0], after.certificates[0]]
    if (was === undefined || is === undefined || is.subject !== was.subject || is.kind !== was.kind || is.site !== was.site || is.name !== was.name) {
      throw new MusubiError('BAD_REPLY', `what came as the new ${what} is a certificate for somebody else`)
    }
    checkDates(after, now())
    // an answer from an issuer with an old parent must not shorten what we have
    if (after.notAfterMs < before.notAfterMs) throw new MusubiError('BAD_REPLY', `the new one of ${what} would end before the old one`, { retryable: true })
    await options.save(chain)
    if (options.chain === undefined) trust.renewed(chain)
    failures = 0
    lastError = null
    warnBelowMs = Infinity
    log('info', 'renewed', { what, ends: new Date(after.notAfterMs).toISOString() })
    return chain
  }
  const renewNow = async (): Promise<Chain> => {
    underWay ??= once().finally(() => { underWay = null })
    return await underWay
  }
  const tryOnce = async (): Promise<void> => {
    if (now() >= nextMs) {
      try {
        await renewNow()
        // a parent that is old itself makes the new one due at once: not again and again
        nextMs = Math.max(jittered(memberOf()), now() + pauseMs(), now() + leftMs() / 20)
      } catch (error) {
        failures++
        lastError = { code: errorCode(error), message: error instanceof Error ? error.message : String(error) }
        log(failures === 1 ? 'info' : 'debug', 'cannot renew now', { what, failures, err: error })
        nextMs = now() + pauseMs()
      }
    }
    warn()
    schedule()
  }
  function schedule (): void {
    if (!running) return
    clearTimeout(timer)
    // never longer than that: clocks are set, machines sleep
    timer = setTimeout(() => { void tryOnce() }, Math.max(1, Math.min(TIMER_MAX_MS, nextMs - now())))
    timer.unref()
  }

  return {
    start: () => {
      if (running) return
      running = true
      nextMs = jittered(memberOf())
      schedule()
    },
    renewNow,
    stop: () => {
      running = false
      clearTimeout(timer)
    },
    state: () => ({ nextMs, endsMs: memberOf().notAfterMs, failures, lastError })
  }
}

type RenewHandler = (request: wire.RenewRequest, context: Pick<CallContext, 'peerId'>) => Promise<wire.RenewReply>

/** The caller as the connection proved it, and not revoked since. @throws NotAdmittedError */
function callerOf (trust: Trust, peerId: string): Member {
  const member = trust.memberOf(peerId)
  if (member === null) throw new NotAdmittedError('NO_CERTIFICATE', 'no valid certificate of the caller is known here', 'join again with a new token')
  return member
}

/**
 * Serves the RPC `renew` on a gateway that can certify: its site's hosts ask for their own chain,
 * its gateways also for an issuer certificate.
 */
export function answerHostRenewals (authority: SiteAuthority, trust: Trust): RenewHandler {
  return async ({ chain, issuer }, { peerId }) => {
    const caller = callerOf(trust, peerId)
    if (caller.role.kind !== 'host' || caller.role.site !== authority.site) throw new NotAdmittedError('NOT_ALLOWED', `this gateway renews certificates of site ${authority.site}`)
    const shown = readChain(chain, trust.federation)
    if (shown.peerId !== peerId) throw new InvalidInputError('a host renews its own certificate, not that of another')
    if (!issuer) return { chain: [...await authority.renew(chain)] }
    if (!isGateway(caller.role)) throw new NotAdmittedError('NOT_ALLOWED', 'only gateways become issuers')
    return { chain: [...authority.delegate({ subject: peerId, name: caller.role.host, joinedMs: caller.joinedMs })] }
  }
}

/** Serves the RPC `renew` on a coordinator: gateways ask for the chain of their site, coordinators for their own. */
export function answerSiteRenewals (authority: CoordinatorAuthority, trust: Trust): RenewHandler {
  return async ({ chain }, { peerId }) => {
    const caller = callerOf(trust, peerId)
    const shown = readChain(chain, trust.federation)
    const kind = shown.certificates[0]?.kind
    // the site key may be elsewhere: that its gateway asks is enough, it gains nothing that the site has not
    const mayAsk = kind === 'site'
      ? isGateway(caller.role) && caller.siteKey === shown.peerId
      : kind === 'coordinator' && shown.peerId === peerId
    if (!mayAsk) throw new NotAdmittedError('NOT_ALLOWED', 'a coordinator renews certificates of sites, for their gateways, and of coordinators')
    return { chain: [...await authority.renew(chain)] }
  }
}
