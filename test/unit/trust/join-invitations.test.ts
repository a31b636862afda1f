import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import t from 'tap'
import { MAX_INVITATIONS } from '../../../protocol/core/limits.ts'
import { createKey, peerIdOf } from '../../../protocol/mesh/identity.ts'
import { createInvitations } from '../../../protocol/mesh/join/invitations.ts'
import { hmac, requestBytes } from '../../../protocol/mesh/join/proof.ts'
import type { Invitations, InvitationStore, InviteOptions, NewInvitation } from '../../../protocol/mesh/join/types.ts'
import type { Chain } from '../../../protocol/mesh/trust/certificate.ts'
import type { wire } from '../../../protocol/wire/codec.ts'
import { invitationStore } from '../../../store/invitations.ts'
import { createMemoryStore } from '../../../store/memory.ts'

const HOUR = 3_600_000
const issuer = peerIdOf(await createKey())
const [alice = '', bob = ''] = await Promise.all(['a', 'b'].map(async () => peerIdOf(await createKey())))
const HOST: InviteOptions = { kind: 'host', site: 'tokyo', roles: ['compute'], ttlMs: HOUR }
const chainFor = (subject: string, made: number): Chain => [Uint8Array.from(Buffer.from(`${subject} ${made}`))]

interface World { invitations: Invitations, store: InvitationStore, clock: { ms: number } }
async function world (clock = { ms: 1_000_000 }, store: InvitationStore = invitationStore(createMemoryStore())): Promise<World> {
  return { store, clock, invitations: await createInvitations({ store, now: () => clock.ms, randomBytes: size => Uint8Array.from(randomBytes(size)) }) }
}
function request (invitation: NewInvitation, caller: string, part: Partial<wire.JoinRequest> = {}, secret: Uint8Array = invitation.secret): wire.JoinRequest {
  const plain: wire.JoinRequest = { tokenId: invitation.id, kind: invitation.kind, subject: caller, name: 'a1', roles: [], segmentIds: null, addresses: [], proof: new Uint8Array(), subjectSignature: new Uint8Array(), ...part }
  return { ...plain, proof: hmac(secret, requestBytes(plain, issuer, caller)) }
}

t.test('what is invited', async t => {
  const { invitations } = await world()
  const wrong: Array<[Partial<InviteOptions>, RegExp]> = [
    [{ site: 'No Site' }, /no site name/], [{ roles: [] }, /at least one role/], [{ roles: ['king'] }, /roles are/], [{ roles: ['compute', 'compute'] }, /each once/],
    [{ ttlMs: 0 }, /lasts up to/], [{ ttlMs: Infinity }, /lasts up to/], [{ ttlMs: 31 * 24 * HOUR }, /30 days/], [{ note: 'x'.repeat(201) }, /note/],
    [{ segmentIds: { from: 1, to: 2 } }, /only gateways/], [{ roles: ['gateway'], segmentIds: { from: 5, to: 2 } }, /segment ids/], [{ roles: ['gateway'], quotaPercent: 101 }, /percent/], [{ kind: 'site' }, /no roles/]
  ]
  for (const [part, message] of wrong) await t.rejects(invitations.invite({ ...HOST, ...part }), { code: 'INVALID_INPUT', message })
  t.strictSame(invitations.list(), [])
  const made = await invitations.invite({ ...HOST, note: 'rack 4' })
  t.equal(made.secret.length, 32)
  t.match(invitations.list(), [{ id: made.id, state: 'open', note: 'rack 4', used: null, expiresMs: 1_000_000 + HOUR }])
})

t.test('no list, and no error, shows a secret or a certificate', async t => {
  const { invitations } = await world()
  const made = await invitations.invite(HOST)
  const chain = chainFor(alice, 7)
  await invitations.redeem(made.id, alice, 'a1', () => Promise.resolve(chain))
  const texts = [JSON.stringify(invitations.list()), JSON.stringify({ ...made, secret: undefined })]
  for (const attempt of [invitations.redeem(made.id, bob, 'b1', () => Promise.resolve([])), invitations.withdraw(made.id), invitations.check(request(made, bob, {}, new Uint8Array(32)), issuer, bob)]) {
    const error: unknown = await attempt.catch((error: unknown) => error)
    t.ok(error instanceof Error)
    texts.push(`${String(error)} ${JSON.stringify(error)}`)
  }
  for (const form of ['hex', 'base64', 'base64url'] as const) {
    const secret = Buffer.from(made.secret).toString(form).replace(/=+$/, '')
    for (const text of texts) t.notOk(text.includes(secret), `${form}: ${text.slice(0, 30)}`)
  }
  t.notOk(texts[0]?.includes(Buffer.from(chain[0] ?? []).toString('base64')))
})

