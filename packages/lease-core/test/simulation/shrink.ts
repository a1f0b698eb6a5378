/** Finds fewer steps that still fail in the same way. */
import { run, type RunResult } from './run.ts'
import type { Settings } from './settings.ts'

/** @returns the steps that can be left out, and what the run without them shows */
export async function shrink(
  settings: Settings,
  rule: string,
): Promise<{ readonly without: ReadonlySet<number>; readonly result: RunResult }> {
  let without = new Set<number>()
  let result = await run(settings, { log: true })
  for (let size = Math.ceil(settings.steps / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let from = 0; from < settings.steps; from += size) {
      const more = new Set(without)
      for (let step = from; step < Math.min(from + size, settings.steps); step++) more.add(step)
      if (more.size === without.size) continue
      const smaller = await run(settings, { without: more, log: true })
      if (smaller.problems[0]?.rule !== rule) continue
      without = more
      result = smaller
    }
  }
  return { without, result }
}
