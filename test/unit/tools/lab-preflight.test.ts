import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import {
  installCommand, missingRequirements, npmPackagesMatch, packagesOf, parseArguments, REQUIREMENTS, TARGETS, versionAtLeast
} from '../../../lab/preflight.mjs'

t.test('arguments after the target go to it unchanged', t => {
  t.same(parseArguments(['demo', '--nodes', '2', '--json']), { check: false, target: 'demo', args: ['--nodes', '2', '--json'] })
  t.same(parseArguments(['--', 'test']), { check: false, target: 'test', args: [] })
  t.same(parseArguments(['--check', 'demo']), { check: true, target: 'demo', args: [] })
  t.same(parseArguments(['bench', '--', 'lease', '--full']), { check: false, target: 'bench', args: ['lease', '--full'] })
  t.end()
})

t.test('an unknown target is refused with the usage', t => {
  for (const argv of [[], ['deploy'], ['--check'], ['toString'], ['--json', 'demo']]) {
    t.throws(() => parseArguments(argv), { name: 'PreflightError', message: /^usage: / })
  }
  t.end()
})

t.test('every target of package.json is known, and its script is named', t => {
  t.same(Object.keys(TARGETS).sort(), ['bench', 'demo', 'test', 'test:vm'])
  for (const { script } of Object.values(TARGETS)) t.match(script, /\.ts$/)
  t.end()
})

t.test('missing programs are found by suite and give each package once', t => {
  const table = [
    { needs: 'a', package: 'p1', targets: ['demo', 'test'] },
    { needs: '/b', package: 'p1', targets: ['test'] },
    { needs: 'c', package: 'p0', targets: ['test'] }
  ]
  t.same(packagesOf(missingRequirements(table, 'test', () => false)), ['p0', 'p1'])
  t.same(packagesOf(missingRequirements(table, 'demo', () => false)), ['p1'])
  t.same(missingRequirements(table, 'test', needs => needs !== '/b').map(r => r.needs), ['/b'])
  t.same(missingRequirements(table, 'test', () => true), [])
  t.end()
})

t.test('the table is sound: each program once, packages and suites well named', t => {
  t.equal(new Set(REQUIREMENTS.map(r => r.needs)).size, REQUIREMENTS.length)
  for (const r of REQUIREMENTS) {
    t.match(r.package, /^[a-z0-9][a-z0-9.+-]+$/, r.needs)
    t.ok(r.targets.length > 0 && r.targets.every(target => Object.hasOwn(TARGETS, target)), r.needs)
  }
  t.end()
})

t.test('the command shown to people can be pasted', t => {
  t.equal(installCommand(['nginx', 'tgt']), 'apt-get update && apt-get install -y --no-install-recommends nginx tgt')
  t.end()
})

t.test('npm packages match only when every needed one is there in its version', t => {
  const lock = { packages: { '': {}, 'node_modules/a': { version: '1.0.0' }, 'node_modules/other-os': { version: '2.0.0', optional: true }, 'node_modules/linked': { link: true } } }
  t.equal(npmPackagesMatch(lock, null), false, 'nothing installed')
  t.equal(npmPackagesMatch(lock, { packages: {} }), false, 'one is missing')
  t.equal(npmPackagesMatch(lock, { packages: { 'node_modules/a': { version: '0.9.0' } } }), false, 'an old one')
  t.equal(npmPackagesMatch(lock, { packages: { 'node_modules/a': { version: '1.0.0' } } }), true, 'what is for other systems may be absent')
  t.equal(npmPackagesMatch(lock, { packages: { 'node_modules/a': { version: '1.0.0' }, 'node_modules/other-os': { version: '1.0.0' } } }), false, 'but not be another version')
  t.end()
})

t.test('versions compare as numbers', t => {
  t.equal(versionAtLeast('v24.1.0', [22, 18]), true)
  t.equal(versionAtLeast('v22.18.0', [22, 18]), true)
  t.equal(versionAtLeast('v22.9.0', [22, 18]), false)
  t.equal(versionAtLeast('v20.20.2', [22, 18]), false)
  t.end()
})

t.test('it needs nothing but Node itself, as it runs before npm ci', async t => {
  const source = await readFile(join(import.meta.dirname, '../../../lab/preflight.mjs'), 'utf8')
  const imports = [...source.matchAll(/^import .* from '(.*)'$/gm)].map(m => m[1])
  t.ok(imports.length > 3)
  for (const name of imports) t.match(name, /^node:/)
})
