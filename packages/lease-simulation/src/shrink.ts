/** Finds fewer steps that still fail in the same way. */
import type { Outcome } from './tester.ts'

/** The same run, without these steps. */
export type Rerun = (options: { readonly without?: ReadonlySet<number>; readonly log: boolean }) => Promise<Outcome>

/** @returns the steps that can be left out, and what the run without them shows */
export async function shrink({
  rule,
  steps,
  rerun,
}: {
  readonly rule: string
  readonly steps: number
  readonly rerun: Rerun
}): Promise<{ readonly without: ReadonlySet<number>; readonly result: Outcome }> {
  let without = new Set<number>()
  let result = await rerun({ log: true })
  for (let size = Math.ceil(steps / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let from = 0; from < steps; from += size) {
      const more = new Set(without)
      for (let step = from; step < Math.min(from + size, steps); step++) more.add(step)
      if (more.size === without.size) continue
      const smaller = await rerun({ without: more, log: true })
      if (smaller.problems[0]?.rule !== rule) continue
      without = more
      result = smaller
    }
  }
  return { without, result }
}
