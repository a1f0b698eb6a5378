/** How the command ends: its exit codes, and the error that carries one. */

/** Exit codes, by what they say. A job that was run passes on its own code; a signal n that ended it is 128 + n. */
export const EXIT = {
  ok: 0,
  /** The answer is no: the lease is vacant, another term holds it, `doctor` has findings. */
  no: 1,
  /** The command line, the environment or the configuration file breaks a rule. */
  usage: 64,
  /** The store cannot be reached, or cannot be used as it is set up. */
  unavailable: 69,
  /** Another holds the lease (EX_TEMPFAIL). */
  busy: 75,
  /** `LEASE_READ_ONLY` refuses writes. */
  readOnly: 77,
  /** `lease exec` stopped the job: the lease was lost, or `--max-time` was over. As timeout(1). */
  stopped: 124,
  /** `lease` itself failed. */
  failed: 125,
  /** As sh: the program of the job cannot be executed. */
  cannotExecute: 126,
  /** As sh: there is no such program. */
  notFound: 127,
} as const

/** Ends the command with this code. An empty message prints nothing. */
export class CommandEnd extends Error {
  override readonly name: string = 'CommandEnd'
  readonly exitCode: number
  /** What to do about it: lines below the message. */
  readonly hints: readonly string[]

  constructor(exitCode: number, message: string = '', ...hints: readonly string[]) {
    super(message)
    this.exitCode = exitCode
    this.hints = hints
  }
}

/** The command line breaks a rule. @param hints the line to write */
export function wrongUsage(message: string, ...hints: readonly string[]): CommandEnd {
  return new CommandEnd(EXIT.usage, message, ...hints)
}
