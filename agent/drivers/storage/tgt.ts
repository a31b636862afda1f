import { createHash } from 'node:crypto'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { CommandError, run } from '../../exec.ts'
import type { ServiceManager } from '../../services.ts'
import { PORTAL_PORT } from './exporter.ts'
import type { Exporter, ExporterState, ExportSpec } from './exporter.ts'
import { newTgtAccount } from './tgt-account.ts'
import { parseAccounts, parsePortals, parseTargets } from './tgt-show.ts'
import type { TgtTarget } from './tgt-show.ts'

const SERVICE = 'tgtd'
/** tgtd answers within milliseconds; one that takes this long hangs. */
const ANSWER_MS = 5_000
const START_MS = 5_000
const POLL_MS = 20
/** How often a living server is asked before it counts as one that hangs, and the pause between. */
const ASK_TIMES = 3
const ASK_PAUSE_MS = 200
const LUN = '1'

/**
 * One private `tgtd` for the host, over a control socket of its own, so that a tgtd of the
 * distribution is never touched.
 *
 * Traps of tgt that this code minds:
 * - it ignores SIGTERM: it ends by `system delete`, which needs all targets gone, or by SIGKILL;
 * - when it cannot bind the portal it was given, it listens on every address instead: the portals
 *   are read back after each start;
 * - a target without an account needs no password, so the account comes before the access list;
 * - accounts are global, and `tgtadm` takes their secret as an argument only, where every user of the
 *   host can read it: `tgt-account.ts` tells tgtd itself.
 */
