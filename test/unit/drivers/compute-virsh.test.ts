import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { createLibvirtDriver } from '../../../agent/drivers/compute/libvirt.ts'
import { parseDomstats, parseMark } from '../../../agent/drivers/compute/virsh.ts'

t.test('domstats are read as libvirt prints them, the first card counted, odd names kept apart', t => {
  const stats = parseDomstats([
    "Domain: 'mz-a.n1'",
    '  state.state=1',
    '  state.reason=1',
    '  net.count=2',
    '  net.0.name=mzt00000100',
    '  net.0.rx.bytes=100',
    '  net.0.rx.pkts=1',
    '  net.0.tx.bytes=7',
    '  net.1.rx.bytes=20',
    '  net.1.tx.bytes=3',
    '',
    "Domain: 'it's odd'",
    '  state.state=5',
    '',
    "Domain: 'new'",
    '  state.state=42',
    ''
  ].join('\n'))
  t.strictSame(Object.fromEntries(stats), {
    'mz-a.n1': { state: 'running', rxBytes: 100, txBytes: 7 },
    "it's odd": { state: 'shut off', rxBytes: 0, txBytes: 0 },
    new: { state: 'state 42', rxBytes: 0, txBytes: 0 }
  })
  t.equal(parseDomstats('').size, 0)
  t.end()
})

t.test('our mark is read in either quoting, and nothing else is taken for it', t => {
  const mark = { name: 'a.n1', uuid: 'u', cluster: 'c', fingerprint: 'f', bridge: 'b', tap: 't', localBridge: '', localTap: '' }
  t.strictSame(parseMark('<object name="a.n1" uuid="u" cluster="c" fingerprint="f" bridge="b" tap="t" localBridge="lb" localTap="lt"/>'), { ...mark, localBridge: 'lb', localTap: 'lt' })
  t.strictSame(parseMark('<object name="a.n1" uuid="u" cluster="c" clusterName="x &amp; y" node="n1" fingerprint="f" bridge="b" tap="t"/>\n'), mark)
  t.strictSame(parseMark("<musubi:object xmlns:musubi='urn:musubi:1' name='a.n1' uuid='u' cluster='c' fingerprint='f' bridge='b' tap='t'/>"), mark)
  t.equal(parseMark('<object name="&lt;&#39;&#x41;&unknown;&gt;" fingerprint="f"/>')?.name, "<'A&unknown;>")
  for (const text of ['', 'error: metadata not found', '<object name="a"/>', '<object fingerprint="f"/>', '<objects name="a" fingerprint="f"/>']) {
    t.equal(parseMark(text), null, text)
  }
  t.end()
})

t.test('the console log is read from its end, and is empty for nodes that have none', async t => {
  const stateDir = t.testdir({ console: { 'mz-n1.log': 'first\nlast\n' } })
  const driver = createLibvirtDriver({ stateDir, accelerator: 'tcg' })
  t.equal(await driver.consoleLog('n1'), 'first\nlast\n')
  t.equal(await driver.consoleLog('n1', 5), 'last\n')
  t.equal(await driver.consoleLog('n2'), '')
  t.equal(await driver.consoleLog('../n1'), '')
  await writeFile(join(stateDir, 'console', 'mz-n1.log'), '')
  t.equal(await driver.consoleLog('n1'), '')
  t.equal(await readFile(join(stateDir, 'console', 'mz-n1.log'), 'utf8'), '')
})
