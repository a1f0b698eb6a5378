/**
 * What a worker writes down: one line of JSON for each event, on its standard output, with the time on the monotonic clock of
 * the machine. A line has left the process when the call returns, so nothing is lost when the process is killed.
 */
import { writeSync } from 'node:fs'
import { machineClock } from './machine-clock.ts'

/** An event in a worker. */
export interface Report {
  /** What happened. `relied`: the worker relied on the term at this instant. */
  readonly what: string
  readonly atMs: number
  /** Of `relied`: when the answer was there. It was so at some instant between `atMs` and this one. */
  readonly sampledMs?: number
  /** The lease, where a race has several. */
  readonly lease?: string
  /** The fencing token of the term. */
  readonly token?: string
  readonly detail?: string
  /** Of a share: how much of the capacity it takes. */
  readonly weight?: number
  /** When the worker began to ask for the term. */
  readonly askedMs?: number
  /** Of `measured`: how much time was lost until then. */
  readonly lostMs?: number
}

/** The monotonic clock of the machine, in milliseconds: all processes read the same, also those whose clocks a fault moves. */
export const nowMs: () => number = machineClock()

/** Waits while the pipe is full, because the judge reads late: the worker stands still then, as on a slow machine. */
export function record(report: Report): void {
  const line = Buffer.from(`${JSON.stringify(report)}\n`)
  for (let written = 0; written < line.length;) {
    try {
      written += writeSync(1, line, written)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error
      Atomics.wait(NEVER_WOKEN, 0, 0, 1)
    }
  }
}

const NEVER_WOKEN = new Int32Array(new SharedArrayBuffer(4))

/** A term on which a worker relies. */
export interface Term {
  readonly fencingToken: bigint
  readonly lease?: string
  /** Of a share: how much of the capacity it takes. */
  readonly weight?: number
  /** When the worker began to ask for it. */
  readonly askedMs?: number
}

/**
 * Records how long the worker relies on the term: the first instant, and one every `everyMs` until `relied()` is false.
 * `more` is what else is recorded of each. `relied()` must never be true again once it was false: what is true after an instant was true at that instant.
 */
export async function recordReliance(
  term: Term,
  relied: () => boolean,
  everyMs: number = 10,
  more?: (sampledMs: number) => object,
): Promise<void> {
  const { fencingToken, lease, weight, askedMs } = term
  const named = {
    token: String(fencingToken),
    ...(lease !== undefined && { lease }),
    ...(weight !== undefined && { weight }),
    ...(askedMs !== undefined && { askedMs }),
  }
  for (let atMs = nowMs(); relied(); atMs = nowMs()) {
    const sampledMs = nowMs()
    record({ what: 'relied', ...named, atMs, sampledMs, ...more?.(sampledMs) })
    await new Promise((resolve) => setTimeout(resolve, everyMs))
  }
}
