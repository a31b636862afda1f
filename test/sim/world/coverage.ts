/**
 * Which rows of the tables of transitions are gone through. Machines look a row up and take its `to`:
 * that is noted by a getter in its place, so that the product needs to know nothing of it.
 */
import { fenceTransitions } from '../../../protocol/core/fence/fence.ts'
import { gatewayTransitions } from '../../../protocol/core/gateway/record.ts'
import { transitions as leaseTransitions } from '../../../protocol/core/lease/tables.ts'
import { masterTransitions } from '../../../protocol/core/master/record.ts'
import type { Effect } from '../../../protocol/core/lease/events.ts'

interface Row { from: string | null, trigger: string, to: string | null }
const nameOf = (table: string, { from, trigger, to }: Row): string => `${table}: ${from ?? 'nothing'} -${trigger}-> ${to ?? 'nothing'}`

const seen = new Set<string>()
/** Every row by name. */
export const allRows: string[] = leaseTransitions.map(row => nameOf('lease', row))
/** Rows that this thread has gone through since it began. */
export const rowsSeen: ReadonlySet<string> = seen

function watch (table: string, rows: readonly Row[]): void {
  for (const row of rows) {
    const { to } = row
    const name = nameOf(table, row)
    allRows.push(name)
    Object.defineProperty(row, 'to', { enumerable: true, get () { seen.add(name); return to } })
  }
}
watch('gateway', gatewayTransitions)
watch('master', masterTransitions)
watch('fence', fenceTransitions)

/** The ledger keeps its rows by key; it tells each change with its trigger. */
export function noteLedger (effects: readonly Effect[]): void {
  for (const effect of effects) {
    if (effect.effect === 'lease') seen.add(nameOf('lease', { from: effect.from, trigger: effect.trigger, to: effect.lease.state }))
    else if (effect.effect === 'forget') seen.add(nameOf('lease', { from: 'ended', trigger: 'forget', to: null }))
  }
}
