/** The CPU time and memory of a server, as Linux counts them: of a process and of all its descendants. */
import { readdirSync, readFileSync } from 'node:fs'

/**
 * Counts in nanoseconds what the threads of a server have run, where `utime` and `stime` count in hundredths of a second. What a
 * thread or a process has run counts up to the last reading at which it was there.
 */
export class ServerCpu {
  readonly #root: number
  /** By process and thread. */
  readonly #nanoseconds = new Map<string, number>()

  constructor(root: number) {
    this.#root = root
  }

  /** So far. @throws when the server does not run, or there is no `/proc` */
  micros(): number {
    this.#read(this.#root)
    let nanoseconds = 0
    for (const one of this.#nanoseconds.values()) nanoseconds += one
    return nanoseconds / 1_000
  }

  #read(pid: number): void {
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      const text = unlessEnded(() => readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8'))
      if (text !== undefined) this.#nanoseconds.set(`${pid} ${thread}`, Number(text.split(' ')[0]))
    }
    for (const child of childrenOf(pid)) unlessEnded(() => this.#read(child))
  }
}

/** Memory of the children of a process that they do not share, and their part of what they share, in bytes. */
export function childrenPssBytes(pid: number): number {
  let kilobytes = 0
  for (const child of childrenOf(pid)) {
    const text = unlessEnded(() => readFileSync(`/proc/${child}/smaps_rollup`, 'utf8'))
    kilobytes += Number(/^Pss: +(\d+)/m.exec(text ?? '')?.[1] ?? 0)
  }
  return kilobytes * 1024
}

/** Memory of a process that no file stands for, in bytes. */
export function anonymousBytes(pid: number): number {
  return Number(/^RssAnon:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1024
}

function childrenOf(pid: number): readonly number[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((thread) => {
    const text = unlessEnded(() => readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8'))
    return (text ?? '')
      .split(' ')
      .filter((word) => word.trim() !== '')
      .map(Number)
  })
}

/** undefined: the process or thread has ended. */
function unlessEnded<Result>(read: () => Result): Result | undefined {
  try {
    return read()
  } catch {
    return undefined
  }
}
