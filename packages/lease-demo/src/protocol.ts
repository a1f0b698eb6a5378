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
      readonly leaseMs: number
    }
  | { readonly kind: 'transfer'; readonly order: Order }

export type FromWorker =
  | { readonly kind: 'ready' }
  | { readonly kind: 'denied'; readonly account: string; readonly by: string | undefined }
  | { readonly kind: 'held'; readonly account: string; readonly fencingToken: bigint }
  /** Leases checked, new balances worked out; the worker goes no further until its gate opens. */
  | { readonly kind: 'writing'; readonly order: Order; readonly next: Balances }
  | { readonly kind: 'moved'; readonly order: Order; readonly next: Balances }
  /** The guard refused the write. The worker starts over. */
  | { readonly kind: 'refused'; readonly order: Order; readonly message: string }
  | { readonly kind: 'lost'; readonly account: string; readonly reason: LossReason }
  /** The order is done and its leases are released. */
  | { readonly kind: 'idle' }
  | { readonly kind: 'failed'; readonly message: string }

/** The file descriptor from which a worker reads one byte before every write. */
export const GATE = 4
