import { fileURLToPath } from 'node:url'
import { CommandError, run } from '../../../exec.ts'
import { COMMAND_MAX_OUTPUT_BYTES, HOST_SPACE_MAX_BYTES, SPACE_MAX_BYTES, SPACES_MAX_OUTPUT_BYTES, SPACES_PER_LOOK, SPACES_TIMEOUT_MS } from '../../../../protocol/core/limits.ts'
import { FORWARD_SET, GUARD_TABLE, GUARD_WAYS, MSS_TABLE } from '../names.ts'
import { parseSpace } from './netlink.ts'
import type { SpaceState } from './observed.ts'

const READER = fileURLToPath(new URL('./spaces.pl', import.meta.url))

/** Stands for the namespace of the host itself; only the first name may. */
export const HOST_SPACE = '-'

/** 'broken': the name leads to no namespace; null: there is no such name (any more); an error: it could not be read. */
export type SpaceAnswer = SpaceState | 'broken' | null | CommandError

/** Other bounds than those of `limits.ts`, for tests. */
export interface SpaceBounds { spaceBytes?: number, allBytes?: number, hostBytes?: number }

/** Null: to be asked for again. */
function parseLine (name: string, state: string, rest: readonly string[]): { answer: SpaceAnswer } | null {
  switch (state) {
    case 'later': return null
    case 'gone': return { answer: null }
    case 'broken': return { answer: 'broken' }
    case 'read': {
      const [links = '', addresses = '', forwards = '', neighbours = '', chains = '', rules = '', elements = '', guardChains = '', guardRules = '', guardWays = ''] = rest
      const bytes = (hex: string): Buffer => Buffer.from(hex, 'hex')
      const lists = { links: bytes(links), addresses: bytes(addresses), forwards: bytes(forwards), neighbours: bytes(neighbours), chains: bytes(chains), rules: bytes(rules), elements: bytes(elements), guardChains: bytes(guardChains), guardRules: bytes(guardRules), guardWays: bytes(guardWays) }
      return { answer: parseSpace(lists, MSS_TABLE, GUARD_TABLE) }
    }
    default: return { answer: new CommandError(['look into', name], undefined, '', rest.join(' ')) }
  }
}

/**
 * Links, permanent entries, chains and what may forward of clusters' namespaces. However many they are, one process is started for
 * every 64: it enters them and asks the kernel itself, as three programs for each would take most of a pass.
 *
 * @param names of namespaces, as `clusterNamespace` makes them; the first may be `HOST_SPACE`
 * @returns an answer for each name; what is wrong with one of them is in its own answer only
 * @throws CommandError when none could be looked into
 */
export async function readSpaces (names: readonly string[], signal: AbortSignal, bounds: SpaceBounds = {}): Promise<Map<string, SpaceAnswer>> {
  const { spaceBytes = SPACE_MAX_BYTES, allBytes = SPACES_MAX_OUTPUT_BYTES, hostBytes = HOST_SPACE_MAX_BYTES } = bounds
  const answers = new Map<string, SpaceAnswer>()
  let todo = [...new Set(names)]
  while (todo.length > 0) {
    const argv = [READER, String(spaceBytes), String(allBytes), String(hostBytes), MSS_TABLE, FORWARD_SET, GUARD_TABLE, GUARD_WAYS, ...todo.slice(0, SPACES_PER_LOOK)]
    const { stdout } = await run('perl', argv, { signal, timeoutMs: SPACES_TIMEOUT_MS, maxOutputBytes: 2 * hostBytes + COMMAND_MAX_OUTPUT_BYTES })
    for (const line of stdout.split('\n')) {
      const [name = '', state = '', ...rest] = line.split(' ')
      const parsed = name === '' ? null : parseLine(name, state, rest)
      if (parsed !== null) answers.set(name, parsed.answer)
    }
    const left = todo.filter((name) => !answers.has(name))
    if (left.length === todo.length) throw new CommandError(argv, 0, stdout.slice(0, 200), `has no answer for ${left.length} namespaces`)
    todo = left
  }
  return answers
}
