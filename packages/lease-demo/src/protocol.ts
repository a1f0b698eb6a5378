/** What the story and its workers say to each other. Everything on the timeline that a worker does arrives this way. */
import type { LossReason } from 'lease-core'
import type { Balances } from './ledger.ts'
import type { Order } from './transfer.ts'
import type { Place } from './venues.ts'

export type ToWorker =
  | {
      readonly kind: 'start'
      readonly name: string
      readonly place: Place
      readonly guarded: boolean
    }
  /** Claim and release a lease that nobody else wants: the time until the answer shows how slow this machine is now. */
  | { readonly kind: 'rehearse' }
  | { readonly kind: 'transfer'; readonly order: Order; readonly leaseMs: number }

export type FromWorker =
  | { readonly kind: 'ready' }
  | { readonly kind: 'rehearsed' }
  | { readonly kind: 'denied'; readonly account: string; readonly by: string | undefined }
  | { readonly kind: 'held'; readonly account: string; readonly fencingToken: bigint }
  /** Leases checked, new balances worked out; the worker goes no further until its gate opens. */
  | { readonly kind: 'writing'; readonly order: Order; readonly next: Balances }
  /** `late`: when the write was done, the leases had lapsed by the worker's own clock. */
  | { readonly kind: 'moved'; readonly order: Order; readonly next: Balances; readonly late: boolean }
  /** A lease lapsed before the worker had checked it. The worker starts over. */
  | { readonly kind: 'lapsed'; readonly order: Order; readonly message: string }
  /** The guard refused the write. The worker starts over. */
  | { readonly kind: 'refused'; readonly order: Order; readonly message: string }
  | { readonly kind: 'lost'; readonly account: string; readonly reason: LossReason }
  /** The order is done and its leases are released. */
  | { readonly kind: 'idle' }
  | { readonly kind: 'failed'; readonly message: string }

/** The file descriptor from which a worker reads one byte before every write. */
export const GATE = 4
