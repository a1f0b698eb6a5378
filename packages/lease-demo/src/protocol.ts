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
  /** `fencingToken`: of the lease that was claimed and released. */
  | { readonly kind: 'rehearsed'; readonly fencingToken: bigint }
  | { readonly kind: 'denied'; readonly account: string; readonly by: string | undefined }
  | { readonly kind: 'held'; readonly account: string; readonly fencingToken: bigint }
  /** Leases checked, new balances computed; the worker goes on to its gate. */
  | { readonly kind: 'writing'; readonly order: Order; readonly next: Balances }
  /** The very last check is done: what happens until `sent` the worker cannot notice. This one arrives through the gate. */
  | { readonly kind: 'atGate' }
  /** The write is on its way. */
  | { readonly kind: 'sent' }
  /** `late`: when the write was done, the leases had lapsed by the worker's own clock. */
  | { readonly kind: 'moved'; readonly order: Order; readonly next: Balances; readonly late: boolean }
  /** The worker noticed that a lease had lapsed, before it sent its write. It wrote nothing and starts over. */
  | { readonly kind: 'lapsed'; readonly order: Order; readonly message: string }
  /** The guard refused the write. The worker starts over. */
  | { readonly kind: 'refused'; readonly order: Order; readonly message: string }
  | { readonly kind: 'lost'; readonly account: string; readonly reason: LossReason }
  /** The order is done and its leases are released. */
  | { readonly kind: 'idle' }
  | { readonly kind: 'failed'; readonly message: string }

/** The file descriptor to which a worker writes one byte before every write, and from which it then reads one. */
export const GATE = 4
