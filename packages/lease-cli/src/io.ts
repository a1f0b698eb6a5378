/** What a command uses of its process: everything that a test replaces. */
import { createInterface } from 'node:readline/promises'
import { systemClock, type Clock } from 'lease-core'

/** Where text goes. */
export interface Sink {
  /** Returns false when the reader is slow: `drained` then says when to go on. */
  write(text: string): boolean
  /** Resolves when the reader has caught up, or is gone. */
  drained(): Promise<void>
  readonly isTTY: boolean
  /** How wide a terminal is. */
  readonly columns: number | undefined
}

/** What a command uses of its process. */
export interface Io {
  readonly stdout: Sink
  readonly stderr: Sink
  /** Whether somebody can be asked. */
  readonly asks: boolean
  /** Prints a question to the terminal, and resolves to the line that is typed. */
  ask(question: string, signal: AbortSignal): Promise<string>
  readonly env: Readonly<Record<string, string | undefined>>
  readonly cwd: string
  readonly clock: Clock
  /** Calls the listener on each such signal; it then does not end the process. Returns a function that ends that. */
  onSignal(signal: NodeJS.Signals, listener: () => void): () => void
}

/** Those of this process. */
export function processIo(): Io {
  return {
    stdout: sinkOf(process.stdout),
    stderr: sinkOf(process.stderr),
    asks: process.stdin.isTTY && process.stderr.isTTY,
    ask: async (question, signal) => {
      const lines = createInterface({ input: process.stdin, output: process.stderr })
      try {
        return await lines.question(question, { signal })
      } finally {
        lines.close()
      }
    },
    env: process.env,
    cwd: process.cwd(),
    clock: systemClock,
    onSignal: (signal, listener) => {
      process.on(signal, listener)
      return () => void process.off(signal, listener)
    },
  }
}

function sinkOf(stream: NodeJS.WriteStream): Sink {
  let isGone = false
  stream.on('error', () => (isGone = true)) // `lease list | head`: the reader has seen enough
  return {
    write: (text) => isGone || stream.write(text),
    drained: () =>
      new Promise((resolve) => {
        if (isGone || !stream.writableNeedDrain) return resolve()
        const done = (): void => {
          for (const event of ENDS) stream.off(event, done)
          resolve()
        }
        for (const event of ENDS) stream.once(event, done)
      }),
    isTTY: stream.isTTY,
    columns: stream.columns,
  }
}

const ENDS = ['drain', 'error', 'close'] as const
