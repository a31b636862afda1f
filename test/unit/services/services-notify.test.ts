import t from 'tap'
import { createTurns } from '../../../agent/turns.ts'
import { createFeeder, createNotifier, watchdogIntervalMs } from '../../../agent/services/notify.ts'
import { escapeArgument, parseUnits } from '../../../agent/services/systemd.ts'

t.test('the watchdog is fed at half its time, and only where it is meant for this process', t => {
  t.equal(watchdogIntervalMs({ WATCHDOG_USEC: '30000000' }, 5), 15_000)
  t.equal(watchdogIntervalMs({ WATCHDOG_USEC: '30000000', WATCHDOG_PID: '5' }, 5), 15_000)
  t.equal(watchdogIntervalMs({ WATCHDOG_USEC: '30000000', WATCHDOG_PID: '6' }, 5), null)
  for (const value of ['', '0', '-1', 'x']) t.equal(watchdogIntervalMs({ WATCHDOG_USEC: value }, 5), null)
  t.equal(watchdogIntervalMs({}, 5), null)
  t.end()
})

t.test('without systemd nothing happens', async t => {
  const notifier = createNotifier({ WATCHDOG_USEC: '1000' })
  await notifier.ready('up')
  await notifier.status('busy')
  await notifier.stopping()
  t.pass()
})

t.test('children do not inherit the socket, and a dead socket is no failure', async t => {
  const env: NodeJS.ProcessEnv = { NOTIFY_SOCKET: '/nonesuch/notify', WATCHDOG_USEC: '60000000', OTHER: 'x' }
  const notifier = createNotifier(env)
  t.strictSame(env, { OTHER: 'x' })
  await notifier.ready()
  await notifier.stopping()
})

t.test('the watchdog is not fed while files cannot be read', async t => {
  let fed = 0
  const asked: Array<PromiseWithResolvers<undefined>> = []
  const tick = createFeeder(() => { fed++ }, () => {
    asked.push(Promise.withResolvers())
    return asked.at(-1)?.promise ?? Promise.resolve()
  })
  const soon = (): Promise<void> => new Promise(resolve => setImmediate(resolve))
  tick()
  tick()
  await soon()
  t.equal(fed, 0)
  t.equal(asked.length, 1, 'questions do not heap up')
  asked[0]?.resolve(undefined)
  await soon()
  t.equal(fed, 1)
  tick()
  asked[1]?.reject(new Error('EACCES'))
  await soon()
  t.equal(fed, 2, 'a refusal is an answer')
  const real = Promise.withResolvers<string>()
  createFeeder(() => { real.resolve('fed') })()
  t.equal(await real.promise, 'fed')
})

t.test('unit states are parsed, whatever else is printed', t => {
  const text = 'MainPID=12\nId=musubi-svc-a.service\nLoadState=loaded\nActiveState=active\nDescription=Musubi service a spec=00ff\n\nId=musubi-svc-b.service\nLoadState=not-found\nActiveState=inactive\nMainPID=x\n\nnonsense\n'
  t.strictSame(parseUnits(text), [
    { id: 'musubi-svc-a.service', loaded: true, activeState: 'active', mainPid: 12, description: 'Musubi service a spec=00ff' },
    { id: 'musubi-svc-b.service', loaded: false, activeState: 'inactive', mainPid: 0, description: '' }
  ])
  t.strictSame(parseUnits(''), [])
  t.equal(escapeArgument('a $HOME ${X} $$'), 'a $$HOME $${X} $$$$')
  t.end()
})

t.test('turns: one key in order, also after failures', async t => {
  const turns = createTurns()
  const order: string[] = []
  const first = turns('a', async () => {
    await new Promise(resolve => setImmediate(resolve))
    order.push('a1')
    throw new Error('a1 fails')
  })
  const second = turns('a', () => Promise.resolve(order.push('a2')))
  const other = turns('b', () => Promise.resolve(order.push('b1')))
  await t.rejects(first, { message: 'a1 fails' })
  await Promise.all([second, other])
  t.strictSame(order, ['b1', 'a1', 'a2'])
})
