/**
 * What `lease exec` and its guardian say to each other: lines of JSON over a socket that only these two have.
 *
 * The guardian asks how long the lease may still be relied on, and counts the answer from the moment *before* it asked, on its own clock.
 * So the answer is never too long, however late it arrives, and the two need no common clock.
 */
import type { Socket } from 'node:net'

/** From `lease exec` to the guardian. */
export type ToGuardian =
  /** The lease was granted: ask, and be ready to start the job. */
  | { readonly kind: 'prepare' }
  /** The answer to the question `ask`. */
  | { readonly kind: 'trust'; readonly ask: number; readonly remainingMs: number }
  | { readonly kind: 'run'; readonly job: JobOrder }
  /** The job has got its signal already: only KILL is left. */
  | { readonly kind: 'stopping' }
  /** All is over: leave. */
  | { readonly kind: 'end' }

/** From the guardian to `lease exec`. */
export type FromGuardian =
  | { readonly kind: 'ask'; readonly ask: number }
  | { readonly kind: 'started'; readonly pid: number }
  /** The job could not be started. `late`: the lease could not be relied on any more. */
  | { readonly kind: 'failed'; readonly code: string; readonly message: string }
  /** It has given the job its signal: no answer promised enough time. */
  | { readonly kind: 'signalled' }
  | { readonly kind: 'exited'; readonly code: number | null; readonly signal: NodeJS.Signals | null }
  /** The command has ended, and so many processes of its group have not: they get the signal now. */
  | { readonly kind: 'leftovers'; readonly count: number }
  /** Nobody but the guardian is left in the group. */
  | { readonly kind: 'alone' }

/** What the guardian starts. */
export interface JobOrder {
  readonly file: string
  readonly args: readonly string[]
  /** Variables in addition to those of the guardian. */
  readonly env: Readonly<Record<string, string>>
  /** Whether the job is in the guardian's own process group, which nobody else is in. Otherwise signals go to the job alone. */
  readonly isGroup: boolean
  /** The first signal. */
  readonly signal: NodeJS.Signals
  /** From the first signal to KILL. */
  readonly graceMs: number
}

/** The file descriptor of the socket in the guardian. */
export const GUARDIAN_FD = 3
/** `lease exec` ends the job so long before the lease can lapse: processes take a moment to die. */
export const EARLY_MS = 100
/** The guardian lets `lease exec` go first. */
export const GUARDIAN_EARLY_MS = 60

/** One end of the link. */
export class GuardianLink<In, Out> {
  readonly #socket: Socket

  constructor(socket: Socket) {
    this.#socket = socket
  }

  /** Calls the listener with each message, and `closed` when the other end is gone. */
  listen(listener: (message: In) => void, closed: () => void): void {
    const socket = this.#socket
    let rest = ''
    socket.setEncoding('utf8')
    socket.on('data', (text: string) => {
      const lines = (rest + text).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) listener(JSON.parse(line) as In)
    })
    socket.on('error', () => {}) // `close` follows
    socket.once('close', closed)
    socket.once('end', () => socket.destroy())
  }

  send(message: Out): void {
    if (this.#socket.writable) this.#socket.write(`${JSON.stringify(message)}\n`)
  }

  close(): void {
    this.#socket.destroy()
  }
}
