/**
 * node-cron's port for fleets, `RunCoordinator`: it asks before each scheduled run, and says when the run has ended.
 *
 *     shouldRun('report:2026-03-01T03:00:00.000Z', 30_000) ──▶ true: run · false: skip · throws: skip
 *     onComplete('report:2026-03-01T03:00:00.000Z')
 *
 * The name of the task is the job, the time in the key is the slot, and `distributedLease` of the task is `atMost`.
 *
 * Runs are not renewed. node-cron does not promise the end of each: none comes when the process of a background task dies, or when a task
 * is stopped during its random delay. A run that is renewed would keep its job busy in the whole fleet from then on.
 */
import { notValid } from 'lease-core'
import type { OncePer, Run, RunOptions } from 'lease-recipes'

export interface RunCoordinatorOptions {
  /** How long the last slot of a task is remembered, as in `OncePer`. @default that of the `OncePer` */
  readonly atLeast?: RunOptions['atLeast']
}

/** What node-cron tells a task, as far as it matters here. */
export interface TaskContext {
  /** The slot. */
  readonly date: Date
  readonly task?: { readonly name?: string | undefined } | undefined
}

/** A `RunCoordinator` of node-cron: for the option `runCoordinator` of a task, or for `setRunCoordinator`. */
export interface FleetCoordinator {
  /** @throws ErrUnknown it is not known whether this process was to run the slot: node-cron skips it (`coordinator-error`) */
  shouldRun(key: string, ttlMs: number): Promise<boolean>
  /** Rejects where the end of the run could not be recorded: node-cron logs it, and the slot stays taken. */
  onComplete(key: string): Promise<void>
  /** Inside a task that is not in the background: its run, with `signal` and `fencingToken`. Undefined for a run by hand. */
  runOf(context: TaskContext): Run | undefined
}

/** Makes each slot of a `distributed` task of node-cron (4.5 or later) run once in the whole fleet. */
export function runCoordinator(
  once: Pick<OncePer, 'begin'>,
  { atLeast }: RunCoordinatorOptions = {},
): FleetCoordinator {
  const runs = new Map<string, { readonly name: string; readonly run: Run }>()
  return {
    async shouldRun(key, ttlMs) {
      const { name, slot } = partsOf(key)
      const begun = await once.begin(name, slot, { atMost: ttlMs, renew: false, retry: false, atLeast })
      if (!begun.ran) return false
      // Those whose end may never be reported.
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

/** The time is at the end; a name may have colons, too. */
const KEY = /^(?<name>.+):(?<slot>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)$/s

function partsOf(key: string): { readonly name: string; readonly slot: string } {
  const { name, slot } = KEY.exec(key)?.groups ?? {}
  if (name !== undefined && slot !== undefined) return { name, slot }
  throw notValid([{ argument: 'key', rule: 'must be <name>:<time in ISO 8601>, as of node-cron', value: key }])
}
