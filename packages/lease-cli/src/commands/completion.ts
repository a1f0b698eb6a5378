/** `lease completion`: scripts for shells. They ask `lease __complete` for what can follow, so they need no update. */
import { wrongUsage } from '../exit-codes.ts'

const SCRIPTS: Readonly<Record<string, string>> = {
  bash: `_lease() {
  local IFS=$'\\n'
  COMPREPLY=($(lease __complete "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _lease lease`,
  zsh: `#compdef lease
_lease() {
  local -a found
  found=("\${(@f)$(lease __complete "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  compadd -a found
}
compdef _lease lease`,
  fish: `complete -c lease -f -a '(lease __complete (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'`,
}

/** The script for this shell. @throws CommandEnd 64 */
export function completionScript(shell: string): string {
  const script = SCRIPTS[shell]
  if (script === undefined)
    throw wrongUsage(`there is no completion for ${shell}`, 'lease completion bash, zsh or fish')
  return script
}

/** A command, as far as completion needs it. */
export interface Completable {
  readonly name: string
  readonly flags: readonly string[]
  /** Whether its arguments are names of leases. */
  readonly takesLeases: boolean
}

/** What can follow these words; the last one is being typed. `leases` is asked only where a lease can follow. */
export async function completions(
  words: readonly string[],
  commands: readonly Completable[],
  leases: () => Promise<readonly string[]>,
): Promise<readonly string[]> {
  const typed = words.at(-1) ?? ''
  if (words.includes('--')) return []
  const command = commands.find(({ name }) => words.slice(0, -1).includes(name))
  const found =
    typed.startsWith('-') && command !== undefined
      ? command.flags
      : command === undefined
        ? commands.map(({ name }) => name)
        : command.takesLeases
          ? await leases()
          : []
  return found.filter((one) => one.startsWith(typed)).toSorted()
}
