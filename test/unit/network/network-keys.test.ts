/** Private keys of a gateway's tunnel: one that is given up leaves nothing. */
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createKeys } from '../../../agent/drivers/network/tunnel/keys.ts'

t.test('a key that is given up goes with the copies that crashes have left, and the other one stays', async t => {
  const dir = t.testdir()
  mkdirSync(join(dir, 'segments'))
  const own = ['wireguard.key', 'wireguard.key.4711', 'wireguard.key.4711.part']
  const others = ['wireguard-1.key', 'forwarding']
  for (const name of [...own, ...others]) writeFileSync(join(dir, name), 'secret\n')
  const keys = createKeys(dir)
  t.strictSame((await keys.state()).tracks.map(({ track }) => track), [0, 1])
  await keys.close(0)
  t.strictSame(readdirSync(dir).sort(), [...others, 'segments', 'tunnel-keys'].sort())
  t.strictSame((await keys.state()).tracks.map(({ track }) => track), [1])
  await keys.close(0)
  await createKeys(dir).close(1)
  t.strictSame((await keys.state()).tracks, [], 'again it is no error')
})
