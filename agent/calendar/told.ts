/** What a gateway tells masters of other sites about what they could have when, and what its cache would begin with. */
import type { Caller, Methods } from '../peers.ts'
import type { RetainedStoreResource } from '../../protocol/cache-api.ts'
import type { HostCalendar } from '../../protocol/core/calendar/together.ts'
import type { Lending } from '../../protocol/core/calendar/lending.ts'
import { InvalidInputError } from '../../protocol/core/errors.ts'
import { MAX_HELD_OBJECTS } from '../../protocol/core/limits.ts'
import type { Calendar } from './calendar.ts'
import { type LendingMessage, toLending } from './lending.ts'

export interface ToldDeps {
  site: string
  /** ledger clock, Unix ms */
  now: () => number
  calendar: Pick<Calendar, 'told'>
  /** what a master could have beside what is free, by notice to others; see `Preempt`; absent: nothing */
  noticed?: (masterSite: string) => ((hosts: readonly HostCalendar[]) => HostCalendar[]) | undefined
  /** what the policy says of times to a master; absent: nothing */
  lending?: (masterSite: string) => Lending | null
  /** stores that have outlived their clusters, the last used first; absent: none are kept here */
  retained?: () => ReadonlyArray<Pick<RetainedStoreResource, 'owner' | 'checked' | 'untilMs' | 'held'>>
}

export interface Told {
  /** @param caller a gateway, as its connection has proved. @throws InvalidInputError for objects that are none */
  answer (request: Methods['calendar']['request'], caller: Pick<Caller, 'site'>): Promise<Methods['calendar']['reply']>
}

const SHA256 = /^[0-9a-f]{64}$/

export function createTold ({ site, now, calendar, noticed, lending, retained = () => [] }: ToldDeps): Told {
  /** Of the store that the next cluster of a site would get, and no other: what others have left is not for its ears. */
  function heldFor (owner: string | null, objects: readonly string[]): string[] {
    const store = objects.length === 0 ? undefined : retained().find(one => one.owner === owner && one.checked && one.untilMs > now())
    return [...new Set(objects)].filter(digest => store?.held?.includes(digest) === true)
  }

  function lendingFor (masterSite: string | null): LendingMessage | null {
    const found = masterSite === null ? null : lending?.(masterSite) ?? null
    return found === null ? null : toLending(found)
  }

  return {
    async answer ({ objects, onlyObjects }, caller) {
      if (objects.length > MAX_HELD_OBJECTS || !objects.every(digest => SHA256.test(digest))) throw new InvalidInputError(`calendar: at most ${MAX_HELD_OBJECTS} SHA-256 are asked for, in lower case`)
      const held = heldFor(caller.site, objects)
      return onlyObjects === true ? { site, nowMs: now(), hosts: [], held, lending: null } : { ...await calendar.told(caller.site === null ? undefined : noticed?.(caller.site)), held, lending: lendingFor(caller.site) }
    }
  }
}
