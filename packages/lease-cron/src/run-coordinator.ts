/**
 * Implements `RunCoordinator` of node-cron, which node-cron calls before each scheduled run, and after the run has ended.
 *
 *     shouldRun('report:2026-03-01T03:00:00.000Z', 30_000) ──▶ true: run · false: skip · throws: skip
 *     onComplete('report:2026-03-01T03:00:00.000Z')
 *
 * The name of the task is the job, the time in the key is the slot, and `distributedLease` of the task is `atMost`.
 *
 * Runs are not renewed, because node-cron does not report the end of every run: no report comes when the process of a background task dies,
 * or when a task is stopped during its random delay. A renewed run would then keep its job busy in the whole fleet.
 */
import { hasMethods, notValid } from 'lease-core'
import type { OncePer, Run, RunOptions } from 'lease-recipes'

/** Options of `runCoordinator`. */
export interface RunCoordinatorOptions {
  /** How long the last slot of a task is remembered: `atLeast` of `OncePer`. @default that of the `OncePer` */
  readonly atLeast?: RunOptions['atLeast']
}

/** The part of the context of a node-cron task that is used here. */
export interface TaskContext {
  /** The slot. */
  readonly date: Date
  readonly task?: { readonly name?: string | undefined } | undefined
}

/** A `RunCoordinator` of node-cron: for the option `runCoordinator` of a task, or for `setRunCoordinator`. */
export interface FleetCoordinator {
  /**
   * Resolves to whether this process runs the slot. `ttlMs` is `distributedLease`.
   *
   * @throws ErrUnknown the store did not answer: node-cron skips the slot (`coordinator-error`)
   */
  shouldRun(key: string, ttlMs: number): Promise<boolean>
  /** Records the end of the run. If that fails it rejects: node-cron logs the error, and the slot stays taken. */
  onComplete(key: string): Promise<void>
  /** Returns the run of a task that is not in the background, with `signal` and `fencingToken`. undefined: the task was run by hand. */
  runOf(context: TaskContext): Run | undefined
}

/**
 * Makes each slot of a `distributed` task of node-cron (4.5 or later) run once in the whole fleet: see the head of this file.
 *
 * @throws ErrNotValid `once` is no OncePer
 */
export function runCoordinator(
  once: Pick<OncePer, 'begin'>,
  { atLeast }: RunCoordinatorOptions = {},
): FleetCoordinator {
  if (!hasMethods(once, 'begin')) throw notValid([{ argument: 'once', rule: 'must be an OncePer', value: once }])
  const runs = new Map<string, { readonly name: string; readonly run: Run }>()
  return {
    async shouldRun(key, ttlMs) {
      const { name, slot } = partsOf(key)
      const begun = await once.begin(name, slot, { atMost: ttlMs, renew: false, retry: false, atLeast })
      if (!begun.ran) return false
      // Forget earlier runs that ended without a report.
      for (const [earlier, other] of runs) if (other.name === name && !other.run.held) runs.delete(earlier)
      runs.set(key, { name, run: begun.run })
      return true
    },
    async onComplete(key) {
      const ended = runs.get(key)
      runs.delete(key)
      await ended?.run.release()
    },
    runOf: ({ date, task }) => runs.get(`${task?.name}:${date.toISOString()}`)?.run,
  }
}

/** The time is at the end; a name may contain colons. */
const KEY = /^(?<name>.+):(?<slot>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)$/s

function partsOf(key: string): { readonly name: string; readonly slot: string } {
  const { name, slot } = KEY.exec(key)?.groups ?? {}
  if (name !== undefined && slot !== undefined) return { name, slot }
  throw notValid([{ argument: 'key', rule: 'must be <name>:<time in ISO 8601>, as of node-cron', value: key }])
}
