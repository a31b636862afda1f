/** People and scripts at the sites: what they ask of masters and lenders, with what they see at the moment. */
import { errorCode } from '../../../protocol/core/errors.ts'
import type { MasterRecord } from '../../../protocol/core/master/record.ts'
import { EPOCH_MS } from '../kernel/clock.ts'
import type { Kernel } from '../kernel/kernel.ts'
import type { Prng } from '../kernel/prng.ts'
import type { Observation } from '../observation.ts'
import type { Config, CreatePlan, OperatorRates } from './config.ts'
import { poisson } from './faults.ts'
import type { Life, Machine } from './machine.ts'
import type { Surroundings } from './surroundings.ts'

type Action = Extract<Observation, { type: 'operator' }>['action']

/** Reservations behind clusters that are extended, in one schedule. */
const MAX_RIVALS = 3

interface Led { machine: Machine, life: Life, record: MasterRecord }

export function startOperators (kernel: Kernel, chance: Prng, config: Config, around: Surroundings, machines: readonly Machine[]): void {
  const masters = machines.filter(machine => machine.gateway)
  const users = chance.fork('users')
  const rivals = chance.fork('rivals')
  const insisting = chance.fork('insisting')

  function tell (machine: Machine, action: Action, clusterId: string, detail: string, work: Promise<unknown>): void {
    around.activity()
    const told = (refused: string): void => {
      around.operated(action, refused)
      around.observe({ type: 'operator', trueMs: kernel.now(), host: machine.host, action, clusterId, detail, refused })
    }
    work.then(() => { told('') }, (error: unknown) => { told(errorCode(error) === 'INTERNAL' ? `INTERNAL: ${error instanceof Error ? error.message : String(error)}` : errorCode(error)) })
  }

  function led (states: readonly string[]): Led[] {
    return masters.flatMap(machine => {
      const { life } = machine
      const negotiator = life?.ready === true ? life.negotiator : null
      if (life === null || negotiator === null) return []
      return negotiator.records().filter(record => states.includes(record.state)).map(record => ({ machine, life, record }))
    })
  }
  const one = (states: readonly string[]): Led | null => { const list = led(states); return list.length === 0 ? null : chance.pick(list) }

  /** What a user does with what is held for it: mostly takes it, in time or too late, now and then twice; or says nothing. */
  function consider (machine: Machine, id: string): void {
    const record = machine.life?.ready === true ? machine.life.negotiator?.get(id) : undefined
    if (record?.state === 'negotiating') kernel.after(1_000, () => { consider(machine, id) })
    if (record?.state !== 'offered' || record.hold === undefined || machine.life === null) return
    const wish = users.unit()
    const leftMs = Math.max(0, record.hold.endsMs - machine.life.ledger.now())
    const act = (): void => {
      const { life } = machine
      if (life?.ready !== true || life.negotiator === null) return
      if (wish < 0.15) {
        around.observe({ type: 'operator', trueMs: kernel.now(), host: machine.host, action: 'delete', clusterId: id, detail: 'begins', refused: 'UNDER_WAY' })
        tell(machine, 'delete', id, 'offered', life.negotiator.remove(id, 'too dear'))
      } else {
        around.observe({ type: 'operator', trueMs: kernel.now(), host: machine.host, action: 'accept', clusterId: id, detail: 'begins', refused: 'UNDER_WAY' })
        tell(machine, 'accept', id, life.negotiator.get(id)?.state ?? '', life.negotiator.accept(id))
      }
    }
    const afterMs = users.chance(0.6) ? users.between(0, Math.min(leftMs, 10_000)) : leftMs * users.between(0, 1.1)
    if (wish < 0.85) kernel.after(afterMs, act)
    if (wish >= 0.15 && wish < 0.25) kernel.after(afterMs + users.between(0, 2_000), act)
  }

  function create (plan: CreatePlan): void {
    const machine = machines.find(one => one.host === plan.host)
    const { life } = machine ?? {}
    if (machine === undefined || life?.ready !== true || life.negotiator === null) {
      if (!around.healed()) kernel.after(5_000, () => { create(plan) })
      return
    }
    const id = around.uuid()
    const startMs = life.ledger.now() + Math.round(plan.startInMs)
    const cluster = { id, spec: plan.spec, vni: 1 + (Number.parseInt(id.slice(0, 6), 16) % 0xfffffe), imageDigest: `sha256:${'0'.repeat(64)}`, startMs, endMs: startMs + plan.spec.termMs, ...plan.holdMs > 0 ? { holdMs: plan.holdMs } : {} }
    tell(machine, 'create', id, `${plan.spec.name}, ${plan.spec.nodes.count} nodes${plan.startInMs > 0 ? `, in ${Math.round(plan.startInMs / 1000)} s` : ''}${plan.holdMs > 0 ? `, held for ${Math.round(plan.holdMs / 1000)} s` : ''}`, life.negotiator.create(cluster))
    if (plan.holdMs > 0) kernel.after(500, () => { consider(machine, id) })
  }

  const all = ['negotiating', 'offered', 'committing', 'preparing', 'activating', 'active', 'releasing', 'failed']
  const actions: Record<keyof OperatorRates, () => void> = {
    delete () {
      const found = one(all)
      // Told before as well: it is on the disk before anybody can say so.
      if (found?.life.negotiator) around.observe({ type: 'operator', trueMs: kernel.now(), host: found.machine.host, action: 'delete', clusterId: found.record.id, detail: 'begins', refused: 'UNDER_WAY' })
      if (found?.life.negotiator) tell(found.machine, 'delete', found.record.id, found.record.state, found.life.negotiator.remove(found.record.id, 'deleted by its owner'))
    },
    extend () {
      const found = one(['active'])
      const endMs = (found?.record.endMs ?? 0) + chance.int(10, 120) * 1000
      if (!found?.life.negotiator) return
      if (config.rivals > 0) reserveBehind(found)
      tell(found.machine, 'extend', found.record.id, `to ${endMs - EPOCH_MS}`, found.life.negotiator.extend(found.record.id, endMs))
    },
    grow () {
      const found = one(['active'])
      const count = (found?.record.spec.nodes.count ?? 0) + chance.int(1, 2)
      if (found?.life.negotiator) tell(found.machine, 'grow', found.record.id, `to ${count}`, found.life.negotiator.grow(found.record.id, count))
    },
    shrink () {
      const found = one(['active'])
      const nodes = found?.record.document?.nodes ?? []
      if (!found?.life.negotiator || nodes.length < 2) return
      const name = chance.pick(nodes).name
      tell(found.machine, 'shrink', found.record.id, name, found.life.negotiator.shrink(found.record.id, [name]))
    },
    revoke () {
      const hosts = machines.filter(machine => machine.life?.ready === true && [...machine.life.ledger.state().leases.values()].some(lease => lease.state !== 'ended'))
      if (hosts.length === 0) return
      const machine = chance.pick(hosts)
      const lease = chance.pick([...(machine.life?.ledger.state().leases.values() ?? [])].filter(one => one.state !== 'ended'))
      // Told before it is done as well: the checker must know why leases end.
      around.observe({ type: 'operator', trueMs: kernel.now(), host: machine.host, action: 'revoke', clusterId: lease.clusterId, detail: 'begins', refused: '' })
      if (machine.life === null) return
      // Told before: the host may die before it can say that it is done.
      around.operated('revoke', '')
      around.observe({ type: 'operator', trueMs: kernel.now(), host: machine.host, action: 'revoke', clusterId: lease.clusterId, detail: 'by the lender', refused: '' })
      machine.life.ledger.revoke(lease.clusterId, 'revoked by the lender').catch(() => undefined)
    },
    adopt () { adopt(chance.chance(0.3)) },
    cordon () {
      const machine = chance.pick(machines)
      machine.cordoned = !machine.cordoned
      tell(machine, machine.cordoned ? 'cordon' : 'uncordon', '', '', Promise.resolve())
    }
  }

  let reserved = 0
  /** Somebody wants what a cluster has from its end on, and asks before or while its later end is held. */
  function reserveBehind ({ machine, life, record }: Led): void {
    const leftMs = record.endMs - life.ledger.now()
    // A start that is nearer counts as now.
    if (reserved >= MAX_RIVALS || leftMs < 62_000 || !rivals.chance(config.rivals)) return
    reserved++
    const host = rivals.chance(0.5) ? machine.host : rivals.pick(masters).host
    const spec = { ...rivals.pick(config.creates).spec, name: `r${reserved}`, termMs: 60_000 }
    const atMs = kernel.now()
    const followsMs = rivals.between(0, 1_500)
    kernel.after(rivals.between(0, 4 * (config.wanMs + config.syncMs)), () => { create({ atMs, host, startInMs: leftMs + followsMs, holdMs: 0, spec }) })
  }

  /** Somebody at another gateway of the master's site takes a cluster over, of which there is a copy. */
  function adopt (force: boolean): void {
    const candidates = masters.flatMap(machine => machine.life?.ready === true ? machine.life.copies.list().map(copy => ({ machine, copy, adoption: machine.life?.adoption })) : [])
    if (candidates.length === 0) return
    const { machine, copy, adoption } = chance.pick(candidates)
    if (adoption == null) return
    // Told before as well: the claim is on its way before anybody can say what became of it.
    if (force) around.observe({ type: 'operator', trueMs: kernel.now(), host: machine.host, action: 'force-adopt', clusterId: copy.clusterId, detail: 'begins', refused: 'UNDER_WAY' })
    tell(machine, force ? 'force-adopt' : 'adopt', copy.clusterId, `from ${copy.from}, epoch ${copy.epoch}`, adoption.adopt(copy.clusterId, { force }))
    if (!force) return
    // Nobody has told the others of it.
    for (const other of candidates) {
      if (other.machine === machine || other.copy.clusterId !== copy.clusterId || other.adoption == null || !insisting.chance(0.7)) continue
      const { host } = other.machine
      around.observe({ type: 'operator', trueMs: kernel.now(), host, action: 'force-adopt', clusterId: copy.clusterId, detail: 'begins', refused: 'UNDER_WAY' })
      tell(other.machine, 'force-adopt', copy.clusterId, `from ${other.copy.from}, epoch ${other.copy.epoch}`, other.adoption.adopt(copy.clusterId, { force }))
    }
  }

  const plans = [...config.creates]
  /** At most two at a time: more would only be refused. */
  const next = (): void => {
    const plan = plans[0]
    if (plan === undefined || around.healed()) return
    if (config.creates.length - plans.length < 2 || led(['negotiating', 'offered', 'committing', 'preparing', 'activating', 'active']).length < 2) {
      plans.shift()
      create(plan)
      kernel.after(Math.max(20, (plans[0]?.atMs ?? 0) - plan.atMs), next)
    } else kernel.after(3_000, next)
  }
  kernel.after(plans[0]?.atMs ?? 0, next)
  for (const kind of Object.keys(actions) as Array<keyof OperatorRates>) poisson(kernel, chance.fork(kind), config.operators[kind], config.faultMsMax, () => !around.healed(), actions[kind])
}