export function createTgtExporter (options: { services: ServiceManager, runDir: string, stateDir: string }): Exporter {
  const { services } = options
  const socket = join(options.runDir, `tgt-${createHash('sha256').update(options.stateDir).digest('hex').slice(0, 8)}`)
  const env = { TGT_IPC_SOCKET: socket }

  async function tgtadm (mode: string, op: string, args: readonly string[], signal: AbortSignal): Promise<string> {
    const { stdout } = await run('tgtadm', ['--lld', 'iscsi', '--mode', mode, '--op', op, ...args], { env, signal, timeoutMs: ANSWER_MS })
    return stdout
  }

  const onTarget = (target: { tid: number }): string[] => ['--tid', String(target.tid)]
  const targets = async (signal: AbortSignal): Promise<TgtTarget[]> => parseTargets(await tgtadm('target', 'show', [], signal))
  const portals = async (signal: AbortSignal): Promise<string[]> => parsePortals(await tgtadm('portal', 'show', [], signal))

  /** What is there, or null when no server answers. An abort is no answer about the server. */
  async function look (signal: AbortSignal): Promise<{ targets: TgtTarget[], portals: string[] } | null> {
    try {
      return { portals: await portals(signal), targets: await targets(signal) }
    } catch (error) {
      signal.throwIfAborted()
      if (error instanceof CommandError) return null
      throw error
    }
  }

  /** As `look`, but null only after several tries while the process lives: who does not answer is killed, and with it the disks of all guests. */
  async function lookAtRunning (signal: AbortSignal): Promise<Awaited<ReturnType<typeof look>>> {
    for (let times = 1; (await services.status(SERVICE)).running; times++) {
      const found = await look(signal)
      if (found !== null || times === ASK_TIMES) return found
      await sleep(ASK_PAUSE_MS, undefined, { signal })
    }
    return null
  }

  async function ensureServer (address: string, signal: AbortSignal): Promise<TgtTarget[]> {
    const portal = `${address}:${PORTAL_PORT}`
    const running = await lookAtRunning(signal)
    if (running !== null) {
      if (!running.portals.includes(portal)) await addPortal(portal, signal)
      return running.targets
    }
    signal.throwIfAborted()
    await endServer()
    await mkdir(options.runDir, { recursive: true, mode: 0o755 })
    await services.ensure(SERVICE, { argv: ['tgtd', '-f', '--iscsi', `portal=${portal}`], env })
    const deadline = performance.now() + START_MS
    let started = await look(signal)
    while (started === null && performance.now() < deadline) {
      await sleep(POLL_MS, undefined, { signal })
      started = await look(signal)
    }
    if (started !== null && started.portals.length === 1 && started.portals[0] === portal) return started.targets
    await endServer()
    throw new MusubiError('PORTAL_FAILED', started === null ? `tgtd does not answer on ${socket}` : `tgtd cannot listen on ${portal}`, {
      retryable: true,
      hint: `is ${address} an address of this host, and its port ${PORTAL_PORT} free (another tgt.service)?`
    })
  }

  async function addPortal (portal: string, signal: AbortSignal): Promise<void> {
    try {
      await tgtadm('portal', 'new', ['--param', `portal=${portal}`], signal)
    } catch (error) {
      throw new MusubiError('PORTAL_FAILED', `tgtd cannot listen on ${portal}`, { retryable: true, cause: error })
    }
  }

  /** SIGTERM is ignored by tgtd, so the grace is short; its files are synced by whoever wrote them. */
  async function endServer (): Promise<void> {
    await services.stop(SERVICE, 50)
    await rm(`${socket}.0`, { force: true })
    await rm(`${socket}.0.lock`, { force: true })
  }

  async function setAccount (target: TgtTarget, spec: ExportSpec, signal: AbortSignal): Promise<void> {
    const { user, secret } = spec.chap
    const all = await targets(signal)
    for (const address of target.allow) await tgtadm('target', 'unbind', [...onTarget(target), '--initiator-address', address], signal)
    target.allow = []
    for (const name of target.users) await tgtadm('account', 'unbind', [...onTarget(target), '--user', name], signal)
    await dropUnused(target.users.filter(name => name !== user), signal)
    // shared with another target: the caller has made sure that the secret is the same
    const shared = all.some(one => one.tid !== target.tid && one.users.includes(user))
    if (!shared) {
      await dropUnused([user], signal)
      await newTgtAccount(`${socket}.0`, { user, secret }, ANSWER_MS, signal)
    }
    await tgtadm('account', 'bind', [...onTarget(target), '--user', user], signal)
  }

  /** Deletes those of these accounts that exist and that no target uses. */
  async function dropUnused (users: readonly string[], signal: AbortSignal): Promise<void> {
    if (users.length === 0) return
    const known = parseAccounts(await tgtadm('account', 'show', [], signal))
    const used = (await targets(signal)).flatMap(one => one.users)
    for (const user of users) {
      if (known.includes(user) && !used.includes(user)) await tgtadm('account', 'delete', ['--user', user], signal)
    }
  }

  async function setAllowed (target: TgtTarget, allow: readonly string[], signal: AbortSignal): Promise<void> {
    const gone = target.allow.filter(address => !allow.includes(address))
    for (const address of gone) await tgtadm('target', 'unbind', [...onTarget(target), '--initiator-address', address], signal)
    for (const address of allow.filter(one => !target.allow.includes(one))) {
      await tgtadm('target', 'bind', [...onTarget(target), '--initiator-address', address], signal)
    }
    await dropSessions(target, address => !allow.includes(address), signal)
  }

  async function dropSessions (target: TgtTarget, which: (address: string) => boolean, signal: AbortSignal): Promise<void> {
    for (const session of target.sessions) {
      for (const { cid, address } of session.connections) {
        if (!which(address)) continue
        try {
          await tgtadm('conn', 'delete', [...onTarget(target), '--sid', String(session.sid), '--cid', String(cid)], signal)
        } catch (error) {
          // the initiator has left in between; a session that stays makes the next step fail
          if (!(error instanceof CommandError)) throw error
          signal.throwIfAborted()
        }
      }
    }
  }

  async function dropTarget (target: TgtTarget, signal: AbortSignal): Promise<void> {
    await setAllowed(target, [], signal)
    await tgtadm('target', 'delete', ['--force', ...onTarget(target)], signal)
    await dropUnused(target.users, signal)
  }

  async function makeTarget (spec: ExportSpec, all: readonly TgtTarget[], signal: AbortSignal): Promise<TgtTarget> {
    let tid = 1
    while (all.some(one => one.tid === tid)) tid++
    // tgt derives the identity of a disk from its numbers, which change after a restart; ours stays
    const serial = createHash('sha256').update(spec.iqn).digest('hex').slice(0, 16)
    const target: TgtTarget = { tid, iqn: spec.iqn, ready: true, luns: [], sessions: [], users: [], allow: [] }
    await tgtadm('target', 'new', [...onTarget(target), '--targetname', spec.iqn], signal)
    const lun = [...onTarget(target), '--lun', LUN]
    await tgtadm('logicalunit', 'new', [...lun, '--backing-store', spec.path, '--bstype', 'rdwr'], signal)
    await tgtadm('logicalunit', 'update', [...lun, '--params', `vendor_id=MUSUBI,product_id=volume,scsi_id=${serial},scsi_sn=${serial},thin_provisioning=1`], signal)
    return target
  }

  return {
    async probe (signal) {
      const missing: string[] = []
      for (const program of ['tgtd', 'tgtadm']) {
        try {
          await run(program, ['--version'], { signal, timeoutMs: ANSWER_MS })
        } catch (error) {
          signal.throwIfAborted()
          missing.push(`${program} does not run (package tgt): ${error instanceof Error ? error.message : String(error)}`)
        }
      }
      return missing
    },
    async state (signal): Promise<ExporterState | null> {
      const found = await lookAtRunning(signal)
      return found === null ? null : { portals: found.portals, targets: found.targets.map(toExported) }
    },
    async export (spec, renew, signal) {
      const all = await ensureServer(spec.portalAddress, signal)
      let target = all.find(one => one.iqn === spec.iqn)
      const lun = target?.luns.find(one => one.lun === Number(LUN))
      if (target !== undefined && (!target.ready || lun?.path !== spec.path || !lun.online)) {
        await dropTarget(target, signal)
        target = undefined
      }
      target ??= await makeTarget(spec, all, signal)
      if (renew || target.users.length !== 1 || target.users[0] !== spec.chap.user) await setAccount(target, spec, signal)
      await setAllowed(target, spec.allow, signal)
    },
    async unexport (iqn, signal) {
      const found = await lookAtRunning(signal)
      const target = found?.targets.find(one => one.iqn === iqn)
      if (target !== undefined) await dropTarget(target, signal)
    },
    async keepOnly (wanted, signal) {
      const found = await lookAtRunning(signal)
      for (const target of found?.targets ?? []) {
        if (!wanted.some(one => one.iqn === target.iqn)) await dropTarget(target, signal)
      }
      if (wanted.length === 0) {
        if (found !== null) await tgtadm('system', 'delete', [], signal)
        await endServer()
        return
      }
      for (const portal of found?.portals ?? []) {
        if (wanted.some(one => `${one.portalAddress}:${PORTAL_PORT}` === portal)) continue
        await tgtadm('portal', 'delete', ['--param', `portal=${portal}`], signal)
      }
    }
  }
}

function toExported (target: TgtTarget): ExporterState['targets'][number] {
  const lun = target.luns.find(one => one.lun === Number(LUN))
  return {
    iqn: target.iqn,
    ready: target.ready && lun?.online === true,
    path: lun?.path ?? null,
    users: target.users,
    allow: target.allow,
    sessions: target.sessions.flatMap(session => session.connections.map(({ address }) => ({ initiator: session.initiator, address })))
  }
}
