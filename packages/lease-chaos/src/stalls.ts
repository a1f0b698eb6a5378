/** How much time a race lost because the machine or the server stalled: what is late by so much is not late. */
import type { Manager } from 'lease-core'
import { nowMs } from './recorder.ts'
import type { Workers } from './workers.ts'

const PAUSE_MS = 50
/** What a write may take: on a quiet machine it takes a tenth of it. */
const WRITE_MS = 25

/** Time that a process lost, at the end of it. */
export interface Stall {
  readonly atMs: number
  readonly lostMs: number
}

/**
 * Measures how much time is lost because this process or the server stalls: a pause and a write, again and again, that take
 * too long. Tells the outcome of each until it is stopped.
 */
export async function measureStalls(
  manager: Manager,
  name: string,
  tell: (stall: Stall) => void,
  isStopped: () => boolean = () => false,
): Promise<void> {
  while (!isStopped()) {
    const fromMs = nowMs()
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
    await manager.claim(`stalls-of-${name}`, 'measure', 60_000).catch(() => {})
    const atMs = nowMs()
    tell({ atMs, lostMs: Math.max(0, atMs - fromMs - PAUSE_MS - WRITE_MS) })
  }
}

/** How much time was lost in the process of the judge or in one of the workers. */
export class Stalls {
  readonly #workers: Workers
  readonly #stalls: Stall[] = []
  readonly #running: Promise<void>
  #stopped = false

  /** @param workers those that record what they have `measured` */
  constructor(manager: Manager, workers: Workers) {
    this.#workers = workers
    const tell = (stall: Stall): void => void this.#stalls.push(stall)
    this.#running = measureStalls(manager, 'judge', tell, () => this.#stopped)
  }

  /** Between these instants; several processes that stalled at once count as one. */
  lostMs(fromMs: number, toMs: number): number {
    const lost = [...this.#stalls, ...this.#recorded()]
      .map(({ atMs, lostMs }) => ({ fromMs: Math.max(fromMs, atMs - lostMs), toMs: Math.min(toMs, atMs) }))
      .toSorted((a, b) => a.fromMs - b.fromMs)
    let sumMs = 0
    let countedMs = fromMs
    for (const stall of lost) {
      sumMs += Math.max(0, stall.toMs - Math.max(countedMs, stall.fromMs))
      countedMs = Math.max(countedMs, stall.toMs)
    }
    return sumMs
  }

  /** Resolves when all processes that run have measured up to now: what stalls has not recorded it yet. */
  async complete(): Promise<void> {
    const atMs = nowMs()
    await this.#workers.until(
      'measurements of all',
      () =>
        (this.#stalls.at(-1)?.atMs ?? 0) > atMs &&
        this.#workers.running.every((worker) => (worker.latest('measured')?.atMs ?? 0) > atMs),
    )
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#running
  }

  #recorded(): readonly Stall[] {
    return this.#workers.all.flatMap(({ reports }) =>
      reports.flatMap(({ what, atMs, lostMs = 0 }) => (what === 'measured' ? [{ atMs, lostMs }] : [])),
    )
  }
}
