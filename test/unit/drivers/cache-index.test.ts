import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { run } from '../../../agent/exec.ts'

// What an index says becomes part of the engine's configuration: nothing of it may be more than a path and a digest.
const PROGRAM = fileURLToPath(new URL('../../../agent/drivers/cache/fetcher/index.pl', import.meta.url))
const A = 'a'.repeat(64)
const B = 'b'.repeat(64)

async function read (dir: string, kind: string, text: string | Buffer, name = 'index'): Promise<string[] | null> {
  await writeFile(join(dir, name), text)
  const { stdout, exitCode } = await run('perl', [PROGRAM, kind, join(dir, name)], { okCodes: [1, 2, 9, 255, 29] })
  return exitCode === 0 ? stdout.split('\n').slice(0, -1) : null
}

t.test('repositories of RPM', async t => {
  const dir = t.testdir()
  const data = (type: string, href: string): string => `<data type="${type}"><checksum type="sha256">${A}</checksum>\n<location\n href="${href}"/><size>12</size></data>`
  t.same(await read(dir, 'repomd', `<repomd>${data('filelists', 'repodata/f.xml.gz')}${data('primary', 'repodata/p.xml.gz')}</repomd>`), [`repodata/p.xml.gz\t12\t${A}`])
  for (const href of ['../p.xml.gz', '/../p', 'a/../b', '.hidden', 'a b', 'a&quot;b', 'a;b', 'x/', 'a\tb', 'a'.repeat(600)]) t.same(await read(dir, 'repomd', `<repomd>${data('primary', href)}</repomd>`), [], href)
  const one = (path: string, sha: string, type = 'sha256'): string => `<package type="rpm"><checksum type="${type}" pkgid="YES">${sha}</checksum><size package="7" installed="9"/><location href="${path}"/></package>`
  t.same(await read(dir, 'primary', gzipSync(`<metadata>${one('Packages/a-1.rpm', A)}\n${one('Packages/c++.rpm', B)}${one('b.rpm', A, 'sha')}</metadata>`), 'p.gz'), [`Packages/a-1.rpm\t7\t${A}`, `Packages/c++.rpm\t7\t${B}`])
  t.same(await read(dir, 'primary', 'no XML at all'), [])
})

t.test('repositories of Debian', async t => {
  const dir = t.testdir()
  const release = `Origin: x\nMD5Sum:\n ${'c'.repeat(32)} 5 main/binary-amd64/Packages.gz\nSHA256:\n ${A} 5 main/binary-amd64/Packages\n ${A} 6 main/binary-amd64/Packages.gz\n ${B} 4 main/binary-amd64/Packages.xz\n ${B} 4 main/source/Sources.xz\nSHA512:\n`
  t.same(await read(dir, 'release', release), [`main/binary-amd64/Packages.xz\t4\t${B}`])
  t.same(await read(dir, 'packages', `Package: a\nFilename: pool/a_1.deb\nSize: 3\nSHA256: ${A}\n\nPackage: b\nFilename: ../b\nSize: 3\nSHA256: ${A}\n\nPackage: c\nFilename: pool/c\nSize: 3\n`), [`pool/a_1.deb\t3\t${A}`])
})

t.test('manifests', async t => {
  const dir = t.testdir()
  t.same(await read(dir, 'manifest', JSON.stringify({ objects: [{ path: '/a', size: 1, sha256: A }, { path: '/b"; include x', size: 1, sha256: A }, { path: '/c', size: 'x', sha256: A }, { path: '/d', size: 1, sha256: A.toUpperCase() }, { path: ['/e'], size: 1, sha256: A }, null, 7] })), [`/a\t1\t${A}`])
  for (const text of ['', '[]', '{"objects":{}}', '{', '['.repeat(1000)]) t.equal(await read(dir, 'manifest', text), null, text.slice(0, 20))
})

t.test('the engine\'s list: no name twice, whatever case it has, and what is denied is not there', async t => {
  const dir = t.testdir()
  const lists = {
    one: `x/a.rpm\t1\t${A}\nx/c++.rpm\t1\t${A}\nx/Upper.rpm\t1\t${A}\nx/upper.rpm\t1\t${B}\nx/bad.rpm\t1\t${A}\n`,
    two: `/r/x/a.rpm\t1\t${A}\n/r/x/other.rpm\t1\t${A}\n`,
    three: `/r/x/other.rpm\t1\t${B}\n`
  }
  for (const [name, text] of Object.entries(lists)) await writeFile(join(dir, name), text)
  await writeFile(join(dir, 'denied'), `80:/r/x/bad.rpm ${A}\n`)
  const { stdout } = await run('perl', [PROGRAM, 'listed', join(dir, 'denied'), '80', '/r/', join(dir, 'one'), '80', '', join(dir, 'two'), '80', '', join(dir, 'three')])
  t.same(stdout.split('\n').slice(0, -1), [
    `"80:/r/x/a.rpm" "${A} 80:/r/x/a.rpm";`,
    `"80:/r/x/c++.rpm" "${A} 80:/r/x/c++.rpm";`,
    `"80:/r/x/c%2b%2b.rpm" "${A} 80:/r/x/c%2b%2b.rpm";`
  ], 'two digests for one path, or two paths but for case, are none')
  t.ok((await readFile(join(dir, 'one'), 'utf8')).includes('Upper.rpm'))
})

