/**
 * Events, for logs and metrics. This library writes no log.
 *
 * Promises: a listener gets all events from its subscription to its end, in the order in which they happened. It is called after the
 * transition is complete. What it throws becomes a warning of the process, and affects nothing else. The same events go to
 * `node:diagnostics_channel` under `lease-core:<type>`.
 */
import { channel, type Channel } from 'node:diagnostics_channel'
import { callListener, notValid, type LossReason } from './errors.ts'
import { queueMicrotask } from './turns.ts'

/** An event of a manager or a client; `type` says which. */
export type LeaseEvent =
  /** A claim opened a term, or extended the term that this holder had (`renewed`). */
  | {
      readonly type: 'claimed'
      readonly lease: string
      readonly holder: string
      readonly fencingToken: bigint
      readonly renewed: boolean
    }
  /** The store refused a claim: another holds the lease. */
  | {
      readonly type: 'denied'
      readonly lease: string
      readonly holder: string
      readonly currentHolder: string | undefined
    }
  /**
   * A claim was refused, and waits at this position; 1 is next. Earlier waiters of this process count, and each other waiting process
   * counts once. Emitted again when a read or a hint shows another position. After a grant in this process the next waiter gets a new
   * ticket, so its position may be higher than before.
   */
  | { readonly type: 'waiting'; readonly lease: string; readonly holder: string; readonly position: number }
  /** The holder released the lease. */
  | { readonly type: 'released'; readonly lease: string; readonly holder: string }
  /** This manager revoked the lease of this holder. */
  | { readonly type: 'revoked'; readonly lease: string; readonly holder: string }
  /** A Hold ended unasked. */
  | {
      readonly type: 'lost'
      readonly lease: string
      readonly holder: string
      readonly fencingToken: bigint
      readonly reason: LossReason
    }
  /** Work in the background failed and is retried: a renewal, or the claim or read of a waiter. */
  | {
      readonly type: 'retrying'
      readonly lease: string
      readonly doing: 'renewal' | 'claim' | 'read'
      readonly cause: unknown
    }
  /** The set-up of the store weakens a promise of the library. */
  | { readonly type: 'warning'; readonly warning: string; readonly message: string }

/** Called with each event. */
export type LeaseEventListener = (event: LeaseEvent) => void

/** A stream of events with any number of listeners. A client and a manager may share one. */
export class LeaseEvents {
  readonly #subscriptions = new Set<Subscription>()
  readonly #channels = new Map<string, Channel>()
  #queue: LeaseEvent[] = []
  /** How many events were ever queued, and how many of them delivered. */
  #queued = 0
  #delivered = 0

  /**
   * Calls the listener on every event from now on. Returns a function that ends the subscription.
   *
   * @throws ErrNotValid the listener is not a function
   */
  subscribe(listener: LeaseEventListener): () => void {
    if (typeof listener !== 'function') {
      throw notValid([{ argument: 'listener', rule: 'must be a function', value: listener }])
    }
    const own: Subscription = { listener, after: this.#queued } // so that the same function may subscribe twice
    this.#subscriptions.add(own)
    return () => void this.#subscriptions.delete(own)
  }

  /** Whether an event of this type has a listener: a hot path asks before it makes the event. */
  heard(type: LeaseEvent['type']): boolean {
    return this.#subscriptions.size > 0 || this.#channel(type).hasSubscribers
  }

  /** Calls the listeners when the current transition is complete. */
  emit(event: LeaseEvent): void {
    if (!this.heard(event.type)) return
    this.#queued++
    if (this.#queue.push(event) === 1) queueMicrotask(() => this.#deliver())
  }

  #deliver(): void {
    const events = this.#queue
    this.#queue = []
    for (const event of events) {
      const before = this.#delivered++
      // A Set passes over those that were deleted meanwhile, and comes to those that were added.
      for (const { listener, after } of this.#subscriptions) {
        if (after <= before) callListener(() => listener(event))
      }
      const diagnostics = this.#channel(event.type)
      if (diagnostics.hasSubscribers) diagnostics.publish(event)
    }
  }

  #channel(type: LeaseEvent['type']): Channel {
    let known = this.#channels.get(type)
    if (known === undefined) this.#channels.set(type, (known = channel(`lease-core:${type}`)))
    return known
  }
}

interface Subscription {
  readonly listener: LeaseEventListener
  /** So many events had been emitted before: they are not for it. */
  readonly after: number
}
