import type { Command } from 'commander'

const names = (command: Command): string[] => command.commands.map(c => c.name())
const flags = (command: Command): string[] => command.options.flatMap(o => o.long ?? [])

/** One case for each command below `path`, however deep. */
function casesOf (command: Command, path: readonly string[]): string[] {
  return command.commands.flatMap(sub => {
    const here = [...path, sub.name()]
    return [`    "${here.join(' ')}") words="${[...names(sub), ...flags(sub)].join(' ')}" ;;`, ...casesOf(sub, here)]
  })
}

const depthOf = (command: Command): number => command.commands.reduce((deepest, sub) => Math.max(deepest, 1 + depthOf(sub)), 0)

/** A bash completion script made from the command tree, so that it is never out of date. */
export function bashCompletion (program: Command): string {
  return `# musubi completion for bash: source <(musubi completion)
_musubi () {
  local current="\${COMP_WORDS[COMP_CWORD]}" words="" key="" i
  case " \${COMP_WORDS[*]:1:COMP_CWORD-1} " in *" -- "*) return ;; esac
  # the longest beginning of the line that is a command
  for (( i = COMP_CWORD - 1 < ${depthOf(program)} ? COMP_CWORD - 1 : ${depthOf(program)}; i >= 0; i-- )); do
    key="\${COMP_WORDS[*]:1:i}"
    case "$key" in
    "") words="${[...names(program), ...flags(program)].join(' ')}" ;;
${casesOf(program, []).join('\n')}
    *) continue ;;
    esac
    break
  done
  COMPREPLY=( $(compgen -W "$words" -- "$current") )
}
complete -o default -F _musubi musubi`
}
