/**
 * Preloaded into a helper (`--import`): counts the programs that it starts to change something, and
 * ends it with SIGKILL where the file that MUSUBI_TEST_DIES names says so: `NUMBER before|during`,
 * counted from when the file was written. What was counted is appended to `FILE.log`. Without the file
 * it does nothing. `0 all` counts also those that only look. Steps that one process does in a row
 * (`steps.pl`) count one by one.
 */
import childProcess, { type ChildProcess, type SpawnOptions } from 'node:child_process'
import { appendFileSync, readFileSync } from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'

const file = process.env.MUSUBI_TEST_DIES ?? ''
const { spawn } = childProcess
/** Programs that look: between two of them nothing is different. */
const LOOKS = / -json | -j | --op show|(^| )wg (show|genkey|pubkey)|netns (list|pids)|link show|virsh .*(domstats|secret-list|metadata|domstate|dominfo)|nft list|(^| )id |spaces\.pl /
/**
 * Goes before the runner of steps, which starts a child for each: as much as `counted` below does for programs.
 * Arguments: the log, how many counts from now, when, and the runner.
 */
const STEPS = `
my ($log, $left, $when) = splice @ARGV, 0, 3;
BEGIN {
  *CORE::GLOBAL::fork = sub () {
    open(my $file, '>>', $log) or die;
    syswrite $file, "step\\n";
    my $now = --$left == 0;
    if ($now && $when eq 'before') { kill 'KILL', getppid; sleep 1; exit 1 }
    my $child = CORE::fork();
    if ($now && $child) { kill 'KILL', getppid }
    return $child;
  };
}
my $runner = shift @ARGV;
do $runner;
die $@ if $@;
`
let order = ''
let begun = 0

function contentOf (path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

const logged = (): number => contentOf(`${file}.log`).split('\n').length - 1

const counted = (program: string, args: readonly string[] = [], options: SpawnOptions = {}): ChildProcess => {
  const now = contentOf(file).trim()
  if (now !== order) {
    order = now
    begun = logged()
  }
  const line = [program.replace(/^.*\//, ''), ...args].join(' ')
  // who has connected is asked at every connection, and is no deed
  const asksWho = Array.isArray(options.stdio) && options.stdio[3] !== undefined
  if (now === '' || asksWho || (!now.endsWith(' all') && LOOKS.test(line))) return spawn(program, [...args], options)
  const [at, when = ''] = now.split(' ')
  const [runner = ''] = args
  if (/\/steps\.pl$/.test(runner) && when !== 'all') return spawn(program, ['-e', STEPS, `${file}.log`, String(Number(at) - (logged() - begun)), when, runner], options)
  appendFileSync(`${file}.log`, `${line}\n`)
  const count = logged() - begun
  if (count === Number(at) && when === 'before') process.kill(process.pid, 'SIGKILL')
  const child = spawn(program, [...args], options)
  if (count === Number(at) && when === 'during') process.kill(process.pid, 'SIGKILL')
  return child
}
childProcess.spawn = counted as typeof childProcess.spawn
syncBuiltinESMExports()
