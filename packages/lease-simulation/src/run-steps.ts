/** One run of a random tester: the same each time, for the same seed. */
import type { History } from './history.ts'
import { Random } from './random.ts'
import type { Outcome } from './tester.ts'

export interface RunOptions {
  /** Steps that are left out. */
  readonly without?: ReadonlySet<number> | undefined
  readonly log?: boolean | undefined
}

/** What is run: the processes, the store, and what was seen of them. */
export interface RunWorld {
  readonly problems: Outcome['problems']
  readonly log: readonly string[] | undefined
  readonly calls: number
  readonly history: History
  readonly nowMs: number
  problem(rule: string, what: string): void
}

export interface Run {
  readonly world: RunWorld
  take(step: number, random: Random): Promise<void>
  /** The faults end, and everything has to come to rest. */
  rest(): Promise<void>
}

/** Rejections that nobody handled, and what was thrown where nobody catches it: noticed by node. */
const unhandled: unknown[] = []
const onUnhandled = (error: unknown): void => void unhandled.push(error)

/** Takes the steps until one finds a problem, then the rest. What is thrown is a problem too. */
export async function runSteps(
  { seed, steps }: { readonly seed: number; readonly steps: number },
  { without, log = false }: RunOptions,
  begin: () => Run,
): Promise<Outcome> {
  const { random } = Math
  const { stackTraceLimit } = Error
  const chance = new Random(seed ^ 0x1234_5678)
  Math.random = () => chance.next()
  if (!log) Error.stackTraceLimit = 0
  process.on('unhandledRejection', onUnhandled)
  process.on('uncaughtException', onUnhandled)
  unhandled.length = 0
  const run = begin()
  const { world } = run
  try {
    for (let step = 0; step < steps && world.problems.length === 0; step++) {
      if (without?.has(step) === true) continue
      await run.take(step, new Random(Math.imul(seed, 0x9e37_79b1) ^ Math.imul(step + 1, 0x85eb_ca6b)))
    }
    if (world.problems.length === 0) await run.rest()
    for (const error of unhandled) world.problem('7 unhandled', String(error))
  } catch (error) {
    world.problem('7 tester', error instanceof Error ? (error.stack ?? error.message) : String(error))
  } finally {
    process.off('unhandledRejection', onUnhandled)
    process.off('uncaughtException', onUnhandled)
    Math.random = random
    Error.stackTraceLimit = stackTraceLimit
  }
  return {
    problems: world.problems,
    log: world.log ?? [],
    calls: world.calls,
    terms: world.history.opened,
    grants: world.history.granted,
    simulatedMs: world.nowMs,
  }
}
