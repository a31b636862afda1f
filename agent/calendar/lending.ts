import type { Lending } from '../../protocol/core/calendar/lending.ts'
import { lendingProblem } from '../../protocol/core/calendar/lending.ts'
import type { Lending as LendingMessage } from '../../protocol/wire/gen/types.ts'

export type { LendingMessage }

/** As on the wire: 0 where `Lending` has null. */
export const toLending = ({ open, knownUntilMs, longestMs, latestStartMs }: Lending): LendingMessage => ({
  windows: open !== null, open: (open ?? []).map(({ fromMs, untilMs }) => ({ fromMs, untilMs })), knownUntilMs, longestMs: longestMs ?? 0, latestStartMs: latestStartMs ?? 0
})

/** What a site has said; undefined when it has said nothing, or nothing that can be: then its gateway alone knows. */
export function lendingFrom (said: LendingMessage | null | undefined): Lending | undefined {
  if (said === null || said === undefined) return undefined
  const { windows, open, knownUntilMs, longestMs, latestStartMs } = said
  const lending: Lending = { open: windows ? open : null, knownUntilMs, longestMs: longestMs === 0 ? null : longestMs, latestStartMs: latestStartMs === 0 ? null : latestStartMs }
  return lendingProblem(lending) === null ? lending : undefined
}
