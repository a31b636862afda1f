import { type DesiredObject, KIND_ORDER, type ObjectKind, type SpecByKind } from '../../protocol/core/desired.ts'
import { ConflictError } from '../../protocol/core/errors.ts'
import type { ObservedObject } from '../drivers/driver.ts'
import { fingerprint } from '../fingerprint.ts'

/** One step towards what is desired; `why` is for events and logs. */
export type Action<K extends ObjectKind = ObjectKind> =
  | { op: 'apply', kind: K, name: string, spec: SpecByKind[K], why: string }
  | { op: 'remove', kind: K, name: string, why: string }

/** Objects of one cluster share what stands before the first dot; the host's tunnel stands for itself. */
export const clusterOf = (name: string): string => name.split('.')[0] ?? name

const keyOf = (object: { kind: ObjectKind, name: string }): string => `${object.kind}/${object.name}`
const rank = (kind: ObjectKind): number => KIND_ORDER.indexOf(kind)
const byName = (a: { name: string }, b: { name: string }): number => a.name < b.name ? -1 : a.name > b.name ? 1 : 0

/** Of what is wrong with an object, in logs. */
const WHY_MAX_CHARS = 1000
const UNSAID = 'does not work yet'

/** Drivers put what they found wrong into `detail`; without that it is still said that something is. */
export function whyUnhealthy ({ detail }: ObservedObject): string {
  const reason = detail.problem ?? detail.faults ?? detail.missing ?? detail.state
  const text = Array.isArray(reason) ? reason.map(String).join('; ') : typeof reason === 'string' ? reason : ''
  return text === '' ? UNSAID : text
}

/** Why an object must be applied; null when it is as desired and works. */
function whyApply (desired: DesiredObject, observed: ObservedObject | undefined): string | null {
  if (observed === undefined) return 'missing'
  if (observed.fingerprint === null) return 'made from an unknown spec'
  if (observed.fingerprint !== fingerprint(desired.spec)) return 'spec changed'
  if (observed.healthy) return null
  const why = whyUnhealthy(observed)
  return why === UNSAID ? 'does not work' : `does not work: ${why.slice(0, WHY_MAX_CHARS)}`
}

/** Objects that are desired twice with different specs. */
export function conflicts (desired: readonly DesiredObject[]): Array<{ kind: ObjectKind, name: string, why: string }> {
  const seen = new Map<string, DesiredObject>()
  return desired.flatMap(object => {
    const other = seen.get(keyOf(object))
    seen.set(keyOf(object), object)
    if (other === undefined || fingerprint(other.spec) === fingerprint(object.spec)) return []
    return [{ kind: object.kind, name: object.name, why: `${object.kind} ${object.name} is desired twice, differently` }]
  })
}

/**
 * What to do so that the host runs what is desired and nothing else. First removals, against the
 * order of creation, because they free what the others need; then the rest in order of creation.
 * Empty when everything is as desired and healthy.
 *
 * @throws ConflictError when one object is desired twice with different specs
 */
export function diff (desired: readonly DesiredObject[], observed: readonly ObservedObject[]): Action[] {
  const [conflict] = conflicts(desired)
  if (conflict !== undefined) throw new ConflictError(conflict.why)
  const wanted = new Map(desired.map(object => [keyOf(object), object]))
  const found = new Map<string, ObservedObject>()
  for (const object of observed) {
    // Seen twice, e.g. by two engines: the worse report counts.
    const other = found.get(keyOf(object))
    if (other === undefined || other.healthy) found.set(keyOf(object), object)
  }
  const removes = [...found.values()]
    .filter(object => !wanted.has(keyOf(object)))
    .sort((a, b) => rank(b.kind) - rank(a.kind) || byName(a, b))
    .map(({ kind, name }): Action => ({ op: 'remove', kind, name, why: 'nothing asks for it' }))
  const applies = [...wanted.values()]
    .sort((a, b) => rank(a.kind) - rank(b.kind) || byName(a, b))
    .flatMap(({ kind, name, spec }): Action[] => {
      const why = whyApply({ kind, name, spec }, found.get(keyOf({ kind, name })))
      return why === null ? [] : [{ op: 'apply', kind, name, spec, why }]
    })
  return [...removes, ...applies]
}
