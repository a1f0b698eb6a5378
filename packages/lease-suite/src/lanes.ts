/**
 * How many works run at a time. Tests wait more than they compute, so more of them than there are cores keep the cores busy; but on cores
 * that are busy another one only makes all of them late. So a few always run, also where other programs keep the cores busy, and more are
 * begun while the cores have nothing to do.
 */
import { availableParallelism, cpus } from 'node:os'
import { setTimeout as pass } from 'node:timers/promises'

/** How many works run at a time: so many however busy the machine is, and so many at most. */
export interface Lanes {
  readonly least: number
  readonly most: number
}

/** How long the cores are watched, and so at least between the starts of two works that they have time for. */
const LOOK_MS = 250
/** What part of that time they must have had nothing to do, all together. */
const IDLE = 0.15

export function usualLanes(): Lanes {
  const cores = availableParallelism()
  return { least: cores * 2, most: cores * 4 }
}

/**
 * Starts them in this order.
 *
 * @param idle what part of the time the cores have nothing to do, seen over a quarter of a second
 * @throws what the first that fails has thrown, at once; no more are started
 */
export async function inLanes(
  { least, most }: Lanes,
  works: readonly (() => Promise<void>)[],
  idle: () => Promise<number> = idleCores,
): Promise<void> {
  const running = new Set<Promise<void>>()
  const start = (work: () => Promise<void>): void => {
    const run = work()
    const ended = run.finally(() => running.delete(ended))
    running.add(ended)
  }
  const mayStart = async (): Promise<boolean> => {
    if (running.size < least) return true
    const ended = Promise.race(running)
    if (running.size < most) {
      if ((await Promise.race([idle(), ended.then(() => 0)])) >= IDLE) return true
    } else await ended
    return running.size < least
  }
  for (const work of works) {
    while (!(await mayStart()));
    start(work)
  }
  await Promise.all(running)
}

async function idleCores(): Promise<number> {
  const before = timesOfCores()
  await pass(LOOK_MS)
  const after = timesOfCores()
  const all = after.all - before.all
  return all === 0 ? 0 : (after.idle - before.idle) / all
}

/** Of all cores together, since the machine was started. */
function timesOfCores(): { readonly idle: number; readonly all: number } {
  const sum = (times: readonly number[]): number => times.reduce((total, one) => total + one, 0)
  const cores = cpus().map(({ times }) => times)
  return { idle: sum(cores.map(({ idle }) => idle)), all: sum(cores.flatMap((times) => Object.values(times))) }
}
