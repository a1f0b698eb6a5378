/** What happened in a run, as the story heard it: the source of the pictures. */
import type { FromWorker } from './protocol.ts'
import type { WorkerName } from './timeline.ts'
import type { TokenScale } from './tokens.ts'

/** What the story does to a worker. */
export type Accident = { readonly kind: 'frozen' } | { readonly kind: 'woken' } | { readonly kind: 'killed' }

export interface Recorded {
  /** Since the recording began. A worker's event counts from when the story heard of it. */
  readonly atMs: number
  readonly worker: WorkerName
  readonly event: FromWorker | Accident
}

/** A whole run. */
export interface Recording {
  readonly guarded: boolean
  /** How long leases lasted. */
  readonly leaseMs: number
  readonly tokens: TokenScale
  /** In the order in which the story heard of them. */
  readonly events: readonly Recorded[]
}
