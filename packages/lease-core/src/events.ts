/**
 * What happened, for logs and metrics. Core logs nothing by itself.
 *
 * Promises: transitions arrive in the order in which they happened, from the subscription to its end, and none is dropped; a
 * listener that throws or is slow harms nobody (it is called after the transition is complete; what it throws becomes a warning of
 * the process). The same events go to `node:diagnostics_channel` under `lease-core:<type>`.
 */
import { channel, type Channel } from 'node:diagnostics_channel'
import { callListener, notValid, type LossReason } from './errors.ts'

export type LeaseEvent =
  /** A claim opened a term, or renewed this holder's own (`renewed`). */
  | {
      readonly type: 'claimed'
      readonly lease: string
      readonly holder: string
      readonly fencingToken: bigint
      readonly renewed: boolean
    }
  /** The substrate said that another holds it. */
  | {
      readonly type: 'denied'
      readonly lease: string
      readonly holder: string
      readonly currentHolder: string | undefined
    }
  /**
   * A claim of its process was refused, and it waits: at this position, 1 is served next. Those of this process before it count, and
   * each other process that waits counts once. Told again whenever a look or a hint shows another one. After a grant in this process
   * nothing is told until the next one has a ticket, and the position may be higher than before.
   */
  | { readonly type: 'waiting'; readonly lease: string; readonly holder: string; readonly position: number }
  /** The holder gave the lease up. */
  | { readonly type: 'released'; readonly lease: string; readonly holder: string }
  /** An operator took the lease from this holder. */
  | { readonly type: 'revoked'; readonly lease: string; readonly holder: string }
  /** A Hold ended unasked. */
  | {
      readonly type: 'lost'
      readonly lease: string
      readonly holder: string
      readonly fencingToken: bigint
      readonly reason: LossReason
    }
  /** Work in the background failed and will be tried again: a renewal, or the re-read of something awaited. */
  | {
      readonly type: 'retrying'
      readonly lease: string
      readonly doing: 'renewal' | 'claim' | 'read'
      readonly cause: unknown
    }
  /** The set-up of the substrate weakens what the library promises. */
  | { readonly type: 'warning'; readonly warning: string; readonly message: string }

export type LeaseEventListener = (event: LeaseEvent) => void

/** A stream of events that anyone can listen to. One may be shared by a client and a manager. */
export class LeaseEvents {
  readonly #subscriptions = new Set<Subscription>()
  readonly #channels = new Map<string, Channel>()
  #queue: LeaseEvent[] = []
  /** How many events were ever queued, and how many of them delivered. */
  #queued = 0
  #delivered = 0

  /**
   * Calls the listener on every event that is emitted from now on, until the function that this returns is called.
   *
   * @throws ErrNotValid it is no function
   */
  subscribe(listener: LeaseEventListener): () => void {
    if (typeof listener !== 'function') {
      throw notValid([{ argument: 'listener', rule: 'must be a function', value: listener }])
    }
    const own: Subscription = { listener, after: this.#queued } // so that the same function may subscribe twice
    this.#subscriptions.add(own)
    return () => void this.#subscriptions.delete(own)
  }

  /** Whether anybody would hear an event of this type: a hot path asks before it makes one. */
  heard(type: LeaseEvent['type']): boolean {
    return this.#subscriptions.size > 0 || this.#channel(type).hasSubscribers
  }

  /** Tells everyone, after the current transition is complete. */
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