t.test('used once; the same subject gets the same again, nobody else', async t => {
  const { invitations, store, clock } = await world()
  const made = await invitations.invite(HOST)
  let calls = 0
  const make = (): Promise<Chain> => Promise.resolve(chainFor(alice, ++calls))
  const chain = await invitations.redeem(made.id, alice, 'a1', make)
  t.strictSame(await invitations.redeem(made.id, alice, 'a1', make), chain)
  t.equal(calls, 1)
  await t.rejects(invitations.redeem(made.id, bob, 'a1', make), { code: 'TOKEN_USED', hint: /new token/ })
  await t.rejects(invitations.redeem(made.id, alice, 'a2', make), { code: 'TOKEN_USED', message: /under the name a1/ })
  await t.rejects(invitations.withdraw(made.id), { code: 'CONFLICT', hint: /revoke/ })
  const again = (await world(clock, store)).invitations
  t.strictSame(await again.redeem(made.id, alice, 'a1', make), chain, 'after a restart too')
  await t.rejects(again.redeem(made.id, bob, 'a1', make), { code: 'TOKEN_USED' })
  t.equal(again.answerableUntilMs(), clock.ms + HOUR, 'its answer may have been lost')
  clock.ms += HOUR
  await t.rejects(again.redeem(made.id, alice, 'a1', make), { code: 'TOKEN_EXPIRED', message: /1970/ })
  t.equal(again.answerableUntilMs(), null)
  t.equal(calls, 1)
})

t.test('what cannot be certified or written leaves the token unused', async t => {
  const records = invitationStore(createMemoryStore())
  let broken = false
  const { invitations } = await world(undefined, { ...records, put: async record => { if (broken) throw new Error('disk full'); else await records.put(record) } })
  const made = await invitations.invite(HOST)
  await t.rejects(invitations.redeem(made.id, alice, 'a1', () => Promise.reject(new Error('NAME_TAKEN'))), /NAME_TAKEN/)
  broken = true
  await t.rejects(invitations.redeem(made.id, alice, 'a1', () => Promise.resolve(chainFor(alice, 1))), /disk full/)
  t.match(invitations.list(), [{ state: 'open' }])
  broken = false
  t.ok(await invitations.redeem(made.id, bob, 'b1', () => Promise.resolve(chainFor(bob, 2))))
})

t.test('of many at once one gets it', async t => {
  const { invitations } = await world()
  const made = await invitations.invite(HOST)
  let running = 0
  const slow = async (subject: string): Promise<Chain> => {
    t.equal(++running, 1, 'one at a time')
    await new Promise(resolve => { setImmediate(resolve) })
    running--
    return chainFor(subject, 1)
  }
  const results = await Promise.allSettled(Array.from({ length: 20 }, async (_, i) => await invitations.redeem(made.id, `p${i}`, 'x', async () => await slow(`p${i}`))))
  t.equal(results.filter(({ status }) => status === 'fulfilled').length, 1)
})

t.test('proofs: for this request, this caller and this issuer; five wrong ones burn the token', async t => {
  const { invitations } = await world()
  const made = await invitations.invite(HOST)
  const good = request(made, alice)
  t.match(await invitations.check(good, issuer, alice), { id: made.id })
  const wrong: Array<[string, wire.JoinRequest, string, string]> = [
    ['another caller', good, issuer, bob], ['another issuer', good, bob, alice], ['another name', { ...good, name: 'a2' }, issuer, alice],
    ['more roles', { ...good, roles: ['gateway'] }, issuer, alice]
  ]
  for (const [why, bad, by, caller] of wrong) await t.rejects(invitations.check(bad, by, caller), { code: 'BAD_PROOF' }, why)
  t.match(await invitations.check(good, issuer, alice), { wrongProofs: 4 }, 'four do not')
  await t.rejects(invitations.check({ ...good, proof: new Uint8Array() }, issuer, alice), { code: 'BAD_PROOF' })
  await t.rejects(invitations.check(good, issuer, alice), { code: 'TOKEN_BURNT', hint: /new token/ }, 'now even the right one is refused')
  await t.rejects(invitations.redeem(made.id, alice, 'a1', () => Promise.resolve([])), { code: 'TOKEN_BURNT' })
  t.match(invitations.list(), [{ state: 'burnt' }])
  t.equal(invitations.answerableUntilMs(), null)
  await t.rejects(invitations.check({ ...good, tokenId: 'nobody' }, issuer, alice), { code: 'TOKEN_UNKNOWN' })
})