t.test('what is small is soon read, whatever a frontend writes: it is read before what nodes wait for', async t => {
  const dir = t.testdir()
  const bytes = 250_000
  const filled = (text: string): string => text.repeat(Math.floor(bytes / text.length))
  for (const [kind, text] of [
    ['repomd', `${filled('<data')}>type="primary"</data>`],
    ['repomd', `<data type="primary">${filled('<location')}>href="</data>`],
    ['primary', `<package>${filled('<size')}>package="</package>`],
    ['primary', `<package><checksum${filled(' type="sha256"')}></package>`],
    ['primary', `<package>${filled('<checksum type="sha256">')}</package>`]
  ] as const) {
    await writeFile(join(dir, 'hostile'), text)
    // of the processor, whoever else is at it: more is a signal
    const { stdout } = await run('prlimit', ['--cpu=3', '--', 'perl', PROGRAM, kind, join(dir, 'hostile')])
    t.equal(stdout, '', `${kind} ${text.slice(0, 40)}`)
  }
})

const FOLDER = fileURLToPath(new URL('../../../agent/drivers/cache/fetcher', import.meta.url))
/** Runs lines of Perl with `$indexes` in a folder. */
async function withIndexes (dir: string, lines: string): Promise<string[]> {
  const { stdout } = await run('perl', [`-I${FOLDER}`, '-e', `use strict; use warnings; use Clock; use Indexes; my ($dir) = @ARGV; my $indexes = Indexes->new(dir => $dir); ${lines}`, dir])
  return stdout.split('\n').slice(0, -1)
}

t.test('what is small is read at once, as nodes wait for the list; what may be large waits for them', async t => {
  const dir = t.testdir({ small: 'x', large: 'x'.repeat(300_000), 'small.gz': 'x' })
  const nices = await withIndexes(dir, `
    for my $files (['small'], ['large'], ['small.gz'], [('large') x 2], ['none']) {
      $indexes->child("$dir/out", ['-e', 'print getpriority(0, 0)'], [map { "$dir/$_" } @$files], sub { open(my $out, '<', "$dir/out"); print <$out>, "\\n" });
      while (%{$indexes->{children}}) { $indexes->reap; select(undef, undef, undef, 0.01) }
    }`)
  const [own = 0] = (await run('perl', ['-e', 'print getpriority(0, 0)'])).stdout.split('\n').map(Number)
  const low = String(Math.max(own, 10))
  t.same(nices, [String(own), low, low, low, String(own)])
})

t.test('what fails once an index was reached is not asked for every other second', async t => {
  const waits = await withIndexes(t.testdir(), `
    my $index = { busy => 1, key => 'parts', path => '/x', digest => '', kind => 'rpm', number => 1 };
    $indexes->later($index, 'the frontend answers 502') for 1 .. 9;
    for (1 .. 9) {
      { no warnings 'redefine'; local *Indexes::parse = sub { }; $indexes->read(undef, $index, "$dir/repomd", 'digest') }
      $indexes->later($index, 'the frontend answers 503');
      printf "%.0f\\n", $index->{due} - time;
    }`)
  t.same(waits, ['1', '2', '4', '8', '16', '32', '60', '60', '60'])
})

t.test('a frontend that is not reached yet is asked again soon, one that has no index seldom', async t => {
  const waits = await withIndexes(t.testdir(), `
    for my $error ('the frontend answers 502', 'the engine takes no request: x', 'the frontend answers 404', 'it cannot be read as manifest') {
      my $index = { busy => 1, key => $error, path => '/x', digest => '' };
      $indexes->later($index, $error) for 1 .. 9;
      printf "%.0f\\n", $index->{due} - time;
    }
    $indexes->{began} -= 121;
    my $index = { busy => 1, key => 'later', path => '/x', digest => '' };
    $indexes->later($index, 'the frontend answers 502') for 1 .. 9;
    printf "%.0f\\n", $index->{due} - time;`)
  t.same(waits, ['2', '2', '60', '60', '60'])
})
