import type { Command } from 'commander'

const names = (command: Command): string[] => command.commands.map(c => c.name())
const flags = (command: Command): string[] => command.options.flatMap(o => o.long ?? [])

/** A bash completion script made from the command tree, so that it is never out of date. */
export function bashCompletion (program: Command): string {
  const cases = program.commands.flatMap(group => [
    `    ${group.name()}) words="${[...names(group), ...flags(group)].join(' ')}" ;;`,
    ...group.commands.map(sub => `    "${group.name()} ${sub.name()}") words="${flags(sub).join(' ')}" ;;`)
  ])
  return `# musubi completion for bash: source <(musubi completion)
_musubi () {
  local current="\${COMP_WORDS[COMP_CWORD]}" words="${[...names(program), ...flags(program)].join(' ')}" key=""
  [ "$COMP_CWORD" -ge 2 ] && key="\${COMP_WORDS[1]}"
  [ "$COMP_CWORD" -ge 3 ] && key="\${COMP_WORDS[1]} \${COMP_WORDS[2]}"
  case "$key" in
${cases.join('\n')}
  esac
  COMPREPLY=( $(compgen -W "$words" -- "$current") )
}
complete -o default -F _musubi musubi`
}