t.test('who does not know the secret learns nothing about a token', async t => {
  const { invitations, clock } = await world()
  const made = await invitations.invite(HOST)
  await invitations.withdraw(made.id)
  await invitations.withdraw(made.id)
  await t.rejects(invitations.check(request(made, alice, {}, new Uint8Array(32)), issuer, alice), { code: 'BAD_PROOF' })
  await t.rejects(invitations.check(request(made, alice), issuer, alice), { code: 'TOKEN_WITHDRAWN' })
  const other = await invitations.invite(HOST)
  await t.rejects(invitations.check(request(other, alice, { kind: 'site' }), issuer, alice), { code: 'TOKEN_WRONG_KIND', hint: 'musubi agent join TOKEN' })
  clock.ms += HOUR
  await t.rejects(invitations.check(request(other, alice), issuer, alice), { code: 'TOKEN_EXPIRED' })
  await t.rejects(invitations.withdraw('nothing'), { code: 'NOT_FOUND' })
})

t.test('bounds: open ones are counted, ended ones are swept', async t => {
  const { invitations, clock, store } = await world()
  for (let i = 0; i < MAX_INVITATIONS; i++) await invitations.invite(HOST)
  await t.rejects(invitations.invite(HOST), { code: 'TOO_MANY_INVITATIONS', hint: /withdraw/ })
  await invitations.withdraw(invitations.list()[0]?.id ?? '')
  const last = await invitations.invite(HOST)
  await t.rejects(invitations.invite(HOST), { code: 'TOO_MANY_INVITATIONS' })
  clock.ms += HOUR + 1
  t.equal(invitations.answerableUntilMs(), null)
  await invitations.sweep()
  t.equal((await store.list()).length, MAX_INVITATIONS, 'those of today are still shown, as many as are kept')
  clock.ms += 24 * HOUR
  await invitations.sweep()
  t.strictSame(invitations.list(), [])
  t.strictSame(await store.list(), [])
  await t.rejects(invitations.redeem(last.id, alice, 'a1', () => Promise.resolve([])), { code: 'TOKEN_UNKNOWN' })
})

type Step = { do: 'invite', ttlMs: number } | { do: 'redeem' | 'withdraw' | 'guess', which: number, who: number } | { do: 'wait', ms: number } | { do: 'restart' } | { do: 'fail', which: number }
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constant('invite' as const), ttlMs: fc.integer({ min: 1, max: 100 }) }),
  fc.record({ do: fc.constantFrom('redeem' as const, 'redeem' as const, 'withdraw' as const, 'guess' as const), which: fc.nat(3), who: fc.nat(2) }),
  fc.record({ do: fc.constant('wait' as const), ms: fc.integer({ min: 1, max: 60 }) }),
  fc.record({ do: fc.constant('fail' as const), which: fc.nat(3) }),
  fc.constant({ do: 'restart' as const })
)

t.test('whatever happens in whatever order: one subject per token, always the same chain, none after its end', async t => {
  await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 40 }), async steps => {
    const clock = { ms: 1_000_000 }
    const { store, invitations: first } = await world(clock)
    let invitations = first
    const made: NewInvitation[] = []
    const given = new Map<string, { subject: string, chain: string }>()
    const closed = new Set<string>()
    let certificates = 0
    for (const action of steps) {
      const target = 'which' in action ? made[action.which] : undefined
      if (action.do === 'invite') made.push(await invitations.invite({ ...HOST, ttlMs: action.ttlMs }))
      else if (action.do === 'wait') clock.ms += action.ms
      else if (action.do === 'restart') invitations = (await world(clock, store)).invitations
      else if (target === undefined) continue
      else if (action.do === 'withdraw') await invitations.withdraw(target.id).then(({ state }) => { if (state === 'withdrawn') closed.add(target.id) }, () => undefined)
      else if (action.do === 'guess') await invitations.check(request(target, alice, {}, new Uint8Array(32)), issuer, alice).catch(() => undefined)
      else if (action.do === 'fail') await invitations.redeem(target.id, 'failing', 'x', () => Promise.reject(new Error('no'))).catch(() => undefined)
      else {
        const subject = `peer${action.who}`
        const chain = await invitations.redeem(target.id, subject, 'x', () => Promise.resolve(chainFor(subject, ++certificates))).catch(() => null)
        if (chain === null) {
          const before = given.get(target.id)
          const burnt = (invitations.list().find(({ id }) => id === target.id)?.wrongProofs ?? 0) >= 5
          if (target.expiresMs > clock.ms && !closed.has(target.id) && !burnt && (before === undefined || before.subject === subject)) throw new Error('refused without a reason')
          continue
        }
        const text = Buffer.from(chain[0] ?? []).toString()
        const before = given.get(target.id)
        if (before !== undefined && (before.subject !== subject || before.chain !== text)) throw new Error('given twice')
        if (target.expiresMs <= clock.ms || closed.has(target.id)) throw new Error('given after its end')
        given.set(target.id, { subject, chain: text })
      }
    }
    if (certificates !== given.size) throw new Error('a certificate was made that nobody got')
  }), { numRuns: 150 })
  t.pass()
})
