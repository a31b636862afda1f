/**
 * Which rows of the tables of transitions are gone through. Machines look a row up and take its `to`:
 * that is noted by a getter in its place, so that the product needs to know nothing of it.
 */
import { fenceTransitions } from '../../../protocol/core/fence/fence.ts'
import { amendmentTransitions, gatewayTransitions } from '../../../protocol/core/gateway/record.ts'
import { epochTransitions, extensionTransitions, transitions as leaseTransitions } from '../../../protocol/core/lease/tables.ts'
import { masterTransitions } from '../../../protocol/core/master/record.ts'

interface Row { from: string | null, trigger: string, to: string | null }

const seen = new Set<string>()
/** Every row by name. */
export const allRows: string[] = []
/** Rows that this thread has gone through since it began. */
export const rowsSeen: ReadonlySet<string> = seen

function watch (table: string, rows: readonly Row[]): void {
  for (const row of rows) {
    const { from, trigger, to } = row
    const name = `${table}: ${from ?? 'nothing'} -${trigger}-> ${to ?? 'nothing'}`
    allRows.push(name)
    Object.defineProperty(row, 'to', { enumerable: true, get () { seen.add(name); return to } })
  }
}
watch('lease', leaseTransitions)
watch('extension', extensionTransitions)
watch('epoch', epochTransitions)
watch('gateway', gatewayTransitions)
watch('amendment', amendmentTransitions)
watch('master', masterTransitions)
watch('fence', fenceTransitions)
