/** `musubi lease fsck`: looks at the ledger of an agent that does not run, straight on its disk. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { loadAgentConfig, type AgentConfig } from '../config.ts'
import { asOwnerOf } from '../../protocol/as-owner.ts'
import { errorCode, InvalidInputError, MusubiError } from '../../protocol/core/errors.ts'
import { checkLedger, repairLedger, type LedgerProblem } from '../../store/ledger/fsck.ts'
import { openLevelStore } from '../../store/level.ts'

export interface FsckReport {
  host: string
  store: string
  records: number
  /** what is wrong, or was before it was mended */
  findings: Array<LedgerProblem & { mended: boolean }>
  /** nothing is wrong, or all of it was mended */
  sound: boolean
}

/** Both a store that somebody has open and one that nobody ever made are told by name. */
async function openStopped (folder: string): ReturnType<typeof openLevelStore> {
  // Opening would make one, and an agent that finds a new ledger beside nodes must know that it was lost.
  if (!existsSync(join(folder, 'CURRENT'))) throw new InvalidInputError(`there is no store in ${folder}`, 'is stateDir of the configuration right? It is made when the agent starts for the first time')
  try {
    return await openLevelStore(folder)
  } catch (error) {
    if (errorCode(error) !== 'STORE_LOCKED') throw error
    throw new MusubiError('STORE_LOCKED', `the store in ${folder} is in use: the agent runs`, { hint: 'stop it first, nodes run on: systemctl stop musubi-agent', cause: error })
  }
}

/**
 * @param repair does what can be done without breaking a promise; without it nothing is changed
 * @throws InvalidInputError, MusubiError STORE_LOCKED, STORE_CORRUPT, STORE_UNUSABLE
 */
export async function fsck (configPath: string, repair: boolean): Promise<FsckReport> {
  const config = await loadAgentConfig(configPath)
  return await asOwnerOf(config.stateDir, () => look(config, repair))
}

async function look (config: AgentConfig, repair: boolean): Promise<FsckReport> {
  const folder = join(config.stateDir, 'store')
  await using opened = await openStopped(folder).then(store => ({ store, [Symbol.asyncDispose]: () => store.close() }))
  const { records, problems } = await checkLedger(opened.store)
  const { repaired, left } = repair ? await repairLedger(opened.store) : { repaired: [], left: problems }
  return {
    host: config.name, store: folder, records,
    findings: [...repaired.map(one => ({ ...one, mended: true })), ...left.map(one => ({ ...one, mended: false }))],
    sound: left.length === 0
  }
}

export function fsckText (r: FsckReport): string {
  const left = r.findings.filter(one => !one.mended)
  const mendable = left.filter(one => one.repair !== undefined).length
  const head = `ledger of ${r.host} in ${r.store}: ${r.records} records`
  if (r.findings.length === 0) return `${head}, sound`
  return [
    head,
    ...r.findings.map(one => `${one.mended ? 'mended' : 'wrong '}  ${one.key}: ${one.problem}${one.repair === undefined || one.mended ? '' : ` (--repair: ${one.repair})`}`),
    ...r.sound ? ['all of it is mended'] : [],
    ...mendable > 0 ? [`${mendable} of ${left.length} can be mended: musubi lease fsck --repair`] : [],
    ...left.length > mendable ? [`${left.length - mendable} cannot be rebuilt from other records: restore the folder from a copy, if the host has promised nothing since, or declare the ledger lost: musubi agent reset --yes`] : []
  ].join('\n')
}
